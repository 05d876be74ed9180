"""The Search tab without a browser: going on after Cancel, predictions, names, hostile values."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

gr = pytest.importorskip("gradio")

from gradio_client import Client  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402

from ditas_core.search import (  # noqa: E402
    LayerDone,
    SearchSpec,
    iterate_search,
    predicted_errors,
    relative_error,
    search,
)
from ditas_core.specs import (  # noqa: E402
    BitWidths,
    CalibrationSpec,
    LayerRecipe,
    Recipe,
    SamplingSpec,
    SpecError,
)
from ditas_core.ui import build_app, launch_options  # noqa: E402
from ditas_core.ui.bench import Bench, Choice, Model  # noqa: E402
from ditas_core.ui.catalogue import Entry  # noqa: E402
from ditas_core.ui.desk import KEPT_SEARCHES, Desk  # noqa: E402
from ditas_core.ui.jobs.predicting import MOST_KNOWN, predict_recipes, predictions  # noqa: E402
from ditas_core.ui.jobs.searching import (  # noqa: E402
    PARTIAL,
    Searching,
    job_of,
    keep_partial,
    kept_layers,
    run_search,
)
from ditas_core.ui.results import DITAS, PLAIN, REFERENCE, SMOOTHED  # noqa: E402
from ditas_core.ui.tabs.editing import (  # noqa: E402
    available,
    draw_edit,
    draw_layer,
    kept_change,
    read_edit,
)
from ditas_core.ui.tabs.recipes import (  # noqa: E402
    LONGEST_JSON,
    compare,
    deleted,
    draw_recipes,
    loaded,
    renamed,
)
from ditas_core.ui.views.search import (  # noqa: E402
    CURVES,
    KEPT_FILES,
    MAP,
    compare_rows,
    read_name,
    recipe_file,
    recipe_rows,
    search_figure,
    totals_html,
)

DEMO = Path(__file__).resolve().parents[2] / "assets" / "fluent-emoji-dit"
SHORT = CalibrationSpec(SamplingSpec(steps=4), samples=1)
W4A8 = BitWidths(4, 8)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    path = DEMO if DEMO.is_dir() else Path(os.environ.get("DITAS_TEST_CHECKPOINT", ""))
    if not (path / "model_index.json").is_file():
        pytest.fail(f"expected the demo checkpoint in assets/{DEMO.name}, found none")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = Bench({path.name: Entry(path.name, path.name, str(path), True)}, SHORT)
    assert found.shipped is not None, found.notice
    for _ in found.calibrated(found.default, SHORT):
        pass
    yield found
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def fresh(bench) -> Bench:
    """The same checkpoint, nothing measured."""
    return Bench(bench.entries, SHORT)


@pytest.fixture()
def choice(bench) -> Choice:
    return Choice(bench.default, W4A8, "integer")


@pytest.fixture()
def desk() -> Desk:
    return Desk("one")


@pytest.fixture(scope="module")
def demo(bench) -> gr.Blocks:
    return build_app(bench)


@pytest.fixture(scope="module")
def client(demo) -> Iterator[Client]:
    _, url, _ = demo.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True,
        **launch_options(),
    )  # fmt: skip
    yield Client(url, verbose=False)
    demo.close()


def bar(bench: Bench, recipe: str = DITAS, preset: str = "W4A8") -> list[Any]:
    return [bench.default.key, preset, 4, 8, "integer", recipe, False, 60, False]


def as_text(found: Any) -> str:
    return json.dumps(found, default=str, ensure_ascii=False)


def element(demo: gr.Blocks, elem_id: str) -> Any:
    (found,) = (b for b in demo.blocks.values() if getattr(b, "elem_id", None) == elem_id)
    return found


def listener(demo: gr.Blocks, elem_id: str, event: str) -> Callable[..., Any]:
    """What the server runs for this component's event: ``call(desk_key, *values)``."""
    key = element(demo, elem_id)._id
    found = [fn for fn in demo.fns.values() if (key, event) in fn.targets and fn.fn is not None]
    assert found, f"expected a listener of {event} of {elem_id}"

    def call(session: str, *values: Any) -> Any:
        return found[0].fn(SimpleNamespace(session_hash=session), *values)

    return call


