"""Predicted sensitivity: the output error of every smoothing group at several bit-widths.

    error(group, bits) = min over alpha of loss(alpha) / energy

with the loss of ``GroupLoss`` on the calibration's stored tokens, of the layer that
conversion would build (but for compensation of errors, of a method that chooses each layer's
bits: ``SearchSpec.judged``), and its energy ``sum over steps of mean |Y_t|^2``: the share of
the group's output that rounding takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ..calibration import Calibration, check_groups, check_together
from ..checkpoints import Checkpoint
from ..events import result_of
from ..layers import group_bits_stored, stored_bits
from ..models import Absorber, SmoothingGroup, get_linear, group_fed_by
from ..specs import (
    LEFT_ALONE,
    BitWidths,
    Convention,
    LowRankSpec,
    Recipe,
    SpecError,
    get_convention,
)
from .alpha import SearchSpec, search_group
from .predicted import predicted_error, relative
from .sensitivity_map import NOBODY, SensitivityMap, stacked_rows

Cells = dict[tuple[str, BitWidths], tuple[float, float | None]]
"""Error and alpha by group and bits."""


@dataclass(frozen=True)
class SensitivityProgress:
    """One cell of the map is known: ``done`` of ``total``, group by group."""

    group: str
    bits: BitWidths
    error: float
    alpha: float | None
    done: int
    total: int


def sensitivity(
    checkpoint: Checkpoint,
    calibration: Calibration,
    bits: Sequence[BitWidths],
    spec: SearchSpec,
    recipe: Recipe | None = None,
    progress: Callable[[SensitivityProgress], object] | None = None,
) -> SensitivityMap:
    """What ``iterate_sensitivity`` comes to; ``progress`` gets each step and may raise to stop."""
    events = iterate_sensitivity(checkpoint, calibration, bits, spec, recipe)
    return result_of(events, SensitivityMap, progress)


@torch.no_grad()
def iterate_sensitivity(
    checkpoint: Checkpoint,
    calibration: Calibration,
    bits: Sequence[BitWidths],
    spec: SearchSpec,
    recipe: Recipe | None = None,
    finished: Mapping[tuple[str, BitWidths], tuple[float, float | None]] | None = None,
) -> Iterator[SensitivityProgress | SensitivityMap]:
    """Yields every cell that is not ``finished`` from an earlier run, then the map.

    Of ``spec`` its bits are not read. With a ``recipe`` each group keeps the recipe's
    alpha at every width; otherwise each cell has the best of the spec's grid and the
    identity (as in ``search``). W16A16 is a group left alone: no error, no alpha.

    Raises:
        SpecError: no width or one twice, another checkpoint's calibration, or a recipe
            of other groups or another convention.
    """
    check_inputs(checkpoint, calibration, bits, spec, recipe)
    finished = dict(finished or {})
    groups = checkpoint.groups
    errors: list[list[float]] = []
    alphas: list[tuple[float | None, ...]] = []
    for row, group in enumerate(groups):
        cells: list[tuple[float, float | None]] = []
        for column, widths in enumerate(bits):
            if (group.name, widths) in finished:
                cells.append(finished[group.name, widths])
                continue
            fixed = None if recipe is None else (recipe.layers[group.name].alpha,)
            here = replace(spec, bits=widths)
            cells.append(cell(checkpoint, group, calibration, here, fixed))
            done = row * len(bits) + column + 1
            yield SensitivityProgress(group.name, widths, *cells[-1], done, len(groups) * len(bits))
        errors.append([error for error, _ in cells])
        alphas.append(tuple(alpha for _, alpha in cells))
    yield sized_map(checkpoint, calibration, bits, spec, errors, alphas)


def check_inputs(
    checkpoint: Checkpoint,
    calibration: Calibration,
    bits: Sequence[BitWidths],
    spec: SearchSpec,
    recipe: Recipe | None,
) -> None:
    """Raise SpecError unless they belong together."""
    if not bits or len(set(bits)) < len(bits):
        raise SpecError(f"bits: expected at least one, each once, got {len(bits)}")
    check_together(checkpoint, calibration)
    if recipe is None:
        return
    check_groups(checkpoint, recipe)
    if recipe.convention != spec.convention:
        raise SpecError(f"recipe: expected convention {spec.convention}, got {recipe.convention}")


def cell(
    checkpoint: Checkpoint,
    group: SmoothingGroup,
    calibration: Calibration,
    spec: SearchSpec,
    fixed: tuple[float | None] | None,
) -> tuple[float, float | None]:
    """Relative error and alpha of one group at the spec's bits.

    A grid is searched as ``search_group`` does; a given alpha is taken as converted.
    """
    if spec.bits == LEFT_ALONE.bits:
        return 0.0, None
    if fixed is None and spec.parts.smoothing == "grid":
        done = search_group(checkpoint, group, calibration, spec)
        return relative(done.best, done.energy), done.alpha
    if fixed is None:
        fixed = (None,) if spec.parts.smoothing == "none" else (spec.fixed_alpha,)
    layer = spec.judged(checkpoint.width, fixed[0])
    error = predicted_error(
        checkpoint, group, calibration, spec.convention, layer, spec.products, spec.objective
    )
    return error, fixed[0]


def sized_map(
    checkpoint: Checkpoint,
    calibration: Calibration,
    bits: Sequence[BitWidths],
    spec: SearchSpec,
    errors: list[list[float]],
    alphas: list[tuple[float | None, ...]],
) -> SensitivityMap:
    """The map with what every cell takes on disk."""
    convention, groups = get_convention(spec.convention), checkpoint.groups
    branch = replace(spec, bits=BitWidths(8, 8)).branch(checkpoint.width)
    stored: list[list[float]] = []
    division: list[list[float]] = []
    weights: list[int] = []
    for group, strengths in zip(groups, alphas, strict=True):
        layers = [get_linear(checkpoint.transformer, path) for path in group.layers]
        shapes = [(layer.out_features, layer.in_features) for layer in layers]
        weights.append(sum(c_out * c for c_out, c in shapes))
        in_half = [
            i for i, x in enumerate(layers) if stored_bits(x.weight) == 16 * x.weight.numel()
        ]
        sizes = [
            size_of(group, groups, shapes, widths, convention, branch, alpha, in_half)
            for widths, alpha in zip(bits, strengths, strict=True)
        ]
        stored.append([float(whole) for whole, _ in sizes])
        division.append([float(divided - whole) for whole, divided in sizes])
    return SensitivityMap(
        checkpoint.fingerprint,
        calibration.sha256,
        spec.convention,
        branch,
        tuple(group.name for group in groups),
        tuple(bits),
        tuple(alphas),
        tuple(divider(group, groups) for group in groups),
        tuple(weights),
        stacked_rows(errors),
        stacked_rows(stored),
        stacked_rows(division),
        rounding=spec.parts.rounding,
        rotation=spec.parts.rotation,
        aggregation=spec.parts.aggregation,
    )


def size_of(
    group: SmoothingGroup,
    groups: tuple[SmoothingGroup, ...],
    shapes: list[tuple[int, int]],
    bits: BitWidths,
    convention: Convention,
    branch: LowRankSpec,
    alpha: float | None,
    in_half: list[int],
) -> tuple[int, int]:
    """Bits on disk where V's rows stay whole, and where they are divided."""
    fed = group_fed_by(group, groups)
    values = [i for i, path in enumerate(group.layers) if fed and path == fed.absorber_path]
    on_the_fly = group.absorber is Absorber.ON_THE_FLY
    whole, divided = (
        group_bits_stored(
            shapes, bits, convention, branch, alpha is not None, on_the_fly, rows, in_half
        )
        for rows in ([], values)
    )
    return whole, divided


def divider(group: SmoothingGroup, groups: tuple[SmoothingGroup, ...]) -> int:
    """The row of the group whose division lies in this group's rows (V), or -1."""
    fed = group_fed_by(group, groups)
    return NOBODY if fed is None else groups.index(fed)
