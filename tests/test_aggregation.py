"""Channel maxima of all steps, weighted by salience: against plain loops, and where it is used."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ditas_core.artifact import load_quantized, save_quantized
from ditas_core.calibration import Calibration
from ditas_core.checkpoints import Checkpoint
from ditas_core.conversion import quantize_transformer, smoothing_factors
from ditas_core.methods import aggregated
from ditas_core.methods.aggregation import salience
from ditas_core.search import SearchSpec, SensitivityMap, predicted_errors, search, sensitivity
from ditas_core.smoothing import smoothing_factor, weight_absmax
from ditas_core.specs import CONVENTIONS, METHODS, BitWidths, LayerRecipe, Recipe, summarize

pytestmark = pytest.mark.numeric

NO_SETTINGS = salience.Settings()
SALIENT = LayerRecipe(BitWidths(4, 8), 0.5, aggregation=METHODS["salience"].aggregation)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def slow_rank(values: list[float], one: float) -> float:
    below, equal = sum(x < one for x in values), sum(x == one for x in values)
    return below + (equal - 1) / 2


def slow_correlation(a: list[float], b: list[float]) -> float:
    """Pearson's of the ranks."""
    left, right = ([slow_rank(x, one) for one in x] for x in (a, b))
    middle = (len(a) - 1) / 2
    products = sum((x - middle) * (y - middle) for x, y in zip(left, right, strict=True))
    squares = [sum((x - middle) ** 2 for x in each) for each in (left, right)]
    return products / math.sqrt(squares[0] * squares[1]) if min(squares) else 0.0


@given(
    seed=st.integers(0, 10_000),
    steps=st.integers(1, 5),
    channels=st.integers(1, 12),
    levels=st.sampled_from([1, 3, 1000]),
)
def test_steps_are_weighted_as_in_plain_loops(
    seed: int, steps: int, channels: int, levels: int
) -> None:
    """With ties, and with channels that are all alike, which have no order."""
    acts, weight = (
        (random(i + seed, *shape).abs() * levels).ceil()
        for i, shape in enumerate(((steps, channels), (channels,)))
    )
    if levels == 1:
        acts = torch.ones_like(acts)
    rho = [slow_correlation(row, weight.tolist()) for row in acts.tolist()]
    found = salience.spearman(acts, weight)
    torch.testing.assert_close(found.double(), torch.tensor(rho).double(), rtol=1e-5, atol=1e-6)
    total = sum(math.exp(-x) for x in rho)
    expected = [
        sum(math.exp(-x) / total * row[c] for x, row in zip(rho, acts.tolist(), strict=True))
        for c in range(channels)
    ]
    got = salience.aggregate(acts, weight, NO_SETTINGS)
    torch.testing.assert_close(got, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert bool((got <= acts.amax(0) * (1 + 1e-5)).all() and (got >= acts.amin(0) * 0.9999).all())
    order = torch.randperm(steps, generator=torch.Generator().manual_seed(seed))
    again = salience.aggregate(acts[order], weight.pow(3), NO_SETTINGS)
    torch.testing.assert_close(again, got, rtol=1e-4, atol=1e-5)


def test_steps_whose_loud_channels_are_the_weights_count_least() -> None:
    weight = torch.arange(1.0, 9.0)
    acts = torch.stack([weight, weight.flip(0)])  # rho 1 and -1
    share = 1 / (1 + math.exp(2))
    expected = share * acts[0] + (1 - share) * acts[1]
    torch.testing.assert_close(salience.aggregate(acts, weight, NO_SETTINGS), expected)


def test_one_step_and_no_part_are_the_maximum() -> None:
    acts, weight = random(0, 1, 2, 9).abs(), random(1, 9).abs()
    torch.testing.assert_close(aggregated(SALIENT, acts, weight), acts.amax((0, 1)))
    acts = random(2, 4, 2, 9).abs()
    plain = LayerRecipe(BitWidths(4, 8), 0.5)
    assert torch.equal(aggregated(plain, acts, weight), acts.amax((0, 1)))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_search_and_conversion_smooth_by_the_same_maxima(
    random_checkpoint: Checkpoint, random_calibration: Calibration, convention: str
) -> None:
    """And a method that differs in nothing else divides by others."""
    spec = SearchSpec(BitWidths(4, 8), convention, "salience", grid=(0.5,))
    recipe = search(random_checkpoint, random_calibration, spec)
    layers = dict.fromkeys(recipe.layers, SALIENT)
    forced = Recipe("salience", convention, recipe.checkpoint, layers, recipe.calibration)
    found = smoothing_factors(random_checkpoint, forced, random_calibration, list(layers))
    for group in random_checkpoint.groups:
        stats = random_calibration.groups[group.name]
        weights = [
            random_checkpoint.transformer.get_submodule(path).weight for path in group.layers
        ]
        if convention == "released":  # whose factor is made of rounded weights
            continue
        absmax = weight_absmax(weights)
        wanted = salience.aggregate(stats.absmax.amax(1), absmax, NO_SETTINGS)
        expected = smoothing_factor(wanted, absmax, 0.5)
        torch.testing.assert_close(found[group.name], expected)
        largest = smoothing_factor(stats.aggregated_absmax(), absmax, 0.5)
        assert not torch.allclose(found[group.name], largest)
    errors = list(predicted_errors(random_checkpoint, random_calibration, forced))
    assert all(0 < each.error < 1 for each in errors)


def test_recipes_maps_and_folders_name_it(
    random_checkpoint: Checkpoint, random_calibration: Calibration, tmp_path: Path
) -> None:
    bits = BitWidths(4, 8)
    spec = SearchSpec(bits, method="salience", grid=(0.3, 0.6))
    found = sensitivity(random_checkpoint, random_calibration, (bits,), spec)
    again = SensitivityMap.from_json(found.to_json())
    recipe = again.recipe(again.uniform(bits), "salience")
    assert recipe == search(random_checkpoint, random_calibration, spec)
    assert Recipe.from_json(recipe.to_json()) == recipe
    layer = json.loads(recipe.to_json())["layers"]["0.qkv"]
    assert layer["aggregation"] == {"name": "salience"}
    smoothed = any(layer.alpha is not None for layer in recipe.layers.values())
    assert ("salience" in summarize(recipe).split(" · ")[-1]) == smoothed
    model = quantize_transformer(random_checkpoint, recipe, random_calibration)
    save_quantized(tmp_path / "q", random_checkpoint, model, recipe)
    loaded, stored = load_quantized(tmp_path / "q")
    assert stored == recipe
    state = loaded.transformer.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
