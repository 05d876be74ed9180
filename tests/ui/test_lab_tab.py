"""The alpha lab: what it holds and says, its listeners and job, and what a browser may send."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError

pytest.importorskip("gradio")

from ditas_core.calibration import Calibration
from ditas_core.search import plain_recipe
from ditas_core.specs import BitWidths, CalibrationSpec, LowRankSpec, SamplingSpec
from ditas_core.ui import build_app, launch_options
from ditas_core.ui.bench import Bench
from ditas_core.ui.cache import size_of
from ditas_core.ui.catalogue import PRECOMPUTED_VARIABLE, Entry
from ditas_core.ui.results import PLAIN
from ditas_core.ui.views.lab import (
    BARS,
    CURVE,
    SHAPES,
    Setting,
    draw,
    errors,
    find_curve,
    hold,
    known_curve,
    moves,
    used,
    verdict,
)

DEMO = Path(__file__).resolve().parents[2] / "assets" / "fluent-emoji-dit"
SHORT = CalibrationSpec(SamplingSpec(steps=6), samples=2)
LAYER = "0.proj"
LARGEST = 40_000
SHIPPED = os.environ.get(PRECOMPUTED_VARIABLE, "")


def entry() -> Entry:
    path = DEMO if DEMO.is_dir() else Path(os.environ.get("DITAS_TEST_CHECKPOINT", ""))
    if not (path / "model_index.json").is_file():
        pytest.fail(f"expected the demo checkpoint in assets/{DEMO.name}, found none")
    return Entry(path.name, path.name, str(path), True)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def nothing_shipped(tmp_path_factory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PRECOMPUTED_VARIABLE, str(tmp_path_factory.mktemp("none")))
        yield


@pytest.fixture(scope="module")
def bench(nothing_shipped) -> Bench:
    """Measured, nothing shipped."""
    found = Bench({entry().key: entry()}, SHORT)
    for _ in found.calibrated(found.default, SHORT):
        pass
    return found


@pytest.fixture(scope="module")
def calibration(bench) -> Calibration:
    found = bench.measured(bench.default, SHORT)
    assert found is not None
    return found


def client_of(bench: Bench) -> Iterator[Client]:
    demo = build_app(bench)
    _, url, _ = demo.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options()
    )
    yield Client(url, verbose=False)
    demo.close()


@pytest.fixture(scope="module")
def client(bench) -> Iterator[Client]:
    yield from client_of(bench)


def setting(bench: Bench, **changes: object) -> Setting:
    base = Setting(bench.default, LAYER, BitWidths(4, 8), "integer", True)
    return replace(base, **changes)


def bar(bench: Bench, preset: object = "W4A8", recipe: object = PLAIN) -> tuple[object, ...]:
    return (bench.default.key, preset, 4, 8, "integer", recipe, False, 60, False)


def hand(
    bench: Bench,
    alpha: object = 0.5,
    identity: object = False,
    layer: object = LAYER,
    weight: object = 4,
    activation: object = 8,
    convention: object = "integer",
    branch: object = True,
    **more: object,
) -> tuple[object, ...]:
    own = (alpha, identity, layer, weight, activation, convention, branch)
    return (*own, *bar(bench, **more))


def spoken(html: str) -> str:
    return re.sub(r"<[^>]+>", "", html)


def test_a_layer_is_prepared_once_and_says_how_large_it_is(bench, calibration):
    held = hold(bench, setting(bench), calibration)
    assert hold(bench, setting(bench), calibration) is held
    assert hold(bench, setting(bench, branch=False), calibration) is not held
    assert size_of(held) == held.nbytes > held.lab.loss.tokens.numel() * 4
    assert held.at(0.35) is held.at(0.35)


def test_the_bars_fit_their_axis_at_every_alpha(bench, calibration):
    held = hold(bench, setting(bench, bits=BitWidths(3, 5)), calibration)
    for alpha in (None, *(i / 10 for i in range(11))):
        values = errors(held.at(alpha)).values()
        assert held.span[0] < min(values) and max(values) < held.span[1]


def test_the_curve_is_the_searchs_own_and_shipped_ones_count_for_their_run_only(bench, calibration):
    mine = setting(bench, convention="paper")
    assert known_curve(bench, mine, calibration) is None
    done = find_curve(bench, mine, calibration)
    assert known_curve(bench, mine, calibration) is done
    held = hold(bench, mine, calibration)
    for alpha, loss in zip(done.grid, done.losses, strict=True):
        level = 10 * math.log10(loss / done.energy)
        assert held.at(alpha).output_db == pytest.approx(level, abs=1e-3)


def test_shipped_curves_are_used_for_the_run_they_come_from(calibration, monkeypatch):
    monkeypatch.delenv(PRECOMPUTED_VARIABLE)
    if SHIPPED:
        monkeypatch.setenv(PRECOMPUTED_VARIABLE, SHIPPED)
    fresh = Bench({entry().key: entry()}, SHORT)
    assert fresh.shipped is not None, fresh.notice
    assert known_curve(fresh, setting(fresh), calibration) is None
    fresh.shipped = replace(fresh.shipped, calibration=calibration.sha256)
    found = known_curve(fresh, setting(fresh), calibration)
    assert found is not None and found.group == LAYER
    assert found in fresh.shipped.presets["W4A8"].layers
    for other in ({"convention": "paper"}, {"branch": False}, {"bits": BitWidths(3, 8)}):
        assert known_curve(fresh, setting(fresh, **other), calibration) is None


def test_the_verdict_compares_with_no_smoothing_and_names_the_optimum(bench, calibration):
    mine = setting(bench, bits=BitWidths(4, 4))
    held, curve = hold(bench, mine, calibration), find_curve(bench, mine, calibration)
    assert curve.alpha is not None
    gain = held.at(None).output_db - held.at(curve.alpha).output_db
    text = spoken(verdict(held, curve, curve.alpha))
    assert f"α = {curve.alpha:.2f}: output error −{-held.at(curve.alpha).output_db:.1f} dB" in text
    assert f"{gain:.1f} dB better than no smoothing" in text
    assert f"optimum is α = {curve.alpha:.2f}" in text
    worst = max((0.0, 1.0), key=lambda alpha: held.at(alpha).output_db)
    assert "worse than no smoothing" in spoken(verdict(held, curve, worst))
    none = spoken(verdict(held, None, None))
    assert none.startswith("No smoothing: output error") and "being searched" in none
    assert "better" not in none and "worse" not in none


def test_activations_that_are_left_alone_have_no_bar(bench, calibration):
    held = hold(bench, setting(bench, bits=BitWidths(4, 16)), calibration)
    assert list(errors(held.at(0.5))) == ["weights", "output"]
    assert "activations" not in verdict(held, None, 0.5)
    figures = draw(held, None, 0.5, dark=False)
    assert "left alone" in figures[SHAPES].layout.annotations[0].text


@pytest.mark.parametrize("dark", [False, True])
def test_a_move_is_small_and_leaves_what_drawing_anew_would(bench, calibration, dark):
    held, curve = (f(bench, setting(bench), calibration) for f in (hold, find_curve))
    moved, whole = moves(held, curve, 0.3, dark), draw(held, curve, 0.3, dark)
    assert set(moved) == set(whole) == {BARS, CURVE, SHAPES}
    for name, figure in whole.items():
        assert json.loads(json.dumps(moved[name]["data"])) == json.loads(figure.to_json())["data"]
        assert moved[name]["patch"]["height"] == figure.layout.height
    assert len(json.dumps(moved)) < LARGEST


def test_the_recipe_takes_the_layer_as_the_lab_has_it(bench, calibration):
    recipe = plain_recipe(bench.checkpoint(bench.default), BitWidths(4, 8), "integer")
    mine = setting(bench, bits=BitWidths(5, 6))
    changed = used(bench, recipe, mine, 0.35, calibration)
    layer = changed.layers[LAYER]
    assert (layer.alpha, layer.bits, layer.low_rank.rank) == (0.35, BitWidths(5, 6), 8)
    assert changed.calibration == calibration.sha256
    assert {n for n in recipe.layers if recipe.layers[n] != changed.layers[n]} == {LAYER}
    again = used(bench, changed, setting(bench, branch=False), None, calibration)
    assert (again.layers[LAYER].alpha, again.layers[LAYER].low_rank) == (None, LowRankSpec())


def test_the_first_answer_draws_the_figures_the_next_ones_move_them(bench, client):
    find_curve(bench, setting(bench), bench.measured(bench.default, SHORT))
    _, said, packed, wanted = client.predict(*hand(bench, 0.4), api_name="/alpha")
    assert "α = 0.40" in said and wanted == ""
    assert all("layout" in figure for figure in json.loads(packed).values())
    _, said, packed, _ = client.predict(*hand(bench, 0.41), api_name="/alpha")
    assert "α = 0.41" in said and len(packed) < LARGEST
    assert all("layout" not in figure for figure in json.loads(packed).values())
    _, _, packed, wanted = client.predict(*hand(bench, 0.41, layer="1.qkv"), api_name="/alpha")
    assert all("layout" in figure for figure in json.loads(packed).values())
    assert "1.qkv" in wanted  # its curve is still to be searched


def test_the_slider_takes_over_from_no_smoothing(bench, client):
    client.predict(*hand(bench, 0.5), api_name="/alpha")
    said = client.predict(*hand(bench, 0.5, True), api_name="/alpha")[1]
    assert "No smoothing" in said
    off, said, *_ = client.predict(*hand(bench, 0.6, True), api_name="/alpha")
    assert (off if isinstance(off, bool) else off["value"]) is False
    assert "α = 0.60" in said


def test_using_an_alpha_makes_a_recipe_that_the_bar_shows(bench, client):
    said, choices, notice = client.predict(*hand(bench, 0.35), api_name="/use_alpha")
    assert f"{PLAIN} with {LAYER} at W4A8, α = 0.35, branch of rank 8" in said
    assert choices["value"] == "my recipe" and "my recipe" in notice
    own = next(d for d in bench.desks.desks.values() if "my recipe" in d.recipes)
    assert own.recipes["my recipe"].layers[LAYER].alpha == 0.35
    more = hand(bench, 0.2, layer="1.fc1", recipe="my recipe")
    assert "1.fc1" in client.predict(*more, api_name="/use_alpha")[0]
    layers = own.recipes["my recipe"].layers
    assert (layers[LAYER].alpha, layers["1.fc1"].alpha) == (0.35, 0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"convention": "paper"}, "expected the recipe.*integer, got paper"),
        ({"recipe": "DiTAS"}, "expected one that exists, got DiTAS"),
    ],
)
def test_what_does_not_fit_a_recipe_is_refused(bench, client, changes, message):
    with pytest.raises(AppError, match=message):
        client.predict(*hand(bench, **changes), api_name="/use_alpha")


@pytest.mark.parametrize(
    "changes",
    [
        {"alpha": 1.5},
        {"alpha": None},
        {"alpha": True},
        {"alpha": "0.5"},
        {"identity": 1},
        {"layer": "9.fc9"},
        {"layer": "x" * 10_000},
        {"layer": None},
        {"weight": 1},
        {"weight": 4.5},
        {"activation": 17},
        {"activation": None},
        {"convention": "integer-g7"},
        {"branch": None},
        {"preset": "W1A1"},
    ],
)
def test_hostile_values_are_refused(bench, client, changes):
    with pytest.raises(AppError) as caught:
        client.predict(*hand(bench, **changes), api_name="/alpha")
    assert "Traceback" not in str(caught.value)


def test_before_it_is_measured_it_says_so_and_measures(nothing_shipped):
    cold = Bench({entry().key: entry()}, SHORT)
    for client in client_of(cold):
        said = client.predict(*hand(cold), api_name="/alpha")[1]
        assert "calibration run" in said
        with pytest.raises(AppError, match="expected a measured checkpoint"):
            client.predict(*hand(cold), api_name="/use_alpha")
        job = client.submit(*hand(cold), api_name="/lab_measure")
        line = job.result(timeout=120)[0]
        assert "is measured" in line
        lines = [output[0] for output in job.outputs()]
        assert any("Denoising step" in text for text in lines)
        assert cold.measured(cold.default, SHORT) is not None
        assert "α = 0.50" in client.predict(*hand(cold), api_name="/alpha")[1]


def test_the_tab_follows_the_bar_until_the_visitor_switches_here(bench, client):
    def bits_of(*values: object) -> list[object]:
        """What the three controls show then; one that keeps its value is not sent."""
        found = client.predict(*values, api_name="/draw_lab")[1:4]
        had = values[3:6]
        new = [v.get("value", old) if isinstance(v, dict) else v
               for v, old in zip(found, had, strict=True)]  # fmt: skip
        return list(new)

    client.reset_session()
    assert bits_of(*hand(bench, weight=4)) == [4, 8, "integer"]
    assert bits_of(*hand(bench, weight=6)) == [6, 8, "integer"]
    assert bits_of(*hand(bench, weight=6, preset="W8A8")) == [8, 8, "integer"]
    client.reset_session()  # what an address brings is kept when the page opens
    assert bits_of(*hand(bench, weight=3, convention="paper")) == [3, 8, "paper"]
