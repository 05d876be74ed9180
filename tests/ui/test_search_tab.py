"""The Search tab without a browser: going on after Cancel, predictions, names, clicks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest

from ditas_core.calibration import measure_influence
from ditas_core.search import (
    LayerDone,
    SearchSpec,
    iterate_search,
    predicted_errors,
    relative_error,
    search,
)
from ditas_core.specs import METHODS, BitWidths, LayerRecipe, Recipe, SpecError
from ditas_core.ui import build_app
from ditas_core.ui.stored.results import DITAS, PLAIN, REFERENCE, SMOOTHED
from ditas_core.ui.tabs.search import draw as show
from ditas_core.ui.tabs.search import job as searching
from ditas_core.ui.tabs.search.editing import (
    EditInputs,
    available,
    draw_edit,
    draw_layer,
    kept_change,
)
from ditas_core.ui.tabs.search.predicting import MOST_KNOWN, predict_recipes, predictions
from ditas_core.ui.tabs.search.recipes import (
    LONGEST_JSON,
    compare,
    deleted,
    draw_recipes,
    loaded,
    renamed,
)
from ditas_core.ui.visitors.backend import Backend, Choice, Model
from ditas_core.ui.visitors.session import KEPT_SEARCHES, Session

from .conftest import (
    CONVENTION,
    DEMO,
    HUB,
    SHORT,
    bar,
    bench_of,
    closed_when,
    hooked,
    measured,
    watch,
)

W4A8 = BitWidths(4, 8)


@pytest.fixture(scope="module")
def backend() -> Backend:
    """Measured."""
    return measured(bench_of(DEMO, SHORT, HUB))


@pytest.fixture(scope="module")
def fresh(backend) -> Backend:
    """The same checkpoint, nothing measured."""
    return Backend(backend.entries, SHORT)


@pytest.fixture()
def choice(backend) -> Choice:
    return Choice(backend.default, W4A8, CONVENTION)


def as_text(found: Any) -> str:
    return json.dumps(found, default=str, ensure_ascii=False)


def listener(demo: gr.Blocks, elem_id: str, event: str) -> Callable[..., Any]:
    """What the server runs for this component's event: ``call(desk_key, *values)``."""
    (key,) = (b._id for b in demo.blocks.values() if getattr(b, "elem_id", None) == elem_id)
    (found,) = (fn.fn for fn in demo.fns.values() if (key, event) in fn.targets and fn.fn)
    return lambda session, *values: found(SimpleNamespace(session_hash=session), *values)


def test_a_search_goes_on_where_it_was_cancelled(backend, session, choice, monkeypatch):
    job = searching.job_of(choice, "search", SHORT)
    events = searching.run_search(backend, session, job)
    seen = closed_when(events, lambda _: len(searching.kept_layers(session, job)) == 3)
    assert all(isinstance(event, searching.Searching) for event in seen)
    fractions, event = [event.fraction for event in seen], seen[-1]
    assert fractions == sorted(fractions) and 0 < fractions[0] < fractions[-1] <= 3 / 32 + 1e-9
    kept = searching.kept_layers(session, job)
    assert [layer.index for layer in kept] == [0, 1, 2]
    assert event.text == "3 of 32 layers found" and event.fresh and event.part == (1, 1)

    calls = watch(monkeypatch, "search.recipes.iterate_group_search").asked
    *steps, recipe = searching.run_search(backend, session, job)
    assert isinstance(recipe, Recipe)
    assert len(calls) == 29
    assert not {layer.group for layer in kept} & {group.name for _, group, *_ in calls}
    assert not any(step.fresh for step in steps[:3]) and steps[2].fraction == 0
    calibration = backend.measured(backend.default, SHORT)
    whole = search(backend.checkpoint(backend.default), calibration, job.spec)
    assert recipe == whole, "interrupted or not, the recipe is the same"
    assert searching.kept_layers(session, job)[:3] == kept

    calls.clear()
    *_, again = searching.run_search(backend, session, job)
    assert again == whole and calls == []
    *_, anew = searching.run_search(backend, session, job, afresh=True)
    assert anew == whole and len(calls) == 32


def test_a_registered_method_is_offered_and_searched(backend, session, choice, monkeypatch):
    monkeypatch.setitem(METHODS, "mine", replace(METHODS["gptq"], title="my own"))
    blocks = build_app(backend).blocks.values()
    (radio,) = (block for block in blocks if getattr(block, "elem_id", None) == "method")
    assert ("my own", "mine") in [tuple(pair) for pair in radio.choices]
    job = searching.job_of(replace(choice, convention="integer"), "mine", SHORT)
    *_, recipe = searching.run_search(backend, session, job)
    assert recipe.name == "mine" and job.name == "my W4A8 mine"
    assert {layer.rounding for layer in recipe.layers.values()} == {METHODS["gptq"].rounding}


