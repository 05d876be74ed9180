"""The alpha lab: what it holds and says, its listeners and job."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import gradio as gr
import pytest

from ditas_core.calibration import Calibration
from ditas_core.quantizer import levels
from ditas_core.search import plain_recipe
from ditas_core.specs import FORMATS, BitWidths, CalibrationSpec, LowRankSpec, SamplingSpec
from ditas_core.ui import build_app
from ditas_core.ui.stored.catalogue import PRECOMPUTED_VARIABLE
from ditas_core.ui.stored.results import PLAIN
from ditas_core.ui.tabs.lab import draw as lab
from ditas_core.ui.visitors.backend import Backend
from ditas_core.ui.visitors.cache import size_of

from .conftest import CONVENTION, DEMO, bar, bench_of, listener, measured

SHORT = CalibrationSpec(SamplingSpec(steps=6), samples=2)
LAYER = "0.proj"
LARGEST = 40_000


@pytest.fixture(scope="module")
def backend(nothing_shipped) -> Backend:
    """Measured, nothing shipped."""
    return measured(bench_of(DEMO, SHORT))


@pytest.fixture(scope="module")
def calibration(backend) -> Calibration:
    found = backend.measured(backend.default, SHORT)
    assert found is not None
    return found


def setting(backend: Backend, **changes: object) -> lab.Setting:
    base = lab.Setting(backend.default, LAYER, BitWidths(4, 8), CONVENTION, True)
    return replace(base, **changes)


def hand(alpha: object = 0.5, identity: bool = False, **changes: Any) -> list[object]:
    """What the lab's controls and the bar hold."""
    own = {"layer": LAYER, "weight": 4, "activation": 8, "convention": CONVENTION, "branch": True}
    own |= {name: changes.pop(name) for name in set(own) & set(changes)}
    return [alpha, identity, *own.values(), *bar(**{"recipe": PLAIN} | changes)]


def spoken(html: str) -> str:
    return re.sub(r"<[^>]+>", "", html)


def test_a_layer_is_prepared_once_and_says_how_large_it_is(backend, calibration):
    held = lab.hold(backend, setting(backend), calibration)
    assert lab.hold(backend, setting(backend), calibration) is held
    assert lab.hold(backend, setting(backend, branch=False), calibration) is not held
    assert size_of(held) == held.nbytes > held.lab.loss.tokens.numel() * 4
    assert held.at(0.35) is held.at(0.35)


def test_the_bars_fit_their_axis_at_every_alpha(backend, calibration):
    held = lab.hold(backend, setting(backend, bits=BitWidths(3, 5)), calibration)
    for alpha in (None, *(i / 10 for i in range(11))):
        values = lab.errors(held.at(alpha)).values()
        assert held.span[0] < min(values) and max(values) < held.span[1]


def test_the_curve_is_the_searchs_own_and_shipped_ones_count_for_their_run_only(
    backend, calibration
):
    mine = setting(backend, convention="paper")
    assert lab.known_curve(backend, mine, calibration) is None
    done = lab.find_curve(backend, mine, calibration)
    assert lab.known_curve(backend, mine, calibration) is done
    held = lab.hold(backend, mine, calibration)
    for alpha, loss in zip(done.grid, done.losses, strict=True):
        level = 10 * math.log10(loss / done.energy)
        assert held.at(alpha).output_db == pytest.approx(level, abs=1e-3)


def test_shipped_curves_are_used_for_the_run_they_come_from(calibration, monkeypatch):
    monkeypatch.delenv(PRECOMPUTED_VARIABLE)
    fresh = bench_of(DEMO, SHORT)
    assert fresh.shipped is not None, fresh.notice
    assert lab.known_curve(fresh, setting(fresh), calibration) is None
    fresh.shipped = replace(fresh.shipped, calibration=calibration.sha256)
    found = lab.known_curve(fresh, setting(fresh), calibration)
    assert found is not None and found.group == LAYER
    assert found in fresh.shipped.presets["W4A8"].layers
    for other in ({"convention": "paper"}, {"branch": False}, {"bits": BitWidths(3, 8)}):
        assert lab.known_curve(fresh, setting(fresh, **other), calibration) is None


