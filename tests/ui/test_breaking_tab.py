"""Where it breaks without a browser: its jobs, what Cancel keeps, budgets, hostile values."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

gr = pytest.importorskip("gradio")

from gradio_client import Client  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402

from ditas_core.comparison import compare, run_trajectory  # noqa: E402
from ditas_core.conversion import quantize_transformer  # noqa: E402
from ditas_core.search import SearchSpec, SensitivityMap, allocate, iterate_sensitivity  # noqa: E402
from ditas_core.search.frontier import largest_uniform, priced  # noqa: E402
from ditas_core.specs import BitWidths, CalibrationSpec, SamplingSpec, SpecError, only  # noqa: E402
from ditas_core.ui import build_app, launch_options  # noqa: E402
from ditas_core.ui.bench import Bench, Choice, Model  # noqa: E402
from ditas_core.ui.catalogue import Entry  # noqa: E402
from ditas_core.ui.desk import Desk  # noqa: E402
from ditas_core.ui.jobs import breaking, budget, trials  # noqa: E402
from ditas_core.ui.jobs.breaking import Ask, run_part, starts  # noqa: E402
from ditas_core.ui.jobs.budget import known_cells, map_sensitivity, run_mixed  # noqa: E402
from ditas_core.ui.jobs.trials import notes_of  # noqa: E402
from ditas_core.ui.results import DITAS, PLAIN  # noqa: E402
from ditas_core.ui.tabs.budget import budget_range  # noqa: E402
from ditas_core.ui.views.breaking import bits_table, budget_line, cell_table, percent  # noqa: E402

DEMO = Path(__file__).resolve().parents[2] / "assets" / "fluent-emoji-dit"
SHORT = CalibrationSpec(SamplingSpec(steps=4), samples=1)
HUB = "facebook/DiT-XL-2-256"
SAMPLED = (1, 4, 7)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    path = DEMO if DEMO.is_dir() else Path(os.environ.get("DITAS_TEST_CHECKPOINT", ""))
    if not (path / "model_index.json").is_file():
        pytest.fail(f"expected the demo checkpoint in assets/{DEMO.name}, found none")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    entries = {path.name: Entry(path.name, path.name, str(path), True)}
    yield Bench(entries | {HUB: Entry(HUB, HUB, HUB, False)}, SHORT)
    torch.set_num_threads(threads)


@pytest.fixture()
def desk() -> Desk:
    return Desk("somebody")


def ask_for(bench: Bench, bits: str = "W4A4", recipe: str = PLAIN, **more: Any) -> Ask:
    choice = Choice(bench.default, BitWidths.parse(bits), "integer", recipe)
    samples, steps, seed = SAMPLED
    return replace(Ask(choice, samples, steps, seed), **more)


def test_one_layer_alone_is_what_the_library_does_with_a_partial_recipe(bench, desk):
    ask = ask_for(bench)
    *_, last = run_part(bench, desk, ask, "only", "0.fc1", 0)
    assert last.shown and last.part == (4, 4)
    (trial,) = notes_of(desk).trials
    checkpoint = bench.checkpoint(ask.choice.model)
    _, recipe = bench.recipe(desk, ask.choice)
    model = quantize_transformer(checkpoint, only(recipe, ["0.fc1"]))
    labels = torch.tensor([checkpoint.class_index(name) for name in trial.labels])
    spec = SamplingSpec(steps=4, guidance_scale=breaking.GUIDANCE)
    full = run_trajectory(checkpoint, checkpoint.transformer, labels, spec, 7)
    part = run_trajectory(checkpoint, model, labels, spec, 7)
    assert trial.sqnr.mean == pytest.approx(float(compare(full, part).latent_sqnr.mean()), abs=1e-4)
    assert trial.what == "only 0.fc1" and trial.sqnr.n == 1
    assert trial.images.shape == trial.reference.shape == (1, 64, 64, 3)


def test_all_but_and_the_whole_break_more_than_one_layer(bench, desk):
    for what in ("only", "but", "whole"):
        list(run_part(bench, desk, ask_for(bench), what, "0.proj", 0))
    whole, but, alone = notes_of(desk).trials
    assert (whole.what, but.what, alone.what) == ("whole model", "all but 0.proj", "only 0.proj")
    assert alone.sqnr.mean > but.sqnr.mean + 3 and alone.sqnr.mean > whole.sqnr.mean + 3
    assert not np.array_equal(whole.images, whole.reference)
    assert alone.images.shape[0] == 0, "only the newest keeps its pictures"


def test_from_a_step_on_everything_before_is_identical(bench, desk):
    list(run_part(bench, desk, ask_for(bench), "from", "", 2))
    trial = notes_of(desk).trials[0]
    assert trial.what == "from step 3 on" and trial.first_step == 2
    assert trial.divergence[:2] == [200.0, 200.0]
    assert max(trial.divergence[2:]) < 100


def test_the_history_is_bounded(bench, desk):
    list(run_part(bench, desk, ask_for(bench), "only", "0.qkv", 0))
    notes = notes_of(desk)
    for number in range(trials.MOST_TRIALS + 5):
        notes.add(replace(notes.trials[0], what=str(number)))
    assert [t.what for t in notes.trials[:2]] == ["14", "13"]
    assert len(notes.trials) == trials.MOST_TRIALS


def test_a_sweep_that_is_cancelled_keeps_its_layers(bench, desk):
    events = breaking.sweep_layers(bench, desk, ask_for(bench))
    shown = 0
    for event in events:
        shown += event.shown
        if shown == 3:
            events.close()
    sweep = notes_of(desk).layers
    assert sweep is not None and list(sweep.sqnr) == list(sweep.layers[:3])
    assert sweep.worst in sweep.layers[:3] and notes_of(desk).shown == "layers"
    assert notes_of(desk).trials == [], "a worst layer is only named once all are known"
    weights = bench.checkpoint(bench.default).transformer
    assert not any(module._forward_hooks for module in weights.modules())


def test_the_sweep_over_starts_begins_with_the_whole_run(bench, desk):
    assert starts(20) == [0, 4, 8, 11, 15, 19] and starts(4) == [0, 1, 2, 3]
    list(breaking.sweep_steps(bench, desk, ask_for(bench)))
    sweep = notes_of(desk).steps
    assert sweep is not None and list(sweep.trials) == [0, 1, 2, 3]
    found = [trial.sqnr.mean for trial in sweep.trials.values()]
    assert found[-1] == max(found) and found[-1] > found[0]
    list(run_part(bench, desk, ask_for(bench), "whole", "", 0))
    assert notes_of(desk).trials[0].sqnr.mean == found[0]


def test_a_recipe_that_is_not_there_is_refused_before_anything_runs(bench, desk):
    ask = ask_for(bench, "W4A8", DITAS)
    paper = replace(ask, choice=replace(ask.choice, convention="paper"))
    for events in (
        run_part(bench, desk, paper, "whole", "", 0),
        breaking.sweep_layers(bench, desk, paper),
        map_sensitivity(bench, desk, paper, budget.PREDICTED),
    ):
        with pytest.raises(SpecError, match="Search"):
            next(events)
    hub = replace(ask, choice=replace(ask.choice, model=Model(HUB)))
    for kind in (budget.PREDICTED, budget.SEARCHED_ANEW):
        with pytest.raises(SpecError, match="Measure"):
            next(map_sensitivity(bench, desk, hub, kind))


@pytest.fixture(scope="module")
def mapped(bench) -> tuple[Ask, SensitivityMap, list[Any]]:
    """The predicted map of DiTAS at W4A8, and the events that led to it."""
    assert bench.shipped is not None, bench.notice
    ask = ask_for(bench, "W4A8", DITAS)
    before = known_cells(bench, Desk("new"), ask, budget.PREDICTED)
    assert {w for _, w in before} == {4, 8} and len(before) == 64, "shipped widths at once"
    somebody = Desk("somebody")
    events = list(map_sensitivity(bench, somebody, ask, budget.PREDICTED))
    found = budget.found_map(bench, somebody, ask, budget.PREDICTED)
    assert found is not None
    return ask, found, events


def test_the_map_is_the_librarys(bench, mapped):
    ask, found, events = mapped
    assert sum(event.shown for event in events) == len(found.groups) + 1
    _, recipe = bench.recipe(Desk(""), ask.choice)
    *_, calibration = bench.calibrated(bench.default, SHORT)
    branch = recipe.layers["0.qkv"].low_rank
    first = iterate_sensitivity(
        bench.checkpoint(bench.default),
        calibration,
        [BitWidths(w, 8) for w in budget.WIDTHS],
        SearchSpec(BitWidths(4, 8), "integer", "ditas", branch),
        recipe,
    )
    for event in first:
        column = found.column(event.bits)
        assert event.error == float(found.error[found.groups.index(event.group), column])
        if event.done == 12:
            break
    assert found.alphas[0][2] == recipe.layers["0.qkv"].alpha
    again = list(map_sensitivity(bench, Desk("other"), ask, budget.PREDICTED))
    assert [event.text for event in again] == ["already mapped"]
    cells = known_cells(bench, Desk("other"), ask, budget.PREDICTED)
    assert len(cells) == 32 * len(budget.WIDTHS)


def test_a_map_that_is_cancelled_keeps_its_cells(bench, desk):
    ask = ask_for(bench, "W4A6", PLAIN)
    events = map_sensitivity(bench, desk, ask, budget.PREDICTED)
    for event in events:
        if event.shown and event.fraction > 0.05:
            events.close()
    cells = known_cells(bench, desk, ask, budget.PREDICTED)
    assert 0 < len(cells) < 32 * len(budget.WIDTHS)
    assert budget.found_map(bench, desk, ask, budget.PREDICTED) is None
    assert known_cells(bench, Desk("other"), ask, budget.PREDICTED) == {}
    other = replace(ask, choice=replace(ask.choice, bits=BitWidths(4, 4)))
    assert known_cells(bench, desk, other, budget.PREDICTED) == {}


def test_measured_kinds_sample_and_stream(bench, desk, mapped):
    ask, _, _ = mapped
    for kind, widths in ((budget.WEIGHED, {4}), (budget.MEASURED, {2})):
        events = map_sensitivity(bench, desk, ask, kind)
        for event in events:
            if event.shown and event.part[0] == 3:
                events.close()
        cells = known_cells(bench, desk, ask, kind)
        assert {w for _, w in cells} == widths and all(0 < e < 5 for e in cells.values())


def test_keys_tell_apart_what_maps_depend_on(bench, desk):
    ask = ask_for(bench, "W4A8", PLAIN)
    smoothed = replace(ask, choice=replace(ask.choice, recipe="smoothing α = 0.5"))
    wider = replace(ask, choice=replace(ask.choice, bits=BitWidths(8, 8)))
    asks = (ask, smoothed, replace(ask, seed=8))
    for kind, different in ((budget.PREDICTED, 2), (budget.MEASURED, 3)):
        assert len({budget.map_key(bench, desk, a, kind) for a in asks}) == different
    for kind, different in ((budget.PREDICTED, 1), (budget.WEIGHED, 2)):
        assert len({budget.map_key(bench, desk, a, kind) for a in (ask, wider)}) == different


def test_a_budget_gives_a_recipe_and_its_result(bench, desk, mapped):
    ask, found, _ = mapped
    low, high, at = budget_range(found, 4)
    uniform = priced(found, found.uniform(BitWidths(4, 8)))
    assert low < at < high and 0 <= at - uniform.bits_per_weight < 0.05
    began = time.thread_time()  # a busy machine does not count
    chosen = priced(found, allocate(found, at))
    cells = known_cells(bench, desk, ask, budget.PREDICTED)
    line = budget_line(found, chosen, at)
    table = bits_table(chosen, largest_uniform(found, at), cells)
    assert time.thread_time() - began < 1
    assert chosen.error < uniform.error and chosen.bits_per_weight <= at
    assert percent(chosen.error) in line and "for W4A8 everywhere" in line
    assert table.count("<td class=") == 32
    *_, last = run_mixed(bench, desk, ask, found, chosen)
    mixed = notes_of(desk).mixed
    assert last.shown and mixed is not None
    assert mixed.uniform.what == "W4A8 everywhere" and mixed.mixed.what.startswith("mixed, ")
    assert mixed.gain.mean == pytest.approx(mixed.mixed.sqnr.mean - mixed.uniform.sqnr.mean)
    assert np.array_equal(mixed.mixed.reference, mixed.uniform.reference)
    assert not np.array_equal(mixed.mixed.images, mixed.uniform.images)


def test_tables_escape_and_say_what_is_missing():
    assert "not been mapped" in cell_table("<b>", {}, False)
    table = cell_table("<b>", {("<b>", 4): 0.01}, True, 4)
    assert "<b> alone" not in table and "&lt;b&gt; alone" in table
    assert 'class="picked">1.0 %' in table and "final latents" in table


@pytest.fixture(scope="module")
def client(bench) -> Iterator[Client]:
    demo = build_app(bench)
    _, url, _ = demo.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options()
    )
    yield Client(url, verbose=False)
    demo.close()


def bar(bench: Bench, bits: str = "W4A8", recipe: str = DITAS, **more: Any) -> list[Any]:
    values = {
        "checkpoint": bench.default.key,
        "bits": bits,
        "weight": 4,
        "activation": 8,
        "convention": "integer",
        "recipe": recipe,
        "inject": False,
        "strength": 60,
        "dark": False,
    }
    return list((values | more).values())


def test_the_public_endpoints_answer(bench, client, mapped):
    result = client.predict("only", "7.fc2", 1, *SAMPLED, *bar(bench), api_name="/partial")
    text = json.dumps(result)
    assert "only 7.fc2: latent SQNR" in text and "7.fc2 quantized" in text
    result = client.predict(
        "0.qkv", budget.PREDICTED, 5.0, *SAMPLED, *bar(bench), api_name="/sensitivity"
    )
    assert "32 layers × 6 widths mapped" in json.dumps(result, ensure_ascii=False)
    answer = client.predict(budget.PREDICTED, 4.5, *SAMPLED, *bar(bench), api_name="/budget")
    assert "for W3A8 everywhere" in json.dumps(answer)


HOSTILE = (math.nan, math.inf, -1, 1e10, True, None, "9" * 300, [], {"a": 1}, 2.5)


@pytest.mark.parametrize("place", range(6))
def test_hostile_values_are_refused_in_words(bench, client, place):
    good: list[Any] = ["from", "7.fc2", 2, *SAMPLED]
    for value in HOSTILE:
        bad = [*good[:place], value, *good[place + 1 :]]
        if place == 1:
            bad[0] = "only"
        with pytest.raises((AppError, ValueError)) as caught:
            client.predict(*bad, *bar(bench), api_name="/partial")
        assert "Traceback" not in str(caught.value)


def test_hostile_budgets_and_missing_maps_are_refused(bench, client, mapped):
    for value in HOSTILE[:-1]:
        with pytest.raises((AppError, ValueError)):
            client.predict(budget.PREDICTED, value, *SAMPLED, *bar(bench), api_name="/budget")
    with pytest.raises(AppError, match=r"smallest|such as this page sends"):
        client.predict(budget.PREDICTED, 2.1, *SAMPLED, *bar(bench), api_name="/budget")
    with pytest.raises(AppError, match="Map the layers"):
        client.predict(
            budget.PREDICTED, 5.0, *SAMPLED, *bar(bench, "W8A8", PLAIN), api_name="/mixed"
        )
    with pytest.raises(AppError, match="k: expected 1 to 4"):
        client.predict("from", "7.fc2", 9, *SAMPLED, *bar(bench), api_name="/partial")
