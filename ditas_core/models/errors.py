"""The one error of this room and of those that read checkpoints."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: what was expected, what came, what to do."""
