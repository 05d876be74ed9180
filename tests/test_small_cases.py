"""Search, calibration and folders in cases so small that the answer is known by hand."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import build_random_checkpoint
from test_frontier import build_map
from test_search import DITAS, group_named

from ditas_core.artifact.checks import check_count
from ditas_core.calibration import Calibration, GroupStatistics, TokenDraw, iterate_calibration
from ditas_core.calibration.memory import (
    CALL_COPIES,
    channels_of,
    memory_of,
    tokens_for_budget,
)
from ditas_core.calibration.recorder import reduce_call
from ditas_core.calibration.trajectory import Begun, Shard, shard_of, working_copy
from ditas_core.checkpoints import Checkpoint, CheckpointError
from ditas_core.lowrank import fit_branch, input_moment
from ditas_core.methods import (
    fit_weight,
    passing_variance,
    prefers_weight_start,
    quick_fit,
    released_fits,
)
from ditas_core.search import (
    CandidateDone,
    LayerDone,
    SearchSpec,
    iterate_group_search,
    plain_recipe,
    search_group,
)
from ditas_core.search.allocation import filled
from ditas_core.search.alpha import Fitting
from ditas_core.search.frontier import frontier, largest_uniform
from ditas_core.search.journal import MARK, SearchJournal
from ditas_core.search.lab import FLOOR_DB, Grid, decibels, energy, histogram, median_grid
from ditas_core.search.loss import group_loss
from ditas_core.search.totals import bits_per_weight
from ditas_core.specs import (
    BitWidths,
    CalibrationSpec,
    Granularity,
    LayerRecipe,
    LowRankSpec,
    QuantizerSpec,
    SamplingSpec,
    SpecError,
    get_convention,
)

pytestmark = pytest.mark.numeric


def test_one_group_alone_is_the_first_of_one_and_counts_its_fits(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    group = group_named(random_checkpoint, "0.qkv")
    for spec in (
        replace(DITAS, grid=(0.25, 0.5, 0.75)),
        SearchSpec(BitWidths(4, 8), "released", grid=(0.5,), low_rank=None),
        SearchSpec(BitWidths(4, 8), grid=(0.5,), low_rank=LowRankSpec(rank=2, iterations=1)),
    ):
        *events, done = iterate_group_search(random_checkpoint, group, random_calibration, spec)
        assert isinstance(done, LayerDone) and (done.index, done.total) == (0, 1)
        fits = [event for event in events if isinstance(event, Fitting)]
        assert [fit.done for fit in fits] == list(range(1, fits[-1].of + 1))
        tried = [event for event in events if isinstance(event, CandidateDone)]
        assert [event.alpha for event in tried] == [None, *spec.grid]
        assert (done.identity, *done.losses) == tuple(event.loss for event in tried)


def test_a_close_look_at_one_candidate_changes_no_other(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    branch = LowRankSpec(rank=4, iterations=3)
    loss = group_loss(
        random_checkpoint,
        group_named(random_checkpoint, "0.fc1"),
        random_calibration,
        LayerRecipe(BitWidths(3, 8), None, branch),
        get_convention("integer"),
    )
    assert loss.approximates
    quick = loss(0.5)
    assert loss.as_converted(0.5) != quick
    assert loss(0.5) == quick


COSTS = torch.tensor([1.0, 2, 4]).double(), torch.tensor([1.0, 3]).double()
ERRORS = torch.tensor([9.0, 5, 1]).double(), torch.tensor([8.0, 2]).double()


@pytest.mark.parametrize(
    ("limit", "choice"),
    [(2, [0, 0]), (3, [1, 0]), (4, [0, 1]), (5, [2, 0]), (6, [2, 0]), (7, [2, 1]), (99, [2, 1])],
)
def test_the_best_step_that_fits_is_taken_until_none_does(limit: float, choice: list[int]) -> None:
    assert filled(list(zip(COSTS, ERRORS, strict=True)), [0, 0], limit) == choice


def test_every_row_of_a_map_has_every_width() -> None:
    whole = build_map()
    for change in (
        {"alphas": tuple(row[:-1] for row in whole.alphas)},
        {"alphas": whole.alphas[:-1]},
        {"weights": whole.weights[:-1]},
        {"divided_by": whole.divided_by[:-1]},
        {"weights": (0, *whole.weights[1:])},
        {"divided_by": (0, *whole.divided_by[1:])},
    ):
        with pytest.raises(SpecError):
            replace(whole, **change)


def test_what_is_left_alone_takes_what_its_weights_take() -> None:
    """16 bits where half precision holds them, 32 elsewhere; biases are nobody's weights."""
    checkpoint = build_random_checkpoint()
    recipe = plain_recipe(checkpoint, BitWidths(16, 16), "integer")
    assert bits_per_weight(checkpoint, recipe) == 32
    for parameter in checkpoint.transformer.parameters():
        parameter.data.copy_(parameter.half())
    recipe = plain_recipe(checkpoint, BitWidths(16, 16), "integer")
    assert bits_per_weight(checkpoint, recipe) == 16