# going on after Cancel


def test_a_search_goes_on_where_it_was_cancelled(bench, desk, choice, monkeypatch):
    job = job_of(choice, "search", SHORT)
    events = run_search(bench, desk, job)
    fractions = []
    for event in events:
        assert isinstance(event, Searching)
        fractions.append(event.fraction)
        if len(kept_layers(desk, job)) == 3:
            break
    events.close()
    assert fractions == sorted(fractions) and 0 < fractions[0] < fractions[-1] <= 3 / 32 + 1e-9
    kept = kept_layers(desk, job)
    assert [layer.index for layer in kept] == [0, 1, 2]
    assert event.text == "3 of 32 layers found" and event.fresh and event.part == (1, 1)

    calls = []
    from ditas_core.search import alpha

    inner = alpha.iterate_group_search
    monkeypatch.setattr(
        alpha, "iterate_group_search", lambda *a, **k: (calls.append(a[1].name), inner(*a, **k))[1]
    )
    *steps, recipe = run_search(bench, desk, job)
    assert isinstance(recipe, Recipe)
    assert len(calls) == 29 and not {layer.group for layer in kept} & set(calls)
    assert not any(step.fresh for step in steps[:3]) and steps[2].fraction == 0
    calibration = bench.measured(bench.default, SHORT)
    whole = search(bench.checkpoint(bench.default), calibration, job.spec)
    assert recipe == whole, "interrupted or not, the recipe is the same"
    assert kept_layers(desk, job)[:3] == kept

    calls.clear()
    *_, again = run_search(bench, desk, job)
    assert again == whole and calls == []
    *_, anew = run_search(bench, desk, job, afresh=True)
    assert anew == whole and len(calls) == 32


def test_other_settings_are_another_search(bench, desk, choice):
    jobs = [
        job_of(choice, "search", SHORT),
        job_of(choice, "smoothing", SHORT),
        job_of(replace(choice, bits=BitWidths(4, 4)), "search", SHORT),
        job_of(choice, "search", replace(SHORT, samples=2)),
        job_of(replace(choice, model=Model(choice.model.key, 60)), "search", SHORT),
    ]
    assert len({job.key for job in jobs}) == len(jobs)
    assert len({job.name for job in jobs}) == 4, "the calibration run alone does not name a recipe"
    assert jobs[0].name == "my W4A8 grid search"
    assert jobs[-1].name.endswith("outliers ×60")
    for job in jobs:
        desk.found(job.key)
    assert len(desk.searches) == KEPT_SEARCHES


def test_cancel_while_calibrating_leaves_nothing(fresh, desk, choice):
    job = job_of(choice, "ditas", SHORT)
    events = run_search(fresh, desk, job)
    first = next(events)
    assert first.part == (1, 2) and first.text.startswith("calibrating")
    events.close()
    assert kept_layers(desk, job) == [] and fresh.measured(fresh.default, SHORT) is None
    assert keep_partial(fresh, desk, job) is None and desk.recipes == {}


def test_a_cancelled_search_is_a_recipe(bench, desk, choice):
    job = job_of(choice, "ditas", SHORT)
    events = run_search(bench, desk, job)
    for _ in events:
        if len(kept_layers(desk, job)) == 4:
            break
    events.close()
    recipe = keep_partial(bench, desk, job)
    assert recipe is not None and desk.recipes[PARTIAL] is recipe
    kept = {layer.group: layer for layer in kept_layers(desk, job)}
    for name, layer in recipe.layers.items():
        assert layer.alpha == (kept[name].alpha if name in kept else None)
    known = predictions(bench, bench.default, SHORT)
    errors = dict(zip(known.groups, known.errors(recipe), strict=True))
    assert {name: errors[name] for name in kept} == {
        name: relative_error(layer) for name, layer in kept.items()
    }


# predictions


