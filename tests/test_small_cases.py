"""Search, calibration and folders in cases so small that the answer is known by hand."""

from __future__ import annotations

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
from ditas_core.calibration import Calibration, GroupStatistics
from ditas_core.checkpoints import Checkpoint, CheckpointError
from ditas_core.search import CandidateDone, LayerDone, SearchSpec, plain_recipe, search_group
from ditas_core.search.allocation import filled
from ditas_core.search.alpha import Fitting
from ditas_core.search.journal import MARK, is_foreign
from ditas_core.search.loss import group_loss
from ditas_core.search.totals import bits_per_weight
from ditas_core.specs import (
    BitWidths,
    CalibrationSpec,
    LowRankSpec,
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
        *events, done = search_group(random_checkpoint, group, random_calibration, spec)
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
        BitWidths(3, 8),
        get_convention("integer"),
        branch,
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
    tmp_path: Path, content: bytes | None, foreign: bool
) -> None:
    path = tmp_path / "journal"
    if content is not None:
        path.write_bytes(content)
    lines = (content or b"").decode().split("\n")[:-1]
    assert is_foreign(path, lines) is foreign
    assert is_foreign(tmp_path, []) is True  # a folder
