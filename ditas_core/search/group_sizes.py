"""Group sizes and bits of every layer under one budget, from one search.

    minimise    sum over layers of error(layer, bits, group size)
    subject to  sum over layers of bits on disk <= budget per weight x weights

Finer groups follow the weights more closely and pay with scales: which layers are worth it is
searched, layer by layer, as Q-DiT does (Chen et al., "Q-DiT", CVPR 2025). A width with a group
size, such as W4g64A8, is one more column of the sensitivity map, so that bits and group sizes are
chosen together, and size counts scales, branches and divided rows as they are stored.

Departures: Q-DiT compares choices by the FID of samples, in an evolutionary search; here the
layers' predicted errors are added up, and the best sum within the budget is found exactly (see
``allocate``), without sampling.

Costs one search per layer and column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ..calibration import Calibration
from ..checkpoints import Checkpoint
from ..specs import BitWidths, Recipe
from .allocation import allocate
from .alpha import SearchSpec
from .sensitivity import SensitivityProgress, iterate_sensitivity

GROUP_SIZES = (16, 32, 64, 128)


def with_group_sizes(bits: BitWidths, sizes: Sequence[int] = GROUP_SIZES) -> tuple[BitWidths, ...]:
    """The same bits in groups as the convention has them, and in each of these sizes."""
    return (replace(bits, group_size=0), *(replace(bits, group_size=size) for size in sizes))


def iterate_budget_search(
    checkpoint: Checkpoint,
    calibration: Calibration,
    widths: Sequence[BitWidths],
    spec: SearchSpec,
    budget_bits_per_weight: float,
    finished: Mapping[tuple[str, BitWidths], tuple[float, float | None]] | None = None,
) -> Iterator[SensitivityProgress | Recipe]:
    """Yields every cell that is not ``finished`` (see ``iterate_sensitivity``), then the recipe.

    Of ``spec`` its bits are not read.

    Raises:
        SpecError: parts that do not belong together, or widths that the convention does not have.
        BudgetError: the budget is below the smallest possible size, which it names.
    """
    specs = [replace(spec, bits=bits) for bits in widths]  # which checks them before any work
    for event in iterate_sensitivity(
        checkpoint, calibration, [each.bits for each in specs], spec, None, finished
    ):
        if isinstance(event, SensitivityProgress):
            yield event
        else:
            recipe = event.recipe(allocate(event, budget_bits_per_weight), spec.method)
            yield recipe if recipe.needs_calibration else replace(recipe, calibration="")
