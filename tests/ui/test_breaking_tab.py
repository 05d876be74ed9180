"""Where it breaks without a browser: its jobs, what Cancel keeps, budgets."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from gradio_client.exceptions import AppError

from ditas_core.comparison import compare, run_trajectory
from ditas_core.conversion import quantize_transformer
from ditas_core.search import SearchSpec, SensitivityMap, allocate, iterate_sensitivity
from ditas_core.search.frontier import largest_uniform, priced
from ditas_core.specs import BitWidths, SamplingSpec, SpecError, only
from ditas_core.ui.stored.results import DITAS, PLAIN
from ditas_core.ui.tabs.breaking import budget_job as budget
from ditas_core.ui.tabs.breaking import job as breaking
from ditas_core.ui.tabs.breaking import trials
from ditas_core.ui.tabs.breaking.budget import budget_range
from ditas_core.ui.tabs.breaking.budget_job import known_cells, map_sensitivity, run_mixed
from ditas_core.ui.tabs.breaking.draw import bits_table, budget_line, cell_table, percent
from ditas_core.ui.tabs.breaking.job import Ask, run_part, starts
from ditas_core.ui.tabs.breaking.trials import notes_of
from ditas_core.ui.visitors.backend import Backend, Choice, Model
from ditas_core.ui.visitors.session import Session

from .conftest import CONVENTION, HUB, SHORT, bar, closed_when, hooked

SAMPLED = (1, 4, 7)


def ask_for(backend: Backend, bits: str = "W4A4", recipe: str = PLAIN, **more: Any) -> Ask:
    choice = Choice(backend.default, BitWidths.parse(bits), "integer", recipe)
    samples, steps, seed = SAMPLED
    return replace(Ask(choice, samples, steps, seed), **more)


def test_one_layer_alone_is_what_the_library_does_with_a_partial_recipe(backend, session):
    ask = ask_for(backend)
    *_, last = run_part(backend, session, ask, "only", "0.fc1", 0)
    assert last.shown and last.part == (4, 4)
    (trial,) = notes_of(session).trials
    checkpoint = backend.checkpoint(ask.choice.model)
    _, recipe = backend.recipe(session, ask.choice)
    model = quantize_transformer(checkpoint, only(recipe, ["0.fc1"]))
    labels = torch.tensor([checkpoint.class_index(name) for name in trial.labels])
    spec = SamplingSpec(steps=4, guidance_scale=breaking.GUIDANCE)
    full = run_trajectory(checkpoint, checkpoint.transformer, labels, spec, 7)
    part = run_trajectory(checkpoint, model, labels, spec, 7)
    assert trial.sqnr.mean == pytest.approx(float(compare(full, part).latent_sqnr.mean()), abs=1e-4)
    assert trial.what == "only 0.fc1" and trial.sqnr.n == 1
    assert trial.images.shape == trial.reference.shape == (1, *2 * (checkpoint.image_size,), 3)


def test_all_but_and_the_whole_break_more_than_one_layer(backend, session):
    for what in ("only", "but", "whole"):
        list(run_part(backend, session, ask_for(backend), what, "0.proj", 0))
    whole, but, alone = notes_of(session).trials
    assert (whole.what, but.what, alone.what) == ("whole model", "all but 0.proj", "only 0.proj")
    assert alone.sqnr.mean > but.sqnr.mean + 3 and alone.sqnr.mean > whole.sqnr.mean + 3
    assert not np.array_equal(whole.images, whole.reference)
    assert alone.images.shape[0] == 0, "only the newest keeps its pictures"


def test_the_history_is_bounded(backend, session):
    list(run_part(backend, session, ask_for(backend), "only", "0.qkv", 0))
    notes = notes_of(session)
    for number in range(trials.MOST_TRIALS + 5):
        notes.add(replace(notes.trials[0], what=str(number)))
    assert [t.what for t in notes.trials[:2]] == ["14", "13"]
    assert len(notes.trials) == trials.MOST_TRIALS


def test_a_sweep_that_is_cancelled_keeps_its_layers(backend, session):
    events = breaking.sweep_layers(backend, session, ask_for(backend))
    shown = count(1)
    closed_when(events, lambda event: event.shown and next(shown) == 3)
    sweep = notes_of(session).layers
    assert sweep is not None and list(sweep.sqnr) == list(sweep.layers[:3])
    assert sweep.worst in sweep.layers[:3] and notes_of(session).shown == "layers"
    assert notes_of(session).trials == [], "a worst layer is only named once all are known"
    assert not hooked(backend.checkpoint(backend.default).transformer)


def test_the_sweep_over_starts_begins_with_the_whole_run(backend, session):
    assert starts(20) == [0, 4, 8, 11, 15, 19] and starts(4) == [0, 1, 2, 3]
    list(breaking.sweep_steps(backend, session, ask_for(backend)))
    sweep = notes_of(session).steps
    assert sweep is not None and list(sweep.trials) == [0, 1, 2, 3]
    found = [trial.sqnr.mean for trial in sweep.trials.values()]
    assert found[-1] == max(found) and found[-1] > found[0]
    late = sweep.trials[2]
    assert late.what == "from step 3 on" and late.first_step == 2
    assert late.divergence[:2] == [200.0, 200.0], "everything before is identical"
    assert max(late.divergence[2:]) < 100
    list(run_part(backend, session, ask_for(backend), "whole", "", 0))
    assert notes_of(session).trials[0].sqnr.mean == found[0]


def test_a_recipe_that_is_not_there_is_refused_before_anything_runs(backend, session):
    ask = ask_for(backend, "W4A8", DITAS)
    paper = replace(ask, choice=replace(ask.choice, convention="paper"))
    for events in (
        run_part(backend, session, paper, "whole", "", 0),
        breaking.sweep_layers(backend, session, paper),
        map_sensitivity(backend, session, paper, budget.PREDICTED),
    ):
        with pytest.raises(SpecError, match="Search"):
            next(events)
    hub = replace(ask, choice=replace(ask.choice, model=Model(HUB)))
    for kind in (budget.PREDICTED, budget.SEARCHED_ANEW):
        with pytest.raises(SpecError, match="Measure"):
            next(map_sensitivity(backend, session, hub, kind))


@pytest.fixture(scope="module")
def mapped(backend) -> tuple[Ask, SensitivityMap, list[Any]]:
    """The predicted map of DiTAS at W4A8, and the events that led to it."""
    assert backend.shipped is not None, backend.notice
    ask = ask_for(backend, "W4A8", DITAS)
    ask = replace(ask, choice=replace(ask.choice, convention=CONVENTION))
    before = known_cells(backend, Session("new"), ask, budget.PREDICTED)
    assert {w for _, w in before} == {4, 8} and len(before) == 64, "shipped widths at once"
    somebody = Session("somebody")
    events = list(map_sensitivity(backend, somebody, ask, budget.PREDICTED))
    found = budget.found_map(backend, somebody, ask, budget.PREDICTED)
    assert found is not None
    return ask, found, events


def test_the_map_is_the_librarys(backend, mapped):
    ask, found, events = mapped
    assert sum(event.shown for event in events) == len(found.groups) + 1
    _, recipe = backend.recipe(Session(""), ask.choice)
    *_, calibration = backend.calibrated(backend.default, SHORT)
    branch = recipe.layers["0.qkv"].low_rank
    first = iterate_sensitivity(
        backend.checkpoint(backend.default),
        calibration,
        [BitWidths(w, 8) for w in budget.WIDTHS],
        SearchSpec(BitWidths(4, 8), CONVENTION, "ditas", branch),
        recipe,
    )
    for event in first:
        column = found.column(event.bits)
        assert event.error == float(found.error[found.groups.index(event.group), column])
        if event.done == 12:
            break
    assert found.alphas[0][2] == recipe.layers["0.qkv"].alpha
    again = list(map_sensitivity(backend, Session("other"), ask, budget.PREDICTED))
    assert [event.text for event in again] == ["already mapped"]
    cells = known_cells(backend, Session("other"), ask, budget.PREDICTED)
    assert len(cells) == 32 * len(budget.WIDTHS)


def test_keys_tell_apart_what_maps_depend_on(backend, session):
    ask = ask_for(backend, "W4A8", PLAIN)
    smoothed = replace(ask, choice=replace(ask.choice, recipe="smoothing α = 0.5"))
    wider = replace(ask, choice=replace(ask.choice, bits=BitWidths(8, 8)))
    asks = (ask, smoothed, replace(ask, seed=8))
    for kind, different in ((budget.PREDICTED, 2), (budget.MEASURED, 3)):
        assert len({budget.map_key(backend, session, a, kind) for a in asks}) == different
    for kind, different in ((budget.PREDICTED, 1), (budget.WEIGHED, 2)):
        assert len({budget.map_key(backend, session, a, kind) for a in (ask, wider)}) == different


def test_a_budget_gives_a_recipe_and_its_result(backend, session, mapped):
    ask, found, _ = mapped
    low, high, at = budget_range(found, 4)
    uniform = priced(found, found.uniform(BitWidths(4, 8)))
    assert low < at < high and 0 <= at - uniform.bits_per_weight < 0.05
    began = time.thread_time()  # a busy machine does not count
    chosen = priced(found, allocate(found, at))
    cells = known_cells(backend, session, ask, budget.PREDICTED)
    line = budget_line(found, chosen, at)
    table = bits_table(chosen, largest_uniform(found, at), cells)
    assert time.thread_time() - began < 1
    assert chosen.error < uniform.error and chosen.bits_per_weight <= at
    assert percent(chosen.error) in line and "for W4A8 everywhere" in line
    assert table.count("<td class=") == 32
    *_, last = run_mixed(backend, session, ask, found, chosen)
    mixed = notes_of(session).mixed
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


def test_the_public_endpoints_answer(client, mapped):
    result = client.predict("only", "7.fc2", 1, *SAMPLED, *bar(), api_name="/partial")
    text = json.dumps(result)
    assert "only 7.fc2: latent SQNR" in text and "7.fc2 quantized" in text
    result = client.predict(
        "0.qkv", budget.PREDICTED, 5.0, *SAMPLED, *bar(), api_name="/sensitivity"
    )
    assert "32 layers × 6 widths mapped" in json.dumps(result, ensure_ascii=False)
    answer = client.predict(budget.PREDICTED, 4.5, *SAMPLED, *bar(), api_name="/budget")
    assert "for W3A8 everywhere" in json.dumps(answer)


def test_hostile_budgets_and_missing_maps_are_refused(client, mapped):
    for value in (-1, 2.1, 1e10, True, None, "9"):
        with pytest.raises(AppError, match=r"smallest|budget|such as this page sends"):
            client.predict(budget.PREDICTED, value, *SAMPLED, *bar(), api_name="/budget")
    with pytest.raises(AppError, match="Map the layers"):
        unmapped = bar(preset="W8A8", recipe=PLAIN)
        client.predict(budget.PREDICTED, 5.0, *SAMPLED, *unmapped, api_name="/mixed")
    with pytest.raises(AppError, match="k: expected 1 to 4"):
        client.predict("from", "7.fc2", 9, *SAMPLED, *bar(), api_name="/partial")