def test_predictions_are_the_cores_and_learnt_from_searches(bench, desk, choice):
    found = predictions(bench, bench.default, SHORT)
    checkpoint, calibration = found.checkpoint, found.calibration
    assert calibration is not None and found.source == "1 images × 4 steps"
    smoothed = bench.recipes(desk, choice)[SMOOTHED]
    smoothed = replace(smoothed, calibration=calibration.sha256)
    list(predict_recipes(bench, bench.default, SHORT, {SMOOTHED: smoothed}))
    wanted = [one.error for one in predicted_errors(checkpoint, calibration, smoothed)]
    assert found.errors(smoothed) == wanted and found.missing(smoothed) == []
    events = list(predict_recipes(bench, bench.default, SHORT, {SMOOTHED: smoothed}))
    assert events == [], "known for everybody"

    spec = SearchSpec(BitWidths(3, 8), method="search")
    *steps, recipe = iterate_search(checkpoint, calibration, spec)
    assert all(error is None for error in found.errors(recipe))
    found.learn(recipe, [step for step in steps if isinstance(step, LayerDone)])
    exact = [one.error for one in predicted_errors(checkpoint, calibration, recipe)]
    assert found.errors(recipe) == exact


def test_predictions_measure_in_turns_and_stay_bounded(bench, monkeypatch):
    found = replace(predictions(bench, bench.default, SHORT), known={})
    recipe = bench.recipes(Desk(""), Choice(bench.default, W4A8, "integer"))[PLAIN]
    left = found.fill([recipe], 0.0)
    assert left == 32
    turns = 0
    while left:
        before, left, turns = left, found.fill([recipe], 0.05), turns + 1
        assert left < before, "every turn measures something"
    assert turns > 1 and found.missing(recipe) == []
    monkeypatch.setattr("ditas_core.ui.jobs.predicting.MOST_KNOWN", 40)
    for alpha in range(20):
        found.find("integer", "0.proj", LayerRecipe(W4A8, alpha / 20))
    assert len(found.known) == 40 < MOST_KNOWN


def test_without_a_calibration_only_the_shipped_search_is_known(fresh, desk, choice):
    found = predictions(fresh, fresh.default, SHORT)
    assert found.calibration is None
    preset = fresh.shipped.presets["W4A8"]
    shipped = {layer.group: relative_error(layer) for layer in preset.layers}
    assert found.errors(preset.recipe) == [shipped[name] for name in found.groups]
    assert found.find("integer", "0.qkv", LayerRecipe(BitWidths(5, 8))) is None
    assert found.fill([fresh.recipes(desk, choice)[PLAIN]], 1.0) == 0
    html, _ = draw_edit(fresh, desk, choice, *read_edit(
        fresh, desk, choice, ("0.qkv", 0.9, False, 4, 8)))  # fmt: skip
    assert "press “Predict all”" in html
    with pytest.raises(gr.Error, match="calibration"):
        plain = replace(choice, recipe=PLAIN)
        kept_change(fresh, desk, plain, ("0.qkv", 0.9, False, 4, 8), "mine")
    assert desk.recipes == {}


# by hand


def test_a_change_by_hand_moves_the_predicted_error(bench, desk, choice):
    found = predictions(bench, bench.default, SHORT)
    base = bench.recipes(desk, choice)[DITAS]
    found.fill([base], 60.0)
    values = ("3.fc2", 0.8, False, 3, 8)
    recipe, changed, group = read_edit(bench, desk, choice, values)
    html, figure = draw_edit(bench, desk, choice, recipe, changed, group)
    assert changed.layers["3.fc2"] == replace(base.layers["3.fc2"], alpha=0.8, bits=BitWidths(3, 8))
    rest = {name: layer for name, layer in changed.layers.items() if name != "3.fc2"}
    assert rest == {name: layer for name, layer in base.layers.items() if name != "3.fc2"}
    calibration = bench.measured(bench.default, SHORT)
    bound = replace(changed, calibration=calibration.sha256)
    exact = [one.error for one in predicted_errors(found.checkpoint, calibration, bound)]
    assert found.errors(changed) == exact
    at = found.groups.index("3.fc2")
    assert f"{100 * exact[at]:.3g} %" in html and f"{100 * np.mean(exact):.3g} %" in html
    was = found.errors(base)
    assert f"was {100 * was[at]:.3g} %" in html and f"was {100 * np.mean(was):.3g} %" in html
    (one,) = (t for t in figure.data if t.name == "your change: W3A8, α = 0.80")
    assert one.y[at] == pytest.approx(100 * exact[at], rel=1e-3)
    assert sum(y is not None for y in one.y) == 1


