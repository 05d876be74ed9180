"""The output error that a recipe predicts for every group, with its own alpha, bits and branch.

    error = loss(alpha) / energy

of ``GroupLoss``, on the tokens that the calibration kept: the energy of the group's
output error over that of its output, no unit, with the branch fitted as conversion fits
it. Of a recipe that a search made it is that search's own loss of its choice, but of a
method that chooses each layer's bits, whose search compares without compensation. Where rounding
errors are made up for, the codes were chosen by these tokens: on others the error is larger.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from ..calibration import Calibration, check_together
from ..checkpoints import Checkpoint
from ..models import SmoothingGroup
from ..specs import (
    FULL_PRECISION_BITS,
    LEFT_ALONE,
    LayerRecipe,
    LowRankSpec,
    Recipe,
    SpecError,
    check_choice,
    get_convention,
)
from .loss import PRODUCTS, group_loss


@dataclass(frozen=True)
class PredictedError:
    """One group's relative error is known: ``done`` of ``total``, in execution order."""

    group: str
    error: float
    done: int
    total: int


@torch.no_grad()
def predicted_error(
    checkpoint: Checkpoint,
    group: SmoothingGroup,
    calibration: Calibration,
    convention: str,
    layer: LayerRecipe,
    products: str = "float32",
    objective: str = "output",
) -> float:
    """Relative error of one group as the layer's recipe has it, from 0; W16A16 is 0.

    ``products`` is the dtype of the loss's matrix products and ``objective`` how errors are
    weighed, as in ``SearchSpec``.

    Raises:
        SpecError: an unknown convention, dtype or objective, or a group the calibration lacks.
    """
    return relative(
        *predicted_loss(checkpoint, group, calibration, convention, layer, products, objective)
    )


@torch.no_grad()
def predicted_loss(
    checkpoint: Checkpoint,
    group: SmoothingGroup,
    calibration: Calibration,
    convention: str,
    layer: LayerRecipe,
    products: str = "float32",
    objective: str = "output",
) -> tuple[float, float]:
    """The loss and the energy whose ratio ``predicted_error`` is; errors as there."""
    check_choice("products", products, PRODUCTS)
    if group.name not in calibration.groups:
        raise SpecError(f"calibration: expected inputs of {group.title}, got none")
    if layer.bits == LEFT_ALONE.bits:
        return 0.0, 1.0
    # conversion has no branch beside a weight that is not rounded
    whole = layer.bits.weight_bits >= FULL_PRECISION_BITS
    here = replace(layer, low_rank=LowRankSpec() if whole else layer.low_rank)
    loss = group_loss(
        checkpoint, group, calibration, here, get_convention(convention), products, None, objective
    )
    return loss.as_converted(layer.alpha), loss.energy


def predicted_errors(
    checkpoint: Checkpoint, calibration: Calibration, recipe: Recipe, products: str = "float32"
) -> Iterator[PredictedError]:
    """Of every group in execution order; closing the generator stops within one group.

    Raises:
        SpecError: recipe, checkpoint and calibration do not belong together, or an
            unknown dtype.
    """
    check_together(checkpoint, calibration, recipe)
    groups = checkpoint.groups
    for done, group in enumerate(groups, 1):
        layer = recipe.layers[group.name]
        error = predicted_error(checkpoint, group, calibration, recipe.convention, layer, products)
        yield PredictedError(group.name, error, done, len(groups))


def relative(loss: float, energy: float) -> float:
    """A loss over the energy of what it is the error of; a dead output has no error either."""
    return loss / max(energy, 1e-30)
