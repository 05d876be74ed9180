"""Folders that stock diffusers loads; what libraries that are not installed here make of them is
tested in clean environments, by tests/formats."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_random_checkpoint
from diffusers import DiTPipeline, PixArtTransformer2DModel
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_pipelines import save_tiny
from tiny_pixart import save_tiny_pixart

import ditas_core as ditas
from ditas_core.calibration import Calibration, calibrate
from ditas_core.checkpoints import Checkpoint, CheckpointError, load_checkpoint
from ditas_core.cli import main
from ditas_core.conversion import inject_outliers, quantize_transformer
from ditas_core.evaluation import outlier_atlas
from ditas_core.exports import (
    StockExport,
    export_stock,
    fit_recipe,
    foldable_factors,
    relative_difference,
    smoothed_transformer,
)
from ditas_core.exports.sdnq import PACKED, pack
from ditas_core.layers import QuantizedLinear
from ditas_core.models import Absorber
from ditas_core.search import SearchSpec, partial_recipe, plain_recipe, search
from ditas_core.specs import (
    LEFT_ALONE,
    BitWidths,
    CalibrationSpec,
    LayerRecipe,
    LowRankSpec,
    Recipe,
    SamplingSpec,
    SpecError,
)
from ditas_core.ui.stored.catalogue import find_checkpoints

pytestmark = pytest.mark.numeric
SHORT = CalibrationSpec(SamplingSpec(steps=3), samples=2, seed=5, tokens=8)


def smoothing_recipe(
    checkpoint: Checkpoint,
    calibration: Calibration,
    bits: str = "W8A8",
    convention: str = "integer",
    rank: int = 0,
) -> Recipe:
    """One alpha everywhere."""
    spec = SearchSpec(BitWidths.parse(bits), convention, "smoothing", grid=(0.5,))
    found = search(checkpoint, calibration, spec)
    layers = {n: replace(x, low_rank=LowRankSpec(rank)) for n, x in found.layers.items()}
    return replace(found, layers=layers)


@pytest.fixture(scope="module")
def recipe(random_checkpoint: Checkpoint, random_calibration: Calibration) -> Recipe:
    return smoothing_recipe(random_checkpoint, random_calibration)


@pytest.fixture(scope="module")
def pixart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Calibration]:
    checkpoint = load_checkpoint(save_tiny_pixart(tmp_path_factory.mktemp("pixart") / "it", False))
    return checkpoint, calibrate(checkpoint, replace(SHORT, sampling=SamplingSpec(3, 4.5)))


def file_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")


def run_card(folder: Path) -> dict[str, Any]:
    """What the five lines of the card make."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0].replace("FOLDER", str(folder))
    assert len(code.splitlines()) == 5
    names: dict[str, Any] = {}
    exec(code.replace('"0.png"', f'"{folder}/0.png"'), names)
    return names


# what is smoothed


@pytest.mark.parametrize("strength", [1.0, 30.0, 1000.0])
def test_a_smoothed_demo_computes_the_same_function(
    demo_checkpoint: Checkpoint, strength: float
) -> None:
    """With natural outliers and with injected ones, which smoothing makes smaller."""
    checkpoint = demo_checkpoint
    if strength > 1:
        network = inject_outliers(checkpoint.transformer, strength)
        checkpoint = replace(checkpoint, transformer=network)
    calibration = calibrate(checkpoint, SHORT)
    made = smoothing_recipe(checkpoint, calibration)
    before = [p.clone() for p in checkpoint.transformer.parameters()]
    smoothed, difference = smoothed_transformer(checkpoint, made, calibration)
    assert difference <= 1e-5
    assert all(map(torch.equal, before, checkpoint.transformer.parameters()))
    loud = calibrate(replace(checkpoint, transformer=smoothed), SHORT)
    for name in foldable_factors(checkpoint, made, calibration):
        was, now = (c.groups[name].aggregated_absmax() for c in (calibration, loud))
        assert now.max() / now.median() < was.max() / was.median(), name
    fc2 = "transformer_blocks.3.ff.net.2.weight"
    there, here = (t.state_dict()[fc2] for t in (checkpoint.transformer, smoothed))
    assert torch.equal(there, here), "fc2's division folds nowhere"


