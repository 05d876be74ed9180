"""Images by the thousand: killed at any moment and gone on with, over any number of processes."""

from __future__ import annotations

import signal
import zipfile
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from processes import Death, ended, launch, run, start

from ditas_core.checkpoints import Checkpoint
from ditas_core.drawing import (
    BatchDone,
    DrawSpec,
    ShardJournal,
    StepDone,
    draw_shards,
    labels_for,
    own_shards,
    write_images_npz,
)
from ditas_core.drawing.draw import to_bytes
from ditas_core.sampling import decode_latents, sample_latents
from ditas_core.specs import SamplingSpec

COUNT, BATCH, STEPS = 10, 4, 2
SHARDS = 3


def drawing(stock: Path, out: Path, *more: str, batch: int = BATCH, kind: str = "npz") -> list[str]:
    sizes = f"--count {COUNT} --batch {batch} --steps {STEPS} --seed 7 --scheduler ddpm".split()
    return ["sample", str(stock), *sizes, f"--{kind}", str(out), "--json", *more]


def shards(out: Path) -> list[str]:
    return sorted(p.name for p in out.with_name(out.name + ".partial").glob("images-*"))


def whole_shards(out: Path) -> list[str]:
    """Without the one that is being written."""
    return [name for name in shards(out) if not name.endswith(".part")]


def leftovers(out: Path) -> list[str]:
    return [p.name for p in out.parent.iterdir() if out.name in p.name and p != out]