def test_the_verdict_compares_with_no_smoothing_and_names_the_optimum(backend, calibration):
    mine = setting(backend, bits=BitWidths(4, 4))
    held, curve = lab.hold(backend, mine, calibration), lab.find_curve(backend, mine, calibration)
    assert curve.alpha is not None
    gain = held.at(None).output_db - held.at(curve.alpha).output_db
    text = spoken(lab.verdict(held, curve, curve.alpha))
    assert f"α = {curve.alpha:.2f}: output error −{-held.at(curve.alpha).output_db:.1f} dB" in text
    assert f"{gain:.1f} dB better than no smoothing" in text
    assert f"optimum is α = {curve.alpha:.2f}" in text
    worst = max((0.0, 1.0), key=lambda alpha: held.at(alpha).output_db)
    assert "worse than no smoothing" in spoken(lab.verdict(held, curve, worst))
    none = spoken(lab.verdict(held, None, None))
    assert none.startswith("No smoothing: output error") and "being searched" in none
    assert "better" not in none and "worse" not in none


def test_activations_that_are_left_alone_have_no_bar(backend, calibration):
    held = lab.hold(backend, setting(backend, bits=BitWidths(4, 16)), calibration)
    assert list(lab.errors(held.at(0.5))) == ["weights", "output"]
    assert "activations" not in lab.verdict(held, None, 0.5)
    figures = lab.draw(held, None, 0.5, dark=False)
    assert "left alone" in figures[lab.SHAPES].layout.annotations[0].text


@pytest.mark.parametrize("dark", [False, True])
def test_a_move_is_small_and_leaves_what_drawing_anew_would(backend, calibration, dark):
    held, curve = (f(backend, setting(backend), calibration) for f in (lab.hold, lab.find_curve))
    moved, whole = lab.moves(held, curve, 0.3, dark), lab.draw(held, curve, 0.3, dark)
    assert set(moved) == set(whole) == {lab.BARS, lab.CURVE, lab.SHAPES}
    for name, figure in whole.items():
        assert json.loads(json.dumps(moved[name]["data"])) == json.loads(figure.to_json())["data"]
        assert moved[name]["patch"]["height"] == figure.layout.height
    assert len(json.dumps(moved)) < LARGEST


def test_the_recipe_takes_the_layer_as_the_lab_has_it(backend, calibration):
    recipe = plain_recipe(backend.checkpoint(backend.default), BitWidths(4, 8), "integer")
    mine = setting(backend, bits=BitWidths(5, 6))
    changed = lab.used(backend, recipe, mine, 0.35, calibration)
    layer = changed.layers[LAYER]
    assert (layer.alpha, layer.bits, layer.low_rank.rank) == (0.35, BitWidths(5, 6), 8)
    assert changed.calibration == calibration.sha256
    assert {n for n in recipe.layers if recipe.layers[n] != changed.layers[n]} == {LAYER}
    again = lab.used(backend, changed, setting(backend, branch=False), None, calibration)
    assert (again.layers[LAYER].alpha, again.layers[LAYER].low_rank) == (None, LowRankSpec())


def test_the_first_answer_draws_the_figures_the_next_ones_move_them(backend, client):
    lab.find_curve(backend, setting(backend), backend.measured(backend.default, SHORT))
    _, said, packed, wanted = client.predict(*hand(0.4), api_name="/alpha")
    assert "α = 0.40" in said and wanted == ""
    assert all("layout" in figure for figure in json.loads(packed).values())
    _, said, packed, _ = client.predict(*hand(0.41), api_name="/alpha")
    assert "α = 0.41" in said and len(packed) < LARGEST
    assert all("layout" not in figure for figure in json.loads(packed).values())
    _, _, packed, wanted = client.predict(*hand(0.41, layer="1.qkv"), api_name="/alpha")
    assert all("layout" in figure for figure in json.loads(packed).values())
    assert "1.qkv" in wanted  # its curve is still to be searched


