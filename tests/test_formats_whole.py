"""Number formats from a recipe to drawn samples: files, search, library, command line, refusals."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import ditas_core as ditas
from ditas_core.artifact import load_quantized, save_quantized
from ditas_core.calibration import Calibration
from ditas_core.checkpoints import Checkpoint, CheckpointError
from ditas_core.cli import main
from ditas_core.conversion import quantize_transformer
from ditas_core.evaluation import channel_record
from ditas_core.exports import fit_recipe
from ditas_core.layers import QuantizedLinear, effective_bits
from ditas_core.methods import fit_weights
from ditas_core.models import Transformer, get_linear
from ditas_core.onnx_runtime import export_onnx
from ditas_core.quantizer import fake_quantize, levels
from ditas_core.search import AlphaLab, SearchSpec, plain_recipe, predicted_errors, search
from ditas_core.specs import (
    FORMATS,
    LEFT_ALONE,
    BitWidths,
    LayerRecipe,
    LowRankSpec,
    Recipe,
    SpecError,
    get_convention,
    summarize,
)

NVFP4 = BitWidths("nvfp4", "fp8")
WEIGHTS = "transformer/quantized.safetensors"


def recipe_of(checkpoint: Checkpoint, calibration: Calibration) -> Recipe:
    """All kinds of scales, integers and a layer that is left alone beside them."""
    names = ("fp8", "mxfp4", "nvfp4", "nf4", "int4-b32", "mxfp6", "fp4", "mxint8")
    branch = LowRankSpec(4, 1, "none")
    layers = {}
    for number, group in enumerate(checkpoint.groups):
        activation = ("fp8", "mxfp8", "nvfp4", 8)[number % 4]
        bits = BitWidths(names[number], activation)
        layers[group.name] = LayerRecipe(bits, 0.5 if number % 3 else None, branch)
    layers["1.fc1"], layers["1.fc2"] = LayerRecipe(BitWidths(4, "fp8"), 0.4), LEFT_ALONE
    return Recipe("formats", "integer", checkpoint.fingerprint, layers, calibration.sha256)


def forward(transformer: Any) -> torch.Tensor:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    inputs = {"timestep": torch.tensor([5, 5]), "class_labels": torch.tensor([1, 2])}
    found: torch.Tensor = transformer(x, **inputs).sample
    return found


def test_recipes_name_formats_and_old_ones_are_read(random_checkpoint: Checkpoint) -> None:
    whole = plain_recipe(random_checkpoint, BitWidths(4, 8), "integer")
    named = plain_recipe(random_checkpoint, NVFP4, "integer")
    old, new = json.loads(whole.to_json()), json.loads(named.to_json())
    assert (old["format"], new["format"]) == (2, 3), "whole numbers are written as they were"
    assert old["layers"]["0.qkv"]["bits"] == {"weight": 4, "activation": 8}
    assert new["layers"]["0.qkv"]["bits"] == {"weight": "nvfp4", "activation": "fp8"}
    for recipe in (whole, named, named.with_layer("0.qkv", LEFT_ALONE)):
        assert Recipe.from_json(recipe.to_json()) == recipe
    assert "W:nvfp4 A:fp8" in summarize(named)
    assert Recipe.from_json(whole.to_json().replace('"format": 2', '"format": 3')) == whole
    for wrong in ('"nvfp5"', '"fp8-e4m3"', "4.0", "null", "[4]"):
        with pytest.raises(SpecError, match="expected"):
            Recipe.from_json(named.to_json().replace('"nvfp4"', wrong))
    with pytest.raises(SpecError, match="convention released"):
        replace(named, convention="released")


@pytest.fixture(scope="module")
def model(random_checkpoint: Checkpoint, random_calibration: Calibration) -> Transformer:
    recipe = recipe_of(random_checkpoint, random_calibration)
    return quantize_transformer(random_checkpoint, recipe, random_calibration)


@pytest.fixture()
def folder(
    model: Transformer,
    random_checkpoint: Checkpoint,
    random_calibration: Calibration,
    tmp_path: Path,
) -> Path:
    recipe = recipe_of(random_checkpoint, random_calibration)
    save_quantized(tmp_path / "q", random_checkpoint, model, recipe)
    return tmp_path / "q"


def test_a_folder_holds_them_to_the_bit(model: Transformer, folder: Path) -> None:
    loaded, _ = load_quantized(folder)
    assert torch.equal(forward(model), forward(loaded.transformer))
    states = model.state_dict(), loaded.transformer.state_dict()
    assert {k: v.dtype for k, v in states[0].items()} == {k: v.dtype for k, v in states[1].items()}
    assert not any(tensor.is_meta for tensor in loaded.transformer.buffers())
    assert effective_bits(loaded.transformer) == effective_bits(model)
    stored = load_file(folder / WEIGHTS)
    for path, layer in model.named_modules():
        if isinstance(layer, QuantizedLinear) and layer.weight_spec.format is not None:
            scale = stored[f"{path}.scale"]
            narrow = {"e8m0": torch.uint8, "e4m3": torch.uint8, "float16": torch.float16}
            wanted = narrow.get(layer.weight_spec.format.scale, scale.dtype)
            assert scale.dtype == wanted and f"{path}.zero_point" not in stored
    for backend in ("integer", "onnx"):
        with pytest.raises(SpecError, match="expected simulated with W:") as caught:
            load_quantized(folder, backend=backend)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "value"), [("scale", 255), ("scale", 0), ("codes", 0x7F)])
def test_a_damaged_folder_is_refused(folder: Path, kind: str, value: int) -> None:
    """A pattern that stands for no number: NaN of E8M0 and E4M3, an E4M3 scale of 0."""
    _, recipe = load_quantized(folder)
    which = {255: "mxfp4", 0: "nvfp4", 0x7F: "fp8"}[value]
    name = next(n for n, layer in recipe.layers.items() if layer.bits.weight == which)
    stored = load_file(folder / WEIGHTS)
    block, part = name.split(".")
    inner = {"qkv": "attn1.to_q", "proj": "attn1.to_out.0", "fc1": "ff.net.0.proj"}
    path = f"transformer_blocks.{block}.{inner.get(part, 'ff.net.2')}"
    stored[f"{path}.{kind}"].view(-1)[3] = value
    save_file(stored, folder / WEIGHTS)
    with pytest.raises(
        CheckpointError, match=f"{kind}: expected numbers of {FORMATS[which].title}"
    ):
        load_quantized(folder)


def test_search_and_conversion_see_the_same_weights(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    spec = SearchSpec(BitWidths("nvfp4", "nvfp4"), "integer", "ditas", LowRankSpec(2), (0.3, 0.6))
    recipe = search(random_checkpoint, random_calibration, spec)
    quantized = quantize_transformer(random_checkpoint, recipe, random_calibration)
    assert bool(torch.isfinite(forward(quantized)).all())
    done = list(predicted_errors(random_checkpoint, random_calibration, recipe))
    assert all(0 < each.error < 1 for each in done)
    finer = search(random_checkpoint, random_calibration, replace(spec, bits=BitWidths("fp8", 16)))
    better = list(predicted_errors(random_checkpoint, random_calibration, finer))
    assert sum(e.error for e in better) < sum(e.error for e in done) / 4
    group = random_checkpoint.groups[0]
    layer = quantized.get_submodule(group.layers[0])
    weight = get_linear(random_checkpoint.transformer, group.layers[0]).weight.detach()
    of_layer = recipe.layers[group.name]
    plain = replace(of_layer, alpha=None, low_rank=LowRankSpec())
    fit = fit_weights([weight], None, plain, get_convention("integer"))[0]
    assert torch.equal(fit.rounded, fake_quantize(weight, fit.spec))
    assert isinstance(layer, QuantizedLinear) and layer.weight_spec == fit.spec


def test_effective_bits_of_a_whole_model(random_checkpoint: Checkpoint) -> None:
    for name, bits in (("mxfp4", 4.25), ("mxfp6", 6.25), ("mxfp8", 8.25), ("int4-b32", 4.5)):
        recipe = plain_recipe(random_checkpoint, BitWidths(name, 16), "integer")
        quantized = quantize_transformer(random_checkpoint, recipe)
        assert effective_bits(quantized) == bits
    recipe = plain_recipe(random_checkpoint, NVFP4, "integer")
    assert 4.5 < effective_bits(quantize_transformer(random_checkpoint, recipe)) < 4.55


def test_exports_that_cannot_hold_formats_say_so(
    random_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    recipe = plain_recipe(random_checkpoint, NVFP4, "integer")
    quantized = quantize_transformer(random_checkpoint, recipe)
    for form in ("torchao", "sdnq"):
        with pytest.raises(SpecError, match="whole numbers of bits") as caught:
            fit_recipe(recipe, random_checkpoint.groups, random_checkpoint.transformer, form)
        assert "\n" not in str(caught.value)
    with pytest.raises(SpecError, match="its weights are NVFP4") as caught:
        export_onnx(tmp_path / "onnx", replace(random_checkpoint, transformer=quantized), recipe)
    assert "\n" not in str(caught.value) and not (tmp_path / "onnx").exists()


def test_the_lab_and_the_channel_view_know_the_levels(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    """Uneven, of the median scale and of the widest token."""
    group = random_checkpoint.groups[0]
    spec = SearchSpec(BitWidths("fp4", "fp8"), "integer", "search")
    view = AlphaLab(random_checkpoint, group, random_calibration, spec)(0.5)
    for grid, name in ((view.weight_grid, "fp4"), (view.activation_grid, "fp8")):
        assert grid is not None
        known = levels(FORMATS[name].element)
        scale = grid.high / FORMATS[name].element.largest
        torch.testing.assert_close(torch.tensor(grid.levels), known * scale)
        assert grid.step == pytest.approx(scale * FORMATS[name].element.step)
        assert grid.low == -grid.high
    statistics = random_calibration.groups[group.name]
    ones = torch.ones(statistics.tokens.shape[2])
    for name in ("fp8", "mxfp4", "nvfp4"):
        _, rounding = get_convention("integer").quantizers(BitWidths(8, name))
        found = channel_record(statistics, 3, ones, rounding, row=1)
        rounded = fake_quantize(statistics.tokens.float(), rounding)[1, :, 3]
        largest = rounded[rounded.abs().argmax()]
        assert len(found.levels) == len(levels(FORMATS[name].element))
        assert bool(torch.isfinite(found.step).all()) and bool((found.step > 0).all())
        assert float(found.levels.max()) >= float(largest.abs())


def test_the_mean_step_is_the_step_where_levels_are_even(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    statistics = random_calibration.groups[random_checkpoint.groups[0].name]
    ones = torch.ones(statistics.tokens.shape[2])
    _, even = get_convention("integer").quantizers(BitWidths(8, "int8-b32"))
    found = channel_record(statistics, 0, ones, even)
    scale = found.levels.diff().mean()
    assert float(found.step.max()) == pytest.approx(float(scale), rel=0.02)


def test_the_library_takes_them(random_checkpoint: Checkpoint) -> None:
    quantized, report = ditas.quantize(
        random_checkpoint, "W:nvfp4 A:fp8", samples=1, steps=2, alpha=(0.5,), progress=False
    )
    assert report.recipe.layers["0.qkv"].bits == NVFP4 and "W:nvfp4 A:fp8" in str(report)
    assert bool(torch.isfinite(forward(quantized.transformer)).all())
    for options, said in (
        ({"backend": "integer"}, "expected simulated with W:nvfp4 A:fp8"),
        ({"backend": "onnx"}, "expected simulated with W:nvfp4 A:fp8"),
        ({"convention": "paper"}, "convention paper"),
    ):
        with pytest.raises(SpecError, match=re.escape(said)):
            ditas.quantize("nowhere", "W:nvfp4 A:fp8", **options)


def run_json(capsys: pytest.CaptureFixture[str], words: list[str]) -> Any:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_line_takes_them(
    stock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibration, recipe, quantized = (str(tmp_path / name) for name in ("c", "r", "q"))
    run_json(capsys, ["calibrate", str(stock), "--steps=2", "--samples=1", "--out", calibration])
    words = ["--calibration", calibration, "--bits", "W:mxfp4 A:mxfp8", "--out", recipe]
    found = run_json(capsys, ["search", str(stock), *words, "--method", "search"])
    assert "W:mxfp4 A:mxfp8" in found["recipe"]
    found = run_json(capsys, ["quantize", str(stock), "--recipe", recipe, "--out", quantized])
    assert 4.25 <= found["effective_bits"] < 5
    words = ["--samples=1", "--steps=2", "--ablation", "W4A8,W:fp4 A8", "--methods=plain"]
    rows = run_json(capsys, ["compare", str(stock), quantized, *words])["results"]
    assert [row["label"] for row in rows] == ["q", "W4A8 plain", "W:fp4 A8 plain"]
    assert main(["sample", quantized, "--backend=onnx", "--out", str(tmp_path / "s")]) != 0
    assert "expected simulated with W:mxfp4 A:mxfp8" in capsys.readouterr().err