def test_a_kept_change_is_a_recipe_of_ones_own(bench, desk, choice):
    values = ("3.fc2", 0.8, False, 3, 8)
    label = kept_change(bench, desk, choice, values, "  by   hand ")
    assert label == "by hand" and list(desk.recipes) == ["by hand"]
    kept = desk.recipes["by hand"]
    assert kept.calibration == bench.measured(bench.default, SHORT).sha256
    assert kept.layers["3.fc2"].bits == BitWidths(3, 8) and kept.layers["3.fc2"].alpha == 0.8
    # a second change starts from the first
    again = replace(choice, recipe="by hand")
    kept_change(bench, desk, again, ("0.qkv", 0.5, True, 16, 16), "by hand")
    both = desk.recipes["by hand"]
    assert both.layers["3.fc2"].alpha == 0.8 and both.layers["0.qkv"].alpha is None
    assert list(desk.recipes) == ["by hand"]
    drawn = draw_layer(bench, desk, again, "0.qkv")
    assert drawn[2] is True and drawn[3:5] == (16, 16) and drawn[5] == "by hand"
    assert "by hand" in available(bench, desk, choice)
    assert "by hand" not in available(bench, Desk("two"), choice)


@pytest.mark.parametrize(
    "value",
    ["", "   ", "x" * 41, "x" * 10**6, "a\x00b", "tab\u202ebar", "<b>", "a&b", None, 7, True, [],
     DITAS, "ditas", PLAIN, REFERENCE],
)  # fmt: skip
def test_names_that_cannot_be(bench, desk, choice, value):
    with pytest.raises(gr.Error, match="name: expected"):
        kept_change(bench, desk, choice, ("0.qkv", 0.5, False, 4, 8), value)
    assert desk.recipes == {}


def test_names_that_can_be():
    assert read_name("Größe 4 · α") == "Größe 4 · α" and len(read_name("x" * 40)) == 40
    with pytest.raises(gr.Error, match="kept already"):
        read_name("mine", ["mine"])


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), -0.1, 1.5, True, None, "x" * 10**6, [], {}, 10**9, "0.5", 4.5],
)
def test_hostile_settings_are_refused(bench, desk, choice, at, value):
    values: list[Any] = ["0.qkv", 0.5, False, 4, 8]
    values[at] = value
    if at == 2 and value is True:
        return
    with pytest.raises((gr.Error, SpecError)) as error:
        read_edit(bench, desk, choice, tuple(values))
    assert len(str(error.value)) < 300


def test_a_recipe_that_is_not_there_yet_is_said(bench, desk, choice):
    other = replace(choice, convention="paper")
    drawn = draw_layer(bench, desk, other, "0.qkv")
    assert "press “Start”" in drawn[8] and drawn[6]["interactive"] is False
    with pytest.raises(gr.Error, match="press “Start”"):
        read_edit(bench, desk, other, ("0.qkv", 0.5, False, 4, 8))


# several recipes


def test_recipes_are_listed_and_compared(bench, desk, choice):
    kept_change(bench, desk, choice, ("3.fc2", 0.8, False, 3, 8), "mine")
    found = predictions(bench, bench.default, SHORT)
    recipes = available(bench, desk, choice)
    found.fill(recipes.values(), 120.0)
    rows = {row[0]: row for row in recipe_rows(found, recipes)}
    assert list(rows) == list(recipes) and rows["mine"][2] == "W3A8 / W4A8"
    assert rows[PLAIN][3] == "0 of 32" and rows[SMOOTHED][3] == "32 of 32"
    mean = np.mean(found.errors(recipes["mine"]))
    assert rows["mine"][5] == f"{100 * mean:.3g}" > rows[DITAS][5]
    assert float(rows["mine"][4]) < float(rows[DITAS][4])

    alphas, errors, table = compare(bench, desk, choice, ["mine", PLAIN])
    assert {t.name for t in alphas.data} == {t.name for t in errors.data} == {"mine", PLAIN}
    headers, layers = compare_rows(found, {n: recipes[n] for n in ("mine", PLAIN)})
    assert table["value"] == {"headers": headers, "data": layers}
    row = layers[found.groups.index("3.fc2")]
    assert row[1] == "W3A8, α = 0.80" and row[3] == "W4A8, s = 1"
    for wrong in (["mine", "nobody's"], [PLAIN] * 5, "mine", None, [None]):
        with pytest.raises(gr.Error, match="compare"):
            compare(bench, desk, choice, wrong)
    nothing = compare(bench, desk, choice, [])
    assert nothing[2]["value"]["data"] == []


