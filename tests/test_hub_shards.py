"""Repositories of the hub in shards or in half precision, and with captions."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub.constants as constants
import pytest
import torch
from conftest import tiny_transformer, tiny_vae
from diffusers import DDIMScheduler, DiTPipeline
from hub_server import REVISION, point_to, serve_hub
from tiny_pixart import NAMES, save_tiny_pixart, tiny_captions

from ditas_core.checkpoints import CheckpointError, fingerprint, load_checkpoint, load_folder
from ditas_core.checkpoints.folders import STEM
from ditas_core.checkpoints.hub import fetch
from ditas_core.checkpoints.hub_sources import find_source

NAME = f"somebody/DiT-tiny@{REVISION}"
SOURCE = find_source(NAME)
HEAVY = f"transformer/{STEM}.safetensors"
INDEX = f"{STEM}.safetensors.index.json"
assert SOURCE is not None


def written(folder: Path, dtype: torch.dtype, variant: str | None, size: str) -> Path:
    """A tiny pipeline, saved by diffusers itself."""
    pipeline = DiTPipeline(tiny_transformer(), tiny_vae(), DDIMScheduler(clip_sample=False))
    pipeline.to(dtype).save_pretrained(folder, variant=variant, max_shard_size=size)
    return folder


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("dtype", "variant", "size"),
    [
        (torch.float32, None, "100KB"),
        (torch.float16, "fp16", "10GB"),
        (torch.bfloat16, "bf16", "60KB"),
    ],
    ids=["shards", "fp16", "bf16 in shards"],
)
def test_it_is_downloaded_as_it_was_saved(
    tmp_path: Path, dtype: torch.dtype, variant: str | None, size: str
) -> None:
    repository = written(tmp_path / "repository", dtype, variant, size)
    count = len(list((repository / "transformer").glob("*.safetensors")))
    assert (count > 1) == size.endswith("KB")
    with serve_hub(repository) as hub:
        folder = fetch(SOURCE, cache=tmp_path / "own", endpoint=hub.endpoint)
        heavy = [p for method, p, _ in hub.asked if method == "GET" and p.endswith("tensors")]
    assert len(heavy) == len(set(heavy)) == len(list(repository.glob("*/*.safetensors")))
    assert [p.name for p in (folder / "transformer").glob("*.safetensors")] == [
        f"{STEM}.safetensors"
    ]
    assert load_folder(folder).fingerprint == fingerprint(tiny_transformer().to(dtype).float())


def test_full_precision_comes_before_half(tmp_path: Path) -> None:
    repository = written(tmp_path / "repository", torch.float32, None, "10GB")
    tiny_transformer(seed=5).half().save_pretrained(repository / "transformer", variant="fp16")
    with serve_hub(repository) as hub:
        folder = fetch(SOURCE, cache=tmp_path / "own", endpoint=hub.endpoint)
        assert not hub.requests("GET", f"transformer/{STEM}.fp16.safetensors")
    assert load_folder(folder).fingerprint == fingerprint(tiny_transformer())


def test_another_programs_download_is_taken_where_every_shard_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "cache" / "models--somebody--DiT-tiny" / "snapshots" / REVISION
    written(cached, torch.float32, None, "100KB")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = fetch(SOURCE, cache=tmp_path / "own")
    assert load_folder(folder).fingerprint == fingerprint(tiny_transformer())
    min((cached / "transformer").glob("*-00002-*")).unlink()
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
        fetch(SOURCE, cache=tmp_path / "another")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["https://example.org/a.safetensors"], "expected names such as"),
        ([f"{STEM}-00001-of-00001.safetensors"], "404"),
    ],
)
def test_hostile_indices_are_refused_before_a_weight_is_asked_for(
    tmp_path: Path, names: list[str], said: str
) -> None:
    repository = written(tmp_path / "repository", torch.float32, None, "100KB")
    told = {"weight_map": {f"layer.{i}": name for i, name in enumerate(names)}}
    (repository / "transformer" / INDEX).write_text(json.dumps(told))
    with serve_hub(repository) as hub:
        with pytest.raises(CheckpointError, match=said):
            fetch(SOURCE, cache=tmp_path / "own", endpoint=hub.endpoint)
        assert not [p for method, p, _ in hub.asked if method == "GET" and p.endswith("tensors")]
    assert not list((tmp_path / "own").rglob("config.json"))


def test_shards_that_hold_other_tensors_than_the_index_says_never_get_a_name(
    tmp_path: Path,
) -> None:
    repository = written(tmp_path / "repository", torch.float32, None, "100KB")
    index = repository / "transformer" / INDEX
    told = json.loads(index.read_text())["weight_map"]
    name = min(told)
    told[name] = next(shard for shard in told.values() if shard != told[name])
    index.write_text(json.dumps({"weight_map": told}))
    with serve_hub(repository) as hub, pytest.raises(CheckpointError, match="1 missing"):
        fetch(SOURCE, cache=tmp_path / "own", endpoint=hub.endpoint)
    assert not list((tmp_path / "own").rglob("safetensors"))


# Captions


def test_captions_of_the_repository(tmp_path: Path) -> None:
    served = save_tiny_pixart(tmp_path / "served", told=False)
    with serve_hub(served) as hub:
        folder = fetch(SOURCE, cache=tmp_path / "own", endpoint=hub.endpoint)
    found = load_folder(folder)
    here = load_folder(served)
    assert found.fingerprint == here.fingerprint and found.class_names == NAMES
    assert found.captions is not None and found.captions.sha256 == tiny_captions().sha256
    assert found.licence == "mit"


def test_captions_that_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = save_tiny_pixart(tmp_path / "served", told=False)
    (served / "captions.safetensors").unlink()
    given = tiny_captions(seed=4)
    (tmp_path / "mine").mkdir()
    file = given.save(tmp_path / "mine")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    with serve_hub(served) as hub:
        point_to(hub, monkeypatch)
        words = r"somebody/DiT-tiny: expected captions\.safetensors.* app\.py --checkpoint FOLDER"
        with pytest.raises(CheckpointError, match=words):
            load_checkpoint(NAME)
        assert not hub.requests("GET", HEAVY), "refused before the weights are fetched"
        found = load_checkpoint(NAME, captions=file)
        assert found.captions is not None and found.captions.sha256 == given.sha256
        # converted now; loading says what is missing
        with pytest.raises(CheckpointError, match="has no text encoder"):
            load_checkpoint(NAME)
    assert found.fingerprint == load_folder(served, captions=given).fingerprint
