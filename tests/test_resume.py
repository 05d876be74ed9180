"""Killed at any moment and run again: the same bits, and nothing done twice."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import build_random_checkpoint
from processes import Death, run, start
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ditas_core.calibration import (
    Calibration,
    CalibrationJournal,
    CalibrationProgress,
    calibrate,
    iterate_calibration,
    remove_journals,
)
from ditas_core.calibration.journal import checksum
from ditas_core.checkpoints import Checkpoint
from ditas_core.cli.progress import Lines
from ditas_core.search import LayerDone, SearchJournal, SearchSpec, iterate_search
from ditas_core.specs import BitWidths, CalibrationSpec, LowRankSpec, Recipe, SamplingSpec

STEPS, SAMPLES, BATCH = 6, 3, 2
PASSES = 2
"""Forward passes of a step: three samples, two at a time."""
GROUPS = 8
SPEC = CalibrationSpec(
    SamplingSpec(STEPS, scheduler="ddpm"), samples=SAMPLES, seed=3, tokens=5, batch=BATCH
)
SEARCH = SearchSpec(BitWidths(4, 8), grid=(0.0, 0.5, 1.0), low_rank=LowRankSpec(2))


def calibrating(stock: Path, out: Path, scheduler: str = "ddpm") -> list[str]:
    sizes = f"--steps {STEPS} --samples {SAMPLES} --batch {BATCH} --tokens 5 --seed 3".split()
    return ["calibrate", str(stock), *sizes, "--scheduler", scheduler, "--out", str(out), "--json"]


def searching(stock: Path, calibration: Path, out: Path, bits: str = "W4A8") -> list[str]:
    files = ["--calibration", str(calibration), "--out", str(out)]
    return ["search", str(stock), *files, "--bits", bits, "--rank", "2", "--json"]


@pytest.fixture(scope="module")
def whole(stock: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Calibrations that nothing interrupted, by scheduler."""
    home = tmp_path_factory.mktemp("whole")
    found = {name: home / f"{name}.safetensors" for name in ("ddim", "ddpm")}
    for name, path in found.items():
        done = run(calibrating(stock, path, name), home / name)
        assert done.code == 0 and done.forwards == STEPS * PASSES
        assert done.report["sha256"] == Calibration.load(path).sha256
    return found