def test_a_calibration_keeps_its_hash_from_version_to_version() -> None:
    """Recipes refer to it. All numbers are exact in every precision."""
    ramp = torch.arange(24, dtype=torch.float32).reshape(2, 2, 6)
    groups = {
        name: GroupStatistics(
            low=-ramp - k, high=ramp + k, tokens=ramp.half(), energy=ramp[:, 0].double()
        )
        for k, name in enumerate(("0.qkv", "0.fc1"))
    }
    spec = CalibrationSpec(SamplingSpec(steps=2), samples=1, seed=3, tokens=2)
    found = Calibration("f" * 64, spec, (500, 0), groups)
    assert found.sha256 == "aa61ece2d876580f358ab42ab69afbfa3452bc36400e9c3137b173b5be9713ee"


def test_as_many_names_as_classes_are_not_too_many() -> None:
    transformer: Any = SimpleNamespace(config=SimpleNamespace(num_embeds_ada_norm=3))
    check_count(("a", "b", "c"), transformer)
    with pytest.raises(CheckpointError, match="at most 3"):
        check_count(("a", "b", "c", "d"), transformer)


@pytest.mark.parametrize(
    ("content", "foreign"),
    [
        (None, False),
        (b"", False),
        (b"\0" * 40, False),
        (MARK[:5], False),
        (MARK + b"anything", False),
        (b"dear diary\n", True),
        (b"x" + MARK, True),
    ],
)
def test_whose_file_lies_where_a_journal_would(
    random_checkpoint: Checkpoint,
    random_calibration: Calibration,
    tmp_path: Path,
    content: bytes | None,
    foreign: bool,
) -> None:
    path = tmp_path / "journal"
    if content is not None:
        path.write_bytes(content)
    for place, told in ((path, foreign), (tmp_path, True)):  # a folder is no journal
        with pytest.raises(FileExistsError) if told else contextlib.nullcontext():
            SearchJournal(place, random_calibration, random_checkpoint, DITAS)


def test_progress_counts_every_batch_of_every_step(random_checkpoint: Checkpoint) -> None:
    spec = CalibrationSpec(SamplingSpec(steps=2), samples=3, tokens=2, batch=2)
    begun = Begun()
    assert begun.nbytes == 0
    *events, whole = iterate_calibration(random_checkpoint, spec, begun=begun)
    assert isinstance(whole, Calibration)
    assert [(e.step, e.total, e.done, e.of) for e in events] == [
        (0, 2, 1, 4),
        (1, 2, 2, 4),
        (1, 2, 3, 4),
        (2, 2, 4, 4),
    ]
    channels = sum(channels_of(random_checkpoint))
    # per step and channel: two halves of a low and a high in 4 bytes, a sum in 8, tokens in 2
    assert begun.nbytes == 2 * channels * (2 * 2 * 4 + 8 + 2 * 2)