def test_other_settings_are_another_search(backend, session, choice):
    choice = replace(choice, convention="integer")
    jobs = [
        searching.job_of(choice, "search", SHORT),
        searching.job_of(choice, "smoothing", SHORT),
        searching.job_of(replace(choice, bits=BitWidths(4, 4)), "search", SHORT),
        searching.job_of(choice, "search", replace(SHORT, samples=2)),
        searching.job_of(replace(choice, model=Model(choice.model.key, 60)), "search", SHORT),
    ]
    assert len({job.key for job in jobs}) == len(jobs)
    assert len({job.name for job in jobs}) == 4, "the calibration run alone does not name a recipe"
    assert jobs[0].name == "my W4A8 grid search"
    assert jobs[-1].name.endswith("outliers ×60")
    for job in jobs:
        session.found(job.key)
    assert len(session.searches) == KEPT_SEARCHES


def test_influence_is_measured_first_and_shared(tiny, choice, monkeypatch):
    """By a first search, once for everybody; cancelled, it leaves nothing. The recipe is the
    search room's own and says what it minimised."""
    backend, session = measured(bench_of(tiny)), Session("first")
    choice = replace(choice, model=backend.default)
    job = searching.job_of(choice, "search", SHORT, "influence")
    calls = watch(monkeypatch, "ui.visitors.measuring.iterate_influence").asked
    cancelled = closed_when(
        searching.run_search(backend, session, job), lambda step: step.fraction >= 0.5
    )
    assert {step.part for step in cancelled} == {(1, 2)}
    assert cancelled[-1].text == "measuring influence: 16 of 32 steps there and back"
    assert searching.keep_partial(backend, session, job) is None and session.recipes == {}
    assert not hooked(backend.checkpoint(backend.default).transformer)

    *steps, recipe = searching.run_search(backend, session, job)
    assert len(calls) == 2, "what was cancelled is measured anew"
    assert [step.part for step in steps] == sorted(step.part for step in steps)
    assert steps[-1].part == (2, 2) and recipe.objective == "influence"
    checkpoint = backend.checkpoint(backend.default)
    influence = measure_influence(checkpoint, SHORT.sampling, seed=SHORT.seed, batch=1)
    calibration = replace(backend.measured(backend.default, SHORT), influence=influence)
    assert recipe == search(checkpoint, calibration, job.spec)
    assert job.name == f"my W4A8 grid search, {CONVENTION}, influence"

    known = predictions(backend, backend.default, SHORT)
    assert known.missing(recipe) == known.groups, "weighed errors are not the output's"
    loud = replace(choice, model=Model(choice.model.key, 30), bits=BitWidths(4, 6))
    twin = searching.job_of(loud, "search", SHORT, "influence")
    *steps, _ = searching.run_search(backend, Session("second"), twin)
    assert len(calls) == 2 and {step.part for step in steps} == {(1, 1)}


def test_an_objective_is_of_a_search_that_chooses(choice):
    for method in METHODS:
        job = searching.job_of(choice, method, SHORT, "influence")
        assert job.spec.reads_influence == (METHODS[method].smoothing == "grid"), method
        assert job.name.endswith(", influence") == job.spec.reads_influence
        assert searching.job_of(choice, method, SHORT).spec.objective == "output"


def test_errors_that_are_weighed_are_called_so(backend):
    layers = backend.shipped.presets["W4A8"].layers[:4]
    for objective, heading in (("output", "error, % of output"), ("influence", show.WEIGHED)):
        table = show.layer_table(layers, objective)["value"]
        assert table["headers"][-1] == heading and len(table["data"]) == 4
        weighed = "error, weighed by influence" in show.totals_html(layers, 32, objective)
        assert weighed == (objective == "influence")


def test_cancel_while_calibrating_leaves_nothing(fresh, session, choice):
    job = searching.job_of(choice, "ditas", SHORT)
    events = searching.run_search(fresh, session, job)
    first = next(events)
    assert first.part == (1, 2) and first.text.startswith("calibrating")
    events.close()
    assert (
        searching.kept_layers(session, job) == [] and fresh.measured(fresh.default, SHORT) is None
    )
    assert searching.keep_partial(fresh, session, job) is None and session.recipes == {}


