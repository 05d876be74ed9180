"""Both sides of a product as counted histograms; the lab's moves are parts of its figures."""

from __future__ import annotations

import json

import numpy as np
import pytest

import ditas_core.figures as F

BINS = 128
GRID = np.linspace(0, 1, 21)


def bell(limit: float, levels: np.ndarray, width: float = 0.2) -> F.Counted:
    centres = np.linspace(-1, 1, BINS)
    return F.Counted(np.round(1e5 * np.exp(-((centres / width) ** 2))), limit, levels)


NOW = (bell(2.0, F.level_grid(-1.0, 1.5, 0.5)), bell(0.5, F.level_grid(-0.4, 0.4, 0.001)))
BEFORE = (bell(9.0, F.level_grid(-9, 9, 1), 0.05), bell(0.3, F.level_grid(-0.3, 0.3, 0.1)))


def test_a_level_grid_holds_both_ends():
    assert F.level_grid(-0.75, 0.5, 0.25) == pytest.approx([-0.75, -0.5, -0.25, 0, 0.25, 0.5])


def test_shares_add_up_and_levels_stand_where_they_are():
    figure = F.counted_histograms(*NOW, *BEFORE, 0.4)
    bars, outline, levels = figure.data[:3]
    assert sum(v for v in bars.y if v > 1e-3) == pytest.approx(100, abs=0.5)
    assert max(outline.y) > max(bars.y)  # the narrower bell
    assert bars.x0 + bars.dx * (BINS - 1) == pytest.approx(1 - 1 / BINS)
    places = [x for x in levels.x if x is not None][::2]
    assert places == pytest.approx([-0.5, -0.25, 0, 0.25, 0.5, 0.75])
    assert "6 levels" in figure.layout.annotations[0].text
    assert "801 levels" in figure.layout.annotations[1].text
    assert "α = 0.40" in figure.layout.title.text


@pytest.mark.parametrize("dark", [False, True])
def test_it_is_small_and_its_axes_stay(dark: bool):
    first = F.counted_histograms(*NOW, *BEFORE, 0.4, dark=dark)
    other = F.counted_histograms(*BEFORE, *BEFORE, 0.9, dark=dark)
    for axis in ("xaxis", "xaxis2", "yaxis", "yaxis2"):
        assert first.layout[axis].range == other.layout[axis].range
    assert len(first.to_json()) < 40_000
    assert first.layout.font.color == ("#D7DCE5" if dark else "#3B414D")


def test_a_side_that_is_left_alone_has_no_levels_and_no_smoothing_no_outline():
    alone = NOW[0]._replace(levels=np.empty(0))
    figure = F.counted_histograms(alone, NOW[1], *BEFORE, None)
    assert len(figure.data) == 4
    assert "left alone" in figure.layout.annotations[0].text
    assert not figure.data[1].x
    assert "without smoothing" in figure.layout.title.text


def test_what_moves_is_what_the_figures_hold():
    errors, before = {"weights": -20.0, "output": -18.5}, {"weights": -22.0, "output": -17.0}
    losses = (GRID - 0.4) ** 2 - 0.1
    pairs = [
        (F.counted_histograms(*NOW, *BEFORE, 0.4), F.counted_traces(*NOW, *BEFORE, 0.4)),
        (F.error_bars(errors, (-30, 0), before), F.error_traces(errors, (-30, 0), before)),
        (F.alpha_curve(GRID, losses, 0.3, -0.05), F.curve_traces(GRID, losses, 0.3, -0.05)),
    ]
    for figure, traces in pairs:
        assert json.loads(figure.to_json())["data"] == json.loads(json.dumps(traces))
    title, notes = F.counted_texts(*NOW, 0.4)
    shapes = pairs[0][0].layout
    assert (title, notes[0]["text"]) == (shapes.title.text, shapes.annotations[0].text)
    ticks = F.error_ticks(errors)["ticktext"]
    assert ticks == list(pairs[1][0].layout.yaxis.ticktext)
    assert ticks[1] == "output<br><b>−18.5 dB</b>"


def test_the_curve_marks_what_the_search_chose():
    losses = (GRID - 0.4) ** 2 - 0.1
    lowest, chosen = F.alpha_curve(GRID, losses, 0.3), F.alpha_curve(GRID, losses, 0.3, choice=0.5)
    assert lowest.data[1].x == (0.4,) and chosen.data[1].x == (0.5,)
    assert "0.50" in chosen.layout.title.text
    none = F.alpha_curve(GRID, losses, None, choice=None)
    assert len(none.data) == 1
    assert none.layout.title.text == "The search leaves this layer unsmoothed"
    assert none.layout.annotations[0].text == "★ no smoothing (in hand)"
