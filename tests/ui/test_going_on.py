"""Jobs that are stopped part way and started again: nothing is computed twice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch

from ditas_core.sampling import Stopped, until_stopped
from ditas_core.specs import BitWidths
from ditas_core.ui import build_app
from ditas_core.ui.stored.results import PLAIN, SEARCHED
from ditas_core.ui.tabs.breaking import budget_job as budget
from ditas_core.ui.tabs.breaking.job import Ask, sweep_layers, sweep_steps
from ditas_core.ui.tabs.breaking.trials import MOST_BEGUN, Notes, Trial, notes_of
from ditas_core.ui.tabs.injector.job import Live, Setting, inject_live
from ditas_core.ui.visitors.backend import Backend, Choice, Model
from ditas_core.ui.visitors.session import Session

from .conftest import SHORT, bar, bench_of, closed_when, watch

GROUPS = 8
Events = Callable[[], Iterator[Any]]


@pytest.fixture()
def backend(tiny: Path) -> Backend:
    return bench_of(tiny)


@pytest.fixture()
def whole(tiny: Path) -> Backend:
    """Another, where nothing is stopped."""
    return bench_of(tiny)


def ask_for(backend: Backend) -> Ask:
    return Ask(Choice(backend.default, BitWidths(4, 8), "integer", PLAIN), 1, 4, 0)


def in_pieces(start: Events, every: int) -> None:
    """Start again and again, each time closed after so many events, until it ends."""
    for _ in range(1000):
        with closing(start()) as events:  # type: ignore[type-var]
            if sum(1 for _, _ in zip(range(every), events, strict=False)) < every:
                return
    raise AssertionError("expected an end, got a thousand starts")


def scores(trials: list[Trial]) -> list[tuple[str, tuple[float, ...]]]:
    return [(trial.what, trial.each) for trial in trials]


@pytest.mark.parametrize("kind", [budget.PREDICTED, budget.WEIGHED, budget.MEASURED])
def test_a_map_goes_on_from_the_cells_it_has(backend, whole, monkeypatch, kind) -> None:
    monkeypatch.setattr(budget, "WIDTHS", (4,))
    session, ask = Session("me"), ask_for(backend)
    list(budget.map_sensitivity(whole, Session("other"), ask, kind))
    cells = watch(monkeypatch, "search.sensitivity.cell")
    runs = watch(monkeypatch, "comparison.sensitivity.quantize_transformer")
    in_pieces(lambda: budget.map_sensitivity(backend, session, ask, kind), 5)
    assert len(cells.asked) == GROUPS * 2, "one width, and left alone"
    assert len(runs.asked) == (0 if kind == budget.PREDICTED else GROUPS)
    one, other = (
        budget.found_map(backend, session, ask, kind),
        budget.found_map(whole, session, ask, kind),
    )
    assert one is not None and other is not None
    assert torch.equal(one.error, other.error) and one.alphas == other.alphas
    assert not notes_of(session).begun, "a finished map lies in the cache alone"


def test_another_map_forgets_nothing_and_nobody_else_sees_it(backend) -> None:
    session, ask = Session("me"), ask_for(backend)
    for kind in (budget.PREDICTED, budget.SEARCHED_ANEW):
        events = budget.map_sensitivity(backend, session, ask, kind)
        closed_when(events, lambda event: event.part[0] == 2 and event.fraction > 0.04)
        assert budget.found_map(backend, session, ask, kind) is None
    kept = {
        kind: budget.known_cells(backend, session, ask, kind)
        for kind in (budget.PREDICTED, budget.SEARCHED_ANEW)
    }
    assert all(len(cells) >= 2 for cells in kept.values())
    assert kept[budget.PREDICTED] != kept[budget.SEARCHED_ANEW]
    other = replace(ask, choice=replace(ask.choice, bits=BitWidths(4, 4)))
    assert budget.known_cells(backend, session, other, budget.PREDICTED) == {}
    assert budget.known_cells(backend, Session("you"), ask, budget.PREDICTED) == {}
    notes = Notes()
    for number in range(MOST_BEGUN + 3):
        notes.go_on(number, dict)
        notes.go_on(0, dict)
    assert len(notes.begun) == MOST_BEGUN and 0 in notes.begun


@pytest.mark.parametrize("sweep, runs", [(sweep_layers, GROUPS), (sweep_steps, 4)])
def test_a_sweep_goes_on_from_the_runs_it_has(backend, monkeypatch, sweep, runs) -> None:
    mine, other, ask = Session("me"), Session("other"), ask_for(backend)
    list(sweep(backend, other, ask))
    made = watch(monkeypatch, "ui.tabs.breaking.job.make_trial")
    for start in range(100):
        with closing(sweep(backend, mine, ask)) as events:
            done = next((e for e in events if e.shown), None)  # one run, then Cancel
        if not notes_of(mine).begun:
            break
        assert done is not None and len(made.asked) == start + 1
    assert len(made.asked) == runs and notes_of(mine).sweeping is None
    one, two = notes_of(mine), notes_of(other)
    assert scores(one.trials) == scores(two.trials)
    if one.layers is not None and two.layers is not None:
        assert one.layers.sqnr == two.layers.sqnr and list(one.layers.sqnr) == list(two.layers.sqnr)
    if one.steps is not None and two.steps is not None:
        assert scores(list(one.steps.trials.values())) == scores(list(two.steps.trials.values()))


def test_the_mixed_bits_go_on_from_the_run_that_is_done(backend, monkeypatch) -> None:
    mine, other, ask = Session("me"), Session("other"), ask_for(backend)
    list(budget.map_sensitivity(backend, mine, ask, budget.PREDICTED))
    found = budget.found_map(backend, mine, ask, budget.PREDICTED)
    assert found is not None
    line = budget.frontier_of(backend, budget.map_key(backend, mine, ask, budget.PREDICTED), found)
    chosen = line[len(line) // 2]
    list(budget.run_mixed(backend, other, ask, found, chosen))
    made = watch(monkeypatch, "ui.tabs.breaking.budget_job.make_trial")
    closed_when(budget.run_mixed(backend, mine, ask, found, chosen), lambda e: e.part == (6, 6))
    assert len(made.asked) == 1 and scores(notes_of(mine).trials) == scores(made.found)
    list(budget.run_mixed(backend, mine, ask, found, chosen))
    assert len(made.asked) == 2 and not notes_of(mine).begun
    assert scores(notes_of(mine).trials) == scores(notes_of(other).trials)
    one, two = notes_of(mine).mixed, notes_of(other).mixed
    assert one is not None and two is not None and one.gain == two.gain
    assert one.uniform.images.shape[0] == one.mixed.images.shape[0] == 1, "both have their pictures"


def test_a_strength_goes_on_from_its_runs_and_layers(backend, whole, monkeypatch) -> None:
    setting = Setting(BitWidths(4, 8), "integer", 1, SEARCHED, SHORT.sampling)
    loud = Model(backend.default.key, 40)
    *_, expected = inject_live(whole, loud, SHORT, setting, 1)
    layers = watch(monkeypatch, "search.recipes.iterate_group_search")
    runs = watch(monkeypatch, "ui.tabs.injector.job.iterate_trajectory")
    reached: list[Any] = []

    def go_on() -> Live | None:
        """Until another layer or another row of pictures is done; the end, if it comes first."""
        last = None
        with closing(inject_live(backend, loud, SHORT, setting, 1)) as events:  # type: ignore[type-var]
            for last in events:
                said = len(last.rung.images) if isinstance(last, Live) else last.text
                if ("layers done" in str(said) or said == 2) and said not in reached:
                    reached.append(said)
                    return None
        assert isinstance(last, Live)
        return last

    found = next(end for _ in range(50) if (end := go_on()) is not None)
    assert len(reached) == GROUPS + 2
    assert len(layers.asked) == GROUPS + 1, "the first stop was in the middle of a layer"
    assert len(runs.asked) == 4, "as trained, injected, plain, repaired"
    assert isinstance(expected, Live) and found.rung.sqnr == expected.rung.sqnr
    assert found.rung.recipe == expected.rung.recipe and found.rung.recipe is not None
    assert not [key for key in backend.cache.entries if "begun" in str(key)]


def test_a_calibration_goes_on_after_its_last_whole_step(backend, whole) -> None:
    """Closed between two steps, and stopped in the middle of one; for whoever comes next."""
    *_, expected = whole.calibrated(whole.default, SHORT)
    passes: list[int] = []
    steps: list[int] = []
    blocks = backend.checkpoint(backend.default).transformer.transformer_blocks
    handle = blocks[0].register_forward_pre_hook(lambda *_: passes.append(1))
    with closing(backend.calibrated(backend.default, SHORT)) as events:  # type: ignore[type-var]
        assert next(events).step == 1 and next(events).step == 2
    with suppress(Stopped), closing(backend.calibrated(backend.default, SHORT)) as events:  # type: ignore[type-var]
        for event in until_stopped(events, lambda: len(passes) == 4):
            steps.append(event.step)
    assert steps == [3] and len(passes) == 4, "the fourth step was begun"
    *_, found = backend.calibrated(backend.default, SHORT)
    handle.remove()
    assert len(passes) == 5, "four whole steps and the one that was cut"
    assert found.sha256 == expected.sha256 and found.timesteps == expected.timesteps
    assert not [key for key in backend.cache.entries if "begun" in key]


@pytest.mark.parametrize("room, kept", [(2**30, True), (1000, False)])
def test_what_a_calibration_has_begun_counts_in_the_cache(backend, room, kept) -> None:
    backend.cache.limit, before = room, backend.cache.nbytes
    with closing(backend.calibrated(backend.default, SHORT)) as events:  # type: ignore[type-var]
        next(events)
    assert (backend.cache.get(("begun", backend.default, SHORT)) is not None) is kept
    assert (backend.cache.nbytes > before + 10_000) is kept


def test_cancel_speaks_of_the_job_that_was_cancelled(backend) -> None:
    """A sweep that was cut short, then another experiment that is cut short."""
    demo, request = build_app(backend), gr.Request(session_hash="me")
    number, start = next((n, fn.fn) for n, fn in demo.fns.items() if fn.api_name == "partial")
    end = next(fn.fn for fn in demo.fns.values() if fn.trigger_after == number and fn.fn)

    def cut(what: str, after: str) -> str:
        values = [what, "0.qkv", 1, 1, 4, 0, *bar(backend.default.key, recipe=PLAIN)]
        with closing(start(request, *values)) as shown:
            assert any(after in each[0] for each in shown if isinstance(each[0], str))
        return str(end(request, *values)[0])

    assert re.search(r"Cancelled after \d of 8 layers", cut("layers", "of 8)"))
    assert "What was done stays" in cut("only", "Starting")
    assert re.search(r"Cancelled after \d of 4 values of k", cut("steps", "from step"))
    assert "What was done stays" in cut("layers", "Starting"), "not of the sweep before"