def test_using_an_alpha_makes_a_recipe_that_the_bar_shows(backend, client):
    said, choices, notice = client.predict(*hand(0.35), api_name="/use_alpha")
    assert f"{PLAIN} with {LAYER} at W4A8, α = 0.35, branch of rank 8" in said
    assert choices["value"] == "my recipe" and "my recipe" in notice
    own = next(d for d in backend.sessions.sessions.values() if "my recipe" in d.recipes)
    assert own.recipes["my recipe"].layers[LAYER].alpha == 0.35
    more = hand(0.2, layer="1.fc1", recipe="my recipe")
    assert "1.fc1" in client.predict(*more, api_name="/use_alpha")[0]
    layers = own.recipes["my recipe"].layers
    assert (layers[LAYER].alpha, layers["1.fc1"].alpha) == (0.35, 0.2)


def test_before_it_is_measured_it_says_so(nothing_shipped):
    demo, request = build_app(bench_of(DEMO, SHORT)), gr.Request(session_hash="cold")
    assert "calibration run" in listener(demo, "alpha").fn(request, *hand())[1]
    with pytest.raises(gr.Error, match="expected a measured checkpoint"):
        listener(demo, "use_alpha").fn(request, *hand())


def test_the_tab_follows_the_bar_until_the_visitor_switches_here(client):
    def bits_of(*values: object) -> list[object]:
        """What the three controls show then; one that keeps its value is not sent."""
        found = client.predict(*values, api_name="/draw_lab")[1:4]
        had = values[3:6]
        new = [v.get("value", old) if isinstance(v, dict) else v
               for v, old in zip(found, had, strict=True)]  # fmt: skip
        return list(new)

    client.reset_session()
    assert bits_of(*hand(weight=4)) == [4, 8, CONVENTION]
    assert bits_of(*hand(weight=6)) == [6, 8, CONVENTION]
    assert bits_of(*hand(weight=6, preset="W8A8")) == [8, 8, CONVENTION]
    client.reset_session()  # what an address brings is kept when the page opens
    assert bits_of(*hand(weight=3, convention="paper")) == [3, 8, "paper"]


@pytest.mark.parametrize("weight", ["nvfp4", "nf4", "fp6"])
def test_uneven_levels_are_drawn_where_they_lie(backend, calibration, weight):
    mine = setting(backend, bits=BitWidths(weight, "fp4"), branch=False)
    held = lab.hold(backend, mine, calibration)
    shapes = lab.draw(held, None, 0.5, dark=False)[lab.SHAPES]
    for side, name in zip(("activations", "weights"), ("fp4", weight), strict=True):
        known = levels(FORMATS[name].element)
        now = lab.sides(held, 0.5)[side == "weights"]
        assert now.levels.size == len(known)
        ratio = now.levels / now.levels.max() - (known / known.max()).numpy()
        assert abs(ratio).max() < 1e-6
        axis = "x2" if side == "weights" else "x"
        marks = [t for t in shapes.data if "levels" in t.name and t.xaxis == axis]
        places = sorted({x for trace in marks for x in trace.x if x is not None})
        expected = [v for v in now.levels / now.limit if abs(v) <= 1]
        assert places == pytest.approx(expected, abs=1e-3)
        gaps = [b - a for a, b in pairwise(places)]
        assert max(gaps) > 1.5 * min(gaps), "uneven"
    done = lab.find_curve(backend, mine, calibration)
    assert "optimum" in lab.verdict(held, done, 0.5)


def test_formats_come_from_the_labs_own_controls(client):
    _, said, packed, _ = client.predict(*hand(0.4, weight="mxfp4"), api_name="/alpha")
    assert "α = 0.40" in said and "15 levels" in packed
    with pytest.raises(Exception, match="convention paper"):
        client.predict(*hand(0.4, weight="mxfp4", convention="paper"), api_name="/alpha")
