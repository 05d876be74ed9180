"""The twin of a checkpoint with injected outliers: the same function, for teaching and tests."""

from __future__ import annotations

import torch

from ..checkpoints import Checkpoint, CheckpointError
from ..conversion import inject_outliers
from ..models import Transformer
from ..specs import check_number
from .layers import halve_
from .smoothed import UNCHANGED, relative_difference

CHANNELS, SEED = 3, 0


@torch.no_grad()
def injected_transformer(checkpoint: Checkpoint, strength: float) -> tuple[Transformer, float]:
    """A copy whose ``CHANNELS`` chosen channels are ``strength`` times larger in every foldable
    group, rounded to half precision where that is fine enough; and how far its forward pass is
    from the checkpoint's. A power of two loses the least in half precision.

    Raises:
        SpecError: a strength out of bounds.
        CheckpointError: further than ``UNCHANGED``.
    """
    check_number("strength", strength, 1.0, 1000.0)
    injected = inject_outliers(checkpoint.transformer, strength, CHANNELS, SEED)
    halve_(injected)
    found = relative_difference(checkpoint, injected)
    if not found <= UNCHANGED:  # then in single precision
        injected = inject_outliers(checkpoint.transformer, strength, CHANNELS, SEED)
        found = relative_difference(checkpoint, injected)
    if not found <= UNCHANGED:
        raise CheckpointError(
            f"injected: expected the function of {checkpoint.name} to {UNCHANGED:g}, got "
            f"{found:.1e}; choose a smaller strength"
        )
    return injected, found
