"""What a calibration needs in memory, known before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..checkpoints import Checkpoint
from ..models import input_channels
from ..specs import CalibrationSpec, SpecError

TOKEN_BYTES = {"float16": 2, "float32": 4}
CALL_COPIES = 8
"""A forward pass and the recorder hold at most this many float32 tensors of the size of
the widest layer's input at once: input, output, activation and attention temporaries."""


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes besides the loaded checkpoint.

    tokens       the kept tokens of all layers and steps
    statistics   extremes, sums of squares, and one step while it is recorded
    call         the raw activations of one forward pass that are alive at once
    model        the transformer's bfloat16 copy, 0 in float32
    """

    tokens: int
    statistics: int
    call: int
    model: int

    @property
    def total(self) -> int:
        return self.tokens + self.statistics + self.call + self.model

    def __str__(self) -> str:
        parts = {
            "tokens": self.tokens,
            "statistics": self.statistics,
            "activations": self.call,
            "bfloat16 copy": self.model,
        }
        shown = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in parts.items() if size)
        return f"{self.total / 1e6:.0f} MB besides the model ({shown})"


def channels_of(checkpoint: Checkpoint) -> list[int]:
    """Input channels of every smoothing group."""
    return [input_channels(checkpoint.transformer, group) for group in checkpoint.groups]


def memory_need(checkpoint: Checkpoint, spec: CalibrationSpec) -> MemoryNeed:
    """Upper bound for ``calibrate``, alone or as one of several processes."""
    parameters = sum(p.numel() for p in checkpoint.transformer.parameters())
    return memory_of(channels_of(checkpoint), checkpoint.most_tokens, parameters, spec)


def memory_of(
    channels: Sequence[int], image_tokens: int, parameters: int, spec: CalibrationSpec
) -> MemoryNeed:
    """``memory_need`` of a model that is not loaded.

    channels      inputs of every smoothing group
    image_tokens  of one image, or of its caption if that is longer
    parameters    of the transformer
    """
    steps = spec.sampling.steps
    rows = 2 * min(spec.batch, spec.samples) * image_tokens
    token_bytes = TOKEN_BYTES[spec.token_dtype]
    tokens = steps * spec.tokens * sum(channels) * token_bytes
    # 2 halves x (low, high) x 4 bytes, sums in 8, means in 4
    statistics = steps * sum(channels) * (16 + 8 + 4)
    # the step that is being recorded, and again while batches are joined or it is written
    step = 2 * sum(channels) * (spec.tokens * token_bytes + 24)
    picked = 2 * spec.tokens * max(channels) * 4
    return MemoryNeed(
        tokens=tokens,
        statistics=statistics + step + picked,
        call=CALL_COPIES * rows * max(channels) * 4,
        model=0 if spec.precision == "float32" else parameters * 2,
    )


def tokens_for_budget(checkpoint: Checkpoint, spec: CalibrationSpec, megabytes: float) -> int:
    """Tokens per layer and step that fit into ``megabytes`` (10^6 bytes) in all.

    At most those a step has.

    Raises:
        SpecError: the budget holds not even one token per layer and step.
    """
    each = spec.sampling.steps * sum(channels_of(checkpoint)) * TOKEN_BYTES[spec.token_dtype]
    fitting = int(megabytes * 1e6 / each)
    if fitting < 1:
        raise SpecError(
            f"token budget: expected at least {each / 1e6:.3g} MB, one token per layer and step, "
            f"got {megabytes:g}"
        )
    return min(fitting, spec.samples * 2 * checkpoint.fewest_tokens)