def test_a_cancelled_search_is_a_recipe(backend, session, choice):
    job = searching.job_of(choice, "ditas", SHORT)
    events = searching.run_search(backend, session, job)
    closed_when(events, lambda _: len(searching.kept_layers(session, job)) == 4)
    recipe = searching.keep_partial(backend, session, job)
    assert recipe is not None and session.recipes[searching.PARTIAL] is recipe
    kept = {layer.group: layer for layer in searching.kept_layers(session, job)}
    for name, layer in recipe.layers.items():
        assert layer.alpha == (kept[name].alpha if name in kept else None)
    known = predictions(backend, backend.default, SHORT)
    errors = dict(zip(known.groups, known.errors(recipe), strict=True))
    assert {name: errors[name] for name in kept} == {
        name: relative_error(layer) for name, layer in kept.items()
    }


@pytest.mark.parametrize("method", [name for name, each in METHODS.items() if each.allocates])
def test_what_was_compared_without_compensation_predicts_no_recipe(
    backend, session, choice, method
):
    job = searching.job_of(choice, method, SHORT)
    events = searching.run_search(backend, session, job)
    closed_when(events, lambda _: len(searching.kept_layers(session, job)) == 2)
    recipe = searching.keep_partial(backend, session, job)
    assert recipe is not None
    found = predictions(backend, backend.default, SHORT)
    checkpoint, calibration = found.checkpoint, found.calibration
    list(predict_recipes(backend, backend.default, SHORT, {method: recipe}))
    exact = [one.error for one in predicted_errors(checkpoint, calibration, recipe)]
    assert found.errors(recipe) == exact


def test_predictions_are_the_cores_and_learnt_from_searches(backend, session, choice):
    found = predictions(backend, backend.default, SHORT)
    checkpoint, calibration = found.checkpoint, found.calibration
    assert calibration is not None and found.source == "1 images × 4 steps"
    smoothed = backend.recipes(session, choice)[SMOOTHED]
    smoothed = replace(smoothed, calibration=calibration.sha256)
    list(predict_recipes(backend, backend.default, SHORT, {SMOOTHED: smoothed}))
    wanted = [one.error for one in predicted_errors(checkpoint, calibration, smoothed)]
    assert found.errors(smoothed) == wanted and found.missing(smoothed) == []
    events = list(predict_recipes(backend, backend.default, SHORT, {SMOOTHED: smoothed}))
    assert events == [], "known for everybody"

    spec = SearchSpec(BitWidths(3, 8), method="search")
    *steps, recipe = iterate_search(checkpoint, calibration, spec)
    assert all(error is None for error in found.errors(recipe))
    found.learn(recipe, [step for step in steps if isinstance(step, LayerDone)])
    exact = [one.error for one in predicted_errors(checkpoint, calibration, recipe)]
    assert found.errors(recipe) == exact


def test_predictions_measure_in_turns_and_stay_bounded(backend, monkeypatch):
    found = replace(predictions(backend, backend.default, SHORT), known={})
    recipe = backend.recipes(Session(""), Choice(backend.default, W4A8, CONVENTION))[PLAIN]
    left = found.fill([recipe], 0.0)
    assert left == 32
    turns = 0
    while left:
        before, left, turns = left, found.fill([recipe], 0.05), turns + 1
        assert left < before, "every turn measures something"
    assert turns > 1 and found.missing(recipe) == []
    monkeypatch.setattr("ditas_core.ui.tabs.search.predicting.MOST_KNOWN", 40)
    for alpha in range(20):
        found.find(CONVENTION, "0.proj", LayerRecipe(W4A8, alpha / 20))
    assert len(found.known) == 40 < MOST_KNOWN


def test_without_a_calibration_only_the_shipped_search_is_known(fresh, session, choice):
    found = predictions(fresh, fresh.default, SHORT)
    assert found.calibration is None
    preset = fresh.shipped.presets["W4A8"]
    shipped = {layer.group: relative_error(layer) for layer in preset.layers}
    assert found.errors(preset.recipe) == [shipped[name] for name in found.groups]
    assert found.find(CONVENTION, "0.qkv", LayerRecipe(BitWidths(5, 8))) is None
    assert found.fill([fresh.recipes(session, choice)[PLAIN]], 1.0) == 0
    edited = EditInputs("0.qkv", 0.9, False, 4, 8).read(fresh, session, choice)
    html, _ = draw_edit(fresh, session, choice, *edited)
    assert "press “Predict all”" in html
    with pytest.raises(gr.Error, match="calibration"):
        plain = replace(choice, recipe=PLAIN)
        kept_change(fresh, session, plain, EditInputs("0.qkv", 0.9, False, 4, 8), "mine")
    assert session.recipes == {}


