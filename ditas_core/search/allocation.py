"""Mixed precision: the bits of every group under one budget for what is stored.

    minimise    sum over groups of error(group, bits)
    subject to  sum over groups of bits on disk <= budget per weight x weights

The optimum is exact: a dynamic programme over the groups that keeps the states no
other state is better than in both sums, and of those only the ones that a Lagrangian
bound does not rule out. Activation bits take nothing on disk, so of two widths that
differ only in them the closer one is always taken: offer only those that are meant.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..specs import BitWidths, SpecError
from .sensitivity_map import NOBODY, SensitivityMap

SLACK = 1e-9
"""Relative tolerance of the Lagrangian bound, so that rounding of sums rules nothing out."""
BUDGET_SLACK = 1e-12
"""Relative tolerance of the budget: bits per weight times weights is rounded too."""


class BudgetError(SpecError):
    """A budget below the smallest possible size."""


class Item(NamedTuple):
    """One independent decision: its rows of the map, and its options.

    columns  what each option chooses, per row
    cost     bits on disk, (M,) float64
    error    (M,) float64
    """

    rows: tuple[int, ...]
    columns: tuple[tuple[int, ...], ...]
    cost: Tensor
    error: Tensor


def allocate(sensitivities: SensitivityMap, budget_bits_per_weight: float) -> dict[str, BitWidths]:
    """The bits of every group with the smallest sum of errors that fits the budget.

    Of equal sums the smaller size is taken; the result is the same every time.

    Raises:
        BudgetError: the budget is below the smallest possible size, which it names.
    """
    total = float(sum(sensitivities.weights))
    items = items_of(sensitivities)
    least = sum(float(item.cost.min()) for item in items)
    budget = budget_bits_per_weight * total
    if not least <= budget * (1 + BUDGET_SLACK):
        raise BudgetError(
            f"budget: expected at least {math.ceil(least / total * 1000) / 1000:g} bits per "
            f"weight, the smallest these widths give, got {budget_bits_per_weight:g}"
        )
    options = choose([(item.cost, item.error) for item in items], budget)
    result: dict[int, BitWidths] = {}
    for item, option in zip(items, options, strict=True):
        for row, column in zip(item.rows, item.columns[option], strict=True):
            result[row] = sensitivities.bits[column]
    return {name: result[row] for row, name in enumerate(sensitivities.groups)}


def items_of(sensitivities: SensitivityMap) -> list[Item]:
    """One item per group; groups whose sizes depend on each other are one item together."""
    dependent = {d: row for row, d in enumerate(sensitivities.divided_by) if d != NOBODY}
    items = []
    for row in range(len(sensitivities.groups)):
        if sensitivities.divided_by[row] != NOBODY:
            continue
        rows = (row,) if row not in dependent else (row, dependent[row])
        columns, costs, errors = [], [], []
        choices = range(len(sensitivities.bits))
        for own in choices:
            for other in choices if len(rows) > 1 else (own,):
                columns.append((own, other)[: len(rows)])
                cost = float(sensitivities.stored[row, own])
                error = float(sensitivities.error[row, own])
                if len(rows) > 1:
                    cost += float(sensitivities.stored[rows[1], other])
                    error += float(sensitivities.error[rows[1], other])
                    if sensitivities.alphas[row][own] is not None:
                        cost += float(sensitivities.division[rows[1], other])
                costs.append(cost)
                errors.append(error)
        cost_of, error_of = (torch.tensor(x, dtype=torch.float64) for x in (costs, errors))
        items.append(Item(rows, tuple(columns), cost_of, error_of))
    return items


def choose(items: list[tuple[Tensor, Tensor]], budget: float) -> list[int]:
    """One option per item: the smallest sum of errors with a sum of costs <= budget.

    ``items`` are pairs of costs and errors, (M,) float64 each, not negative; the
    budget holds at least every item's cheapest option.
    """
    limit = budget * (1 + BUDGET_SLACK)
    kept = [pareto(cost, error) for cost, error in items]
    small = [(c[k], e[k]) for (c, e), k in zip(items, kept, strict=True)]
    multiplier, incumbent = relaxed(small, limit)
    reduced = [float((e + multiplier * c).min()) for c, e in small]
    cheapest = [float(c.min()) for c, _ in small]
    bound = incumbent + multiplier * limit
    bound += SLACK * max(bound, sum(reduced))
    cost = error = torch.zeros(1, dtype=torch.float64)
    trail: list[tuple[Tensor, Tensor]] = []
    for index, (c, e) in enumerate(small):
        many_costs = (cost[:, None] + c).flatten()  # (S M,)
        many_errors = (error[:, None] + e).flatten()
        fits = many_costs + sum(cheapest[index + 1 :]) <= limit
        hopeful = many_errors + multiplier * many_costs + sum(reduced[index + 1 :]) <= bound
        alive = (fits & hopeful).nonzero().flatten()
        alive = alive[pareto(many_costs[alive], many_errors[alive])]
        cost, error = many_costs[alive], many_errors[alive]
        trail.append((alive // len(c), alive % len(c)))
    state = len(cost) - 1  # sorted by cost, so the last has the smallest error
    options = []
    for (parents, taken), original in zip(reversed(trail), reversed(kept), strict=True):
        options.append(int(original[taken[state]]))
        state = int(parents[state])
    return options[::-1]


def pareto(cost: Tensor, error: Tensor) -> Tensor:
    """Indices (by rising cost) of what nothing beats: each has a smaller error than all before."""
    order = torch.argsort(error, stable=True)
    order = order[torch.argsort(cost[order], stable=True)]
    sorted_error = error[order]
    before = torch.cat([sorted_error.new_full((1,), math.inf), sorted_error.cummin(0).values[:-1]])
    return order[sorted_error < before]


def relaxed(items: list[tuple[Tensor, Tensor]], limit: float) -> tuple[float, float]:
    """A multiplier near the best of the Lagrangian dual, and the error of a feasible choice.

    Items hold only what nothing beats, by rising cost.
    """

    def cheapest_at(multiplier: float) -> list[int]:
        return [int((e + multiplier * c).argmin()) for c, e in items]

    def cost_of(options: list[int]) -> float:
        return sum(float(c[k]) for (c, _), k in zip(items, options, strict=True))

    low, high = 0.0, 1.0
    options = cheapest_at(low)
    if cost_of(options) <= limit:
        high = low
    else:
        steps = [float(((e[:-1] - e[1:]) / (c[1:] - c[:-1])).max()) for c, e in items if len(c) > 1]
        high = 2 * max(steps, default=0.0) + 1e-300
        options = [0] * len(items)
        for _ in range(100):
            middle = (low + high) / 2
            trial = cheapest_at(middle)
            if cost_of(trial) <= limit:
                high, options = middle, trial
            else:
                low = middle
    return high, error_of(items, filled(items, options, limit))


def error_of(items: list[tuple[Tensor, Tensor]], options: list[int]) -> float:
    """Sum of the errors of a choice."""
    return sum(float(e[k]) for (_, e), k in zip(items, options, strict=True))


def filled(items: list[tuple[Tensor, Tensor]], options: list[int], limit: float) -> list[int]:
    """A feasible choice, improved by the best step that still fits until none does."""
    options = list(options)
    room = limit - sum(float(c[k]) for (c, _), k in zip(items, options, strict=True))
    while True:
        best, gain = None, 0.0
        for index, (c, e) in enumerate(items):
            now = options[index]
            for k in range(now + 1, len(c)):
                if float(c[k] - c[now]) <= room and float(e[now] - e[k]) > gain:
                    best, gain = (index, k), float(e[now] - e[k])
        if best is None:
            return options
        index, k = best
        room -= float(items[index][0][k] - items[index][0][options[index]])
        options[index] = k