@pytest.fixture(scope="module")
def whole(stock: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that nothing interrupted."""
    home = tmp_path_factory.mktemp("whole")
    done = run(drawing(stock, home / "a.npz"), home / "run")
    assert done.report["resumed"] == 0 and done.forwards == SHARDS * STEPS
    assert leftovers(home / "a.npz") == []
    return home / "a.npz"


# renames: the settings', one per shard, the file's
MOMENTS = {
    "in the first pass": (Death("forward", 1), 0),
    "first settings written, not renamed": (Death("rename", 1), 0),
    "first shard written, not renamed": (Death("rename", 2), 0),
    "after the second shard": (Death("rename", 3, "after"), 2),
    "file written, not renamed": (Death("rename", SHARDS + 2), SHARDS),
    "file there, shards not removed": (Death("rename", SHARDS + 2, "after"), SHARDS),
}


@pytest.mark.thorough
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_goes_on_to_the_same_file(
    stock: Path, whole: Path, tmp_path: Path, moment: str
) -> None:
    death, finished = MOMENTS[moment]
    out = tmp_path / "a.npz"
    assert run(drawing(stock, out), tmp_path / "killed", death).code == -signal.SIGKILL
    assert out.exists() == (death == Death("rename", SHARDS + 2, "after"))
    assert len(whole_shards(out)) == finished
    again = run(drawing(stock, out), tmp_path / "again")
    assert again.report["resumed"] == min(COUNT, finished * BATCH)
    assert again.forwards == (SHARDS - finished) * STEPS
    assert out.read_bytes() == whole.read_bytes()
    assert leftovers(out) == []


def test_processes_together_draw_the_same_file(stock: Path, whole: Path, tmp_path: Path) -> None:
    """Killed as two, gone on with as three."""
    out = tmp_path / "a.npz"
    done = ended(launch(drawing(stock, out), tmp_path / "two", 2, {1: Death("forward", 1)}))
    assert done[1].code == -signal.SIGKILL and done[0].code == 2
    assert "another one ended" in done[0].err and not out.exists()
    assert len(shards(out)) == 2  # the first process's share
    done = ended(launch(drawing(stock, out), tmp_path / "three", 3))
    assert [one.code for one in done] == [0, 0, 0], [one.err for one in done]
    assert [one.forwards for one in done] == [0, STEPS, 0]
    assert out.read_bytes() == whole.read_bytes()
    assert leftovers(out) == [] and not any(one.out for one in done[1:])


def test_ctrl_c_says_that_the_command_goes_on(stock: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.npz"
    running = start(drawing(stock, out), tmp_path / "run", pause=0.3)
    running.until(lambda: bool(whole_shards(out)))
    running.send(signal.SIGINT)
    done = running.end()
    assert done.code == 130 and "the same command goes on from here" in done.err
    assert not out.exists() and not list(tmp_path.glob("*.part"))
    assert run(drawing(stock, out), tmp_path / "again").report["resumed"] >= BATCH
    assert out.read_bytes() == whole.read_bytes()


def test_other_settings_do_not_go_on_and_lose_nothing(stock: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.npz"
    death = Death("rename", 2, "after")
    assert run(drawing(stock, out), tmp_path / "killed", death).code == -signal.SIGKILL
    for number, other in enumerate((["--seed", "8"], ["--spread", "drawn"], ["--steps", "3"])):
        done = run(drawing(stock, out, *other), tmp_path / str(number))
        assert done.code == 2 and done.forwards == 0
        assert "expected an interrupted run with these settings" in done.err
    assert len(shards(out)) == 1


def test_a_folder_of_pngs_has_the_same_images(stock: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "pngs"
    # renames: the settings', the shards', the folder's
    death = Death("rename", SHARDS + 2, "after")
    assert run(drawing(stock, out, kind="png"), tmp_path / "k", death).code == -signal.SIGKILL
    assert run(drawing(stock, out, kind="png"), tmp_path / "again").report["resumed"] == COUNT
    paths = sorted(out.iterdir())
    assert paths[1].name == "000001-dog.png" and len(paths) == COUNT
    with np.load(whole) as loaded:
        for path, image in zip(paths, loaded["arr_0"], strict=True):
            assert np.array_equal(np.asarray(Image.open(path)), image)
    assert leftovers(out) == []
    refused = run(drawing(stock, out, kind="png"), tmp_path / "refused")
    assert refused.code == 2 and "expected a new or empty folder" in refused.err


def test_what_a_file_says(whole: Path) -> None:
    with np.load(whole) as loaded:
        assert loaded["arr_0"].shape == (COUNT, 16, 16, 3)
        assert loaded["arr_1"].tolist() == [0, 1, 2, 3, 4] * 2
    with zipfile.ZipFile(whole) as archive:
        assert b'"seed": 7' in archive.read("settings.json")
        assert archive.testzip() is None


def test_too_many_for_a_contact_sheet_are_refused(stock: Path, tmp_path: Path) -> None:
    words = ["sample", str(stock), "--out", str(tmp_path / "out"), "--samples", "1025"]
    done = run(words, tmp_path / "run")
    assert done.code == 2 and "--npz FILE" in done.err


# what a run is made of


def spec_of(checkpoint: Checkpoint, batch: int, count: int = 5) -> DrawSpec:
    labels = tuple(labels_for(count, range(5), "drawn", 3).tolist())
    sampling = SamplingSpec(STEPS, scheduler="ddpm")
    return DrawSpec("source", sampling, labels, 11, batch, checkpoint.image_size)


@given(batch=st.integers(1, 6), world=st.integers(1, 4), stop=st.integers(0, 12))
def test_any_batch_processes_and_stop_draw_the_images_of_their_seeds(
    random_checkpoint: Checkpoint,
    tmp_path_factory: pytest.TempPathFactory,
    batch: int,
    world: int,
    stop: int,
) -> None:
    """Image i alone, from seed + i, to a grey level: kernels differ with the batch."""
    spec = spec_of(random_checkpoint, batch)
    home = tmp_path_factory.mktemp("draw")
    ShardJournal(home / "journal", spec).start()
    for _ in islice(
        draw_shards(random_checkpoint, spec, ShardJournal(home / "journal", spec)), stop
    ):
        pass  # closed in the middle of a step or after it
    kept = {path: path.stat().st_mtime_ns for path in home.rglob("images-*")}
    journal = ShardJournal(home / "journal", spec)
    assert journal.started
    events = [
        event
        for rank in range(world)
        for event in draw_shards(random_checkpoint, spec, journal, rank, world)
    ]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert sum(isinstance(e, BatchDone) and e.found for e in events) == len(kept)
    assert sum(isinstance(e, StepDone) for e in events) == STEPS * (spec.shards - len(kept))
    found = torch.cat(list(journal.all_images()))
    for i, label in enumerate(spec.labels):
        latents = sample_latents(
            random_checkpoint.transformer,
            random_checkpoint.scheduler,
            torch.tensor([label]),
            random_checkpoint.latent_shape,
            spec.sampling,
            spec.seed + i,
        )
        alone = to_bytes(decode_latents(random_checkpoint.vae, latents))[0]
        assert (found[i].int() - alone.int()).abs().max() <= 1


def test_a_damaged_shard_is_drawn_again(random_checkpoint: Checkpoint, tmp_path: Path) -> None:
    spec = spec_of(random_checkpoint, 2)
    journal = ShardJournal(tmp_path / "journal", spec)
    journal.start()
    list(draw_shards(random_checkpoint, spec, journal))
    write_images_npz(tmp_path / "a.npz", journal, {})
    path = journal.shard_path(1)
    whole = path.read_bytes()
    for wrong in (b"", whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(wrong)
        with pytest.raises(OSError, match="the same command draws them again"):
            write_images_npz(tmp_path / "b.npz", journal, {})
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "journal"]
        again = list(draw_shards(random_checkpoint, spec, journal))
        assert [e.found for e in again if isinstance(e, BatchDone)] == [True, False, True]
        assert path.read_bytes() == whole
    # a shard in another's place
    path.write_bytes(journal.shard_path(0).read_bytes())
    assert journal.images(1) is None and journal.images(0) is not None


def test_a_journal_touches_nothing_of_others(random_checkpoint: Checkpoint, tmp_path: Path) -> None:
    spec = spec_of(random_checkpoint, 2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(FileExistsError, match="interrupted sampling"):
        ShardJournal(tmp_path / "mine", spec)
    journal = ShardJournal(tmp_path / "journal", spec)
    assert not journal.started and not (tmp_path / "journal").exists()
    journal.start()
    list(draw_shards(random_checkpoint, spec, journal))
    assert ShardJournal(tmp_path / "journal", spec).started
    for other in ({"seed": 12}, {"batch": 3}, {"source": "x"}, {"labels": (0,)}):
        found = ShardJournal(tmp_path / "journal", replace(spec, **other))
        assert found.discards and not found.started


@given(shards=st.integers(1, 60), world=st.integers(1, 9))
def test_every_shard_is_one_processs(shards: int, world: int) -> None:
    shares = [own_shards(shards, rank, world) for rank in range(world)]
    assert sorted(shard for share in shares for shard in share) == list(range(shards))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(
    count=st.integers(1, 300),
    classes=st.lists(st.integers(0, 999), min_size=1, max_size=40, unique=True),
    seed=st.integers(0, 2**31 - 1),
)
def test_classes_are_balanced_or_drawn(count: int, classes: list[int], seed: int) -> None:
    balanced = labels_for(count, classes, "balanced", seed)
    often = Counter(balanced.tolist())
    assert len(balanced) == count and set(often) <= set(classes)
    most = max(often.values())
    assert most - min(often.get(name, 0) for name in classes) <= 1
    drawn = labels_for(count, classes, "drawn", seed)
    assert set(drawn.tolist()) <= set(classes) and len(drawn) == count
    # a longer run begins with the same images
    assert torch.equal(labels_for(count + 7, classes, "drawn", seed)[:count], drawn)


def test_drawn_classes_are_even_and_differ_with_the_seed() -> None:
    """10,000 of 10: within five standard deviations of 30."""
    found = torch.bincount(labels_for(10_000, range(10), "drawn", 0))
    assert (found - 1000).abs().max() < 150
    assert not torch.equal(*(labels_for(50, range(10), "drawn", seed) for seed in (0, 1)))
