"""A transformer whose outliers are smoothed and whose function is unchanged, for others to round.

Every division by s that a layer before it absorbs is folded; the columns behind it are multiplied.
What a layer would have to divide itself (fc2 of a DiT, most of PixArt) stays as it was.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..calibration import Calibration, check_together
from ..checkpoints import Checkpoint, CheckpointError
from ..conversion import rescaled_transformer, smoothing_factors
from ..models import Absorber, Transformer
from ..sampling import forward_arguments
from ..specs import Recipe, SpecError

UNCHANGED = 1e-5
"""The largest relative difference of a forward pass."""
TIMESTEPS = (999, 500, 20)


def foldable_factors(
    checkpoint: Checkpoint, recipe: Recipe, calibration: Calibration
) -> dict[str, Tensor]:
    """s (C,) of each group that the recipe smooths and a layer before it absorbs.

    Divided by their largest: rounding does not see a factor that all channels share, and
    (1 + scale) / s - 1 loses no digits where s is at most 1.

    Raises:
        SpecError: parts that do not belong together, or nothing to fold.
    """
    check_together(checkpoint, calibration, recipe)
    foldable = {g.name for g in checkpoint.groups if g.absorber is not Absorber.ON_THE_FLY}
    found = smoothing_factors(checkpoint, recipe, calibration, foldable)
    if not found:
        raise SpecError(
            "smoothed: expected a recipe that smooths a group whose division a layer before it "
            "absorbs, got none; search with smoothing, search or ditas"
        )
    return {name: s / s.max() for name, s in found.items()}


@torch.no_grad()
def smoothed_transformer(
    checkpoint: Checkpoint, recipe: Recipe, calibration: Calibration
) -> tuple[Transformer, float]:
    """The smoothed copy in float32, and how far its forward pass is from the checkpoint's.

    Raises:
        SpecError: see ``foldable_factors``.
        CheckpointError: further than ``UNCHANGED``.
    """
    smoothed = rescaled_transformer(
        checkpoint.transformer, foldable_factors(checkpoint, recipe, calibration)
    )
    found = relative_difference(checkpoint, smoothed)
    if not found <= UNCHANGED:
        raise CheckpointError(
            f"smoothed: expected the function of {checkpoint.name} to {UNCHANGED:g}, got "
            f"{found:.1e}; its weights span too wide a range for single precision"
        )
    return smoothed, found


@torch.no_grad()
def relative_difference(checkpoint: Checkpoint, other: Transformer) -> float:
    """|y' - y| / |y| of a guided forward pass of two samples, the largest of three timesteps."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, *checkpoint.latent_shape, generator=generator).repeat(2, 1, 1, 1)
    labels = torch.tensor([0, len(checkpoint.class_names) - 1])
    worst = 0.0
    for timestep in TIMESTEPS:
        times = torch.full((len(latents),), timestep)
        passes = []
        for network in (checkpoint.transformer, other):
            there = next(network.parameters())
            arguments = forward_arguments(network, labels, checkpoint.conditions)
            out = network(latents.to(there), timestep=times.to(there.device), **arguments)
            passes.append(out.sample.double())  # (2N, C, H, W)
        worst = max(worst, float((passes[1] - passes[0]).norm() / passes[0].norm()))
    return worst
