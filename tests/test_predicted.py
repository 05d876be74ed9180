"""What a recipe predicts for every group; searches that go on, and ones that stop early."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import build_random_checkpoint
from marks import compatible, thorough

from ditas_core.calibration import Calibration
from ditas_core.checkpoints import Checkpoint
from ditas_core.conversion import quantize_transformer
from ditas_core.search import (
    LayerDone,
    PredictedError,
    SearchJournal,
    SearchSpec,
    iterate_search,
    partial_recipe,
    predicted_error,
    predicted_errors,
    search_group,
    sensitivity,
)
from ditas_core.specs import (
    LEFT_ALONE,
    METHODS,
    BitWidths,
    LayerRecipe,
    LowRankSpec,
    Recipe,
    SpecError,
    all_but,
)

pytestmark = pytest.mark.numeric

W4A6 = BitWidths(4, 6)
DIFFERENT = [name for name in METHODS if "+" not in name or name == "ditas+gptq"]
"""The rest put the same parts together."""
GRID = (0.25, 0.5, 0.75)
SETTINGS = ("integer", "integer-g8", "paper", "released")


def spec_of(convention: str, method: str, bits: BitWidths = W4A6) -> SearchSpec:
    """The released branch is the convention's own, of ten slow iterations."""
    low_rank = None if convention == "released" else LowRankSpec(rank=4, iterations=2)
    return SearchSpec(bits, convention, method, low_rank, GRID)


def searched(
    checkpoint: Checkpoint, calibration: Calibration, spec: SearchSpec
) -> tuple[list[LayerDone], Recipe]:
    *events, recipe = iterate_search(checkpoint, calibration, spec)
    return [event for event in events if isinstance(event, LayerDone)], recipe


@pytest.mark.parametrize("convention", SETTINGS)
@pytest.mark.parametrize("method", ["ditas", *thorough("smoothing", "search")])
def test_a_searched_recipe_predicts_the_searchs_own_choice(
    random_checkpoint: Checkpoint, random_calibration: Calibration, convention: str, method: str
) -> None:
    layers, recipe = searched(random_checkpoint, random_calibration, spec_of(convention, method))
    found = list(predicted_errors(random_checkpoint, random_calibration, recipe))
    assert found == [
        PredictedError(layer.group, layer.best / layer.energy, done, len(layers))
        for done, layer in enumerate(layers, 1)
    ]
    assert all(one.error > 0 for one in found)


@pytest.mark.parametrize(("convention", "method"), compatible(SETTINGS, DIFFERENT))
def test_sensitivity_to_a_recipes_alphas_is_what_it_predicts(
    random_checkpoint: Checkpoint, random_calibration: Calibration, convention: str, method: str
) -> None:
    """Both with the recipe's alphas and with those that each method finds itself."""
    spec, other = spec_of(convention, method), BitWidths(3, 8)
    _, recipe = searched(random_checkpoint, random_calibration, spec)
    kept = sensitivity(random_checkpoint, random_calibration, (W4A6, other), spec, recipe)
    free = sensitivity(random_checkpoint, random_calibration, (W4A6, other), spec)
    for made in (kept, free):
        for column, bits in enumerate((W4A6, other)):
            of_map = made.recipe(made.uniform(bits))
            found = predicted_errors(random_checkpoint, random_calibration, of_map)
            assert [one.error for one in found] == made.error[:, column].tolist()
    assert kept.error[:, 0].tolist() == free.error[:, 0].tolist()


