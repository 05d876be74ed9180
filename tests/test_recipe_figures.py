"""Recipes side by side: what the two figures say."""

from __future__ import annotations

import math

import pytest

from ditas_core.figures import recipe_alphas, recipe_errors
from ditas_core.figures.recipes import IDENTITY_AT, distinct_roles
from ditas_core.figures.style import ROLES

LAYERS = [f"{block}.{kind}" for block in range(3) for kind in ("qkv", "proj", "fc1", "fc2")]
ALPHAS = {"DiTAS": [0.35] * 11 + [None], "plain rounding": [None] * 12}
ERRORS = {"DiTAS": [0.001] * 10 + [0.0, None], "with this change": [None] * 3 + [0.2] + [None] * 8}


def trace(figure, name):
    (found,) = (each for each in figure.data if each.name == name)
    return found


def test_the_identity_stands_below_every_alpha():
    figure = recipe_alphas(LAYERS, ALPHAS)
    ditas, plain = trace(figure, "DiTAS"), trace(figure, "plain rounding")
    assert list(ditas.x) == LAYERS and list(ditas.y) == [0.35] * 11 + [IDENTITY_AT]
    assert set(plain.y) == {IDENTITY_AT} and IDENTITY_AT < 0
    ticks = dict(zip(figure.layout.yaxis.tickvals, figure.layout.yaxis.ticktext, strict=True))
    assert ticks[IDENTITY_AT] == "identity" and ticks[0.2] == "0.2"
    assert ditas.text[0] == "α = 0.35" and ditas.text[-1] == "no smoothing"


def test_errors_are_percent_gaps_stay_and_nothing_stands_at_the_foot():
    figure = recipe_errors(LAYERS, ERRORS, "0.fc2")
    ditas, change = trace(figure, "DiTAS"), trace(figure, "with this change")
    assert list(ditas.y[:10]) == pytest.approx([0.1] * 10) and ditas.y[11] is None
    low, high = (10**edge for edge in figure.layout.yaxis.range)
    assert low < ditas.y[10] < 0.1, "a layer without error is on view, below the others"
    assert ditas.customdata[10] == 0 and ditas.marker.symbol[10].endswith("-open")
    assert change.y[3] == pytest.approx(20) and high > 20 and change.mode == "markers"
    (line,) = figure.layout.shapes
    assert line.x0 == line.x1 == LAYERS.index("0.fc2")
    assert not recipe_errors(LAYERS, ERRORS).layout.shapes


def test_nothing_known_is_an_empty_frame():
    figure = recipe_errors(LAYERS, {"DiTAS": [None] * 12})
    assert all(math.isfinite(edge) for edge in figure.layout.yaxis.range)
    assert "NaN" not in figure.to_json()


def test_looks_differ_within_a_figure():
    names = ["DiTAS", "my W4A8 ditas search", "my DiTAS, by hand", "plain rounding", "x", "y"]
    looks = distinct_roles(names)
    assert looks["DiTAS"] == ROLES["ditas"] and looks["plain rounding"] == ROLES["plain"]
    assert len(set(looks.values())) == len(names)
    assert len({(look.colour, look.symbol) for look in looks.values()}) == len(names)
