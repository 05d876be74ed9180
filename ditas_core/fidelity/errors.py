"""What is wrong with a set of images, or with the weights that look at it."""


class FidelityError(ValueError):
    """Says in one sentence what was expected and what came."""
