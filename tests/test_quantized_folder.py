"""A quantized folder is held against its configuration and recipe before anything is allocated."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from children import growth_of
from conftest import build_random_checkpoint
from diffusers import DiTPipeline
from safetensors.torch import load_file, save_file
from tiny_pipelines import edit_json
from tiny_pixart import tiny_captions, tiny_pixart

import ditas_core as ditas
from ditas_core.artifact import (
    load_quantized,
    parameter_count,
    save_quantized,
    stored_bytes,
    whole_model_bits,
)
from ditas_core.calibration import Calibration
from ditas_core.checkpoints import Checkpoint, CheckpointError, Machine
from ditas_core.cli import main
from ditas_core.conversion import quantize_modulation, quantize_transformer
from ditas_core.models import Transformer
from ditas_core.onnx_runtime import load_on
from ditas_core.search import plain_recipe
from ditas_core.specs import (
    LEFT_ALONE,
    BitWidths,
    LayerRecipe,
    LowRankSpec,
    Recipe,
    SpecError,
    summarize,
)

WEIGHTS = "transformer/quantized.safetensors"
CONFIG = "transformer/config.json"
LAYER = "transformer_blocks.0.attn1.to_q"
VALUES = "transformer_blocks.0.attn1.to_v"
LAST = "transformer_blocks.0.ff.net.2"
PLENTY = Machine()


def save(
    target: Path, checkpoint: Checkpoint, calibration: Calibration, convention: str
) -> tuple[Path, Transformer]:
    """Of all kinds: W4A8, five bits, two bits, and a layer that is left alone."""
    branch = LowRankSpec(4, 1, "none")
    layers = {group.name: LayerRecipe(BitWidths(4, 8), 0.5, branch) for group in checkpoint.groups}
    layers["1.qkv"] = LayerRecipe(BitWidths(5, 8), 0.5, branch)
    layers["1.fc1"] = LayerRecipe(BitWidths(2, 8), None, branch)
    layers["1.fc2"] = LEFT_ALONE
    recipe = Recipe("test", convention, checkpoint.fingerprint, layers, calibration.sha256)
    model = quantize_transformer(checkpoint, recipe, calibration)
    assert not isinstance(model, tuple)
    save_quantized(target, checkpoint, model, recipe)  # type: ignore[arg-type]
    return target, model  # type: ignore[return-value]


@pytest.mark.parametrize("convention", ["integer", "integer-g12", "paper", "released"])
def test_what_is_written_is_what_is_expected(
    random_checkpoint: Checkpoint,
    random_calibration: Calibration,
    tmp_path: Path,
    convention: str,
) -> None:
    folder, model = save(tmp_path / "q", random_checkpoint, random_calibration, convention)
    loaded, _ = load_quantized(folder)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    inputs = {"timestep": torch.tensor([5, 5]), "class_labels": torch.tensor([1, 2])}
    assert torch.equal(model(x, **inputs).sample, loaded.transformer(x, **inputs).sample)
    states = (model.state_dict(), loaded.transformer.state_dict())
    assert {k: v.dtype for k, v in states[0].items()} == {k: v.dtype for k, v in states[1].items()}
    assert not any(tensor.is_meta for tensor in loaded.transformer.buffers())


@pytest.fixture(scope="module")
def whole(
    random_checkpoint: Checkpoint,
    random_calibration: Calibration,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """In the convention that has row scales."""
    home = tmp_path_factory.mktemp("quantized")
    return save(home / "q", random_checkpoint, random_calibration, "paper")[0]


@pytest.fixture()
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "q"))


def refused(folder: Path, reason: str) -> str:
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_quantized(folder, PLENTY)
    told = str(caught.value)
    assert "q: expected" in told and len(told) < 500 and "\n" not in told
    assert str(folder) not in told
    return told


@pytest.mark.parametrize("value", [5, None, "abc", {"a": 1}, [], [1, 2], ["x"] * 1001, [None]])
def test_class_names_are_checked(folder: Path, value: Any) -> None:
    edit_json(folder / "ditas.json", class_names=value)
    refused(folder, "class_names")


@pytest.mark.parametrize("key", ["class_names", "licence", "base", "fingerprint"])
def test_the_marker_is_whole(folder: Path, key: str) -> None:
    marker = json.loads((folder / "ditas.json").read_text())
    del marker[key]
    (folder / "ditas.json").write_text(json.dumps(marker))
    refused(folder, f"ditas.json: .*{key}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_layers", None),
        ("num_layers", 3),
        ("num_attention_heads", 10**9),
        ("activation_fn", "nope"),
        ("num_embeds_ada_norm", None),
        ("norm_eps", "x"),
        ("patch_size", 2.0),
        ("_class_name", "UNet2DModel"),
    ],
)
def test_configurations_are_checked(folder: Path, key: str, value: Any) -> None:
    edit_json(folder / CONFIG, **{key: value})
    refused(folder, "expected")


@pytest.mark.parametrize(
    "text", ["[]", "{", "null", '{"layers":[]}', "9" * 100, "[" * 100_000, "a level"]
)
def test_recipes_are_checked(folder: Path, text: str) -> None:
    path = folder / "recipe.json"
    if text == "a level":
        document = json.loads(path.read_text())
        document["layers"]["2.fc1"] = document["layers"].pop("1.fc1")
        text = json.dumps(document)
    path.write_text(text)
    refused(folder, "recipe")


def edit(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, folder / WEIGHTS)


SHAPES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "short": lambda x: x[:1],
    "wide": lambda x: torch.cat([x, x], -1),
    "flat": lambda x: x.reshape(-1),
    "deep": lambda x: x[None],
}


@pytest.mark.parametrize(
    "part",
    [
        *(f"{LAYER}.{part}" for part in ("codes", "scale", "zero_point", "bias", "up", "down")),
        f"{LAST}.smoothing",
        f"{VALUES}.row_scale",
        "proj_out_1.weight",
    ],
)
def test_every_shape_is_checked(folder: Path, part: str) -> None:
    tensors = load_file(folder / WEIGHTS)
    others = {name: change(tensors[part]).contiguous() for name, change in SHAPES.items()}
    others = {name: other for name, other in others.items() if other.shape != tensors[part].shape}
    assert {"wide", "deep"} <= set(others)
    for other in others.values():
        save_file({**tensors, part: other}, folder / WEIGHTS)
        refused(folder, f"{part}: expected shape")


@pytest.mark.parametrize("part", ["codes", "scale", "zero_point", "bias", "up", "down"])
def test_every_dtype_is_checked(folder: Path, part: str) -> None:
    edit(folder, f"{LAYER}.{part}", lambda x: x.float() if part == "codes" else x.int())
    refused(folder, f"{LAYER}.{part}: expected (uint8|floating point), got torch")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        (f"{LAYER}.scale", float("nan"), "finite"),
        (f"{LAYER}.scale", -1.0, "above 0"),
        (f"{LAYER}.scale", 0.0, "above 0"),
        (f"{LAYER}.zero_point", float("-inf"), "finite"),
        (f"{VALUES}.row_scale", 0.0, "above 0"),
        (f"{LAST}.smoothing", 0.0, "above 0"),
        ("transformer_blocks.1.attn1.to_q.codes", 32, "codes up to 31, got 32"),
        ("transformer_blocks.1.ff.net.0.proj.codes", 64, "codes up to 3, got 4"),
        ("proj_out_1.weight", float("nan"), "finite"),
    ],
)
def test_numbers_out_of_range_are_refused(
    folder: Path, name: str, value: float, reason: str
) -> None:
    def put(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[0] = value
        return tensor

    edit(folder, name, put)
    refused(folder, f"{name}: expected .*{reason}")


@pytest.mark.parametrize("kind", ["missing", "unexpected"])
def test_every_tensor_is_there_and_none_besides(folder: Path, kind: str) -> None:
    tensors = load_file(folder / WEIGHTS)
    if kind == "missing":
        del tensors[f"{LAYER}.scale"]
    else:
        tensors[f"{LAYER}.smoothing"] = torch.ones(32)
    save_file(tensors, folder / WEIGHTS)
    refused(folder, f"1 {kind} keys: {LAYER}")


@pytest.mark.parametrize(
    "name",
    [
        WEIGHTS,
        "ditas.json",
        "recipe.json",
        CONFIG,
        "vae/diffusion_pytorch_model.safetensors",
        "vae",
    ],
)
def test_links_out_of_the_folder_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    shutil.move(folder / name, tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="a link to a place outside"):
        load_quantized(folder, PLENTY)
    (folder / name).unlink()
    shutil.move(tmp_path / "elsewhere", folder / "kept")
    (folder / name).symlink_to(folder / "kept")  # within the folder it may stay
    load_quantized(folder, PLENTY)


@pytest.mark.parametrize("name", ["ditas.json", "recipe.json", CONFIG, "vae/config.json"])
def test_large_texts_are_not_read(folder: Path, name: str) -> None:
    os.truncate(folder / name, 300_000_000)  # sparse
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"at most [12]"):
            load_quantized(folder, PLENTY)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_a_wide_configuration_allocates_nothing(folder: Path) -> None:
    """2048 channels, in a folder of half a megabyte."""
    edit_json(folder / CONFIG, num_attention_heads=32, attention_head_dim=64)
    assert growth_of(lambda: refused(folder, "expected shape")) < 60_000_000


@pytest.mark.parametrize("backend", ["integer", "onnx", "other"])
def test_the_backend_is_looked_at_before_the_weights_are_read(folder: Path, backend: str) -> None:
    """Its convention runs simulated only; damaged numbers would be refused as such."""
    edit(folder, f"{LAYER}.scale", lambda x: x * float("nan"))
    told = f"expected simulated with the convention paper, got {backend}: its weights have a scale"
    with pytest.raises(SpecError, match="one of simulated" if backend == "other" else told):
        load_on(folder, backend)
    with pytest.raises(CheckpointError, match="finite"):
        load_on(folder, "simulated")


def test_a_folder_that_does_not_fit_is_refused_before_it_is_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CheckpointError, match=r"q: needs 2\d\d\.\d MB of memory .* 1\.0 MB"):
        load_quantized(folder, Machine(memory=1_000_000))
    load_quantized(folder, Machine(memory=300_000_000))
    edit_json(folder / "ditas.json", class_names=5)
    assert main(["sample", str(folder), "--steps", "1", "--out", str(folder / "o")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_embeddings_that_all_blocks_share_are_stored_once(tmp_path: Path) -> None:
    """Each block of the stock class has a copy; equal to the first block's they are not written,
    and folders that have them all are read as before."""
    checkpoint = build_random_checkpoint()
    recipe = plain_recipe(checkpoint, BitWidths(4, 8), "integer")
    apart = quantize_transformer(checkpoint, recipe)
    blocks: Any = checkpoint.transformer.transformer_blocks
    for block in blocks[1:]:
        block.norm1.emb.load_state_dict(blocks[0].norm1.emb.state_dict())
    checkpoint = replace(checkpoint, path=checkpoint.path)  # whose fingerprint is another now
    recipe = plain_recipe(checkpoint, BitWidths(4, 8), "integer")
    made = quantize_transformer(checkpoint, recipe)
    size = sum(t.nbytes for t in blocks[0].norm1.emb.state_dict().values())
    assert stored_bytes(apart) - stored_bytes(made) == (len(blocks) - 1) * size
    assert whole_model_bits(apart) - whole_model_bits(made) == pytest.approx(
        8 * (len(blocks) - 1) * size / parameter_count(made)
    )
    save_quantized(tmp_path / "new", checkpoint, made, recipe)
    names = set(load_file(tmp_path / "new" / WEIGHTS))
    left = {n for n in made.state_dict() if n.startswith("transformer_blocks.1.norm1.emb.")}
    assert left and set(made.state_dict()) - names == left
    old = Path(shutil.copytree(tmp_path / "new", tmp_path / "old"))
    edit_json(old / "ditas.json", format="ditas-quantized-2")
    save_file({k: v.contiguous().clone() for k, v in made.state_dict().items()}, old / WEIGHTS)
    for folder in (tmp_path / "new", old):
        loaded = load_quantized(folder, PLENTY)[0].transformer
        assert all(torch.equal(made.state_dict()[k], v) for k, v in loaded.state_dict().items())
    tensors = load_file(tmp_path / "new" / WEIGHTS)
    del tensors["transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"]
    save_file(tensors, tmp_path / "new" / WEIGHTS)
    with pytest.raises(CheckpointError, match="1 missing keys: transformer_blocks"):
        load_quantized(tmp_path / "new", PLENTY)


@pytest.mark.parametrize("family", ["DiT", "PixArt"])
@pytest.mark.parametrize("how", ["w8", "w8a8", "w4"])
def test_the_modulation_in_few_bits(how: str, family: str, tmp_path: Path) -> None:
    checkpoint = build_random_checkpoint()
    if family == "PixArt":
        captions = tiny_captions()
        checkpoint = replace(
            checkpoint,
            transformer=tiny_pixart(False),
            captions=captions,
            class_names=captions.names,
        )
    recipe = plain_recipe(checkpoint, BitWidths(8, 8), "integer")
    wide = quantize_transformer(checkpoint, recipe)
    recipe = replace(recipe, modulation=how)
    made = quantize_transformer(checkpoint, recipe)
    assert f"modulation {how}" in summarize(recipe)
    assert whole_model_bits(made) < whole_model_bits(wide)
    save_quantized(tmp_path / "q", checkpoint, made, recipe)
    loaded, again = load_quantized(tmp_path / "q", PLENTY)
    assert again == recipe
    state = loaded.transformer.state_dict()
    assert set(state) == set(made.state_dict())
    assert all(torch.equal(value, state[name]) for name, value in made.state_dict().items())
    assert whole_model_bits(loaded.transformer) == whole_model_bits(made)
    path = checkpoint.family.modulations(made)[0]
    edit(tmp_path / "q", f"{path}.codes", lambda x: x[:1])
    with pytest.raises(CheckpointError, match=f"{path}.codes: expected shape"):
        load_quantized(tmp_path / "q", PLENTY)
    with pytest.raises(SpecError, match="modulation is quantized, got w4"):
        quantize_modulation(made, "w4")


def test_modulation_on_the_command_line_and_in_the_library(stock: Path, tmp_path: Path) -> None:
    pipeline = DiTPipeline.from_pretrained(stock)
    wide: dict[str, Any] = {"method": "plain", "progress": False}
    made, report = ditas.quantize(pipeline, "W8A8", modulation="w8", **wide)
    assert report.recipe is not None and report.recipe.modulation == "w8"
    (tmp_path / "recipe.json").write_text(replace(report.recipe, modulation="none").to_json())
    words = ["quantize", str(stock), "--recipe", str(tmp_path / "recipe.json")]
    assert main([*words, "--modulation", "w8", "--out", str(tmp_path / "w8")]) == 0
    assert main([*words, "--out", str(tmp_path / "none")]) == 0
    loaded, recipe = load_quantized(tmp_path / "w8")
    assert recipe.modulation == "w8" and load_quantized(tmp_path / "none")[1].modulation == "none"
    state = made.transformer.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in loaded.transformer.state_dict().items())
    with pytest.raises(SpecError, match="modulation: expected one of none, w8, w8a8, w4"):
        ditas.quantize("nowhere", modulation="w2")