@pytest.fixture(scope="module")
def whole_recipe(
    stock: Path, whole: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The recipe of a search that nothing interrupted."""
    home = whole["ddim"].parent
    out = home / "recipe.json"
    assert run(searching(stock, whole["ddim"], out), home / "search").code == 0
    return out.read_text()


def step_files(out: Path) -> list[Path]:
    return sorted((out.parent / f"{out.name}.partial").glob("*/step-*.safetensors"))


def leftovers(out: Path) -> list[str]:
    return [p.name for p in out.parent.glob(f"{out.name}*") if p != out]


# renames: the settings', one per step, the calibration's
MOMENTS = {
    "in the first pass": (Death("forward", 1), 0),
    "first settings written, not renamed": (Death("rename", 1), 0),
    "first step written, not renamed": (Death("rename", 2), 0),
    "after the first step": (Death("rename", 2, "after"), 1),
    "between two batches": (Death("forward", 3 * PASSES - 1, "after"), 2),
    "last step written, not renamed": (Death("rename", STEPS + 1), STEPS - 1),
    "after the last step": (Death("rename", STEPS + 1, "after"), STEPS),
    "calibration written, not renamed": (Death("rename", STEPS + 2), STEPS),
    "calibration there, steps not removed": (Death("rename", STEPS + 2, "after"), STEPS),
}


@pytest.mark.parametrize(
    ("moment", "scheduler"),
    [*((moment, "ddpm") for moment in MOMENTS), ("after the first step", "ddim")],
)
def test_a_killed_calibration_goes_on(
    stock: Path, whole: dict[str, Path], tmp_path: Path, moment: str, scheduler: str
) -> None:
    death, finished = MOMENTS[moment]
    out = tmp_path / "c.safetensors"
    arguments = calibrating(stock, out, scheduler)
    assert run(arguments, tmp_path / "killed", death).code == -signal.SIGKILL
    expected = Calibration.load(whole[scheduler]).sha256
    there = death == Death("rename", STEPS + 2, "after")
    assert out.exists() == there and (not there or Calibration.load(out).sha256 == expected)
    assert len(step_files(out)) == finished
    again = run(arguments, tmp_path / "again")
    assert again.report["sha256"] == expected
    assert Calibration.load(out).sha256 == again.report["sha256"]
    assert again.forwards == (STEPS - finished) * PASSES
    assert leftovers(out) == []


def test_killed_again_and_again_at_random_moments(
    stock: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    """From outside, until a run gets through; each step is finished once."""
    out = tmp_path / "c.safetensors"
    arguments = calibrating(stock, out)
    rng, passes, kills = random.Random(7), 0, 0
    for attempt in range(3):
        before = len(step_files(out))
        running = start(arguments, tmp_path / str(attempt), pause=0.2)
        running.until(lambda before=before: len(step_files(out)) > before)
        time.sleep(rng.uniform(0, 0.06))
        running.send(signal.SIGKILL)
        ended = running.end()
        passes, kills = passes + ended.forwards, kills + (ended.code == -signal.SIGKILL)
        if ended.code == 0:
            break
        assert not out.exists()
    assert kills > 0
    last = run(arguments, tmp_path / "last")
    assert last.report["sha256"] == Calibration.load(whole["ddpm"]).sha256
    # of the step that a kill interrupts all passes may have run, but not been kept
    assert STEPS * PASSES <= passes + last.forwards <= STEPS * PASSES + kills * PASSES
    assert leftovers(out) == []


def cut(path: Path, keep: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut in the header": lambda path: cut(path, 0.05),
    "cut in the data": lambda path: cut(path, 0.9),
    "one bit": flip_last_byte,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "another step's": lambda path: shutil.copy(path.with_name("step-0000.safetensors"), path),
}


@pytest.fixture(scope="module")
def interrupted(
    random_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A journal with four steps, and the hash that the whole calibration has."""
    home = tmp_path_factory.mktemp("interrupted") / "journal"
    running = iterate_calibration(random_checkpoint, SPEC, journal_in(home, random_checkpoint))
    for event in running:
        if isinstance(event, CalibrationProgress) and event.step == 4:
            break
    running.close()
    calibration = calibrate(random_checkpoint, SPEC)
    return home, calibration.sha256


@pytest.fixture
def home(interrupted: tuple[Path, str], tmp_path: Path) -> Path:
    """The journal, to be damaged."""
    return Path(shutil.copytree(interrupted[0], tmp_path / "journal"))


def journal_in(
    home: Path, checkpoint: Checkpoint, spec: CalibrationSpec = SPEC
) -> CalibrationJournal:
    return CalibrationJournal(home, checkpoint.fingerprint, spec, (0, spec.samples))


def resumed(
    home: Path, checkpoint: Checkpoint, spec: CalibrationSpec = SPEC
) -> tuple[int, Calibration]:
    """Forward passes that were still needed, and the result."""
    *progress, calibration = iterate_calibration(
        checkpoint, spec, journal_in(home, checkpoint, spec)
    )
    assert isinstance(calibration, Calibration)
    return len(progress), calibration


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("step", [1, 3])
def test_damaged_steps_are_run_again(
    random_checkpoint: Checkpoint,
    interrupted: tuple[Path, str],
    home: Path,
    damage: str,
    step: int,
) -> None:
    DAMAGE[damage](home / f"step-{step:04d}.safetensors")
    passes, calibration = resumed(home, random_checkpoint)
    assert calibration.sha256 == interrupted[1]
    assert passes == (STEPS - step) * PASSES


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe\x00", b"null"])
def test_a_journal_without_its_settings_is_started_anew(
    random_checkpoint: Checkpoint,
    interrupted: tuple[Path, str],
    home: Path,
    content: bytes | None,
) -> None:
    (home / "settings.json").unlink()
    if content is not None:
        (home / "settings.json").write_bytes(content)
    passes, calibration = resumed(home, random_checkpoint)
    assert (passes, calibration.sha256) == (STEPS * PASSES, interrupted[1])


@pytest.mark.parametrize(
    "other",
    [
        replace(SPEC, seed=4),
        replace(SPEC, tokens=6),
        replace(SPEC, batch=3),
        replace(SPEC, samples=4),
        replace(SPEC, token_dtype="float32"),
        replace(SPEC, precision="bfloat16"),
        replace(SPEC, sampling=replace(SPEC.sampling, guidance_scale=2.0)),
        replace(SPEC, sampling=replace(SPEC.sampling, scheduler="ddim")),
    ],
)
def test_another_calibrations_steps_are_not_reused(
    random_checkpoint: Checkpoint, home: Path, other: CalibrationSpec
) -> None:
    passes, calibration = resumed(home, random_checkpoint, other)
    assert passes == STEPS * -(-other.samples // other.batch)
    expected = calibrate(random_checkpoint, other)
    assert isinstance(expected, Calibration) and calibration.sha256 == expected.sha256


def test_another_checkpoints_or_shards_steps_are_not_reused(
    random_checkpoint: Checkpoint, interrupted: tuple[Path, str]
) -> None:
    home, fingerprint = interrupted[0], random_checkpoint.fingerprint
    assert len(list(CalibrationJournal(home, fingerprint, SPEC, (0, SAMPLES)).steps())) == 4
    assert not list(CalibrationJournal(home, "0" * 64, SPEC, (0, SAMPLES)).steps())
    assert not list(CalibrationJournal(home, fingerprint, SPEC, (0, 2)).steps())


@pytest.mark.parametrize("rows", ["[" * 100_000, "[]", "{}", '{"0.qkv": 1e999}'])
def test_a_step_that_no_journal_wrote_is_run_again(
    random_checkpoint: Checkpoint, home: Path, rows: str
) -> None:
    """Whole by its checksum all the same."""
    journal = journal_in(home, random_checkpoint)
    with safe_open(journal.step_path(2), framework="pt") as file:
        metadata = {**file.metadata(), "rows": rows}
    tensors = load_file(journal.step_path(2))
    metadata["sha256"] = checksum(tensors, {k: v for k, v in metadata.items() if k != "sha256"})
    save_file(tensors, journal.step_path(2), metadata=metadata)
    assert len(list(journal.steps())) == 2


def test_a_calibration_that_cannot_start_touches_nothing(
    stock: Path, interrupted: tuple[Path, str], tmp_path: Path
) -> None:
    """Neither an empty folder nor the loss of an earlier run's steps."""
    out = tmp_path / "c.safetensors"
    arguments = [*calibrating(stock, out), "--tokens", "100000"]
    assert run(arguments, tmp_path / "fresh").code == 2
    assert leftovers(out) == []
    shutil.copytree(interrupted[0], tmp_path / f"{out.name}.partial" / "0-of-1")
    assert run(arguments, tmp_path / "other").code == 2
    assert len(step_files(out)) == 4


def test_interrupting_a_calibration(stock: Path, whole: dict[str, Path], tmp_path: Path) -> None:
    """Ctrl-C: 130 before the end, one line, and the next run goes on."""
    out = tmp_path / "c.safetensors"
    arguments = calibrating(stock, out)
    running = start(arguments, tmp_path / "first", pause=0.5)  # time to be interrupted in
    running.until(lambda: len(step_files(out)) == 2)
    running.send(signal.SIGINT)
    ended = running.end()
    assert ended.forwards < STEPS * PASSES, "it did not go on to the end"
    assert ended.code == 130 and ended.out == ""
    said = ("needs ", "calibrating: ")  # memory and progress
    (line,) = [x for x in ended.err.splitlines() if not x.startswith(said)]
    assert "goes on from here" in line
    assert not out.exists() and len(step_files(out)) >= 2
    again = run(arguments, tmp_path / "again")
    assert again.report["sha256"] == Calibration.load(whole["ddpm"]).sha256
    assert again.forwards <= (STEPS - 2) * PASSES
    assert leftovers(out) == []


# renames: the journal's, the recipe's; one sync per group
SEARCH_MOMENTS = {
    "journal written, not renamed": (Death("rename", 1), 0),
    "first line not yet on the disk": (Death("sync", 1), 1),
    "third line": (Death("sync", 3, "after"), 3),
    "last line": (Death("sync", GROUPS, "after"), GROUPS),
    "recipe written, not renamed": (Death("rename", 2), GROUPS),
}


@pytest.mark.parametrize("moment", SEARCH_MOMENTS)
def test_a_killed_search_goes_on(
    stock: Path, whole: dict[str, Path], whole_recipe: str, moment: str
) -> None:
    """In the uninterrupted run's folder, since a recipe names its calibration relatively."""
    death, finished = SEARCH_MOMENTS[moment]
    out = whole["ddim"].parent / "killed.json"
    journal = out.with_name(out.name + ".partial")
    arguments = searching(stock, whole["ddim"], out)
    home = whole["ddim"].parent / moment
    assert run(arguments, home / "killed", death).code == -signal.SIGKILL
    assert not out.exists()
    lines = journal.read_text().splitlines() if journal.exists() else [""]
    assert len(lines) == finished + 1
    if finished == 3:  # once more, to see that the lines stay as they are
        assert run(arguments, home / "twice", Death("sync", 2, "after")).code == -signal.SIGKILL
        later = journal.read_text().splitlines()
        assert len(later) == 6 and later[:4] == lines
        finished = 5
    again = run(arguments, home / "again")
    assert again.report["resumed"] == finished
    assert out.read_text() == whole_recipe
    assert leftovers(out) == []
    out.unlink()


@pytest.fixture(scope="module")
def searched(
    random_checkpoint: Checkpoint,
    random_calibration: Calibration,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[bytes, Recipe]:
    """A journal of three groups, and the recipe of a whole search."""
    path = tmp_path_factory.mktemp("searched") / "journal"
    journal = SearchJournal(path, random_calibration, random_checkpoint, SEARCH)
    for event in iterate_search(random_checkpoint, random_calibration, SEARCH):
        if isinstance(event, LayerDone) and len(journal.finished) < 3:
            journal.add(event)
    assert isinstance(event, Recipe)
    return path.read_bytes(), event


def first_lines(data: bytes, count: int) -> bytes:
    return b"".join(data.splitlines(keepends=True)[:count])


JOURNALS: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "whole": (lambda data: data, 3),
    "empty": (lambda data: b"", 0),
    "cut last line": (lambda data: data[:-20], 2),
    "last newline missing": (lambda data: data[:-1], 2),
    "cut header": (lambda data: data[:30], 0),
    "only the header": (lambda data: first_lines(data, 1), 0),
    "no header": (lambda data: b"".join(data.splitlines(keepends=True)[1:]), 0),
    "garbage at the end": (lambda data: data + b"\x00\xff\xfe{]\n", 3),
    "garbage between": (lambda data: first_lines(data, 2) + b"nonsense\n\n[]\nnull\n7\n{}\n", 1),
    "deep nesting": (lambda data: first_lines(data, 3) + b"[" * 100_000 + b"\n", 2),
    "zeros": (lambda data: bytes(len(data)), 0),
    "a line twice": (lambda data: data + data.splitlines(keepends=True)[1], 3),
}


@pytest.mark.parametrize("kind", JOURNALS)
def test_damaged_search_journals_recover(
    random_checkpoint: Checkpoint,
    random_calibration: Calibration,
    searched: tuple[bytes, Recipe],
    tmp_path: Path,
    kind: str,
) -> None:
    damage, left = JOURNALS[kind]
    path = tmp_path / "journal"
    path.write_bytes(damage(searched[0]))
    journal = SearchJournal(path, random_calibration, random_checkpoint, SEARCH)
    assert len(journal.finished) == left
    for event in iterate_search(
        random_checkpoint, random_calibration, SEARCH, finished=dict(journal.finished)
    ):
        if isinstance(event, LayerDone):
            journal.add(event)
    assert event == searched[1] and event.to_json() == searched[1].to_json()
    # what was appended after the damage is read back whole
    again = SearchJournal(path, random_calibration, random_checkpoint, SEARCH)
    assert again.finished == journal.finished and len(again.finished) == GROUPS
    assert first_lines(path.read_bytes(), 1) == first_lines(searched[0], 1)


def test_another_searchs_lines_are_not_reused(
    random_checkpoint: Checkpoint,
    random_calibration: Calibration,
    searched: tuple[bytes, Recipe],
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal"
    path.write_bytes(searched[0])
    stats = random_calibration.groups["0.fc1"]
    groups = {**random_calibration.groups, "0.fc1": replace(stats, high=stats.high + 1)}
    other_checkpoint = build_random_checkpoint()
    other_checkpoint.transformer.proj_out_2.weight.data.add_(1)
    others = [
        (random_calibration, random_checkpoint, replace(SEARCH, bits=BitWidths(4, 6))),
        (random_calibration, random_checkpoint, replace(SEARCH, grid=(0.5,))),
        (random_calibration, random_checkpoint, replace(SEARCH, method="search")),
        (random_calibration, random_checkpoint, replace(SEARCH, convention="paper")),
        (random_calibration, random_checkpoint, replace(SEARCH, low_rank=LowRankSpec(3))),
        (random_calibration, random_checkpoint, replace(SEARCH, products="bfloat16")),
        (replace(random_calibration, groups=groups), random_checkpoint, SEARCH),
        (random_calibration, other_checkpoint, SEARCH),
    ]
    for calibration, checkpoint, spec in others:
        assert not SearchJournal(path, calibration, checkpoint, spec).finished
    # only looking has changed nothing
    assert len(SearchJournal(path, random_calibration, random_checkpoint, SEARCH).finished) == 3


def test_a_search_that_cannot_start_touches_nothing(
    stock: Path, whole: dict[str, Path], tmp_path: Path, random_calibration: Calibration
) -> None:
    foreign = tmp_path / "foreign.safetensors"
    replace(random_calibration, checkpoint="0" * 64).save(foreign)
    out = tmp_path / "r.json"
    assert run(searching(stock, foreign, out), tmp_path / "run").code == 2
    assert leftovers(out) == []


def test_progress_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("ditas_core.cli.progress.time", clock)
    with Lines("working", 200) as progress:
        for now, count in ((101.0, 10), (101.9, 10), (102.0, 20), (110.0, 20), (117.0, 40)):
            clock.now = now
            progress.update(count)
        assert capsys.readouterr().err.splitlines() == [
            "working: 20 %, 2 s elapsed, about 8 s left",
            "working: 50 %, 17 s elapsed, about 17 s left",
        ]
        clock.now = 500.0
        progress.update(100)  # all done: nothing is left to wait for
        assert capsys.readouterr().err == ""
    clock.now = 100.0
    progress = Lines("working", 100, initial=50)  # done before, but no work of this run
    clock.now = 103.0
    progress.update(0)  # no work yet, no estimate
    assert capsys.readouterr().err == ""
    clock.now = 104.0
    progress.update(10)
    assert capsys.readouterr().err == "working: 60 %, 4 s elapsed, about 16 s left\n"


def test_journals_are_removed_by_many_at_once(tmp_path: Path) -> None:
    """The folder comes and goes under everybody's hands, at every place of the removal."""
    folder = tmp_path / "c.safetensors.partial"

    def come_and_go(_: int) -> None:
        for _ in range(1_000):
            with contextlib.suppress(OSError):
                (folder / "0-of-2").mkdir(parents=True)
                (folder / "0-of-2" / "step-0000.safetensors").touch()
            remove_journals(folder)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(come_and_go, range(4)))
    remove_journals(folder)  # a thread may have left what another one made just then
    assert not folder.exists()
