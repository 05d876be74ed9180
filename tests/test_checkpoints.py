"""Checkpoints on disk: what loads, what is refused, how layers are found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_random_checkpoint
from diffusers import DDIMScheduler, DiTPipeline
from safetensors.torch import load_file

from ditas_core.checkpoints import (
    Absorber,
    Checkpoint,
    CheckpointError,
    fingerprint,
    get_linear,
    load_checkpoint,
)
from ditas_core.checkpoints.pickled_folder import convert_folder

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random checkpoint as the stock pipeline saves it."""
    checkpoint = build_random_checkpoint()
    target = tmp_path_factory.mktemp("checkpoints") / "tiny"
    scheduler = DDIMScheduler.from_config(checkpoint.scheduler)
    DiTPipeline(checkpoint.transformer, checkpoint.vae, scheduler).save_pretrained(target)
    edit_json(
        target / "model_index.json",
        id2label={str(i): name for i, name in enumerate(checkpoint.class_names)},
    )
    (target / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n", encoding="utf-8")
    return target


@pytest.fixture
def folder(stock: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(stock, tmp_path / "tiny"))


def edit_json(path: Path, **changes: Any) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**document, **changes}), encoding="utf-8")


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


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no index": lambda f: (f / "model_index.json").unlink(),
    "index is no JSON": lambda f: (f / "model_index.json").write_text("{"),
    "index is a list": lambda f: (f / "model_index.json").write_text("[]"),
    "index is not text": lambda f: (f / "model_index.json").write_bytes(b"\xff\xfe\x00"),
    "index is deep": lambda f: (f / "model_index.json").write_text("[" * 100_000),
    "index is huge": lambda f: (f / "model_index.json").write_text(" " * 2_000_000 + "{}"),
    "another pipeline": lambda f: edit_json(f / "model_index.json", _class_name="FluxPipeline"),
    "labels with a gap": lambda f: edit_json(f / "model_index.json", id2label={"0": "a", "2": "c"}),
    "labels in a list": lambda f: edit_json(f / "model_index.json", id2label=["a", "b"]),
    "labels are a number": lambda f: edit_json(f / "model_index.json", id2label=7),
    "no transformer": lambda f: shutil.rmtree(f / "transformer"),
    "another transformer": lambda f: edit_json(
        f / "transformer" / "config.json", _class_name="UNet2DModel"
    ),
    "another norm": lambda f: edit_json(f / "transformer" / "config.json", norm_type="layer_norm"),
    "another width": lambda f: edit_json(f / "transformer" / "config.json", attention_head_dim=24),
    "width is text": lambda f: edit_json(f / "transformer" / "config.json", attention_head_dim="x"),
    "more blocks than weights": lambda f: edit_json(
        f / "transformer" / "config.json", num_layers=3
    ),
    "fewer blocks than weights": lambda f: edit_json(
        f / "transformer" / "config.json", num_layers=1
    ),
    "no weights": lambda f: (f / "transformer" / WEIGHTS).unlink(),
    "empty weights": lambda f: (f / "transformer" / WEIGHTS).write_bytes(b""),
    "half the weights": lambda f: (f / "transformer" / WEIGHTS).write_bytes(
        (f / "transformer" / WEIGHTS).read_bytes()[:50_000]
    ),
    "no vae": lambda f: shutil.rmtree(f / "vae"),
    "half the vae": lambda f: (f / "vae" / WEIGHTS).write_bytes(
        (f / "vae" / WEIGHTS).read_bytes()[:5_000]
    ),
    "no scheduler": lambda f: shutil.rmtree(f / "scheduler"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_folders_are_refused(folder: Path, damage: Callable[[Path], object]) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=r"expected|missing"):
        load_checkpoint(folder)


@pytest.mark.parametrize("source", ["", "no/such/folder", "facebook/other", "../..", "\0"])
def test_unknown_sources_are_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        load_checkpoint(source)
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path)


def pickle_weights(folder: Path) -> None:
    """Weights as ``.bin``, as the official repositories hold them."""
    for part in ("transformer", "vae"):
        state = load_file(folder / part / WEIGHTS)
        torch.save(state, folder / part / "diffusion_pytorch_model.bin")
        (folder / part / WEIGHTS).unlink()


def test_pickled_weights_are_converted_once(folder: Path, random_checkpoint: Checkpoint) -> None:
    pickle_weights(folder)
    with pytest.raises(CheckpointError, match="got a pickle"):
        load_checkpoint(folder)
    target = folder.parent / "converted"
    assert list(convert_folder(folder, target))
    assert load_checkpoint(target).fingerprint == random_checkpoint.fingerprint
    before = (target / "transformer" / WEIGHTS).stat().st_mtime_ns
    assert list(convert_folder(folder, target)) == []
    assert (target / "transformer" / WEIGHTS).stat().st_mtime_ns == before


class Payload:
    """Runs code where a pickle is loaded without care."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.witness,)


def test_a_pickle_that_runs_code_runs_nothing_and_leaves_nothing(
    folder: Path, tmp_path: Path
) -> None:
    pickle_weights(folder)
    witness = tmp_path / "witness"
    torch.save(Payload(witness), folder / "vae" / "diffusion_pytorch_model.bin")
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(CheckpointError, match="nothing in it was run"):
        list(convert_folder(folder, tmp_path / "converted"))
    assert not witness.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == before
