"""Rotated inputs: the same function without rounding, and the same layer wherever it is run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx_checks import layer_model
from torch import Tensor

from ditas_core.artifact import load_quantized, save_quantized
from ditas_core.calibration import Calibration
from ditas_core.checkpoints import Checkpoint
from ditas_core.conversion import quantize_transformer
from ditas_core.evaluation import sqnr_db
from ditas_core.exports.formats import fit_recipe
from ditas_core.layers import QuantizedLinear, build_layers, run_as_
from ditas_core.lowrank import InputMoment, input_moment
from ditas_core.methods import rotation_of
from ditas_core.models import Transformer
from ditas_core.onnx_runtime import open_session
from ditas_core.quantizer import fake_quantize
from ditas_core.search import (
    SearchSpec,
    SensitivityMap,
    predicted_errors,
    search,
    sensitivity,
    unsearched_recipe,
)
from ditas_core.smoothing import hadamard, rotate
from ditas_core.specs import (
    METHODS,
    BitWidths,
    LayerRecipe,
    LowRankSpec,
    Part,
    Recipe,
    SpecError,
    get_convention,
    summarize,
)

pytestmark = pytest.mark.numeric

HADAMARD = METHODS["rotation"].rotation
SMALL = Part.of("hadamard", block=8)
INPUTS = {"timestep": torch.tensor([500, 10]), "class_labels": torch.tensor([1, 1000])}


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def latents() -> Tensor:
    return random(0, 2, 4, 8, 8)


def rotated_layer(bits: BitWidths, rotation: Part = HADAMARD) -> LayerRecipe:
    return LayerRecipe(bits, rotation=rotation)


def slow_block(size: int) -> np.ndarray:
    """The sign of element (i, j) is the parity of the bits that i and j share."""
    signs = [[(-1) ** (i & j).bit_count() for j in range(size)] for i in range(size)]
    return np.array(signs) / np.sqrt(size)


@pytest.mark.parametrize("size", [1, 2, 4, 8, 32, 64, 128])
def test_the_matrix_is_sylvesters(size: int) -> None:
    found = hadamard(size).double().numpy()
    np.testing.assert_allclose(found, slow_block(size), atol=1e-7)
    np.testing.assert_allclose(found @ found.T, np.eye(size), atol=1e-6)


@pytest.mark.parametrize("size", [0, -2, 3, 24])
def test_other_sizes_have_none(size: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        hadamard(size)


@pytest.mark.parametrize(("channels", "most", "expected"), [
    (1152, 64, 64), (1152, 4096, 128), (4608, 4096, 512), (256, 64, 64), (24, 64, 8),
    (24, 9, 8), (24, 7, 4), (7, 64, 1),
])  # fmt: skip
def test_blocks_divide_the_channels(channels: int, most: int, expected: int) -> None:
    layer = rotated_layer(BitWidths(4, 8), Part.of("hadamard", block=most))
    found = rotation_of(layer, channels)
    assert found is not None and found.shape == (expected, expected)
    assert rotation_of(LayerRecipe(BitWidths(4, 8)), channels) is None


@given(seed=st.integers(0, 1000), size=st.sampled_from([1, 2, 8]), blocks=st.integers(1, 3))
def test_every_block_of_channels_is_multiplied(seed: int, size: int, blocks: int) -> None:
    x = random(seed, 2, 3, size * blocks).double()
    found, block = rotate(x, hadamard(size)), slow_block(size)
    for token, row in zip(found.reshape(6, -1), x.reshape(6, -1), strict=True):
        for start in range(0, len(row), size):
            part = row[start : start + size].numpy() @ block
            np.testing.assert_allclose(token[start : start + size].numpy(), part, atol=1e-6)
    torch.testing.assert_close(rotate(found, hadamard(size)), x, rtol=1e-6, atol=1e-6)
    assert rotate(x, None) is x


@pytest.mark.parametrize("tokens", [9, 60])
@pytest.mark.parametrize("weighting", ["none", "energy", "covariance"])
def test_moments_are_those_of_rotated_inputs(weighting: str, tokens: int) -> None:
    """With the blend of exact mean squares, which is not diagonal any more; few tokens, too."""
    x, s = random(0, tokens, 24) * random(1, 24).exp(), random(2, 24).abs() + 0.5
    block = hadamard(8)
    moment = input_moment(weighting, x, x.square().mean(0)).divided(s)
    found = moment.rotated(block)
    if weighting == "none":
        assert found is moment
        return
    whole = torch.block_diag(*[block.double()] * 3)
    expected = whole.T @ moment.matrix() @ whole
    torch.testing.assert_close(found.matrix(), expected, rtol=1e-4, atol=1e-4)
    if weighting == "covariance":
        blended = InputMoment(diagonal=0.05 * x.square().mean(0)).divided(s).rotated(block)
        seen = rotate(x / s, block).double()
        plain = found.matrix() - blended.matrix()
        torch.testing.assert_close(plain, 0.95 * seen.T @ seen / tokens, rtol=1e-3, atol=1e-3)
    assert moment.rotated(None) is moment


def quantized(
    checkpoint: Checkpoint, calibration: Calibration, layer: LayerRecipe, convention: str
) -> tuple[Transformer, Recipe]:
    layers = {group.name: layer for group in checkpoint.groups}
    name = calibration.sha256
    recipe = Recipe("rotation", convention, checkpoint.fingerprint, layers, name)
    return quantize_transformer(checkpoint, recipe, calibration), recipe


@pytest.mark.parametrize("alpha", [None, 0.4])
@pytest.mark.parametrize("convention", ["integer", "integer-tensor", "integer-g8"])
def test_without_rounding_the_function_is_the_same(
    random_checkpoint: Checkpoint, random_calibration: Calibration, convention: str,
    alpha: float | None,
) -> None:  # fmt: skip
    layer = replace(rotated_layer(BitWidths(16, 16)), alpha=alpha)
    model, _ = quantized(random_checkpoint, random_calibration, layer, convention)
    with torch.no_grad():
        expected = random_checkpoint.transformer(latents(), **INPUTS).sample
        got = model(latents(), **INPUTS).sample
    layers = [m for m in model.modules() if isinstance(m, QuantizedLinear)]
    assert layers and not any(
        torch.equal(m.codes, random_checkpoint.transformer.get_submodule(path).weight)
        for path, m in model.named_modules()
        if isinstance(m, QuantizedLinear)
    )
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def layer_of(bits: str, convention: str, rank: int = 3) -> QuantizedLinear:
    """24 inputs in blocks of 8, divided on the fly first."""
    s = random(1, 24).abs() + 0.5
    fit = random(2, 16, 24) / 5, random(3, 16, rank) / 5, random(4, rank, 24) / 5
    (layer,) = build_layers(
        [fit], [random(5, 16)], BitWidths.parse(bits), get_convention(convention), s, True,
        rotation=hadamard(8),
    )  # fmt: skip
    return layer


@pytest.mark.parametrize("bits", ["W8A8", "W4A8", "W4A4", "W4A16"])
@pytest.mark.parametrize("convention", ["integer", "integer-tensor", "integer-g8"])
def test_a_layer_multiplies_what_the_rotation_leaves(convention: str, bits: str) -> None:
    """On every backend."""
    layer, x = layer_of(bits, convention), random(6, 2, 9, 24) * 2
    assert layer.smoothing is not None
    _, spec = get_convention(convention).quantizers(BitWidths.parse(bits))
    whole = torch.block_diag(*[torch.from_numpy(slow_block(8))] * 3).float()
    turned = (x / layer.smoothing) @ whole
    expected = fake_quantize(turned, spec) @ layer.dequantized().T + layer.bias
    expected = expected + turned @ (layer.up @ layer.down).T
    assert float(sqnr_db(expected, layer(x)).min()) > 35, "a code may lie on either side"
    simulated = layer(x)
    run_as_(layer, "integer")
    assert torch.equal(simulated, layer(x))
    (found,) = open_session(layer_model(layer), 1).run(None, {"x": x.numpy()})
    assert float(sqnr_db(simulated, torch.from_numpy(found)).min()) > 35


def test_the_rotation_is_stored_nowhere_and_counts_no_bits() -> None:
    layer = layer_of("W4A8", "integer")
    (plain,) = build_layers(
        [(random(2, 16, 24) / 5, layer.up, layer.down)], [layer.bias], BitWidths(4, 8),
        get_convention("integer"), layer.smoothing, True,
    )  # fmt: skip
    assert layer.bits_stored == plain.bits_stored
    assert set(layer.state_dict()) == set(plain.state_dict())


@pytest.mark.parametrize("method", ["rotation", "rotation+gptq"])
def test_a_folder_gives_the_same_model_back(
    random_checkpoint: Checkpoint, random_calibration: Calibration, tmp_path: Path, method: str
) -> None:
    spec = SearchSpec(BitWidths(4, 8), method=method)
    recipe = unsearched_recipe(random_checkpoint, spec, random_calibration)
    smoothed = {
        name: replace(layer, alpha=0.5, low_rank=LowRankSpec(4))
        for name, layer in recipe.layers.items()
    }
    smoothed["0.fc1"] = replace(smoothed["0.fc1"], rotation=SMALL)
    recipe = replace(recipe, layers=smoothed, calibration=random_calibration.sha256)
    model = quantize_transformer(random_checkpoint, recipe, random_calibration)
    save_quantized(tmp_path / "q", random_checkpoint, model, recipe)
    loaded, again = load_quantized(tmp_path / "q")
    assert again == recipe
    with torch.no_grad():
        expected = model(latents(), **INPUTS).sample
        assert torch.equal(loaded.transformer(latents(), **INPUTS).sample, expected)
        integer, _ = load_quantized(tmp_path / "q", backend="integer")
        found = integer.transformer(latents(), **INPUTS).sample
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_predicted_errors_are_those_of_the_rotated_layer(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    """By hand, from the tokens that were kept; a tensor's range is theirs, step by step."""
    group = random_checkpoint.groups[2]
    (path,) = group.layers
    weight = random_checkpoint.transformer.get_submodule(path).weight
    block = torch.block_diag(*[hadamard(32)] * (weight.shape[1] // 32))
    tokens = random_calibration.groups[group.name].tokens.float()  # (T, K, C)
    for convention in ("integer", "integer-tensor"):
        spec = SearchSpec(BitWidths(4, 6), convention, "rotation")
        recipe = unsearched_recipe(random_checkpoint, spec)
        w_spec, a_spec = get_convention(convention).quantizers(spec.bits)
        left = fake_quantize(weight @ block, w_spec)
        error, energy = 0.0, 0.0
        for step in tokens:
            error += float((fake_quantize(step @ block, a_spec) @ left.T - step @ weight.T)
                           .square().mean())  # fmt: skip
            energy += float((step @ weight.T).square().mean())
        found = {
            each.group: each.error
            for each in predicted_errors(random_checkpoint, random_calibration, recipe)
        }
        assert found[group.name] == pytest.approx(error / energy, rel=0.02)


def test_loud_channels_are_spread() -> None:
    """A few channels 30 times as large: per token at 6 bits, many decibels less error."""
    x, weight = random(0, 64, 128), random(1, 32, 128)
    x[:, [3, 70, 71]] *= 30
    weight[:, [3, 70, 71]] /= 30
    w_spec, a_spec = get_convention("integer").quantizers(BitWidths(8, 6))
    block = hadamard(64)

    def error(turned: Tensor | None) -> float:
        rounded = fake_quantize(rotate(x, turned), a_spec)
        left = rounded @ fake_quantize(rotate(weight, turned), w_spec).T - x @ weight.T
        return float(left.square().mean())

    assert error(block) < error(None) / 4


def test_recipes_and_maps_name_the_rotation(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    spec = SearchSpec(BitWidths(4, 8), method="rotation+gptq")
    recipe = search(random_checkpoint, random_calibration, spec)
    assert summarize(recipe).endswith("hadamard + gptq")
    document = json.loads(recipe.to_json())
    assert document["format"] == 3
    assert document["layers"]["0.qkv"]["rotation"] == {"name": "hadamard", "block": 64}
    assert Recipe.from_json(recipe.to_json()) == recipe
    plain = unsearched_recipe(random_checkpoint, SearchSpec(BitWidths(4, 8), method="rotation"))
    assert not plain.needs_calibration
    found = sensitivity(random_checkpoint, random_calibration, (BitWidths(4, 8),), spec)
    again = SensitivityMap.from_json(found.to_json())
    assert again.rotation == HADAMARD
    assert again.recipe(again.uniform(BitWidths(4, 8))).layers == recipe.layers
    for wrong in ({"name": "spin"}, {"name": "hadamard", "a b": 1}, [], 3):
        document["layers"]["0.qkv"]["rotation"] = wrong
        with pytest.raises(SpecError, match="expected"):
            Recipe.from_json(json.dumps(document))
    layers = {name: replace(x, rotation=Part.of("hadamard")) for name, x in plain.layers.items()}
    with pytest.raises(SpecError, match="expected the settings block"):
        quantize_transformer(random_checkpoint, replace(plain, layers=layers))


@pytest.mark.parametrize("convention", ["paper", "released"])
def test_conventions_whose_scales_belong_to_single_inputs_refuse(convention: str) -> None:
    with pytest.raises(SpecError, match="rotation: expected none with the convention"):
        SearchSpec(BitWidths(4, 8), convention, "rotation")
    with pytest.raises(SpecError, match="rotation: expected none with the convention"):
        Recipe("rotation", convention, "", {"0.qkv": rotated_layer(BitWidths(4, 8))})


@pytest.mark.parametrize("form", ["torchao", "sdnq"])
def test_formats_of_other_libraries_refuse(random_checkpoint: Checkpoint, form: str) -> None:
    recipe = unsearched_recipe(random_checkpoint, SearchSpec(BitWidths(4, 8), method="rotation"))
    with pytest.raises(SpecError, match="expected a recipe without rotations of inputs"):
        fit_recipe(recipe, random_checkpoint.groups, random_checkpoint.transformer, form)
