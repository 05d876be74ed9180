"""Checkpoints on disk: what loads, what is refused, how layers are found."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import build_random_checkpoint
from tiny_pipelines import edit_json

from ditas_core.checkpoints import (
    Absorber,
    Checkpoint,
    CheckpointError,
    fingerprint,
    get_linear,
    load_checkpoint,
)

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(stock: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(stock, tmp_path / "tiny"))


def test_a_stock_folder_loads_as_it_was_saved(stock: Path, random_checkpoint: Checkpoint) -> None:
    loaded = load_checkpoint(stock)
    assert loaded.name == "tiny" and loaded.path == stock
    assert loaded.fingerprint == random_checkpoint.fingerprint
    assert loaded.class_names == random_checkpoint.class_names
    assert loaded.licence == "mit"
    assert loaded.latent_shape == (4, 8, 8) and loaded.image_size == 16
    for module in (loaded.transformer, loaded.vae):
        assert not module.training
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in module.parameters())
    assert load_checkpoint(str(stock)).fingerprint == loaded.fingerprint


def test_groups_cover_every_linear_layer_of_the_blocks(random_checkpoint: Checkpoint) -> None:
    transformer = random_checkpoint.transformer
    quantized = [path for group in random_checkpoint.groups for path in group.layers]
    assert len(quantized) == len(set(quantized)) == 12
    for path, module in transformer.named_modules():
        if isinstance(module, torch.nn.Linear) and path.startswith("transformer_blocks"):
            assert path in quantized or ".norm1." in path
    for group in random_checkpoint.groups:
        assert len({get_linear(transformer, path).in_features for path in group.layers}) == 1
        assert (group.absorber_path == "") == (group.absorber is Absorber.ON_THE_FLY)
        assert f"block {group.block}" in group.title and group.kind in group.title


def test_what_is_no_linear_layer_is_refused(random_checkpoint: Checkpoint) -> None:
    with pytest.raises(TypeError, match="linear"):
        get_linear(random_checkpoint.transformer, "transformer_blocks.0.norm1")


def test_fingerprint_sees_every_tensor(random_checkpoint: Checkpoint) -> None:
    other = build_random_checkpoint().transformer
    assert fingerprint(other) == random_checkpoint.fingerprint
    seen = {random_checkpoint.fingerprint}
    for key in ("transformer_blocks.1.ff.net.2.bias", "pos_embed.proj.weight", "proj_out_2.weight"):
        other.get_parameter(key).view(-1)[0] += 1
        seen.add(fingerprint(other))
    assert len(seen) == 4


def test_classes_by_name_and_number(random_checkpoint: Checkpoint) -> None:
    assert random_checkpoint.class_index("fox") == random_checkpoint.class_index(" 2 ") == 2
    for bad in ("wolf", "", "5", "-1", "1.0", "²", "1" * 5000, "cat,dog"):
        with pytest.raises(CheckpointError, match="class: expected"):
            random_checkpoint.class_index(bad)


INDEX, CONFIG = "model_index.json", "transformer/config.json"


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no index": lambda f: (f / INDEX).unlink(),
    "index is a list": lambda f: (f / INDEX).write_text("[]"),
    "index is not text": lambda f: (f / INDEX).write_bytes(b"\xff\xfe\x00"),
    "index is deep": lambda f: (f / INDEX).write_text("[" * 100_000),
    "index is huge": lambda f: (f / INDEX).write_text(" " * 2_000_000 + "{}"),
    "labels with a gap": lambda f: edit_json(f / INDEX, id2label={"0": "a", "2": "c"}),
    "labels in a list": lambda f: edit_json(f / INDEX, id2label=["a", "b"]),
    "no transformer": lambda f: shutil.rmtree(f / "transformer"),
    "another norm": lambda f: edit_json(f / CONFIG, norm_type="layer_norm"),
    "another width": lambda f: edit_json(f / CONFIG, attention_head_dim=24),
    "more blocks than weights": lambda f: edit_json(f / CONFIG, num_layers=3),
    "no weights": lambda f: (f / "transformer" / WEIGHTS).unlink(),
    "half the weights": lambda f: half(f / "transformer" / WEIGHTS),
    "no vae": lambda f: shutil.rmtree(f / "vae"),
    "no scheduler": lambda f: shutil.rmtree(f / "scheduler"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_folders_are_refused(folder: Path, damage: Callable[[Path], object]) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=r"expected|missing"):
        load_checkpoint(folder)
