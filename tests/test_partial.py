"""Partly quantized runs: some groups only, or from some step on only."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ditas_core.calibration import Calibration
from ditas_core.checkpoints import Checkpoint
from ditas_core.comparison import (
    Trajectory,
    TrajectoryProgress,
    iterate_trajectory,
    switching,
)
from ditas_core.conversion import quantize_transformer
from ditas_core.layers import QuantizedLinear
from ditas_core.models import get_linear
from ditas_core.search import plain_recipe
from ditas_core.specs import (
    CONVENTIONS,
    LEFT_ALONE,
    BitWidths,
    LayerRecipe,
    LowRankSpec,
    Recipe,
    SamplingSpec,
    SpecError,
    all_but,
    only,
)

pytestmark = pytest.mark.numeric

W3A6 = BitWidths(3, 6)
FULL = BitWidths(16, 16)
LABELS = torch.tensor([0, 1, 2])


def recipe_of(
    checkpoint: Checkpoint, calibration: Calibration, convention: str, layer: LayerRecipe
) -> Recipe:
    layers = {group.name: layer for group in checkpoint.groups}
    return Recipe("test", convention, checkpoint.fingerprint, layers, calibration.sha256)


def quantized(checkpoint: Checkpoint, recipe: Recipe, calibration: Calibration) -> nn.Module:
    return quantize_transformer(checkpoint, recipe, calibration)


def output(model: nn.Module) -> Tensor:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out: Tensor = model(
            x, timestep=torch.tensor([500, 10]), class_labels=torch.tensor([1, 1000])
        ).sample
    return out


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def test_only_and_all_but_are_complements(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    layer = LayerRecipe(W3A6, 0.5, LowRankSpec(rank=4))
    recipe = recipe_of(random_checkpoint, random_calibration, "integer", layer)
    chosen = ["0.fc1", "1.qkv"]
    some, rest = only(recipe, chosen), all_but(recipe, chosen)
    assert list(some.layers) == list(rest.layers) == list(recipe.layers)
    for name in recipe.layers:
        inside, outside = some.layers[name], rest.layers[name]
        assert (inside, outside) == ((layer, LEFT_ALONE) if name in chosen else (LEFT_ALONE, layer))
    assert LayerRecipe(FULL, None, LowRankSpec(rank=0)) == LEFT_ALONE
    assert only(recipe, recipe.layers) == all_but(recipe, []) == recipe
    assert only(recipe, []) == all_but(recipe, recipe.layers)
    assert Recipe.from_json(some.to_json()) == some
    assert recipe == recipe_of(random_checkpoint, random_calibration, "integer", layer)
    for part in (only, all_but):
        with pytest.raises(SpecError, match="groups"):
            part(recipe, ["0.fc1", "9.fc1"])


def test_a_recipe_of_no_group_is_the_full_transformer_bit_for_bit(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    layer = LayerRecipe(W3A6, 0.5, LowRankSpec(rank=4))
    for convention in CONVENTIONS:
        recipe = only(recipe_of(random_checkpoint, random_calibration, convention, layer), [])
        assert not recipe.needs_calibration
        model = quantized(random_checkpoint, recipe, random_calibration)
        assert torch.equal(output(model), output(random_checkpoint.transformer))


@pytest.mark.parametrize("convention", [*CONVENTIONS, "integer-g8"])
@pytest.mark.parametrize("kind", ["qkv", "proj", "fc1", "fc2"])
def test_smoothing_some_groups_only_keeps_the_function(
    random_checkpoint: Checkpoint, random_calibration: Calibration, convention: str, kind: str
) -> None:
    """With a smoothed projection the V rows of a qkv that is left alone are divided."""
    layer = LayerRecipe(FULL, 0.7)
    recipe = recipe_of(random_checkpoint, random_calibration, convention, layer)
    chosen = [g.name for g in random_checkpoint.groups if g.kind == kind]
    part = only(recipe, chosen)
    model = quantized(random_checkpoint, part, random_calibration)
    source = random_checkpoint.transformer
    assert relative_error(output(model), output(source)) < 1e-5
    for block in range(2):
        path = f"transformer_blocks.{block}.attn1.to_v"
        v, plain = model.get_submodule(path), get_linear(source, path)
        assert isinstance(v, QuantizedLinear)
        same = torch.equal(v.weight, plain.weight) and torch.equal(v.bias, plain.bias)
        assert same == (kind not in ("qkv", "proj"))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_quantized_projection_beside_a_qkv_left_alone(
    random_checkpoint: Checkpoint, random_calibration: Calibration, convention: str
) -> None:
    """The whole error is the projection's, so it falls to nothing with the bits."""
    errors = []
    expected = output(random_checkpoint.transformer)
    for bits in ("W3A6", "W5A8", "W8A16", "W16A16"):
        layer = LayerRecipe(BitWidths.parse(bits), 0.5, LowRankSpec(rank=0))
        recipe = recipe_of(random_checkpoint, random_calibration, convention, layer)
        part = only(recipe, ["0.proj", "1.proj"])
        model = quantized(random_checkpoint, part, random_calibration)
        q, v = (model.get_submodule(f"transformer_blocks.0.attn1.to_{x}") for x in "qv")
        assert isinstance(q, QuantizedLinear) and isinstance(v, QuantizedLinear)
        assert q.weight_spec.bits == v.weight_spec.bits == 16 and v.activation_spec.bits == 16
        errors.append(relative_error(output(model), expected))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-3 > 1e-5 > errors[-1]


@pytest.fixture(scope="module")
def other(random_checkpoint: Checkpoint) -> nn.Module:
    model = quantize_transformer(
        random_checkpoint, plain_recipe(random_checkpoint, W3A6, "integer")
    )
    return model


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
@pytest.mark.parametrize("batch", [2, 16])
def test_quantized_from_a_step_on(
    random_checkpoint: Checkpoint, other: nn.Module, scheduler: str, batch: int
) -> None:
    spec = SamplingSpec(steps=4, scheduler=scheduler)
    source = random_checkpoint.transformer

    def run(transformer: object) -> tuple[list[TrajectoryProgress], Trajectory]:
        *progress, last = iterate_trajectory(
            random_checkpoint, transformer, LABELS, spec, seed=3, batch=batch
        )
        assert isinstance(last, Trajectory)
        return progress, last

    events, full = run(source)
    _, rounded = run(other)
    assert not torch.equal(full.latents, rounded.latents)
    for first in (0, 1, 3, 4, 9):
        progress, mixed = run(switching(source, other, first))
        assert progress == events
        assert mixed.timesteps == full.timesteps
        assert torch.equal(mixed.latents[:first], full.latents[:first])
        if first == 0:
            assert torch.equal(mixed.latents, rounded.latents)
            assert torch.equal(mixed.images, rounded.images)
        elif first < 4:
            assert not torch.equal(mixed.latents[first], full.latents[first])
            assert not torch.equal(mixed.latents[first], rounded.latents[first])
        else:
            assert torch.equal(mixed.latents, full.latents)
            assert torch.equal(mixed.images, full.images)


def test_a_negative_step_is_refused(random_checkpoint: Checkpoint, other: nn.Module) -> None:
    with pytest.raises(ValueError, match="first_step"):
        switching(random_checkpoint.transformer, other, -1)