def test_a_smoothed_pixart(pixart: tuple[Checkpoint, Calibration], tmp_path: Path) -> None:
    """Only what the rows of V absorb; the folder's transformer loads with its own class."""
    checkpoint, calibration = pixart
    made = smoothing_recipe(checkpoint, calibration)
    found = export_stock(tmp_path / "out", checkpoint, made, calibration, "smoothed")
    assert found.relative_difference is not None and found.relative_difference <= 1e-5
    factors = foldable_factors(checkpoint, made, calibration)
    assert {name.split(".")[1] for name in factors} == {"proj", "proj2"}
    loaded = run_card(tmp_path / "out")["transformer"]
    assert isinstance(loaded, PixArtTransformer2DModel)
    assert relative_difference(checkpoint, loaded) == found.relative_difference
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert index["text_encoder"] == [None, None]
    assert (tmp_path / "out" / "captions.safetensors").is_file()


def test_a_smoothed_folder_is_a_stock_one(tmp_path: Path, capsys: Any) -> None:
    """On the command line: whole, with a card that the hub takes, and five lines that draw."""
    base = save_tiny(tmp_path / "base")
    (base / "LICENSE").write_text("keep me")
    checkpoint = load_checkpoint(base)
    calibration = calibrate(checkpoint, SHORT)
    calibration.save(tmp_path / "c.safetensors")
    made = smoothing_recipe(checkpoint, calibration)
    (tmp_path / "r.json").write_text(replace(made, calibration_file="c.safetensors").to_json())
    words = ["export", str(base), "--to", "smoothed", "--recipe", str(tmp_path / "r.json")]
    out = tmp_path / "out"
    assert main([*words, "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["relative_difference"] <= 1e-5 and report["as_exported_db"] is None
    assert {path.name for path in out.iterdir()} == {
        "model_index.json", "transformer", "vae", "scheduler", "recipe.json", "export.json",
        "README.md", "LICENSE",
    }  # fmt: skip
    assert ModelCard.load(out / "README.md").data.license == "mit"
    pipeline = run_card(out)["pipeline"]
    assert isinstance(pipeline, DiTPipeline) and (out / "0.png").is_file()
    assert set(pipeline.labels) == set(checkpoint.class_names)
    assert relative_difference(checkpoint, pipeline.transformer) == report["relative_difference"]
    assert load_checkpoint(out).class_names == checkpoint.class_names, "ours loads it, too"
    for form in ("smoothed", "onnx", "web"):
        words = ["export", str(base), "--to", form, "--steps", "2", "--out", str(tmp_path / form)]
        assert main(words) == 2 and not (tmp_path / form).exists()
        assert f"no --samples and --steps with --to {form}" in capsys.readouterr().err
    assert str(tmp_path) not in "".join(
        p.read_text() for p in out.glob("*.*") if p.suffix != ".png"
    )


def test_a_twin_with_injected_outliers_is_the_same_function(tmp_path: Path, capsys: Any) -> None:
    base, out = save_tiny(tmp_path / "base"), tmp_path / "out"
    words = ["export", str(base), "--to", "injected", "--out", str(out)]
    assert main([*words, "--strength", "64", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["relative_difference"] <= 1e-5
    assert not (out / "recipe.json").exists() and ModelCard.load(out / "README.md").data.tags
    assert isinstance(run_card(out)["pipeline"], DiTPipeline)
    natural, twin = load_checkpoint(base), load_checkpoint(out)
    assert (natural.injected, twin.injected) == (1, 64)
    assert twin.notes[0] == "injected outliers ×64 (function-preserving)"
    assert relative_difference(natural, twin.transformer) == report["relative_difference"]
    strength = [
        outlier_atlas(each, calibrate(each, SHORT)).groups["0.qkv"].strength
        for each in (natural, twin)
    ]
    assert strength[1] > 10 * strength[0]
    entries = find_checkpoints(tmp_path, [])
    key = "out · injected outliers ×64 (function-preserving)"
    assert {"base", key} <= set(entries) and entries[key].label == key
    said = ditas.export(base, tmp_path / "by the library", to="injected", strength=64)
    assert isinstance(said, StockExport) and load_checkpoint(said.folder).injected == 64
    with pytest.raises(SpecError, match="expected a number from 1 to 1000"):
        ditas.export(base, tmp_path / "none", to="injected", strength=0.5)
    assert main([*words, "--modulation", "w8"]) == 2
    assert "no --modulation with --to injected" in capsys.readouterr().err
    assert main(["export", str(base), "--to", "onnx", "--out", "x", "--strength", "2"]) == 2
    assert "--strength only with --to injected" in capsys.readouterr().err
    about = json.loads((out / "export.json").read_text())
    (out / "export.json").write_text(json.dumps({**about, "strength": "much"}))
    with pytest.raises(CheckpointError, match="expected a strength of 1 to 1000, got 'much'"):
        load_checkpoint(out)
    assert "out" in find_checkpoints(tmp_path, []), "offered, and loading tells what is wrong"


# what a format holds


def test_what_the_formats_hold(random_checkpoint: Checkpoint, recipe: Recipe) -> None:
    groups, network = random_checkpoint.groups, random_checkpoint.transformer
    fc2 = {group.name for group in groups if group.absorber is Absorber.ON_THE_FLY}
    whole = fit_recipe(recipe, groups, network, "torchao")
    assert whole.recipe.convention == "integer-symmetric" and not whole.left_out
    assert set(whole.again) == set(recipe.layers), "rounded otherwise, so searched again"
    assert all(layer.alpha == 0.5 for layer in whole.recipe.layers.values())
    without = fit_recipe(recipe, groups, network, "sdnq", ["divisor"])
    assert without.recipe.convention == "integer" and set(without.left_out["divisor"]) == fc2
    assert {n for n, x in without.recipe.layers.items() if x.alpha is None} == fc2
    assert not without.again, "all others are stored as they were searched"
    ranked = {n: replace(x, low_rank=LowRankSpec(2)) for n, x in recipe.layers.items()}
    ranked = {n: replace(x, bits=BitWidths(4, 8)) for n, x in ranked.items()}
    four = replace(recipe, layers=ranked)
    bare = fit_recipe(four, groups, network, "torchao", ["branch", "divisor"])
    assert not any(layer.low_rank.rank for layer in bare.recipe.layers.values())
    assert set(bare.again) == set(recipe.layers) - fc2
    kept = fit_recipe(four, groups, network, "sdnq", ["divisor"])
    assert all(layer.low_rank.rank == 2 for layer in kept.recipe.layers.values())


def changed(recipe: Recipe, convention: str = "", **values: Any) -> Recipe:
    layers = {name: replace(layer, **values) for name, layer in recipe.layers.items()}
    return replace(recipe, convention=convention or recipe.convention, layers=layers)


@pytest.mark.parametrize(
    ("form", "said", "change"),
    [
        ("torchao", "no place.*'branch'", {"low_rank": LowRankSpec(2)}),
        ("torchao", "no place.*fc2.*'divisor'", {"bits": BitWidths(4, 8)}),
        ("sdnq", "no place.*fc2.*'divisor'", {}),
        ("sdnq", "of 8 or 16.*got W4A6", {"bits": BitWidths(4, 6)}),
        ("torchao", "16 bits everywhere", {"bits": LEFT_ALONE.bits}),
        ("torchao", "convention paper: its weights", {"convention": "paper"}),
        ("sdnq", "convention released: its weights", {"convention": "released"}),
        ("torchao", "per token.*integer-tensor", {"convention": "integer-tensor"}),
        ("sdnq", "know no groups", {"convention": "integer-g16"}),
        ("torchao", "divide the inputs", {"convention": "integer-g20"}),
        ("sdnq", "integer-symmetric for torchao", {"convention": "integer-symmetric"}),
        ("gguf", "to: expected", {}),
    ],
)
def test_what_a_format_cannot_hold_is_refused_by_name(
    random_checkpoint: Checkpoint, recipe: Recipe, form: str, said: str, change: Any
) -> None:
    wrong = changed(recipe, **change)
    with pytest.raises(SpecError, match=said):
        fit_recipe(wrong, random_checkpoint.groups, random_checkpoint.transformer, form)


def test_words_to_leave_out_are_known(random_checkpoint: Checkpoint, recipe: Recipe) -> None:
    with pytest.raises(SpecError, match=r"leave_out: expected.*branch"):
        fit_recipe(recipe, random_checkpoint.groups, random_checkpoint.transformer, "sdnq", ["fc2"])


def test_layers_of_16_bits_need_no_place(random_checkpoint: Checkpoint, recipe: Recipe) -> None:
    layers = dict(recipe.layers)
    alone = replace(LEFT_ALONE, alpha=0.5, low_rank=LowRankSpec(2))
    layers |= {"0.fc2": alone, "1.fc2": alone, "1.qkv": alone}
    mixed = replace(recipe, layers=layers)
    found = fit_recipe(mixed, random_checkpoint.groups, random_checkpoint.transformer, "sdnq")
    assert found.recipe.layers["0.fc2"] == LEFT_ALONE and not found.left_out


# what is stored


def weights_of(
    checkpoint: Checkpoint, folder: Path, calibration: Calibration
) -> dict[str, QuantizedLinear]:
    """The layers of the recipe that a folder says it stores, as they compute here."""
    stored = Recipe.load(folder / "recipe.json")
    network = quantize_transformer(checkpoint, stored, calibration)
    return {p: m for p, m in network.named_modules() if isinstance(m, QuantizedLinear)}


def export(
    tmp_path: Path, form: str, made: Recipe, calibration: Calibration, *leave_out: str
) -> StockExport:
    checkpoint = build_random_checkpoint()
    return export_stock(
        tmp_path / "out", checkpoint, made, calibration, form, leave_out, samples=2, steps=2
    )


def test_an_int8_tensor_keeps_the_division(
    random_checkpoint: Checkpoint, random_calibration: Calibration, recipe: Recipe, tmp_path: Path
) -> None:
    found = export(tmp_path, "torchao", recipe, random_calibration)
    assert found.left_out == {} and found.as_exported_db is not None
    tensors = file_of(tmp_path / "out")
    layers = weights_of(random_checkpoint, tmp_path / "out", random_calibration)
    with safe_open(
        tmp_path / "out/transformer/diffusion_pytorch_model.safetensors", framework="pt"
    ) as file:
        metadata = file.metadata()
    assert set(json.loads(metadata["tensor_names"])) == set(
        random_checkpoint.transformer.state_dict()
    ), "the names of the stock class, without one more"
    for path, layer in layers.items():
        codes, scale = (tensors[f"{path}._weight_{name}"] for name in ("qdata", "scale"))
        assert codes.dtype == torch.int8 and codes.min() >= -127
        assert torch.equal(codes.float() * scale, layer.dequantized())
        about = json.loads(metadata[f"{path}.weight"])
        assert about["_type"] == "Int8Tensor"
        assert ("act_pre_scale" in about["_tensor_data_names"]) == (layer.smoothing is not None)
        if layer.smoothing is not None:
            assert torch.equal(tensors[f"{path}._weight_act_pre_scale"], 1 / layer.smoothing)


@pytest.mark.parametrize(("bits", "convention"), [("W4A8", "integer-g16"), ("W3A16", "integer")])
def test_other_bits_lie_in_bytes_with_zero_points(
    random_checkpoint: Checkpoint,
    random_calibration: Calibration,
    tmp_path: Path,
    bits: str,
    convention: str,
) -> None:
    made = smoothing_recipe(random_checkpoint, random_calibration, bits, convention, rank=2)
    found = export(tmp_path, "torchao", made, random_calibration, "branch", "divisor")
    assert set(found.left_out) == {"branch", "divisor"}
    tensors = file_of(tmp_path / "out")
    for path, layer in weights_of(random_checkpoint, tmp_path / "out", random_calibration).items():
        parts = ("qdata", "scale", "zero_point")
        codes, scale, zero = (tensors[f"{path}._weight_{name}"] for name in parts)
        assert codes.max() < 2 ** (int(bits[1]) - 1) and zero.dtype == torch.int8
        grouped = codes.reshape(len(codes), scale.shape[1], -1).float()
        weight = ((grouped - zero[..., None]) * scale[..., None]).reshape(codes.shape)
        assert torch.equal(weight, layer.dequantized())
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| left out | low-rank branches of qkv, proj, fc1, fc2: 8 groups |" in card
    assert "| left out | divided inputs of fc2: 2 groups |" in card
    assert f"as exported | {found.as_exported_db['mean']:.1f}" in card  # type: ignore[index]


@pytest.mark.parametrize(
    ("bits", "convention"),
    [("W4A8", "integer"), ("W8A8", "integer"), ("W4A16", "integer-g16"), ("W8A16", "integer")],
)
def test_what_sdnq_stores(
    random_checkpoint: Checkpoint,
    random_calibration: Calibration,
    tmp_path: Path,
    bits: str,
    convention: str,
) -> None:
    made = smoothing_recipe(random_checkpoint, random_calibration, bits, convention, rank=2)
    found = export(tmp_path, "sdnq", made, random_calibration, "divisor")
    assert set(found.left_out) == {"divisor"}
    tensors = file_of(tmp_path / "out")
    config = json.loads((tmp_path / "out/transformer/config.json").read_text())
    settings = config["quantization_config"]["modules_quant_config"]
    layers = weights_of(random_checkpoint, tmp_path / "out", random_calibration)
    assert set(settings) == {f"{path}.weight" for path in layers}
    transposed = bits.endswith("A8")
    for path, layer in layers.items():
        stored, scale, offset = (tensors[f"{path}.{n}"] for n in ("weight", "scale", "zero_point"))
        shape = layer.out_features, layer.in_features
        if bits.startswith("W4"):
            assert stored.numel() == shape[0] * shape[1] // 2
            codes = torch.stack([stored & 15, stored >> 4], dim=-1)
            codes = codes.reshape(len(scale), *(scale.shape[1:-1]), -1)
        else:
            codes = stored
        weight = codes.float() * scale + offset
        weight = weight.t() if transposed and bits.startswith("W8") else weight.reshape(shape)
        assert torch.allclose(weight, layer.dequantized(), atol=1e-6)
        said = settings[f"{path}.weight"]
        assert said["use_svd"] == (layer.up.shape[1] > 0)
        assert said["use_quantized_matmul"] == transposed
        if said["use_svd"]:
            up, down = (tensors[f"{path}.svd_{n}"].float() for n in ("up", "down"))
            product = (down @ up).t() if transposed else up @ down
            assert torch.allclose(product, layer.up @ layer.down, atol=1e-6)


@pytest.mark.parametrize(("form", "modulation"), [("torchao", "w8a8"), ("sdnq", "w4")])
def test_a_modulation_in_few_bits_is_held(
    random_checkpoint: Checkpoint, tmp_path: Path, form: str, modulation: str
) -> None:
    plain = plain_recipe(random_checkpoint, BitWidths(4, 8), "integer")
    sizes = []
    for how in ("none", modulation):
        out = tmp_path / how
        asked = replace(plain, modulation=how)
        found = export_stock(out, random_checkpoint, asked, None, form, samples=2, steps=2)
        sizes.append(found.bits)
    path = "transformer_blocks.0.norm1.linear"
    last = "._weight_qdata" if form == "torchao" else ".zero_point"
    assert f"{path}{last}" in file_of(out) and f"{path}.weight" not in (
        file_of(out) if form == "torchao" else []
    )
    assert sizes[1] < sizes[0] and f"modulation {modulation}" in found.stored


@pytest.mark.parametrize("bits", PACKED)
def test_packed_codes_lose_nothing(bits: int) -> None:
    """Every code in every place makes another row of bytes."""
    together, moves = PACKED[bits]
    codes = torch.zeros(together * 2**bits, together, dtype=torch.uint8)
    for place in range(together):
        for code in range(2**bits):
            codes[place * 2**bits + code, place] = code
    rows = pack(codes, bits).reshape(len(codes), len(moves))
    assert len(moves) * 8 == together * bits
    assert len(rows.unique(dim=0)) == together * (2**bits - 1) + 1
    total = codes.sum(0, dtype=torch.int32) * 0
    mixed = torch.randint(0, 2**bits, (5, together), generator=torch.Generator().manual_seed(bits))
    whole = pack(mixed.to(torch.uint8), bits).reshape(5, -1)
    parts = torch.zeros_like(whole)
    for place in range(together):
        alone = torch.zeros_like(mixed)
        alone[:, place] = mixed[:, place]
        parts |= pack(alone.to(torch.uint8), bits).reshape(5, -1)
    assert torch.equal(whole, parts) and not total.any(), "places do not overlap"
    with pytest.raises(ValueError, match="multiples of"):
        pack(codes[:1, :-1], bits)


def test_a_pixart_whose_inputs_are_divided_all_over(
    pixart: tuple[Checkpoint, Calibration], tmp_path: Path
) -> None:
    """torchao's int8 holds the divisions that a PixArt absorbs nowhere."""
    checkpoint, calibration = pixart
    made = smoothing_recipe(checkpoint, calibration)
    out = tmp_path / "out"
    found = export_stock(out, checkpoint, made, calibration, "torchao", samples=2, steps=2)
    assert found.left_out == {}
    divided = [name for name in file_of(out) if name.endswith("act_pre_scale")]
    assert len(divided) == 2 * 8, "q, k, v, q2, k2, v2, fc1 and fc2 of two blocks"
    with pytest.raises(SpecError, match=r"qkv, q2, kv2, fc1, fc2"):
        export_stock(tmp_path / "other", checkpoint, made, calibration, "sdnq")


# whole or absent


def test_nothing_is_left_of_a_failed_export(
    random_checkpoint: Checkpoint,
    random_calibration: Calibration,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ditas_core.exports import folder

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(folder, "save_file", full)
        with pytest.raises(OSError, match="no space"):
            export(tmp_path, "torchao", recipe, random_calibration)
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(FileExistsError, match="new or empty"):
        export(tmp_path, "torchao", recipe, random_calibration)
    with pytest.raises(SpecError, match="calibration: expected"):
        export_stock(tmp_path / "b", random_checkpoint, recipe, None, "torchao")


def test_a_plain_recipe_needs_no_calibration(random_checkpoint: Checkpoint, tmp_path: Path) -> None:
    plain = plain_recipe(random_checkpoint, BitWidths(8, 8), "integer")
    out = tmp_path / "out"
    found = export_stock(out, random_checkpoint, plain, None, "sdnq", samples=2, steps=2)
    assert found.recipe == found.stored and found.as_exported_db == found.as_given_db
    with pytest.raises(SpecError, match="smoothed: expected a recipe that smooths"):
        smoothed_transformer(random_checkpoint, plain, calibrate(random_checkpoint, SHORT))


def test_what_is_stored_otherwise_is_searched_again(
    random_checkpoint: Checkpoint, random_calibration: Calibration, tmp_path: Path
) -> None:
    """The alphas are those of a search with what the format rounds with."""
    spec = SearchSpec(BitWidths(8, 8), "integer", "search")
    found = search(random_checkpoint, random_calibration, spec)
    stored = export(tmp_path, "torchao", found, random_calibration)
    theirs = search(
        random_checkpoint, random_calibration, replace(spec, convention="integer-symmetric")
    )
    assert Recipe.load(tmp_path / "out" / "recipe.json").layers == theirs.layers
    assert "integer-symmetric" in stored.stored


def test_the_command_says_what_is_missing(tmp_path: Path, capsys: Any) -> None:
    base = save_tiny(tmp_path / "base")
    words = ["export", str(base), "--to", "sdnq", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "--recipe" in capsys.readouterr().err
    checkpoint = load_checkpoint(base)
    path = tmp_path / "r.json"
    path.write_text(plain_recipe(checkpoint, BitWidths(4, 6), "integer").to_json())
    assert main([*words, "--recipe", str(path)]) == 2
    assert "W4A6" in capsys.readouterr().err
    smooth = ["smoothed" if word == "sdnq" else word for word in words]
    assert main([*smooth, "--recipe", str(path), "--modulation", "w8"]) == 2
    assert "rounds nothing" in capsys.readouterr().err
    assert main(["export", str(base), "--to", "onnx", "--recipe", str(path), "--out", "x"]) == 2
    assert not (tmp_path / "out").exists()


def test_a_recipe_for_something_else(
    random_checkpoint: Checkpoint, random_calibration: Calibration, recipe: Recipe, tmp_path: Path
) -> None:
    other = partial_recipe(
        random_checkpoint, random_calibration, SearchSpec(BitWidths(8, 8), "integer", "search"), []
    )
    wrong = replace(other, checkpoint="f" * 64)
    with pytest.raises(SpecError, match="checkpoint"):
        export(tmp_path, "torchao", wrong, random_calibration)
    lacking = replace(recipe, layers={"0.qkv": LayerRecipe(BitWidths(8, 8))})
    with pytest.raises(SpecError, match="groups"):
        export(tmp_path, "torchao", lacking, random_calibration)


def test_from_the_library(tmp_path: Path) -> None:
    """The same folder, by name; a quantized model has no weights left to round anew."""
    base = save_tiny(tmp_path / "base")
    checkpoint = ditas.load(base)
    calibration = ditas.calibrate(checkpoint, samples=2, steps=2, progress=False)
    made = smoothing_recipe(checkpoint, calibration, "W4A8")
    told: list[str] = []
    found = ditas.export(
        DiTPipeline.from_pretrained(base),
        tmp_path / "out",
        to="sdnq",
        recipe=made,
        calibration=calibration,
        leave_out=["divisor"],
        samples=1,
        steps=2,
        progress=lambda what, done, total: told.append(what),
    )
    assert isinstance(found, StockExport) and found.as_exported_db is not None
    assert found.as_exported_db["ci95"] is None, "of one sample there is no interval"
    assert {"quantizing", "measuring", "writing"} <= set(told)
    settings: dict[str, Any] = {"recipe": made, "calibration": calibration, "progress": False}
    quantized, _ = ditas.quantize(checkpoint, **settings)
    for model, kind, words, said in (
        (quantized, CheckpointError, {"to": "smoothed", **settings}, "quantized already"),
        (checkpoint, SpecError, {"to": "smoothed"}, "recipe: expected one to store"),
        (checkpoint, SpecError, {"to": "onnx", **settings}, "expected none with to='onnx'"),
        (checkpoint, SpecError, {"to": "sdnq", **settings, "samples": 0}, "samples: expected"),
    ):
        with pytest.raises(kind, match=said):
            ditas.export(model, tmp_path / "no", **words)
    assert not (tmp_path / "no").exists()
