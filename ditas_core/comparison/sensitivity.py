"""Measured sensitivity: one group quantized at a time, through a short trajectory.

    error(group, bits) = |z_q - z|^2 / |z|^2

of the final latents z over all samples, full precision against the transformer in
which only this group is quantized, from the same noise and classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..calibration import Calibration
from ..checkpoints import Checkpoint
from ..conversion import quantize_transformer
from ..events import result_of
from ..sampling import sample_latents
from ..search import SensitivityMap, SensitivityProgress
from ..specs import LEFT_ALONE, BitWidths, SamplingSpec, SpecError, only


def measured_sensitivity(
    checkpoint: Checkpoint,
    calibration: Calibration,
    predicted: SensitivityMap,
    labels: Tensor,
    spec: SamplingSpec,
    seed: int,
    progress: Callable[[SensitivityProgress], object] | None = None,
) -> SensitivityMap:
    """What ``iterate_measured_sensitivity`` comes to; ``progress`` gets each step and may raise
    to stop."""
    events = iterate_measured_sensitivity(checkpoint, calibration, predicted, labels, spec, seed)
    return result_of(events, SensitivityMap, progress)


@torch.no_grad()
def iterate_measured_sensitivity(
    checkpoint: Checkpoint,
    calibration: Calibration,
    predicted: SensitivityMap,
    labels: Tensor,
    spec: SamplingSpec,
    seed: int,
    finished: Mapping[tuple[str, BitWidths], tuple[float, float | None]] | None = None,
) -> Iterator[SensitivityProgress | SensitivityMap]:
    """Yields every cell that is not ``finished`` from an earlier run, then the predicted map with
    the measured errors in it.

    Alphas, branch and sizes are the predicted map's; all samples run at once.

    Raises:
        SpecError: a map of another checkpoint, or errors that are not finite.
        RecipeError: another calibration than the map's.
    """
    if predicted.checkpoint != checkpoint.fingerprint:
        raise SpecError(
            f"sensitivity: made for checkpoint {predicted.checkpoint[:12]}, "
            f"{checkpoint.name} is {checkpoint.fingerprint[:12]}"
        )

    def final(transformer: nn.Module) -> Tensor:
        latents = sample_latents(
            transformer,
            checkpoint.scheduler,
            labels,
            checkpoint.latent_shape,
            spec,
            seed,
            conditions=checkpoint.conditions,
        )
        return latents.double()  # (N, C, H, W)

    recipes = [predicted.recipe(predicted.uniform(bits)) for bits in predicted.bits]
    reference = final(checkpoint.transformer)
    energy = float(reference.square().sum())
    error = torch.zeros_like(predicted.error)
    finished = dict(finished or {})
    for row, group in enumerate(predicted.groups):
        for column, bits in enumerate(predicted.bits):
            if (group, bits) in finished:
                error[row, column] = finished[group, bits][0]
                continue
            if bits != LEFT_ALONE.bits:
                model = quantize_transformer(
                    checkpoint, only(recipes[column], [group]), calibration
                )
                error[row, column] = float((final(model) - reference).square().sum()) / energy
            yield SensitivityProgress(
                group,
                bits,
                float(error[row, column]),
                predicted.alphas[row][column],
                row * len(predicted.bits) + column + 1,
                error.numel(),
            )
    yield replace(predicted, error=error, measured=True)
