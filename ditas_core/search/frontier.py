"""Error against size: what the best mixed bits reach at every budget, and what one width does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..specs import FULL_PRECISION_BITS, BitWidths
from .allocation import BUDGET_SLACK, allocate
from .sensitivity_map import SensitivityMap

BITS_PER_MEGABYTE = 8e6


@dataclass(frozen=True)
class Allocation:
    """One choice of bits and what it costs.

    bits             per group, in execution order
    bits_per_weight  bits on disk over the number of weights: scales, branches and
                     divided rows included
    megabytes        the same on disk, 10^6 bytes
    error            mean over the groups of the map's relative error, no unit
    """

    bits: dict[str, BitWidths]
    bits_per_weight: float
    megabytes: float
    error: float


def priced(sensitivities: SensitivityMap, bits: Mapping[str, BitWidths]) -> Allocation:
    """Size and mean error of a choice of bits.

    Raises:
        SpecError: other groups than the map's, or widths that it does not have.
    """
    return Allocation(
        dict(bits),
        sensitivities.bits_per_weight(bits),
        sensitivities.bits_stored(bits) / BITS_PER_MEGABYTE,
        sensitivities.total_error(bits) / len(sensitivities.groups),
    )


def uniform_allocations(sensitivities: SensitivityMap) -> dict[BitWidths, Allocation]:
    """One width throughout, for every width that rounds weights; the smallest first."""
    widths = [bits for bits in sensitivities.bits if bits.weight_bits < FULL_PRECISION_BITS]
    found = {bits: priced(sensitivities, sensitivities.uniform(bits)) for bits in widths}
    return dict(sorted(found.items(), key=lambda item: item[1].bits_per_weight))


def largest_uniform(sensitivities: SensitivityMap, budget_bits_per_weight: float) -> BitWidths:
    """The largest single width within the budget, or the smallest where none is."""
    found = uniform_allocations(sensitivities)
    limit = budget_bits_per_weight * (1 + BUDGET_SLACK)
    fitting = [bits for bits, each in found.items() if each.bits_per_weight <= limit]
    return fitting[-1] if fitting else next(iter(found))


def frontier(sensitivities: SensitivityMap, count: int = 21) -> list[Allocation]:
    """The best mixed bits at ``count`` budgets, evenly from the smallest to the largest width.

    Raises:
        ValueError: fewer than two budgets.
    """
    if count < 2:
        raise ValueError(f"count: expected at least 2, got {count}")
    sizes = [each.bits_per_weight for each in uniform_allocations(sensitivities).values()]
    step = (sizes[-1] - sizes[0]) / (count - 1)
    budgets = [sizes[0] + step * i for i in range(count - 1)] + [sizes[-1]]
    return [priced(sensitivities, allocate(sensitivities, budget)) for budget in budgets]
