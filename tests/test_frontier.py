"""Error against size, weighted errors, and the figures of partly quantized runs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from ditas_core.figures.breaking import error_percent, layer_bars, parting_curves, step_curve
from ditas_core.search import SensitivityMap
from ditas_core.search.frontier import (
    frontier,
    largest_uniform,
    priced,
    uniform_allocations,
)
from ditas_core.search.weighted import at_width, weighted
from ditas_core.specs import BitWidths, LowRankSpec, SpecError

pytestmark = pytest.mark.numeric

GROUPS = ("0.qkv", "0.fc1", "0.fc2")
WEIGHTS = (100, 400, 400)
BITS = (BitWidths(2, 8), BitWidths(4, 8), BitWidths(8, 8), BitWidths(16, 16))


def build_map(loudness: tuple[float, ...] = (1.0, 5.0, 0.2)) -> SensitivityMap:
    """Errors fall 6 dB per bit from each group's own level; sizes are bits x weights."""
    error = torch.tensor(
        [[a * 4.0**-b.weight if b.weight < 16 else 0.0 for b in BITS] for a in loudness]
    ).double()
    stored = torch.tensor([[float(b.weight * n) for b in BITS] for n in WEIGHTS]).double()
    return SensitivityMap(
        "checkpoint",
        "calibration",
        "integer",
        LowRankSpec(),
        GROUPS,
        BITS,
        ((None,) * 4,) * 3,
        (-1, -1, -1),
        WEIGHTS,
        error,
        stored,
        torch.zeros_like(stored),
    )


def test_a_choice_is_priced_in_bits_megabytes_and_mean_error():
    found = priced(build_map(), dict(zip(GROUPS, BITS[:3], strict=True)))
    assert found.bits_per_weight == (2 * 100 + 4 * 400 + 8 * 400) / 900
    assert found.megabytes == (2 * 100 + 4 * 400 + 8 * 400) / 8e6
    assert math.isclose(found.error, (1 / 16 + 5 / 256 + 0.2 / 65536) / 3, rel_tol=1e-6)
    with pytest.raises(SpecError, match="allocation"):
        priced(build_map(), {"0.qkv": BITS[0]})


def test_single_widths_are_ordered_by_size_and_leave_out_the_untouched_one():
    assert list(uniform_allocations(build_map())) == list(BITS[:3])
    budgets = {1.0: 2, 2.0: 2, 3.99: 2, 4.0: 4, 7.9: 4, 8.0: 8, 99.0: 8}
    for budget, weight in budgets.items():
        assert largest_uniform(build_map(), budget).weight == weight


def test_the_frontier_falls_and_never_lies_above_a_single_width():
    found = build_map()
    points = frontier(found, 13)
    sizes = [point.bits_per_weight for point in points]
    errors = [point.error for point in points]
    assert len(points) == 13 and sizes[0] == 2.0 and sizes[-1] <= 8.0
    for index, budget in enumerate(np.linspace(2, 8, 13)):
        assert sizes[index] <= budget * (1 + 1e-9)
    assert all(b <= a * (1 + 1e-9) for a, b in itertools.pairwise(errors))
    for each in uniform_allocations(found).values():
        best = [p.error for p in points if p.bits_per_weight <= each.bits_per_weight]
        assert min(best) <= each.error
    mixed = [p for p in points if len(set(p.bits.values())) > 1]
    assert mixed, "unequal groups must get unequal bits somewhere"
    with pytest.raises(ValueError, match="count"):
        frontier(found, 1)


def test_weighted_errors_are_the_measured_ones_at_their_width_and_keep_the_ratios():
    predicted = build_map()
    measured = at_width(build_map((0.5, 0.1, 7.0)), BITS[1])
    assert measured.bits == (BITS[1],) and measured.error.shape == (3, 1)
    found = weighted(predicted, measured)
    assert found.measured and not predicted.measured
    assert torch.allclose(found.error[:, 1], measured.error[:, 0])
    rows = found.error[:, :3] / found.error[:, 1:2]
    assert torch.allclose(rows, predicted.error[:, :3] / predicted.error[:, 1:2])
    assert found.error[:, 3].tolist() == [0.0] * 3
    assert found.stored.equal(predicted.stored)
    with pytest.raises(SpecError, match="one width"):
        weighted(predicted, predicted)
    with pytest.raises(SpecError, match="bits"):
        at_width(predicted, BitWidths(5, 8))


def test_decibels_become_percent_and_identical_runs_nothing():
    assert np.allclose(error_percent([0, 10, 20]), [100, 10, 1])
    assert error_percent([200.0]).tolist() == [0.0]


def test_layer_bars_show_what_is_known_and_name_the_worst():
    figure = layer_bars(GROUPS, {"0.qkv": 20.0, "0.fc2": 10.0})
    shown = {x: y for trace in figure.data for x, y in zip(trace.x, trace.y, strict=True)}
    assert shown == {"0.qkv": 1.0, "0.fc2": 10.0}
    assert [trace.name for trace in figure.data] == ["qkv", "fc1", "fc2"]
    assert [note.text for note in figure.layout.annotations] == ["0.fc2"]
    assert list(figure.layout.xaxis.categoryarray) == list(GROUPS)
    assert len(layer_bars(GROUPS, {}, dark=True).layout.annotations) == 0


def test_parting_curves_leave_identical_steps_blank_and_mark_the_start():
    figure = parting_curves(
        (900, 600, 300, 0), {"from step 3 on": [200, 200, 30, 20], "all": [40, 30, 20, 10]}, 2
    )
    newest, older = figure.data
    assert newest.y == (None, None, 30.0, 20.0) and newest.x == (1, 2, 3, 4)
    assert newest.line.width > older.line.width
    assert figure.layout.shapes[0].x0 == 3
    assert figure.layout.annotations[0].text == "quantized from step 3 on"
    assert len(parting_curves((1, 0), {"all": [9, 8]}).layout.shapes) == 0


def test_the_step_curve_is_in_the_order_of_steps():
    figure = step_curve([9, 1, 5], [30.0, 10.0, 20.0], 10)
    assert figure.data[0].x == (1, 5, 9) and figure.data[0].y == (10.0, 20.0, 30.0)
    assert figure.data[0].text == ("10.0", "20.0", "30.0")