def test_a_change_by_hand_keeps_a_group_size(fresh, session, choice):
    plain = fresh.recipes(session, choice)[PLAIN]
    session.keep("mine", plain.with_layer("0.qkv", LayerRecipe(BitWidths(4, 8, 64))))
    own = replace(choice, recipe="mine")
    for weight, size in ((4, 64), (3, 0)):
        _, changed, _ = EditInputs("0.qkv", 0.9, False, weight, 8).read(fresh, session, own)
        assert changed.layers["0.qkv"].bits == BitWidths(weight, 8, size)


def test_a_change_by_hand_moves_the_predicted_error(backend, session, choice):
    found = predictions(backend, backend.default, SHORT)
    base = backend.recipes(session, choice)[DITAS]
    found.fill([base], 60.0)
    values = EditInputs("3.fc2", 0.8, False, 3, 8)
    recipe, changed, group = values.read(backend, session, choice)
    html, figure = draw_edit(backend, session, choice, recipe, changed, group)
    assert changed.layers["3.fc2"] == replace(base.layers["3.fc2"], alpha=0.8, bits=BitWidths(3, 8))
    rest = {name: layer for name, layer in changed.layers.items() if name != "3.fc2"}
    assert rest == {name: layer for name, layer in base.layers.items() if name != "3.fc2"}
    calibration = backend.measured(backend.default, SHORT)
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


def test_a_kept_change_is_a_recipe_of_ones_own(backend, session, choice):
    values = EditInputs("3.fc2", 0.8, False, 3, 8)
    label = kept_change(backend, session, choice, values, "  by   hand ")
    assert label == "by hand" and list(session.recipes) == ["by hand"]
    kept = session.recipes["by hand"]
    assert kept.calibration == backend.measured(backend.default, SHORT).sha256
    assert kept.layers["3.fc2"].bits == BitWidths(3, 8) and kept.layers["3.fc2"].alpha == 0.8
    # a second change starts from the first
    again = replace(choice, recipe="by hand")
    kept_change(backend, session, again, EditInputs("0.qkv", 0.5, True, 16, 16), "by hand")
    both = session.recipes["by hand"]
    assert both.layers["3.fc2"].alpha == 0.8 and both.layers["0.qkv"].alpha is None
    assert list(session.recipes) == ["by hand"]
    drawn = draw_layer(backend, session, again, "0.qkv")
    assert drawn[2] is True and drawn[3:5] == (16, 16) and drawn[5] == "by hand"
    assert "by hand" in available(backend, session, choice)
    assert "by hand" not in available(backend, Session("two"), choice)


@pytest.mark.parametrize(
    "value",
    ["", "   ", "x" * 41, "x" * 10**6, "a\x00b", "tab\u202ebar", "<b>", "a&b", None, 7, True, [],
     DITAS, "ditas", PLAIN, REFERENCE],
)  # fmt: skip
def test_names_that_cannot_be(backend, session, choice, value):
    with pytest.raises(gr.Error, match="name: expected"):
        kept_change(backend, session, choice, EditInputs("0.qkv", 0.5, False, 4, 8), value)
    assert session.recipes == {}


def test_names_that_can_be():
    assert show.read_name("Größe 4 · α") == "Größe 4 · α" and len(show.read_name("x" * 40)) == 40
    with pytest.raises(gr.Error, match="kept already"):
        show.read_name("mine", ["mine"])


def test_a_recipe_that_is_not_there_yet_is_said(backend, session, choice):
    other = replace(choice, convention="paper")
    drawn = draw_layer(backend, session, other, "0.qkv")
    assert "press “Start”" in drawn[8] and drawn[6]["interactive"] is False
    with pytest.raises(gr.Error, match="press “Start”"):
        EditInputs("0.qkv", 0.5, False, 4, 8).read(backend, session, other)
    with pytest.raises(gr.Error, match="expected a number"):
        EditInputs("0.qkv", 1.5, False, 4, 8).read(backend, session, choice)


