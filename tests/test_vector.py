"""Charts without a script: every point is where its value says."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditas_core.figures.vector import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Line,
    chart_key,
    line_chart,
    round_ticks,
)


def points(svg: str) -> list[list[tuple[float, float]]]:
    return [
        [tuple(map(float, pair.split(","))) for pair in found.get("points").split()]
        for found in ElementTree.fromstring(svg).iter("polyline")
    ]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-1.4, 6.2, [0, 2, 4, 6]),
        (0, 43, [0, 10, 20, 30, 40]),
        (3, 3, [3]),
        (-6.4, 47.7, [0, 20, 40]),
    ],
)
def test_ticks_are_round(low, high, ticks):
    assert round_ticks(low, high) == ticks


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_there_are_few_ticks_and_all_lie_inside(low, span):
    ticks = round_ticks(low, low + span)
    assert len(ticks) <= 6 and all(low - 1e-6 <= tick <= low + span + 1e-6 for tick in ticks)
    assert len(ticks) >= 2 or span < 1e-3 * max(1.0, abs(low))


def test_points_lie_where_their_values_say():
    (drawn,) = points(line_chart([Line("a", [0, 1, 4], [10, 20, 30], "#000000")], "x", "y", "what"))
    xs, ys = zip(*drawn, strict=True)
    assert xs[0] == LEFT and xs[2] == WIDTH - RIGHT
    assert xs[1] == pytest.approx(LEFT + (WIDTH - RIGHT - LEFT) / 4, abs=0.06)
    room = HEIGHT - BOTTOM - TOP  # 10 to 30, and 6 % of the span at both ends
    assert ys[0] == pytest.approx(HEIGHT - BOTTOM - room * 1.2 / 22.4, abs=0.06)
    assert ys[1] == pytest.approx((ys[0] + ys[2]) / 2, abs=0.06)


def test_a_log_axis_spaces_by_ratio_and_shows_every_value():
    svg = line_chart([Line("a", [1, 10, 100], [0, 1, 2], "#000000")], "x", "y", "w", log_x=True)
    ((x0, _), (x1, _), (x2, _)) = points(svg)[0]
    assert math.isclose(x1 - x0, x2 - x1, abs_tol=0.11)
    texts = [found.text for found in ElementTree.fromstring(svg).iter("text")]
    assert {"1", "10", "100"} <= set(texts)


def test_quiet_lines_lie_behind_and_out_of_the_key():
    loud = Line("loud", [0, 1], [1, 0], "#111111", "dot")
    quiet = Line("quiet", [0, 1], [0, 1], "#222222", quiet=True)
    colours = re.findall(r'<polyline[^>]*stroke="(#\d+)"', line_chart([loud, quiet], "", "", ""))
    assert colours == ["#222222", "#111111"]
    assert "loud" in chart_key([loud, quiet]) and "quiet" not in chart_key([loud, quiet])


def test_texts_are_escaped_and_nonsense_is_refused():
    svg = line_chart([Line("a", [0, 1], [0, 1], "#000000")], "<b>", "&", '"><script>')
    ElementTree.fromstring(svg)
    assert "<script>" not in svg and "<b>" not in svg
    with pytest.raises(ValueError, match="at least one"):
        line_chart([], "", "", "")
    with pytest.raises(ValueError, match="finite"):
        line_chart([Line("a", [0, 1], [0, math.inf], "#000000")], "", "", "")
