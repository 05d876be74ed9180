"""Several processes, one calibration: the same bits as one process, or no file at all."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import Death, Ended, ended, launch, run
from test_resume import leftovers, step_files
from tiny_pipelines import save_tiny
from tiny_pixart import save_tiny_pixart

from ditas_core.calibration import Calibration, Shard, StepStatistics, TokenDraw, shard_of
from ditas_core.calibration.recorder import reduce_call
from ditas_core.specs import CalibrationSpec, SpecError

STEPS, TOKENS = 3, 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("distributed") / "tiny")


def calibrating(
    folder: Path, out: Path, scheduler: str = "ddpm", samples: int = 6, tokens: int = TOKENS
) -> list[str]:
    sizes = f"--steps {STEPS} --samples {samples} --batch 2 --tokens {tokens} --seed 11".split()
    return ["calibrate", str(folder), *sizes, "--scheduler", scheduler, "--out", str(out), "--json"]


def told(done: list[Ended]) -> str:
    """All that the processes wrote: pytest would shorten it."""
    return "\n".join(f"code {one.code}: {one.err}" for one in done)


def together(
    arguments: list[str], home: Path, world: int, deaths: dict[int, Death] | None = None
) -> list[Ended]:
    return ended(launch(arguments, home, world, deaths))


@pytest.fixture(scope="module")
def alone(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hashes of one process's calibrations, by scheduler."""
    home = tmp_path_factory.mktemp("alone")
    return {
        name: run(calibrating(folder, home / name, name), home / f"{name}-run").report["sha256"]
        for name in ("ddim", "ddpm")
    }


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_together_give_the_same_file(
    folder: Path, alone: dict[str, str], tmp_path: Path, world: int, scheduler: str
) -> None:
    out = tmp_path / "c.safetensors"
    done = together(calibrating(folder, out, scheduler), tmp_path / "run", world)
    assert [one.code for one in done] == [0] * world, told(done)
    assert Calibration.load(out).sha256 == alone[scheduler]
    first, *others = done
    assert (first.report["sha256"], first.report["processes"]) == (alone[scheduler], world)
    assert first.report["bytes"] == out.stat().st_size
    assert not any(one.out for one in others)  # one process speaks
    # three batches in all, shared out
    assert sum(one.forwards for one in done) == 3 * STEPS
    assert max(one.forwards for one in done) == -(-3 // world) * STEPS
    assert leftovers(out) == []


def test_an_uneven_last_batch_and_processes_without_a_token(folder: Path, tmp_path: Path) -> None:
    """Five samples in batches of two; one token, so that two processes have none."""
    one, three = tmp_path / "one", tmp_path / "three"
    expected = run(calibrating(folder, one, samples=5, tokens=1), tmp_path / "alone").report
    done = together(calibrating(folder, three, samples=5, tokens=1), tmp_path / "run", 3)
    assert [x.code for x in done] == [0, 0, 0], told(done)
    assert Calibration.load(three).sha256 == expected["sha256"]


def test_layers_with_different_numbers_of_tokens_are_joined(tmp_path: Path) -> None:
    """A PixArt's text is shorter than its image: each group's mean is over its own rows."""
    folder = save_tiny_pixart(tmp_path / "pixart", told=False)
    one, two = tmp_path / "one", tmp_path / "two"
    expected = run(calibrating(folder, one, samples=3), tmp_path / "alone").report
    done = together(calibrating(folder, two, samples=3), tmp_path / "run", 2)
    assert [x.code for x in done] == [0, 0], told(done)
    assert Calibration.load(two).sha256 == expected["sha256"]


def test_processes_that_resume_at_different_steps(
    folder: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    """One rank has lost its steps, another some; the groups still meet in the same order."""
    out = tmp_path / "c.safetensors"
    arguments = calibrating(folder, out)
    # rank 0 is killed with its first step kept; the others end when they notice
    deaths = {0: Death("forward", 2), 1: Death("forward", 1), 2: Death("forward", 3)}
    killed = together(arguments, tmp_path / "killed", 3, deaths)
    assert [one.code for one in killed] == [-9, -9, -9]
    assert not out.exists() and len(step_files(out)) == 1 + 0 + 2
    done = together(arguments, tmp_path / "again", 3)
    assert [one.code for one in done] == [0, 0, 0], told(done)
    assert [one.forwards for one in done] == [2, 3, 1]
    assert Calibration.load(out).sha256 == alone["ddpm"]
    assert leftovers(out) == []


@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_that_dies_leaves_no_file(
    folder: Path, alone: dict[str, str], tmp_path: Path, lost: int
) -> None:
    out = tmp_path / "c.safetensors"
    arguments = calibrating(folder, out)
    done = together(arguments, tmp_path / "killed", 2, {lost: Death("forward", 2, "after")})
    assert done[lost].code == -9
    other = done[1 - lost]
    assert other.code == 2 and "another process ended" in other.err
    assert "Traceback" not in other.err
    assert not out.exists()
    # nothing of the survivor's work was lost
    again = together(arguments, tmp_path / "again", 2)
    assert [one.code for one in again] == [0, 0], told(again)
    assert again[1 - lost].forwards == 0
    assert Calibration.load(out).sha256 == alone["ddpm"]


def test_fewer_batches_than_processes_are_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.safetensors"
    done = together(calibrating(folder, out, samples=2), tmp_path / "run", 2)
    for one in done:
        assert one.code == 2 and one.forwards == 0
        line = one.err.strip().splitlines()[-1]
        assert line == (
            "ditas calibrate: batch: expected at least one batch for each of 2 processes, "
            "got 1 (2 samples in batches of 2)"
        )
    assert not out.exists() and leftovers(out) == []


@given(samples=st.integers(1, 256), batch=st.integers(1, 256), world=st.integers(1, 9))
def test_shards_are_whole_batches_that_cover_everything(
    samples: int, batch: int, world: int
) -> None:
    spec = CalibrationSpec(samples=samples, batch=batch)
    batches = -(-samples // batch)
    if batches < world:
        with pytest.raises(SpecError, match="at least one batch"):
            shard_of(spec, 0, world)
        return
    shards = [shard_of(spec, rank, world) for rank in range(world)]
    assert shards[0].first == 0 and shards[-1].last == samples
    assert all(a.last == b.first for a, b in pairwise(shards))
    counts = [-(-(shard.last - shard.first) // batch) for shard in shards]
    assert min(counts) >= 1 and max(counts) - min(counts) <= 1
    assert all(shard.first % batch == 0 for shard in shards)
    assert shard_of(spec, 0, 1) == Shard(0, samples)


def inputs(samples: int, tokens: int, channels: int, seed: int) -> torch.Tensor:
    """One layer's input of all samples, (S, 2, T, C)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, 2, tokens, channels, generator=generator)


def call(x: torch.Tensor) -> torch.Tensor:
    """As the model gets it: (2n, T, C), conditional half first."""
    return x.transpose(0, 1).flatten(0, 1)


cuts = st.lists(st.integers(1, 4), min_size=1, max_size=6)


@pytest.mark.numeric
@given(sizes=cuts, at=st.integers(0, 6), tokens=st.integers(1, 9), seed=st.integers(0, 2**31 - 1))
def test_statistics_joined_over_any_cut_are_the_whole(
    sizes: list[int], at: int, tokens: int, seed: int
) -> None:
    """Batches joined one by one in one process, or first within two and then both."""
    samples = sum(sizes)
    x = inputs(samples, tokens, 5, seed)
    draw = TokenDraw(seed, samples, kept=min(10, samples * 2 * tokens))
    firsts = [sum(sizes[:i]) for i in range(len(sizes))]
    parts = [
        reduce_call(call(x[first : first + size]), draw, 3, 8, first, torch.float32)
        for first, size in zip(firsts, sizes, strict=True)
    ]

    def joined(some: list[StepStatistics]) -> StepStatistics:
        result = some[0]
        for part in some[1:]:
            result = result.joined(part)
        return result

    whole = joined(parts)
    at = min(at, len(parts))
    halves = [joined(some) for some in (parts[:at], parts[at:]) if some]
    for found in (joined(halves), whole):
        assert torch.equal(found.low, x.amin((0, 2)))
        assert torch.equal(found.high, x.amax((0, 2)))
        assert torch.equal(found.squares, whole.squares)
        assert found.rows == samples * 2 * tokens
        assert torch.equal(found.tokens, x.flatten(0, 2)[draw.rows(3, 8, tokens)])
    exact = x.double().square().sum((0, 1, 2))
    assert torch.allclose(whole.squares, exact, rtol=1e-6)


@pytest.mark.numeric
def test_zeros_of_either_sign_join_in_any_order() -> None:
    draw = TokenDraw(0, 2, 1)
    plus, minus = torch.zeros(2, 3, 4), -torch.zeros(2, 3, 4)
    for pair in ((plus, minus), (minus, plus)):
        a, b = (reduce_call(x, draw, 0, 0, i, torch.float16) for i, x in enumerate(pair))
        for tensor in (a.joined(b).low, a.joined(b).high):
            assert not torch.signbit(tensor).any()


@pytest.mark.numeric
@given(sizes=cuts, tokens=st.integers(1, 9), kept=st.integers(1, 40), seed=st.integers(0, 2**31))
def test_a_draw_picks_the_same_rows_from_any_batches(
    sizes: list[int], tokens: int, kept: int, seed: int
) -> None:
    samples = sum(sizes)
    draw = TokenDraw(seed, samples, kept)
    numbers = torch.arange(samples * 2 * tokens).reshape(samples, 2, tokens, 1)
    firsts = [sum(sizes[:i]) for i in range(len(sizes))]
    picked = [
        draw.pick(call(numbers[first : first + size]), 1, 2, first)
        for first, size in zip(firsts, sizes, strict=True)
    ]
    expected = draw.rows(1, 2, tokens)
    assert torch.equal(torch.cat(picked).flatten(), expected)
    assert torch.equal(draw.pick(call(numbers), 1, 2, 0).flatten(), expected)
    assert len(expected) == min(kept, samples * 2 * tokens)
    assert len(expected.unique()) == len(expected)


def test_a_draw_is_uniform_without_replacement() -> None:
    """Rows and pairs of rows, over 3000 seeds.

    The seeds are fixed, so this cannot be flaky; five standard deviations would also
    hold for almost any others (24 rows and 276 pairs: one in 5000).
    """
    samples, tokens, kept, seeds = 3, 4, 6, 3000
    total = samples * 2 * tokens
    together = torch.zeros(total, total)
    for seed in range(seeds):
        rows = TokenDraw(seed, samples, kept).rows(seed % 5, seed % 7, tokens)
        there = torch.zeros(total)
        there[rows] = 1
        together += there[:, None] * there
    for p, counts in (
        (kept / total, together.diagonal()),
        (
            kept * (kept - 1) / (total * (total - 1)),
            together[torch.ones_like(together).triu(1) > 0],
        ),
    ):
        deviation = (seeds * p * (1 - p)) ** 0.5
        assert (counts - seeds * p).abs().max() < 5 * deviation
        # nor suspiciously even
        assert counts.std() > deviation / 3


def test_draws_of_other_groups_steps_and_seeds_differ() -> None:
    draw = TokenDraw(5, 4, 8)
    seen = {
        tuple(replace(draw, seed=seed).rows(group, step, 64).tolist())
        for seed in (0, 1, 2, 5, 2**31 - 1)
        for group in range(28)
        for step in range(10)
    }
    assert len(seen) == 5 * 28 * 10


def test_processes_draw_the_same_images(folder: Path, tmp_path: Path) -> None:
    """Twenty samples are two batches; a third process has nothing to do."""

    def drawn(name: str, world: int) -> dict[str, bytes]:
        out = tmp_path / name
        arguments = f"sample {folder} --samples 20 --steps 2 --scheduler ddpm --out {out} --json"
        done = together(arguments.split(), tmp_path / f"{name}-run", world)
        assert [one.code for one in done] == [0] * world, told(done)
        return {path.name: path.read_bytes() for path in out.iterdir()}

    alone = drawn("alone", 1)
    assert len(alone) == 22
    assert drawn("two", 2) == alone
    assert drawn("three", 3) == alone