def test_recipes_are_listed_and_compared(backend, session, choice):
    kept_change(backend, session, choice, EditInputs("3.fc2", 0.8, False, 3, 8), "mine")
    found = predictions(backend, backend.default, SHORT)
    recipes = available(backend, session, choice)
    found.fill(recipes.values(), 120.0)
    rows = {row[0]: row for row in show.recipe_rows(found, recipes)}
    assert list(rows) == list(recipes) and rows["mine"][2] == "W3A8 / W4A8"
    assert rows[PLAIN][3] == "0 of 32" and rows[SMOOTHED][3] == "32 of 32"
    mean = np.mean(found.errors(recipes["mine"]))
    assert rows["mine"][5] == f"{100 * mean:.3g}" > rows[DITAS][5]
    assert float(rows["mine"][4]) < float(rows[DITAS][4])

    alphas, errors, table = compare(backend, session, choice, ["mine", PLAIN])
    assert {t.name for t in alphas.data} == {t.name for t in errors.data} == {"mine", PLAIN}
    headers, layers = show.compare_rows(found, {n: recipes[n] for n in ("mine", PLAIN)})
    assert table["value"] == {"headers": headers, "data": layers}
    row = layers[found.groups.index("3.fc2")]
    assert row[1] == "W3A8, α = 0.80" and row[3] == "W4A8, s = 1"
    for wrong in (["mine", "nobody's"], [PLAIN] * 5, "mine", None, [None]):
        with pytest.raises(gr.Error, match="compare"):
            compare(backend, session, choice, wrong)
    nothing = compare(backend, session, choice, [])
    assert nothing[2]["value"]["data"] == []


def test_rename_and_delete(backend, session, choice):
    kept_change(backend, session, choice, EditInputs("3.fc2", 0.8, False, 3, 8), "mine")
    kept_change(backend, session, choice, EditInputs("3.fc2", 0.7, False, 3, 8), "other")
    recipe = session.recipes["mine"]
    assert renamed(backend, session, choice, "mine", "yours") == "yours"
    assert list(session.recipes) == ["yours", "other"] and session.recipes["yours"] is recipe
    for name, new in ((DITAS, "x"), ("nobody's", "x"), (None, "x"), ("yours", "other")):
        with pytest.raises(gr.Error):
            renamed(backend, session, choice, name, new)
    assert list(session.recipes) == ["yours", "other"]
    assert deleted(backend, session, replace(choice, recipe="other"), "yours") == "other"
    assert deleted(backend, session, replace(choice, recipe="other"), "other") == DITAS
    with pytest.raises(gr.Error, match="none yet"):
        deleted(backend, session, choice, "other")
    # in a convention without shipped results the bar falls back to what is always there
    kept_change(backend, session, replace(choice, convention="paper", recipe=PLAIN),
                EditInputs("3.fc2", 0.8, False, 3, 8), "third")  # fmt: skip
    other = replace(choice, convention="paper", recipe="third")
    assert deleted(backend, session, other, "third") == PLAIN


def test_a_downloaded_recipe_loads_again(backend, session, choice):
    kept_change(backend, session, choice, EditInputs("3.fc2", 0.8, False, 3, 8), "mine / 1")
    path = Path(show.recipe_file("mine / 1", session.recipes["mine / 1"]))
    assert path.name.startswith("mine-1-") and path.suffix == ".json"
    visitor = Session("two")
    label = loaded(backend, visitor, choice, path.read_text("utf-8"), "from a file")
    assert visitor.recipes == {label: session.recipes["mine / 1"]}
    assert list(visitor.recipes[label].layers) == [
        group.name for group in backend.checkpoint(backend.default).groups
    ]
    for number in range(show.KEPT_FILES + 5):
        last = show.recipe_file(f"n{number}", session.recipes["mine / 1"])
    assert len(list(Path(last).parent.iterdir())) == show.KEPT_FILES and Path(last).is_file()


def test_what_is_not_a_recipe_is_refused(backend, session, choice):
    good = backend.recipes(session, choice)[DITAS]
    document = json.loads(good.to_json())
    layer = document["layers"]["0.qkv"]
    low_rank = layer["low_rank"]
    wrong: list[dict[str, Any]] = [
        {"checkpoint": "0" * 64},
        {"convention": "<script>"},
        {"name": "x" * 61},
        {"name": "a\u0000b"},
        {"layers": {"0.qkv": layer}},
    ]
    for change in ({"rank": 65}, {"iterations": 11}):
        changed = layer | {"low_rank": low_rank | change}
        wrong.append({"layers": document["layers"] | {"0.qkv": changed}})
    bad: list[Any] = ["", "[]", None, 7, "[" * 100_000, good.to_json() + " " * LONGEST_JSON]
    bad += [json.dumps(document | each) for each in wrong]
    for text in bad:
        with pytest.raises((gr.Error, SpecError)) as error:
            loaded(backend, session, choice, text, "mine")
        assert len(str(error.value)) < 400
    with pytest.raises(gr.Error, match="name"):
        loaded(backend, session, choice, good.to_json(), DITAS)
    assert session.recipes == {}
    injected = replace(choice, model=Model(backend.default.key, 60))
    with pytest.raises(gr.Error, match="choose its checkpoint"):
        loaded(backend, session, injected, good.to_json(), "mine")


