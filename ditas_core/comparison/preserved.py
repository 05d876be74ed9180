"""Whether two transformers compute the same function: the largest difference of their runs."""

from __future__ import annotations

from dataclasses import dataclass

from ..evaluation import visible_differences
from .paired import Trajectory, check_shapes


@dataclass(frozen=True)
class Preserved:
    """How far a run is from another of the same noise.

    pixels        largest |difference| of any pixel's colour, full scale is 1
    latents       largest |difference| of the latents over all steps
    latent_scale  largest |latent| of the reference, to compare ``latents`` with
    visible       colours of pixels that differ once they are rounded to 8 bits
    of            how many colours there are
    """

    pixels: float
    latents: float
    latent_scale: float
    visible: int
    of: int


def preserved(reference: Trajectory, other: Trajectory) -> Preserved:
    """The largest differences of two runs.

    Raises:
        ValueError: the runs differ in shape.
    """
    check_shapes(reference, other)
    return Preserved(
        pixels=float((reference.images - other.images).abs().max()),
        latents=float((reference.latents - other.latents).abs().max()),
        latent_scale=float(reference.latents.abs().max()),
        visible=visible_differences(reference.images, other.images),
        of=reference.images.numel(),
    )
