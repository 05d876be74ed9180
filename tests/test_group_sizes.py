"""Group sizes of single layers: written W4g64A8, and chosen together with bits within a size."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

from ditas_core.artifact import load_quantized, save_quantized
from ditas_core.calibration import Calibration
from ditas_core.checkpoints import Checkpoint
from ditas_core.cli import main
from ditas_core.conversion import quantize_transformer
from ditas_core.exports.formats import fit_recipe
from ditas_core.layers import QuantizedLinear, effective_bits
from ditas_core.search import (
    BudgetError,
    SearchSpec,
    SensitivityMap,
    SensitivityProgress,
    bits_per_weight,
    iterate_budget_search,
    plain_recipe,
    sensitivity,
    with_group_sizes,
)
from ditas_core.specs import (
    BitWidths,
    Granularity,
    LayerRecipe,
    Recipe,
    SpecError,
    get_convention,
)

pytestmark = pytest.mark.numeric

W4A8, GROUPED = BitWidths(4, 8), BitWidths(4, 8, 8)
PLAIN = SearchSpec(W4A8, method="plain")
INPUTS = {"timestep": torch.tensor([500, 10]), "class_labels": torch.tensor([1, 1000])}


@pytest.mark.parametrize("size", [4, 64, 4096])
def test_group_sizes_are_read_as_they_are_written(size: int) -> None:
    bits = BitWidths(3, 8, size)
    assert str(bits) == f"W3g{size}A8"
    assert BitWidths.parse(str(bits)) == BitWidths.parse(f" w3G{size}a8") == bits
    weight, activation = get_convention("integer").quantizers(bits)
    assert (weight.granularity, weight.group_size) == (Granularity.PER_GROUP, size)
    assert (weight, activation) == get_convention(f"integer-g{size}").quantizers(BitWidths(3, 8))


@pytest.mark.parametrize(
    "text", ["W4g3A8", "W4g4097A8", "W4gA8", "W4g64", "W16g64A8", "W4A8g64", "W4g-8A8"]
)
def test_other_group_sizes_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match="expected"):
        BitWidths.parse(text)


@pytest.mark.parametrize("size", [3, 5000, -1, True, 8.0, "8"])
def test_group_sizes_are_whole_numbers(size: object) -> None:
    with pytest.raises(SpecError, match="group size"):
        BitWidths(4, 8, size)  # type: ignore[arg-type]


def test_formats_and_conventions_that_group_otherwise_refuse() -> None:
    with pytest.raises(SpecError, match="group size"):
        BitWidths("nvfp4", 8, 16)
    for convention in ("paper", "released"):
        with pytest.raises(SpecError, match="bits: expected whole numbers"):
            SearchSpec(GROUPED, convention, "plain")


def test_recipes_write_a_group_size_only_where_there_is_one() -> None:
    recipe = Recipe("plain", "integer", "", {"a": LayerRecipe(W4A8), "b": LayerRecipe(GROUPED)})
    document = json.loads(recipe.to_json())
    assert document["format"] == 3
    assert document["layers"]["a"]["bits"] == {"weight": 4, "activation": 8}
    assert document["layers"]["b"]["bits"] == {"weight": 4, "activation": 8, "group_size": 8}
    assert Recipe.from_json(recipe.to_json()) == recipe
    without = replace(recipe, layers={"a": LayerRecipe(W4A8)})
    assert json.loads(without.to_json())["format"] == 2


def test_a_layer_is_that_of_the_convention_in_such_groups(
    random_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """And its folder is the same model, on both backends; its size counts its scales."""
    grouped = plain_recipe(random_checkpoint, W4A8, "integer").with_layer(
        "0.fc1", LayerRecipe(GROUPED)
    )
    model = quantize_transformer(random_checkpoint, grouped)
    whole = quantize_transformer(
        random_checkpoint, plain_recipe(random_checkpoint, W4A8, "integer-g8")
    )
    path = "transformer_blocks.0.ff.net.0.proj"
    layer, other = (x.get_submodule(path) for x in (model, whole))
    assert isinstance(layer, QuantizedLinear) and isinstance(other, QuantizedLinear)
    assert torch.equal(layer.codes, other.codes) and torch.equal(layer.scale, other.scale)
    assert bits_per_weight(random_checkpoint, grouped) == pytest.approx(effective_bits(model))
    save_quantized(tmp_path / "q", random_checkpoint, model, grouped)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(x, **INPUTS).sample
        for backend in ("simulated", "integer"):
            loaded, recipe = load_quantized(tmp_path / "q", backend=backend)
            assert recipe == grouped
            torch.testing.assert_close(
                loaded.transformer(x, **INPUTS).sample, expected, rtol=1e-4, atol=1e-4
            )
    for form in ("torchao", "sdnq"):
        with pytest.raises(SpecError, match="one group size for all layers"):
            fit_recipe(grouped, random_checkpoint.groups, random_checkpoint.transformer, form)


def test_the_best_sizes_within_a_budget_are_chosen(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    """Together with bits; against every choice of three layers, the others being as they are."""
    widths = (BitWidths(3, 8), *with_group_sizes(W4A8, (8, 16)))
    assert [str(each) for each in widths] == ["W3A8", "W4A8", "W4g8A8", "W4g16A8"]
    found = sensitivity(random_checkpoint, random_calibration, widths, PLAIN)
    assert SensitivityMap.from_json(found.to_json()).bits == found.bits
    budget = found.bits_per_weight(found.uniform(W4A8)) + 0.8
    *cells, recipe = iterate_budget_search(
        random_checkpoint, random_calibration, widths, PLAIN, budget
    )
    assert len(cells) == len(widths) * len(random_checkpoint.groups)
    assert isinstance(recipe, Recipe) and not recipe.calibration
    chosen = {name: layer.bits for name, layer in recipe.layers.items()}
    assert len(set(chosen.values())) > 1
    assert bits_per_weight(random_checkpoint, recipe) <= budget
    best = found.total_error(chosen)
    for some in product(widths, repeat=3):
        other = chosen | dict(zip(["0.qkv", "0.fc2", "1.fc1"], some, strict=True))
        assert found.bits_per_weight(other) > budget or found.total_error(other) >= best
    known = {
        (cell.group, cell.bits): (cell.error, cell.alpha)
        for cell in cells
        if isinstance(cell, SensitivityProgress)
    }
    (again,) = iterate_budget_search(
        random_checkpoint, random_calibration, widths, PLAIN, budget, known
    )
    assert again == recipe, "from what an earlier run finished"
    with pytest.raises(BudgetError, match="budget: expected at least"):
        list(iterate_budget_search(
            random_checkpoint, random_calibration, widths, PLAIN, 2.0, known
        ))  # fmt: skip


def test_the_command_writes_a_recipe_within_the_budget(
    stock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "calibration.safetensors", tmp_path / "recipe.json"
    small = "--samples 1 --steps 2 --token-budget-mb 1"
    assert main(f"calibrate {stock} {small} --out {file}".split()) == 0
    words = f"search {stock} --calibration {file} --method gptq --bits W4A8 --out {out}".split()
    assert main([*words, "--budget", "6", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    recipe = Recipe.load(out)
    assert report["widths"] == {name: str(layer.bits) for name, layer in recipe.layers.items()}
    assert 4 < report["bits_per_weight"] <= 6
    assert any(layer.bits.group_size for layer in recipe.layers.values())
    assert recipe.needs_calibration and recipe.calibration_file
    assert main([*words, "--widths", "W4A8"]) == 2
    assert "pass --budget" in capsys.readouterr().err
    assert main([*words, "--budget", "6", "--widths", "W4A8,W4A8"]) == 2