def test_a_checkpoint_that_is_not_here_draws_empty(backend, session):
    there = Choice(Model(HUB), W4A8, "integer")
    assert available(backend, session, there) == {}
    drawn = draw_recipes(backend, session, there, [PLAIN], DITAS)
    assert drawn[0] == [] and drawn[5]["choices"] == []
    assert "no such recipe yet" in draw_layer(backend, session, there, None)[8]


def test_the_map_and_the_curves_are_of_the_layers_that_are_found(backend):
    layers = list(backend.shipped.presets["W4A8"].layers)
    names = backend.group_names(backend.default)
    lines = show.search_figure(names, layers, show.CURVES, True)
    assert len([t for t in lines.data if t.mode == "lines+markers"]) == 32
    part = show.search_figure(names, layers[:5], show.MAP, False)
    assert len(part.data[0].x) == 32
    known = [x for t in part.data[1:] for x in t.x]
    assert sorted(known) == sorted(layer.group for layer in layers[:5])


def test_the_running_total_counts_what_is_found(backend):
    layers = backend.shipped.presets["W4A8"].layers[:4]
    html = show.totals_html(layers, 32)
    assert "4 of 32" in html and "n = 4" in html
    gain = f"{sum(layer.gain_db for layer in layers):+.1f} dB".replace("-", "−")
    assert f"<b>{gain}</b>" in html
    assert "0 of 32" in show.totals_html([], 32)


def test_listeners_refuse_what_no_component_sends(backend, demo):
    """Straight to the functions: the private ones too can be called from outside."""
    pick = listener(demo, "search-plot-pick", "input")
    for text in (None, "{}", '{"x": "nobody", "y": 1, "trace": 0}', "[" * 200):
        with pytest.raises(gr.Error):
            pick("p", text, "ditas", "output", 4, 1, *bar())
    row = listener(demo, "search-table", "select")
    for value in (None, [], [None], ["99.qkv"], "0.qkv", [["0.qkv"]]):
        with pytest.raises(gr.Error):
            row("p", SimpleNamespace(row_value=value), *bar())
    layer = listener(demo, "edit-layer", "input")
    for value in (None, 7, "x" * 10**6, ["0.qkv"]):
        with pytest.raises(gr.Error):
            layer("p", value, *bar())
    assert backend.sessions.of("p").recipes == {}


def test_clicks_open_a_layer_at_that_alpha(backend, demo):
    pick = listener(demo, "search-plot-pick", "input")
    settings = ["ditas", "output", 4, 1, *bar()]
    drawn = pick("q", '{"x": "3.fc2", "y": 0.35, "trace": 0}', *settings)
    assert drawn[0]["value"] == "3.fc2" and drawn[1] == 0.35 and drawn[2] is False
    foot = pick("q", '{"x": "0.qkv", "y": -0.05, "trace": 2}', *settings)
    assert backend.shipped is not None
    kept = backend.shipped.presets["W4A8"].recipe.layers["0.qkv"].alpha
    assert foot[0]["value"] == "0.qkv" and foot[2] is (kept is None), "as the recipe has it"
    # on a curve the trace says which layer
    turn = listener(demo, "search-view", "input")
    turn("q", show.CURVES, *settings)
    drawn = pick("q", '{"x": 0.4, "y": -0.2, "trace": 7}', *settings)
    assert drawn[0]["value"] == backend.group_names(backend.default)[7] and drawn[1] == 0.4
    with pytest.raises(gr.Error, match="layer"):
        pick("q", '{"x": 0.4, "y": -0.2, "trace": 99}', *settings)


def test_what_is_missing_is_measured_in_turns_and_waits_for_jobs(backend, demo):
    listen = listener(demo, "pending-mark", "change")
    other = replace(SHORT, seed=5)
    session = backend.sessions.of("r")
    session.spec = other
    for _ in backend.calibrated(backend.default, other):
        pass
    values = ["0.qkv", 0.5, True, 4, 8, [DITAS, PLAIN], *bar()]
    with backend.queue.join():
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