def test_mixed_bits_ranks_and_groups_left_alone(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    _, recipe = searched(random_checkpoint, random_calibration, spec_of("integer", "ditas"))
    coarse = LayerRecipe(BitWidths(2, 4), 0.5, LowRankSpec(rank=2))
    whole_weights = LayerRecipe(BitWidths(16, 6), 0.5, LowRankSpec(rank=2))
    mixed = all_but(recipe, ["0.fc1"]).with_layer("1.fc1", coarse)
    mixed = mixed.with_layer("1.fc2", whole_weights)
    mixed = mixed.with_layer("0.proj", replace(LEFT_ALONE, alpha=0.5))
    before, after = (
        {e.group: e.error for e in predicted_errors(random_checkpoint, random_calibration, made)}
        for made in (recipe, mixed)
    )
    assert after["0.fc1"] == after["0.proj"] == 0
    assert after["1.fc1"] > 2 * before["1.fc1"]
    assert 0 < after["1.fc2"] < before["1.fc2"]
    same = set(before) - {"0.fc1", "0.proj", "1.fc1", "1.fc2"}
    assert {n: after[n] for n in same} == {n: before[n] for n in same}
    branchless = replace(whole_weights, low_rank=LowRankSpec())
    group = next(g for g in random_checkpoint.groups if g.name == "1.fc2")
    for convention in SETTINGS:
        alone, beside = (
            predicted_error(random_checkpoint, group, random_calibration, convention, layer)
            for layer in (branchless, whole_weights)
        )
        assert alone == beside, "conversion has no branch beside a weight that is not rounded"


def test_half_the_precision_of_products_changes_little(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    _, recipe = searched(random_checkpoint, random_calibration, spec_of("integer", "ditas"))
    exact = predicted_errors(random_checkpoint, random_calibration, recipe)
    rough = predicted_errors(random_checkpoint, random_calibration, recipe, "bfloat16")
    for a, b in zip(exact, rough, strict=True):
        assert a.error != b.error == pytest.approx(a.error, rel=0.02)


def test_predictions_refuse_what_does_not_belong_together(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    _, recipe = searched(random_checkpoint, random_calibration, spec_of("integer", "search"))

    right, foreign = random_calibration, replace(random_calibration, checkpoint="0" * 64)
    for told, calibration, changed, products in (
        ("calibration", foreign, recipe, "float32"),
        ("recipe", right, replace(recipe, checkpoint="0" * 64), "float32"),
        ("searched with", right, replace(recipe, calibration="0" * 64), "float32"),
        ("groups", right, replace(recipe, layers={"0.qkv": LayerRecipe(W4A6)}), "float32"),
        ("products", right, recipe, "int8"),
    ):
        with pytest.raises(SpecError, match=told):
            next(predicted_errors(random_checkpoint, calibration, changed, products))
    group = random_checkpoint.groups[0]
    empty = replace(random_calibration, groups={})
    with pytest.raises(SpecError, match="block 0"):
        predicted_error(random_checkpoint, group, empty, "integer", LayerRecipe(W4A6))
    with pytest.raises(SpecError, match="convention"):
        predicted_error(random_checkpoint, group, random_calibration, "x", LayerRecipe(W4A6))


def test_known_layers_get_their_place_in_this_search(
    random_checkpoint: Checkpoint,
    random_calibration: Calibration,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Searched one by one they know nothing of their order; a journal keeps them."""
    spec = spec_of("integer", "ditas")
    layers, recipe = searched(random_checkpoint, random_calibration, spec)
    known: dict[str, LayerDone] = {}
    for group in random_checkpoint.groups[::3]:
        done = search_group(random_checkpoint, group, random_calibration, spec)
        known[group.name] = done
        SearchJournal(tmp_path / "j", random_calibration, random_checkpoint, spec).add(done)
    journal = SearchJournal(tmp_path / "j", random_calibration, random_checkpoint, spec)
    assert journal.finished == known
    *events, again = iterate_search(random_checkpoint, random_calibration, spec, finished=known)
    assert again == recipe
    assert [e for e in events if isinstance(e, LayerDone)] == layers
    first = events[0]
    assert first == layers[0], "at once, without a candidate"
    recipes = sys.modules["ditas_core.search.recipes"]
    monkeypatch.setattr(recipes, "iterate_group_search", None)  # would raise if called
    everything = {layer.group: layer for layer in layers}
    assert list(
        iterate_search(random_checkpoint, random_calibration, spec, finished=everything)
    ) == [
        *layers,
        recipe,
    ]


@pytest.mark.parametrize("method", DIFFERENT)
def test_the_recipe_of_an_interrupted_search(
    random_checkpoint: Checkpoint, random_calibration: Calibration, method: str
) -> None:
    spec = spec_of("integer", method)
    layers, recipe = searched(random_checkpoint, random_calibration, spec)
    if layers:  # of a method that searches
        stranger = replace(layers[0], group="9.qkv")
        with pytest.raises(SpecError, match=r"9\.qkv"):
            partial_recipe(random_checkpoint, random_calibration, spec, [stranger])
        whole = partial_recipe(random_checkpoint, random_calibration, spec, layers[::-1], method)
        if spec.chooses_bits:  # which come after the search
            own = {n: replace(layer, bits=spec.bits) for n, layer in recipe.layers.items()}
            recipe = replace(recipe, layers=own)
        assert whole == recipe and whole.to_json() == recipe.to_json()
    half = partial_recipe(random_checkpoint, random_calibration, spec, layers[:5])
    assert half.name == "partial" and list(half.layers) == list(recipe.layers)
    found = {layer.group for layer in layers[:5]}
    for name, layer in half.layers.items():
        full = recipe.layers[name]
        assert layer == (full if name in found else replace(full, alpha=None))
    model = quantize_transformer(random_checkpoint, half, random_calibration)
    assert model is not None
    nothing = partial_recipe(random_checkpoint, random_calibration, spec, [])
    assert {layer.alpha for layer in nothing.layers.values()} == {None}
    assert {layer.bits for layer in nothing.layers.values()} == {W4A6}


def test_the_best_loss_is_that_of_the_choice(
    random_calibration: Calibration,
) -> None:
    """A fixed alpha may be worse than the identity, and then says so."""
    checkpoint = build_random_checkpoint()
    spec = SearchSpec(BitWidths(3, 8), method="smoothing")
    layers, _ = searched(checkpoint, random_calibration, spec)
    worse = [layer for layer in layers if layer.losses[0] > layer.identity]
    assert all(layer.best == layer.losses[0] for layer in layers)
    assert worse and all(layer.gain_db < 0 for layer in worse)
