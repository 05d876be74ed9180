"""What a search minimises: weights of errors by step and output channel."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import build_random_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from slow_reference import slow_objective
from torch import Tensor

from ditas_core.calibration import Calibration, GroupStatistics, Influence, measure_influence
from ditas_core.checkpoints import Checkpoint
from ditas_core.models import get_linear
from ditas_core.search import (
    GroupLoss,
    SearchJournal,
    SearchSpec,
    predicted_error,
    predicted_loss,
    search,
    search_group,
)
from ditas_core.search.loss import group_loss
from ditas_core.search.objective import influence_of
from ditas_core.specs import (
    LEFT_ALONE,
    OBJECTIVES,
    BitWidths,
    LayerRecipe,
    LowRankSpec,
    Recipe,
    SpecError,
    get_convention,
    summarize,
)

pytestmark = pytest.mark.numeric

W4A6 = BitWidths(4, 6)
GRID = (0.25, 0.5, 0.75)
WEIGHED = [name for name in OBJECTIVES if name != "output"]
SETTINGS = ("integer", "integer-tensor", "released")


@pytest.fixture(scope="module")
def calibration(random_checkpoint: Checkpoint, random_calibration: Calibration) -> Calibration:
    sampling = random_calibration.spec.sampling
    return replace(random_calibration, influence=measure_influence(random_checkpoint, sampling, 2))


@pytest.mark.parametrize("convention", SETTINGS)
@pytest.mark.parametrize("rank", [0, 2])
def test_weights_of_one_are_todays_loss(
    random_checkpoint: Checkpoint, random_calibration: Calibration, convention: str, rank: int
) -> None:
    """S_t that is the output's energy at that step takes the division back."""
    layer = LayerRecipe(W4A6, None, LowRankSpec(rank, 1))
    for group in random_checkpoint.groups[:4]:
        plain = group_loss(
            random_checkpoint, group, random_calibration, layer, get_convention(convention)
        )
        energy = plain.mean_squares(plain.multiply(plain.tokens, plain.weight))
        same = replace(random_calibration, influence=Influence(1, 0, energy.float()))
        weighed = group_loss(
            random_checkpoint, group, same, layer, get_convention(convention),
            objective="influence",
        )  # fmt: skip
        assert weighed.step_weights is not None
        assert torch.allclose(weighed.step_weights, torch.ones(4).double(), rtol=1e-4)
        assert weighed.energy == pytest.approx(plain.energy, rel=1e-5)
        for alpha in (None, 0.3, 0.8):
            assert weighed(alpha) == pytest.approx(plain(alpha), rel=1e-4)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("convention", ["integer", "paper"])
def test_the_loss_is_that_of_plain_loops(
    random_checkpoint: Checkpoint, calibration: Calibration, objective: str, convention: str
) -> None:
    group, influence = random_checkpoint.groups[0], calibration.influence
    assert influence is not None
    layer = LayerRecipe(W4A6, None, LowRankSpec(0))
    loss = group_loss(
        random_checkpoint, group, calibration, layer, get_convention(convention),
        objective=objective,
    )  # fmt: skip
    output = loss.multiply(loss.tokens, loss.weight)
    error = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
    expected = slow_objective(
        objective, error.numpy(), output.numpy(), loss.steps, influence.steps.numpy()
    )
    assert loss.mean_square(error) == pytest.approx(expected, rel=1e-4)
    whole = slow_objective(
        objective, output.numpy(), output.numpy(), loss.steps, influence.steps.numpy()
    )
    assert loss.energy == pytest.approx(whole, rel=1e-4)