def test_rename_and_delete(bench, desk, choice):
    kept_change(bench, desk, choice, ("3.fc2", 0.8, False, 3, 8), "mine")
    kept_change(bench, desk, choice, ("3.fc2", 0.7, False, 3, 8), "other")
    recipe = desk.recipes["mine"]
    assert renamed(bench, desk, choice, "mine", "yours") == "yours"
    assert list(desk.recipes) == ["yours", "other"] and desk.recipes["yours"] is recipe
    for name, new in ((DITAS, "x"), ("nobody's", "x"), (None, "x"), ("yours", "other")):
        with pytest.raises(gr.Error):
            renamed(bench, desk, choice, name, new)
    assert list(desk.recipes) == ["yours", "other"]
    assert deleted(bench, desk, replace(choice, recipe="other"), "yours") == "other"
    assert deleted(bench, desk, replace(choice, recipe="other"), "other") == DITAS
    with pytest.raises(gr.Error, match="none yet"):
        deleted(bench, desk, choice, "other")
    # in a convention without shipped results the bar falls back to what is always there
    kept_change(bench, desk, replace(choice, convention="paper", recipe=PLAIN),
                ("3.fc2", 0.8, False, 3, 8), "third")  # fmt: skip
    other = replace(choice, convention="paper", recipe="third")
    assert deleted(bench, desk, other, "third") == PLAIN


def test_a_downloaded_recipe_loads_again(bench, desk, choice):
    kept_change(bench, desk, choice, ("3.fc2", 0.8, False, 3, 8), "mine / 1")
    path = Path(recipe_file("mine / 1", desk.recipes["mine / 1"]))
    assert path.name.startswith("mine-1-") and path.suffix == ".json"
    visitor = Desk("two")
    label = loaded(bench, visitor, choice, path.read_text("utf-8"), "from a file")
    assert visitor.recipes == {label: desk.recipes["mine / 1"]}
    assert list(visitor.recipes[label].layers) == [
        group.name for group in bench.checkpoint(bench.default).groups
    ]
    for number in range(KEPT_FILES + 5):
        last = recipe_file(f"n{number}", desk.recipes["mine / 1"])
    assert len(list(Path(last).parent.iterdir())) == KEPT_FILES and Path(last).is_file()


def test_what_is_not_a_recipe_is_refused(bench, desk, choice):
    good = bench.recipes(desk, choice)[DITAS]
    document = json.loads(good.to_json())
    layer = document["layers"]["0.qkv"]
    bad: list[Any] = [
        "", "{", "[]", "null", "1" * 300_000, None, 7, "[" * 100_000,
        json.dumps({**document, "format": 1}),
        json.dumps({**document, "checkpoint": "0" * 64}),
        json.dumps({**document, "convention": "<script>"}),
        json.dumps({**document, "name": "x" * 61}),
        json.dumps({**document, "name": "a\u0000b"}),
        json.dumps({**document, "layers": {"0.qkv": layer}}),
        json.dumps({**document, "layers": {}}),
        json.dumps({**document, "extra": 1}),
        json.dumps({**document, "layers": {**document["layers"], "0.qkv": {**layer, "alpha": 2}}}),
        json.dumps(
            {**document, "layers": {**document["layers"], "0.qkv": {**layer, "bits": "W4A8"}}}
        ),
        good.to_json() + " " * LONGEST_JSON,
        *(
            json.dumps(
                {**document, "layers": {**document["layers"], "0.qkv": {**layer, **change}}}
            )
            for change in (
                {"alpha": 10**400},
                {"low_rank": {**layer["low_rank"], "rank": 65}},
                {"low_rank": {**layer["low_rank"], "iterations": 11}},
            )
        ),
    ]  # fmt: skip
    for text in bad:
        with pytest.raises((gr.Error, SpecError)) as error:
            loaded(bench, desk, choice, text, "mine")
        assert len(str(error.value)) < 400
    with pytest.raises(gr.Error, match="name"):
        loaded(bench, desk, choice, good.to_json(), DITAS)
    assert desk.recipes == {}
    injected = replace(choice, model=Model(bench.default.key, 60))
    with pytest.raises(gr.Error, match="choose its checkpoint"):
        loaded(bench, desk, injected, good.to_json(), "mine")