@pytest.mark.parametrize(
    ("samples", "batch", "world", "shards"),
    [(5, 2, 1, [(0, 5)]), (5, 2, 3, [(0, 2), (2, 4), (4, 5)]), (8, 2, 2, [(0, 4), (4, 8)])],
)
def test_shards_are_whole_batches(
    samples: int, batch: int, world: int, shards: list[tuple[int, int]]
) -> None:
    spec = CalibrationSpec(SamplingSpec(steps=2), samples=samples, batch=batch, tokens=2)
    found = [shard_of(spec, rank, world) for rank in range(world)]
    assert [(shard.first, shard.last) for shard in found] == shards
    with pytest.raises(SpecError, match="batch"):
        shard_of(spec, 0, -(-samples // batch) + 1)


def test_the_memory_of_a_calibration_by_hand() -> None:
    spec = CalibrationSpec(SamplingSpec(steps=3), samples=2, batch=8, tokens=5)
    need = memory_of([10, 40], 16, 1000, spec)
    assert need.tokens == 3 * 5 * 50 * 2
    assert need.statistics == 3 * 50 * 28 + 2 * 50 * (5 * 2 + 24) + 2 * 5 * 40 * 4
    assert need.call == CALL_COPIES * (2 * 2 * 16) * 40 * 4 and need.model == 0
    assert need.total == need.tokens + need.statistics + need.call
    wide = memory_of([10, 40], 16, 1000, replace(spec, token_dtype="float32"))
    assert wide.tokens == 2 * need.tokens
    half = memory_of([10, 40], 16, 10**6, replace(spec, precision="bfloat16", samples=9))
    assert half.model == 2 * 10**6 and half.call == 4 * need.call
    assert str(half).startswith("2 MB besides the model (") and "bfloat16 copy 2 MB" in str(half)


def test_rows_are_those_of_their_sample_half_and_place() -> None:
    draw = TokenDraw(seed=7, samples=3, kept=9)
    rows = draw.rows(2, 5, 4)
    assert rows.tolist() == sorted(set(rows.tolist())) and len(rows) == 9
    assert int(rows.min()) >= 0 and int(rows.max()) < 3 * 2 * 4
    others = [draw.rows(3, 5, 4), draw.rows(2, 6, 4), replace(draw, seed=8).rows(2, 5, 4)]
    assert all(rows.tolist() != other.tolist() for other in others)
    assert TokenDraw(7, 3, 99).rows(2, 5, 4).tolist() == list(range(24))
    # a value says where it stood: sample, half, place
    number = torch.arange(24.0).reshape(3, 2, 4)
    by_half = number.transpose(0, 1).reshape(6, 4, 1)  # conditional half first
    assert draw.pick(by_half, 2, 5, 0).flatten().tolist() == rows.tolist()
    late = by_half.reshape(2, 3, 4, 1)[:, 1:].reshape(4, 4, 1)  # samples 1 and 2 alone
    assert draw.pick(late, 2, 5, 1).flatten().tolist() == [r for r in rows.tolist() if r >= 8]
    early = by_half.reshape(2, 3, 4, 1)[:, :1].reshape(2, 4, 1)
    assert draw.pick(early, 2, 5, 0).flatten().tolist() == [r for r in rows.tolist() if r < 8]


def test_the_recorder_joins_calls_and_starts_anew() -> None:
    x = torch.tensor([[[1.0, -2]], [[3.0, 0.5]], [[-1.0, 7]], [[2.0, 2]]])  # (2 n, T, C)
    draw = TokenDraw(seed=0, samples=4, kept=8)
    one = reduce_call(x, draw, 0, 0, 0, torch.float32)
    assert one.low.tolist() == [[1, -2], [-1, 2]] and one.high.tolist() == [[3, 0.5], [2, 7]]
    assert one.squares.tolist() == pytest.approx([15, 57.25], rel=1e-6) and one.rows == 4
    two = reduce_call(x * 2, draw, 0, 0, 2, torch.float32)
    both = one.joined(two)
    assert both.low.tolist() == [[1, -4], [-2, 2]] and both.high.tolist() == [[6, 1], [4, 14]]
    assert both.squares.tolist() == pytest.approx([75, 286.25], rel=1e-6) and both.rows == 8
    assert both.tokens.tolist() == torch.cat([one.tokens, two.tokens]).tolist()
    large = torch.full((2, 1, 1), 1e6)
    assert reduce_call(large, TokenDraw(0, 1, 2), 0, 0, 0, torch.float16).tokens.max() == 65504
    assert reduce_call(large, TokenDraw(0, 1, 2), 0, 0, 0, torch.float32).tokens.max() == 1e6


def test_budgets_of_the_frontier_and_the_largest_width_within_one() -> None:
    whole = build_map()
    found = frontier(whole, 3)
    assert [each.bits_per_weight for each in found][::2] == [2, 8]
    assert found[1].bits_per_weight <= 5
    assert [largest_uniform(whole, budget).weight for budget in (1, 2, 3.9, 4, 7, 8, 20)] == [
        2, 2, 2, 4, 4, 8, 8,
    ]  # fmt: skip
    assert len(frontier(whole, 2)) == 2 and len(frontier(whole)) == 21
    with pytest.raises(ValueError, match="at least 2"):
        frontier(whole, 1)


def test_a_fit_says_its_own_error() -> None:
    """Integers, so that every sum is exact."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randint(-50, 50, (6, 8), generator=generator).float()
    spec = get_convention("integer").quantizers(BitWidths(3, 8))[0]
    plain = fit_weight(weight, spec, LowRankSpec(), input_moment("none"))
    assert plain.low is None and torch.equal(plain.error(weight), plain.rounded - weight)
    branch = LowRankSpec(rank=2, iterations=4, weighting="none")
    kept = fit_weight(weight, spec, branch, input_moment("none"))
    assert kept.low is not None and kept.settled
    assert torch.equal(kept.target, weight - kept.low)
    assert float(kept.error(weight).square().sum()) < float(plain.error(weight).square().sum())
    assert torch.equal(kept.up, kept.up.half().float())
    *_, before, last = released_fits(weight, spec, replace(branch, keep="last"))
    assert not last.settled and before.low is not None and last.low is not None
    assert torch.equal(last.target, weight - before.low)
    assert torch.equal(last.error(weight), last.rounded + last.low - weight)


def test_the_start_that_leaves_less_is_preferred() -> None:
    """One loud rank-one part: rounding what is left of it beats rounding it."""
    generator = torch.Generator().manual_seed(0)
    loud = torch.randn(24, 1, generator=generator) @ torch.randn(1, 24, generator=generator)
    weight = 30 * loud + 0.1 * torch.randn(24, 24, generator=generator)
    spec = get_convention("integer").quantizers(BitWidths(3, 8))[0]
    moment = input_moment("none")
    assert prefers_weight_start(weight, spec, LowRankSpec(1), moment, 1e-3, 2)
    assert not prefers_weight_start(weight, spec, LowRankSpec(1), moment, 0.0, 2)
    plain = quick_fit(weight, spec, LowRankSpec(1), moment, False, 2).error(weight)
    better = quick_fit(weight, spec, LowRankSpec(1), moment, True, 2).error(weight)
    assert float(better.square().sum()) < 0.1 * float(plain.square().sum())


def test_the_score_counts_what_passes_through_the_rounded_weight() -> None:
    weight = torch.tensor([[0.4, 1.6], [2.0, -3.0]])
    found = fit_branch(weight, torch.round, 1, 1, input_moment("none"), rounding_variance=0.5)
    left = 0.4**2 + 0.4**2
    assert found.scores[0] == pytest.approx(left + 0.5 * (4 + 4 + 9), rel=1e-6)
    assert len(found.scores) == 3, "plain, and one of each start"
    only = fit_branch(weight, torch.round, 1, 3, input_moment("none"))
    assert only.scores[0] == pytest.approx(left, rel=1e-6) and len(only.scores) == 4
    assert only.scores[only.best] == min(only.scores)


def test_the_best_alpha_is_chosen_where_it_alone_beats_the_identity(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    whole = SearchSpec(BitWidths(4, 8), "paper", "search", grid=(0.0, 0.25, 0.5, 0.75, 1.0))
    tried = 0
    for group in random_checkpoint.groups:
        done = search_group(random_checkpoint, group, random_calibration, whole)
        by_loss = sorted(zip(done.losses, done.grid, strict=True))
        (best, alpha), (worst, other) = by_loss[0], by_loss[-1]
        assert done.alpha == (alpha if best < done.identity else None)
        assert done.best == min(best, done.identity) and done.best_on_grid == alpha
        if best < done.identity < worst:
            tried += 1
            two = replace(whole, grid=(other, alpha))
            done = search_group(random_checkpoint, group, random_calibration, two)
            assert isinstance(done, LayerDone) and done.alpha == alpha
    assert tried


def test_the_labs_numbers_by_hand() -> None:
    assert [decibels(*pair) for pair in ((1, 10), (10, 1), (0, 1), (1e-30, 1), (1, 0))] == (
        pytest.approx([-10, 10, FLOOR_DB, FLOOR_DB, 3000])
    )
    assert energy(torch.tensor([3.0, 4])) == pytest.approx(25, rel=1e-6)
    silent = histogram(torch.zeros(7))
    assert silent.limit == 1 and int(silent.counts.sum()) == 7
    loud = histogram(torch.tensor([-2.0, -2, 1.99]))
    assert (loud.limit, int(loud.counts[0]), int(loud.counts[-1])) == (2, 2, 1)
    spec = QuantizerSpec(2, False, Granularity.PER_CHANNEL)
    scale, zero = torch.tensor([3.0, 1, 2, 4]), torch.tensor([0.0, 1, 2, 3]) + spec.qmin
    assert median_grid(scale, zero, spec) == Grid(2, -4, 2)


def test_tokens_within_a_budget_by_hand(random_checkpoint: Checkpoint) -> None:
    spec = CalibrationSpec(SamplingSpec(steps=3), samples=2, tokens=1)
    each = 3 * sum(channels_of(random_checkpoint)) * 2 / 1e6  # one token in half precision, MB
    assert tokens_for_budget(random_checkpoint, spec, 4.5 * each) == 4
    assert tokens_for_budget(random_checkpoint, spec, 1.1 * each) == 1
    most = 2 * 2 * random_checkpoint.fewest_tokens
    assert tokens_for_budget(random_checkpoint, spec, 10 * most * each) == most
    with pytest.raises(SpecError, match="token budget"):
        tokens_for_budget(random_checkpoint, spec, 0.9 * each)


def test_no_minimum_is_minus_zero() -> None:
    zeros = torch.full((2, 3, 1), -0.0)
    found = reduce_call(zeros, TokenDraw(0, 1, 6), 0, 0, 0, torch.float32)
    assert not found.low.signbit().any() and not found.high.signbit().any()


def test_each_shard_draws_the_noise_of_its_samples(random_checkpoint: Checkpoint) -> None:
    spec = CalibrationSpec(SamplingSpec(steps=1), samples=2, tokens=1, batch=1)
    whole, first, second = (
        list(iterate_calibration(random_checkpoint, spec, shard=shard))[-1]
        for shard in (None, Shard(0, 1), Shard(1, 2))
    )
    assert isinstance(whole, Calibration) and isinstance(second, Calibration)
    assert isinstance(first, Calibration)
    low, one, two = (each.groups["0.qkv"].low for each in (whole, first, second))
    assert torch.equal(low, torch.minimum(one, two)) and not torch.equal(one, two)


def test_a_copy_in_half_holds_its_buffers_in_half() -> None:
    model = torch.nn.BatchNorm1d(2)
    half = working_copy(model, "bfloat16")
    assert {name: value.dtype for name, value in half.named_buffers()} == {
        "running_mean": torch.bfloat16,
        "running_var": torch.bfloat16,
        "num_batches_tracked": torch.int64,
    }
    assert model.running_mean is not None and model.running_mean.dtype == torch.float32
    assert working_copy(model, "float32") is model


def test_groups_of_another_search_are_told(
    random_checkpoint: Checkpoint, random_calibration: Calibration, tmp_path: Path
) -> None:
    path = tmp_path / "search.journal"
    for lines, discards in (([], False), (["{}"], True)):
        path.write_text("\n".join([MARK.decode() + ', "search": "another"}', *lines, ""]))
        journal = SearchJournal(path, random_calibration, random_checkpoint, DITAS)
        assert journal.discards is discards and journal.finished == {}


def test_the_variance_that_passes_the_branch_by_hand() -> None:
    layer = LayerRecipe(BitWidths(4, 8), low_rank=LowRankSpec(rank=1, weighting="energy"))
    tokens = torch.tensor([[0.0, 0.4, 255.0], [0.0, 1.0, 255.0]])  # per token: steps of 1
    convention = get_convention("integer")
    found = passing_variance(tokens, layer, convention)
    assert convention.branch_input == "full" and found == pytest.approx(0.4**2 / 6, rel=1e-4)
    blind = replace(layer, low_rank=replace(layer.low_rank, weighting="none"))
    assert passing_variance(tokens, blind, convention) == 0