@given(
    scale=st.floats(0.1, 10), size=st.floats(0.1, 10), seed=st.integers(0, 99), at=st.integers(0, 2)
)
def test_invariances(scale: float, size: float, seed: int, at: int) -> None:
    """It does not ask how large the output of a step is, grows as the square of the error and in
    proportion to S_t, and an output that is all error costs the sum of S_t."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(3, 4, 5, generator=generator)
    weight = torch.randn(6, 5, generator=generator)
    error = torch.randn(12, 6, generator=generator)
    influence = 0.1 + torch.rand(3, generator=generator)
    louder = torch.ones(3, 1, 1).index_fill(0, torch.tensor([at]), scale)

    def made(tokens: Tensor, influence: Tensor) -> GroupLoss:
        low, high = tokens.amin(1, keepdim=True).expand(3, 2, 5), tokens.amax(1, keepdim=True)
        statistics = GroupStatistics(low, high.expand(3, 2, 5), tokens, tokens.square().mean(1))
        layer = LayerRecipe(W4A6, None, LowRankSpec(0))
        convention = get_convention("integer")
        return GroupLoss([weight], statistics, layer, convention, influence=influence)

    loss = made(tokens, influence)
    plain = loss.mean_square(error)
    assert loss.mean_square(error * size) == pytest.approx(plain * size**2, rel=1e-4)
    assert made(tokens, influence * size).mean_square(error) == pytest.approx(
        plain * size, rel=1e-4
    )
    shuffled = error.reshape(3, 4, 6)[:, torch.randperm(4, generator=generator)].reshape(12, 6)
    assert loss.mean_square(shuffled) == pytest.approx(plain, rel=1e-4)
    both = made(tokens * louder, influence).mean_square(
        (error.reshape(3, 4, 6) * louder).reshape(12, 6)
    )
    assert both == pytest.approx(plain, rel=1e-3)
    assert loss.energy == pytest.approx(float(influence.sum()), rel=1e-4)


@pytest.mark.parametrize("objective", WEIGHED)
@pytest.mark.parametrize("method", ["search", "ditas"])
def test_a_search_chooses_by_its_objective_and_says_so(
    random_checkpoint: Checkpoint, calibration: Calibration, objective: str, method: str
) -> None:
    spec = SearchSpec(W4A6, "integer-tensor", method, LowRankSpec(2, 1), GRID, objective=objective)
    recipe = search(random_checkpoint, calibration, spec)
    assert isinstance(recipe, Recipe) and recipe.objective == objective
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert json.loads(recipe.to_json())["format"] == 4
    assert summarize(recipe).endswith(f" · objective {objective}")
    for group in random_checkpoint.groups:
        layer = recipe.layers[group.name]
        loss, energy = predicted_loss(
            random_checkpoint, group, calibration, spec.convention, layer, objective=objective
        )
        done = search_group(random_checkpoint, group, calibration, spec)
        assert (done.alpha, done.best, done.energy) == (layer.alpha, loss, energy)
        error = predicted_error(
            random_checkpoint, group, calibration, spec.convention, layer, objective=objective
        )
        assert error == loss / energy
        for alpha in (None, *GRID):
            other = replace(layer, alpha=alpha)
            if method == "search":  # with a branch only the best few are fitted whole
                assert loss <= predicted_loss(
                    random_checkpoint, group, calibration, spec.convention, other,
                    objective=objective,
                )[0]  # fmt: skip


def test_a_layer_that_is_left_alone_costs_nothing(
    random_checkpoint: Checkpoint, calibration: Calibration
) -> None:
    group = random_checkpoint.groups[0]
    found = predicted_loss(
        random_checkpoint, group, calibration, "integer", LEFT_ALONE, objective="influence"
    )
    assert found == (0.0, 1.0)


def test_ditas_own_objective_reads_no_influence(
    random_checkpoint: Checkpoint, random_calibration: Calibration, calibration: Calibration
) -> None:
    spec = SearchSpec(W4A6, method="search", grid=GRID)
    without, having = (
        search(random_checkpoint, each, spec) for each in (random_calibration, calibration)
    )
    assert without == having and "objective" not in json.loads(without.to_json())


@pytest.mark.parametrize("objective", WEIGHED)
def test_a_calibration_without_influence_is_refused(
    random_checkpoint: Checkpoint, random_calibration: Calibration, objective: str
) -> None:
    spec = SearchSpec(W4A6, method="search", grid=GRID, objective=objective)
    with pytest.raises(SpecError, match=f"with influence for the objective {objective}, got none"):
        search(random_checkpoint, random_calibration, spec)
    plain = search(random_checkpoint, random_calibration, replace(spec, method="plain"))
    assert plain.objective == "output", "nothing was chosen"


def test_unknown_objectives_are_refused() -> None:
    with pytest.raises(SpecError, match="objective: expected one of output, influence"):
        SearchSpec(W4A6, objective="fid")
    recipe = Recipe("a", "integer", "b", {"g": LayerRecipe(W4A6)})
    with pytest.raises(SpecError, match="objective: expected one of"):
        replace(recipe, objective="fid")


def test_a_journal_is_of_one_objective_and_one_influence(
    random_checkpoint: Checkpoint, calibration: Calibration, tmp_path: Path
) -> None:
    def settings(each: Calibration, objective: str) -> str:
        spec = SearchSpec(W4A6, grid=GRID, objective=objective)
        return SearchJournal(tmp_path / "journal", each, random_checkpoint, spec).settings

    influence = calibration.influence
    assert influence is not None
    other = replace(calibration, influence=replace(influence, steps=influence.steps * 2))
    assert settings(calibration, "output") == settings(other, "output")
    assert len({settings(x, "influence") for x in (calibration, other)}) == 2
    assert len({settings(calibration, name) for name in OBJECTIVES}) == len(OBJECTIVES)


def test_dead_outputs_have_no_error_and_do_not_divide_by_nothing(
    calibration: Calibration,
) -> None:
    checkpoint = build_random_checkpoint()
    group = checkpoint.groups[0]
    for path in group.layers:
        get_linear(checkpoint.transformer, path).weight.data.zero_()
    weights = [get_linear(checkpoint.transformer, path).weight for path in group.layers]
    for objective in WEIGHED:
        loss = GroupLoss(
            weights,
            calibration.groups[group.name],
            LayerRecipe(W4A6, None, LowRankSpec(0)),
            get_convention("integer"),
            influence=influence_of(objective, calibration),
        )
        assert loss(None) == 0 and math.isfinite(loss.energy)