def test_a_checkpoint_that_is_not_here_draws_empty(bench, desk):
    hub = "facebook/DiT-XL-2-256"
    other = Bench({**bench.entries, hub: Entry(hub, hub, hub, False)}, SHORT)
    there = Choice(Model(hub), W4A8, "integer")
    assert available(other, desk, there) == {}
    drawn = draw_recipes(other, desk, there, [PLAIN], DITAS)
    assert drawn[0] == [] and drawn[5]["choices"] == []
    assert "no such recipe yet" in draw_layer(other, desk, there, None)[8]


# figures and numbers


def test_the_map_marks_what_the_search_chose(bench):
    layers = list(bench.shipped.presets["W4A8"].layers)
    names = bench.group_names(bench.default)
    figure = search_figure(names, layers, MAP, False)
    (best,) = (t for t in figure.data if t.name == "best α")
    (none,) = (t for t in figure.data if t.name == "no α helps")
    assert dict(zip(best.x, best.y, strict=True)) == {
        layer.group: layer.alpha for layer in layers if layer.alpha is not None
    }
    assert set(none.x) == {layer.group for layer in layers if layer.alpha is None}
    assert len(figure.to_json()) < 100_000
    lines = search_figure(names, layers, CURVES, True)
    assert len([t for t in lines.data if t.mode == "lines+markers"]) == 32
    part = search_figure(names, layers[:5], MAP, False)
    assert len(part.data[0].x) == 32
    known = [x for t in part.data[1:] for x in t.x]
    assert sorted(known) == sorted(layer.group for layer in layers[:5])


def test_the_running_total_counts_what_is_found(bench):
    layers = bench.shipped.presets["W4A8"].layers[:4]
    html = totals_html(layers, 32)
    assert "4 of 32" in html and "n = 4" in html
    gain = f"{sum(layer.gain_db for layer in layers):+.1f} dB".replace("-", "−")
    assert f"<b>{gain}</b>" in html
    assert "0 of 32" in totals_html([], 32)


# the page


def test_the_tab_opens_on_the_shipped_search(bench, client):
    found = client.predict("ditas", 4, 1, None, [], None, *bar(bench), api_name="/draw_search")
    table = found[3]
    text = as_text(found)
    assert "Shipped search: W4A8" in text and len(table["data"]) == 32
    gains = [row[2] for row in table["data"]]
    assert gains == sorted(gains, reverse=True)


def test_the_search_endpoint_ends_with_the_recipe(bench, client):
    job = client.submit(
        "search", 4, 1, True, None, [DITAS, PLAIN], None, *bar(bench), api_name="/search"
    )
    last = job.result(timeout=120)
    text = as_text(last)
    assert "kept as “my W4A8 grid search”" in text and "32 of 32" in text
    events = [as_text(each) for each in job.outputs()]
    running = [each for each in events if "layers found ·" in each]
    assert running and any("elapsed" in each for each in running)
    # the same visitor goes on: nothing is left to do
    shown = client.predict(MAP, "search", 4, 1, *bar(bench), api_name="/search_layers")
    assert "All 32 layers are found" in as_text(shown)
    other = Client(client.src, verbose=False)
    shown = other.predict(MAP, "search", 4, 1, *bar(bench), api_name="/search_layers")
    assert "not searched yet" in as_text(shown)


