"""What a search has found so far, and what a recipe takes on disk: sums over the layers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..calibration import check_groups
from ..checkpoints import Checkpoint
from ..layers import stored_bits
from ..models import get_linear
from ..specs import FULL_PRECISION_BITS, Recipe, get_convention
from .alpha import LayerDone, SearchSpec
from .predicted import relative
from .sensitivity import divider, size_of
from .sensitivity_map import NOBODY


@dataclass(frozen=True)
class SearchTotals:
    """Over the layers found so far.

    smoothed      layers whose choice is not the identity
    gain_db       sum of the layers' gains; ``mean_gain_db`` per layer
    mean_error    mean of the choices' relative output errors, no unit
    """

    layers: int
    smoothed: int
    gain_db: float
    mean_gain_db: float
    mean_error: float


def search_totals(layers: Iterable[LayerDone]) -> SearchTotals:
    """Zeros where nothing has been found yet."""
    found = list(layers)
    gain = math.fsum(layer.gain_db for layer in found)
    error = math.fsum(relative_error(layer) for layer in found)
    count = max(1, len(found))
    smoothed = sum(layer.alpha is not None for layer in found)
    return SearchTotals(len(found), smoothed, gain, gain / count, error / count)


def relative_error(layer: LayerDone) -> float:
    """The choice's loss over the energy of the output: the layer's predicted error."""
    return relative(layer.best, layer.energy)


def mean_error(errors: Iterable[float]) -> float:
    """Of a recipe's layers, each counted once; NaN of none."""
    found = list(errors)
    return math.fsum(found) / len(found) if found else math.nan


def change_db(before: float, after: float) -> float:
    """``10 log10(after / before)``: negative is better; 0 where both are 0."""
    if before == after:
        return 0.0
    return 10 * math.log10(max(after, 1e-30) / max(before, 1e-30))


def bits_per_weight(checkpoint: Checkpoint, recipe: Recipe) -> float:
    """What the recipe's layers take on disk over the number of their weights.

    The count of ``group_bits_stored``: codes, scales, branches, factors.

    Raises:
        SpecError: the recipe has other groups than the checkpoint.
    """
    groups = checkpoint.groups
    check_groups(checkpoint, recipe)
    convention = get_convention(recipe.convention)
    stored = weights = 0
    for group in groups:
        layer = recipe.layers[group.name]
        linears = [get_linear(checkpoint.transformer, path) for path in group.layers]
        shapes = [(linear.out_features, linear.in_features) for linear in linears]
        in_half: list[int] = []
        if layer.bits.weight_bits >= FULL_PRECISION_BITS:
            halves = [stored_bits(x.weight) == 16 * x.weight.numel() for x in linears]
            in_half = [index for index, fits in enumerate(halves) if fits]
        whole, divided = size_of(
            group, groups, shapes, layer.bits, convention, layer.low_rank, layer.alpha, in_half
        )
        other = divider(group, groups)
        is_divided = other != NOBODY and recipe.layers[groups[other].name].alpha is not None
        stored += divided if is_divided else whole
        weights += sum(c_out * c for c_out, c in shapes)
    return stored / weights


def counted_bits(checkpoint: Checkpoint, spec: SearchSpec) -> float:
    """What a method's layers take per weight, all of them smoothed where it smooths.

    Nothing is built; a little too much rather than too little (see ``group_bits_stored``).
    """
    alpha = None if spec.parts.smoothing == "none" else spec.fixed_alpha
    layer = spec.layer(checkpoint.width, alpha)
    layers = {group.name: layer for group in checkpoint.groups}
    return bits_per_weight(
        checkpoint, Recipe(spec.method, spec.convention, checkpoint.fingerprint, layers)
    )
