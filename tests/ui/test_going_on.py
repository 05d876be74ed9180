"""Jobs that are stopped part way and started again: nothing is computed twice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

gr = pytest.importorskip("gradio")

from ditas_core.bench.pages import SHORT, tiny_folder  # noqa: E402
from ditas_core.calibration import Calibration  # noqa: E402
from ditas_core.sampling import Stopped, until_stopped  # noqa: E402
from ditas_core.search import Cells, SearchSpec, SensitivityMap, iterate_sensitivity  # noqa: E402
from ditas_core.specs import BitWidths, LowRankSpec  # noqa: E402
from ditas_core.ui import build_app  # noqa: E402
from ditas_core.ui.bench import Bench, Choice, Model  # noqa: E402
from ditas_core.ui.catalogue import Entry  # noqa: E402
from ditas_core.ui.desk import Desk  # noqa: E402
from ditas_core.ui.jobs import budget  # noqa: E402
from ditas_core.ui.jobs.breaking import Ask, sweep_layers, sweep_steps  # noqa: E402
from ditas_core.ui.jobs.budget import (  # noqa: E402
    MEASURED,
    PREDICTED,
    SEARCHED_ANEW,
    WEIGHED,
    found_map,
    frontier_of,
    known_cells,
    map_key,
    map_sensitivity,
    run_mixed,
)
from ditas_core.ui.jobs.injecting import Live, Setting, inject_live  # noqa: E402
from ditas_core.ui.jobs.trials import MOST_BEGUN, Notes, Trial, notes_of  # noqa: E402
from ditas_core.ui.limits import Limits  # noqa: E402
from ditas_core.ui.results import PLAIN, SEARCHED  # noqa: E402

GROUPS = 8
Events = Callable[[], Iterator[Any]]


def bench_of(folder: Path) -> Bench:
    return Bench({folder.name: Entry(folder.name, folder.name, str(folder), True)}, SHORT, Limits())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tiny_folder(tmp_path_factory.mktemp("going on") / "tiny")
    torch.set_num_threads(threads)


def ask_for(bench: Bench) -> Ask:
    return Ask(Choice(bench.default, BitWidths(4, 8), "integer", PLAIN), 1, 4, 0)


def in_pieces(start: Events, every: int) -> None:
    """Start again and again, each time closed after so many events, until it ends."""
    for _ in range(1000):
        with closing(start()) as events:  # type: ignore[type-var]
            if sum(1 for _, _ in zip(range(every), events, strict=False)) < every:
                return
    raise AssertionError("expected an end, got a thousand starts")


def counted(monkeypatch: pytest.MonkeyPatch, place: str, name: str) -> list[Any]:
    """What this function has returned so far; it works as before."""
    calls: list[Any] = []
    module = import_module(f"ditas_core.{place}")
    work = getattr(module, name)

    def call(*args: Any, **more: Any) -> Any:
        found = work(*args, **more)
        calls.append(found)
        return found

    monkeypatch.setattr(module, name, call)
    return calls


def scores(trials: list[Trial]) -> list[tuple[str, tuple[float, ...]]]:
    return [(trial.what, trial.each) for trial in trials]


@pytest.mark.parametrize("kind", [PREDICTED, WEIGHED, MEASURED])
def test_a_map_goes_on_from_the_cells_it_has(folder, monkeypatch, kind) -> None:
    monkeypatch.setattr(budget, "WIDTHS", (4,))
    bench, whole = bench_of(folder), bench_of(folder)
    desk, ask = Desk("me"), ask_for(bench)
    list(map_sensitivity(whole, Desk("other"), ask, kind))
    cells = counted(monkeypatch, "search.sensitivity", "cell")
    runs = counted(monkeypatch, "comparison.sensitivity", "quantize_transformer")
    in_pieces(lambda: map_sensitivity(bench, desk, ask, kind), 5)
    assert len(cells) == GROUPS * 2, "one width, and left alone"
    assert len(runs) == (0 if kind == PREDICTED else GROUPS)
    one, other = found_map(bench, desk, ask, kind), found_map(whole, desk, ask, kind)
    assert one is not None and other is not None
    assert torch.equal(one.error, other.error) and one.alphas == other.alphas
    assert not notes_of(desk).begun, "a finished map lies in the cache alone"


def test_cells_that_are_known_are_taken_with_their_alphas(folder) -> None:
    bench = bench_of(folder)
    *_, calibration = bench.calibrated(bench.default, SHORT)
    assert isinstance(calibration, Calibration)
    spec = SearchSpec(BitWidths(4, 8), grid=(0.5,), low_rank=LowRankSpec(0))
    asked = (bench.checkpoint(bench.default), calibration, [BitWidths(4, 8)], spec)
    *first, whole = iterate_sensitivity(*asked)
    assert isinstance(whole, SensitivityMap)
    known: Cells = {(e.group, e.bits): (e.error, e.alpha) for e in first[:5]}  # type: ignore[union-attr]
    *rest, again = iterate_sensitivity(*asked, finished=known)
    assert [e.done for e in rest] == [6, 7, 8]  # type: ignore[union-attr]
    assert isinstance(again, SensitivityMap)
    assert again.alphas == whole.alphas and torch.equal(again.error, whole.error)


def test_another_map_forgets_nothing_and_nobody_else_sees_it(folder) -> None:
    bench = bench_of(folder)
    desk, ask = Desk("me"), ask_for(bench)
    for kind in (PREDICTED, SEARCHED_ANEW):
        with closing(map_sensitivity(bench, desk, ask, kind)) as events:  # type: ignore[type-var]
            for event in events:
                if event.part[0] == 2 and event.fraction > 0.04:
                    break
    kept = {kind: known_cells(bench, desk, ask, kind) for kind in (PREDICTED, SEARCHED_ANEW)}
    assert all(len(cells) >= 2 for cells in kept.values())
    assert kept[PREDICTED] != kept[SEARCHED_ANEW]
    assert known_cells(bench, Desk("you"), ask, PREDICTED) == {}
    notes = Notes()
    for number in range(MOST_BEGUN + 3):
        notes.go_on(number, dict)
        notes.go_on(0, dict)
    assert len(notes.begun) == MOST_BEGUN and 0 in notes.begun


@pytest.mark.parametrize("sweep, runs", [(sweep_layers, GROUPS), (sweep_steps, 4)])
def test_a_sweep_goes_on_from_the_runs_it_has(folder, monkeypatch, sweep, runs) -> None:
    bench = bench_of(folder)
    mine, other, ask = Desk("me"), Desk("other"), ask_for(bench)
    list(sweep(bench, other, ask))
    made = counted(monkeypatch, "ui.jobs.breaking", "make_trial")
    for start in range(100):
        with closing(sweep(bench, mine, ask)) as events:
            done = next((e for e in events if e.shown), None)  # one run, then Cancel
        if not notes_of(mine).begun:
            break
        assert done is not None and len(made) == start + 1
    assert len(made) == runs and notes_of(mine).sweeping is None
    one, two = notes_of(mine), notes_of(other)
    assert scores(one.trials) == scores(two.trials)
    if one.layers is not None and two.layers is not None:
        assert one.layers.sqnr == two.layers.sqnr and list(one.layers.sqnr) == list(two.layers.sqnr)
    if one.steps is not None and two.steps is not None:
        assert scores(list(one.steps.trials.values())) == scores(list(two.steps.trials.values()))


def test_the_mixed_bits_go_on_from_the_run_that_is_done(folder, monkeypatch) -> None:
    bench = bench_of(folder)
    mine, other, ask = Desk("me"), Desk("other"), ask_for(bench)
    list(map_sensitivity(bench, mine, ask, PREDICTED))
    found = found_map(bench, mine, ask, PREDICTED)
    assert found is not None
    line = frontier_of(bench, map_key(bench, mine, ask, PREDICTED), found)
    chosen = line[len(line) // 2]
    list(run_mixed(bench, other, ask, found, chosen))
    made = counted(monkeypatch, "ui.jobs.budget", "make_trial")
    with closing(run_mixed(bench, mine, ask, found, chosen)) as events:  # type: ignore[type-var]
        next(event for event in events if event.part == (6, 6))
    assert len(made) == 1 and scores(notes_of(mine).trials) == scores(made)
    list(run_mixed(bench, mine, ask, found, chosen))
    assert len(made) == 2 and not notes_of(mine).begun
    assert scores(notes_of(mine).trials) == scores(notes_of(other).trials)
    one, two = notes_of(mine).mixed, notes_of(other).mixed
    assert one is not None and two is not None and one.gain == two.gain
    assert one.uniform.images.shape[0] == one.mixed.images.shape[0] == 1, "both have their pictures"


def test_a_strength_goes_on_from_its_runs_and_layers(folder, monkeypatch) -> None:
    bench, whole = bench_of(folder), bench_of(folder)
    setting = Setting(BitWidths(4, 8), "integer", 1, SEARCHED, SHORT.sampling)
    loud = Model(bench.default.key, 40)
    *_, expected = inject_live(whole, loud, SHORT, setting, 1)
    layers = counted(monkeypatch, "search.alpha", "iterate_group_search")
    runs = counted(monkeypatch, "ui.jobs.injecting", "iterate_trajectory")
    reached: list[Any] = []

    def go_on() -> Live | None:
        """Until another layer or another row of pictures is done; the end, if it comes first."""
        last = None
        with closing(inject_live(bench, loud, SHORT, setting, 1)) as events:  # type: ignore[type-var]
            for last in events:
                said = len(last.rung.images) if isinstance(last, Live) else last.text
                if ("layers done" in str(said) or said == 2) and said not in reached:
                    reached.append(said)
                    return None
        assert isinstance(last, Live)
        return last

    found = next(end for _ in range(50) if (end := go_on()) is not None)
    assert len(reached) == GROUPS + 2
    assert len(layers) == GROUPS + 1, "the first stop was in the middle of a layer"
    assert len(runs) == 4, "as trained, injected, plain, repaired"
    assert isinstance(expected, Live) and found.rung.sqnr == expected.rung.sqnr
    assert found.rung.recipe == expected.rung.recipe and found.rung.recipe is not None
    assert not [key for key in bench.cache.entries if "begun" in str(key)]


def test_a_calibration_goes_on_after_its_last_whole_step(folder) -> None:
    """Closed between two steps, and stopped in the middle of one; for whoever comes next."""
    bench, whole = bench_of(folder), bench_of(folder)
    *_, expected = whole.calibrated(whole.default, SHORT)
    passes: list[int] = []
    steps: list[int] = []
    blocks = bench.checkpoint(bench.default).transformer.transformer_blocks
    handle = blocks[0].register_forward_pre_hook(lambda *_: passes.append(1))
    with closing(bench.calibrated(bench.default, SHORT)) as events:  # type: ignore[type-var]
        assert next(events).step == 1 and next(events).step == 2
    with suppress(Stopped), closing(bench.calibrated(bench.default, SHORT)) as events:  # type: ignore[type-var]
        for event in until_stopped(events, lambda: len(passes) == 4):
            steps.append(event.step)
    assert steps == [3] and len(passes) == 4, "the fourth step was begun"
    *_, found = bench.calibrated(bench.default, SHORT)
    handle.remove()
    assert len(passes) == 5, "four whole steps and the one that was cut"
    assert isinstance(found, Calibration) and isinstance(expected, Calibration)
    assert found.sha256 == expected.sha256 and found.timesteps == expected.timesteps
    assert not [key for key in bench.cache.entries if "begun" in key]


@pytest.mark.parametrize("room, kept", [(2**30, True), (1000, False)])
def test_what_a_calibration_has_begun_counts_in_the_cache(folder, room, kept) -> None:
    bench = bench_of(folder)
    bench.cache.limit, before = room, bench.cache.nbytes
    with closing(bench.calibrated(bench.default, SHORT)) as events:  # type: ignore[type-var]
        next(events)
    assert (bench.cache.get(("begun", bench.default, SHORT)) is not None) is kept
    assert (bench.cache.nbytes > before + 10_000) is kept


def test_cancel_speaks_of_the_job_that_was_cancelled(folder) -> None:
    """A sweep that was cut short, then another experiment that is cut short."""
    bench = bench_of(folder)
    demo, request = build_app(bench), gr.Request(session_hash="me")
    number, start = next((n, fn.fn) for n, fn in demo.fns.items() if fn.api_name == "partial")
    end = next(fn.fn for fn in demo.fns.values() if fn.trigger_after == number and fn.fn)
    bar = [bench.default.key, "W4A8", 4, 8, "integer", PLAIN, False, 60, False]

    def cut(what: str, after: str) -> str:
        values = [what, "0.qkv", 1, 1, 4, 0, *bar]
        with closing(start(request, *values)) as shown:
            assert any(after in each[0] for each in shown if isinstance(each[0], str))
        return str(end(request, *values)[0])

    assert re.search(r"Cancelled after \d of 8 layers", cut("layers", "of 8)"))
    assert "What was done stays" in cut("only", "Starting")
    assert re.search(r"Cancelled after \d of 4 values of k", cut("steps", "from step"))
    assert "What was done stays" in cut("layers", "Starting"), "not of the sweep before"