@pytest.mark.parametrize(
    ("endpoint", "good", "at", "value"),
    [
        ("/search", ["ditas", 4, 1, False, None, [], None], 0, "everything"),
        ("/search", ["ditas", 4, 1, False, None, [], None], 1, 3),
        ("/search", ["ditas", 4, 1, False, None, [], None], 1, True),
        ("/search", ["ditas", 4, 1, False, None, [], None], 2, 1.5),
        ("/search", ["ditas", 4, 1, False, None, [], None], 3, "yes"),
        ("/search_layers", [MAP, "ditas", 4, 1], 0, "x" * 100_000),
        ("/search_layers", [MAP, "ditas", 4, 1], 1, None),
        ("/predict_layer", ["0.qkv", 0.5, False, 4, 8], 0, "99.qkv"),
        ("/predict_layer", ["0.qkv", 0.5, False, 4, 8], 1, None),
        ("/predict_layer", ["0.qkv", 0.5, False, 4, 8], 3, 9),
        ("/compare_recipes", [[PLAIN]], 0, ["nobody's"]),
    ],
)
def test_endpoints_refuse_hostile_values(bench, client, endpoint, good, at, value):
    values = list(good)
    values[at] = value
    with pytest.raises((AppError, ValueError)) as error:
        client.predict(*values, *bar(bench), api_name=endpoint)
    assert "Traceback" not in str(error.value)
    assert not bench.line.locked()


def test_listeners_refuse_what_no_component_sends(bench, demo):
    """Straight to the functions: the private ones too can be called from outside."""
    pick = listener(demo, "search-plot-pick", "input")
    for text in (None, 7, "", "{}", "x" * 1000, '{"x": "nobody", "y": 1, "trace": 0}',
                 '{"x": NaN, "y": 1, "trace": 0}', "[" * 200):  # fmt: skip
        with pytest.raises(gr.Error):
            pick("p", text, "ditas", 4, 1, *bar(bench))
    row = listener(demo, "search-table", "select")
    for value in (None, [], [None], ["99.qkv"], "0.qkv", [["0.qkv"]]):
        with pytest.raises(gr.Error):
            row("p", SimpleNamespace(row_value=value), *bar(bench))
    layer = listener(demo, "edit-layer", "input")
    for value in (None, 7, "x" * 10**6, ["0.qkv"]):
        with pytest.raises(gr.Error):
            layer("p", value, *bar(bench))
    assert bench.desks.of("p").recipes == {}


def test_clicks_open_a_layer_at_that_alpha(bench, demo):
    pick = listener(demo, "search-plot-pick", "input")
    settings = ["ditas", 4, 1, *bar(bench)]
    drawn = pick("q", '{"x": "3.fc2", "y": 0.35, "trace": 0}', *settings)
    assert drawn[0]["value"] == "3.fc2" and drawn[1] == 0.35 and drawn[2] is False
    foot = pick("q", '{"x": "0.qkv", "y": -0.05, "trace": 2}', *settings)
    assert foot[0]["value"] == "0.qkv" and foot[2] is True, "as the recipe has it"
    # on a curve the trace says which layer
    show = listener(demo, "search-view", "input")
    show("q", CURVES, *settings)
    drawn = pick("q", '{"x": 0.4, "y": -0.2, "trace": 7}', *settings)
    assert drawn[0]["value"] == bench.group_names(bench.default)[7] and drawn[1] == 0.4
    with pytest.raises(gr.Error, match="layer"):
        pick("q", '{"x": 0.4, "y": -0.2, "trace": 99}', *settings)


def test_what_is_missing_is_measured_in_turns_and_waits_for_jobs(bench, demo):
    listen = listener(demo, "pending-mark", "change")
    other = replace(SHORT, seed=5)
    desk = bench.desks.of("r")
    desk.spec = other
    for _ in bench.calibrated(bench.default, other):
        pass
    values = ["0.qkv", 0.5, True, 4, 8, [DITAS, PLAIN], *bar(bench)]
    with bench.line.join():
        assert listen("r", "more", *values)[0] == "", "no work beside a running job"
    turns, mark = 0, "more"
    while mark.startswith("more"):
        mark = listen("r", mark, *values)[0]
        turns += 1
        assert turns < 200
    assert mark == "done"
    _, outcome, _, rows, *_ = listen("r", "done", *values)
    assert "whole recipe: mean error of 32 layers" in outcome
    assert all(row[5] != "–" for row in rows) and len(rows) == 4
    assert all(part == gr.skip() for part in listen("r", "", *values))
