"""Sums over a search's layers, and a recipe's size."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ditas_core.calibration import Calibration
from ditas_core.checkpoints import Checkpoint
from ditas_core.conversion import quantize_transformer
from ditas_core.layers import effective_bits
from ditas_core.search import (
    LayerDone,
    SearchSpec,
    bits_per_weight,
    change_db,
    iterate_search,
    mean_error,
    plain_recipe,
    predicted_errors,
    relative_error,
    search_totals,
)
from ditas_core.specs import BitWidths, LayerRecipe, LowRankSpec, Recipe, SpecError

pytestmark = pytest.mark.numeric

GRID = (0.25, 0.5, 0.75)


def searched(
    checkpoint: Checkpoint, calibration: Calibration, spec: SearchSpec
) -> tuple[list[LayerDone], Recipe]:
    *events, recipe = iterate_search(checkpoint, calibration, spec)
    assert isinstance(recipe, Recipe)
    return [event for event in events if isinstance(event, LayerDone)], recipe


def test_totals_add_up(random_checkpoint: Checkpoint, random_calibration: Calibration) -> None:
    spec = SearchSpec(BitWidths(4, 6), grid=GRID)
    layers, recipe = searched(random_checkpoint, random_calibration, spec)
    sums = search_totals(layers)
    assert sums.layers == len(layers) == len(recipe.layers)
    assert sums.smoothed == sum(layer.alpha is not None for layer in recipe.layers.values())
    assert sums.smoothed > 0
    assert sums.gain_db == pytest.approx(sum(layer.gain_db for layer in layers))
    assert sums.mean_gain_db == pytest.approx(sums.gain_db / len(layers))
    predicted = predicted_errors(random_checkpoint, random_calibration, recipe)
    errors = [one.error for one in predicted]
    assert [relative_error(layer) for layer in layers] == errors
    assert (
        sums.mean_error
        == pytest.approx(mean_error(errors))
        == pytest.approx(sum(errors) / len(errors))
    )
    half = search_totals(layers[:3])
    assert half.layers == 3 and half.gain_db == pytest.approx(
        sum(layer.gain_db for layer in layers[:3])
    )
    assert search_totals([]) == type(sums)(0, 0, 0.0, 0.0, 0.0)
    assert math.isnan(mean_error([]))


def test_changes_in_decibels() -> None:
    assert change_db(0.01, 0.001) == pytest.approx(-10)
    assert change_db(0.001, 0.01) == pytest.approx(10)
    assert change_db(0.0, 0.0) == 0
    assert -400 < change_db(0.5, 0.0) < -100, "finite where nothing is left"


@pytest.mark.parametrize("convention", ["integer", "integer-g8", "paper", "released"])
@pytest.mark.parametrize("smoothed", [False, True])
def test_the_size_is_that_of_the_converted_model(
    random_checkpoint: Checkpoint,
    random_calibration: Calibration,
    convention: str,
    smoothed: bool,
) -> None:
    """Mixed bits and ranks; a group in 16 bits."""
    recipe = plain_recipe(random_checkpoint, BitWidths(4, 8), convention)
    branch = LowRankSpec(rank=2, iterations=1)
    if smoothed:
        layers = {name: LayerRecipe(BitWidths(4, 8), 0.5) for name in recipe.layers}
        recipe = replace(recipe, layers=layers, calibration=random_calibration.sha256)
    recipe = recipe.with_layer("0.fc1", LayerRecipe(BitWidths(2, 8), None))
    recipe = recipe.with_layer("1.proj", LayerRecipe(BitWidths(16, 8), 0.5))
    recipe = recipe.with_layer("1.fc2", LayerRecipe(BitWidths(6, 8), 0.25, branch))
    recipe = replace(recipe, calibration=random_calibration.sha256)
    model = quantize_transformer(random_checkpoint, recipe, random_calibration)
    assert bits_per_weight(random_checkpoint, recipe) == pytest.approx(effective_bits(model))


def test_a_recipe_of_other_groups_has_no_size(random_checkpoint: Checkpoint) -> None:
    recipe = plain_recipe(random_checkpoint, BitWidths(4, 8), "integer")
    with pytest.raises(SpecError, match="groups"):
        bits_per_weight(
            random_checkpoint, replace(recipe, layers={"0.qkv": recipe.layers["0.qkv"]})
        )
