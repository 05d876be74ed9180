"""Rank correlation against the definition, its invariances, its interval."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ditas_core.evaluation import correlations, spearman

VALUES = st.lists(
    st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=12
)  # small, so that there are ties


def slow_rank(values: list[int], one: int) -> float:
    """The mean place of the equal ones in the sorted list."""
    places = [place for place, each in enumerate(sorted(values)) if each == one]
    return sum(places) / len(places)


@given(pairs=VALUES)
def test_it_is_the_correlation_of_mean_ranks(pairs: list[tuple[int, int]]) -> None:
    first, second = ([pair[i] for pair in pairs] for i in (0, 1))
    a, b = ([slow_rank(values, one) for one in values] for values in (first, second))
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert math.isnan(spearman(first, second))
        return
    stacked = torch.tensor([a, b], dtype=torch.float64)
    assert spearman(first, second) == pytest.approx(float(torch.corrcoef(stacked)[0, 1]), abs=1e-9)
    grown = [math.exp(x) for x in first]
    assert spearman(grown, second) == pytest.approx(spearman(first, second), abs=1e-9)
    assert spearman([-x for x in first], second) == pytest.approx(-spearman(first, second))


def test_known_values() -> None:
    for order in itertools.permutations(range(4)):
        apart = sum((i - place) ** 2 for i, place in enumerate(order))
        assert spearman(range(4), order) == pytest.approx(1 - 6 * apart / (4 * 15))  # type: ignore


@pytest.mark.parametrize("pair", [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([1.0, math.nan], [1, 2])])
def test_what_cannot_be_ranked_is_refused(pair: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="ranks: expected"):
        spearman(*pair)


def test_strata_do_not_help_a_prediction_that_only_tells_them_apart() -> None:
    strata = [0] * 6 + [1] * 6
    measured = [float(i) for i in range(6)] + [100.0 + i for i in range(6)]
    coarse = [1.0, 0.5, 0.9, 0.4, 0.8, 0.3, 9.0, 9.5, 9.1, 9.6, 9.2, 9.7]
    exact = [value * 2 for value in measured]
    over = correlations([coarse, exact], measured)
    inside = correlations([coarse, exact], measured, strata)
    assert over[0].rho > 0.7 and abs(inside[0].rho) < 0.5
    assert inside[1].rho == pytest.approx(1) == inside[1].low == inside[1].high
    for found in (over, inside):
        assert len(found) == 3 and found[2].rho == pytest.approx(found[1].rho - found[0].rho)
        assert all(each.low <= each.rho + 1e-9 and each.count == 12 for each in found)
    assert correlations([coarse, exact], measured, strata) == inside, "repeatable"


def test_a_constant_prediction_has_no_correlation() -> None:
    (found,) = correlations([[1.0, 1.0, 1.0]], [1.0, 2.0, 3.0])
    assert math.isnan(found.rho) and math.isnan(found.low) and math.isnan(found.high)
