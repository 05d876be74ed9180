"""Repositories of the hub in shards or in half precision, and with captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub.constants as constants
import pytest
import torch
from conftest import tiny_transformer
from hub_server import REVISION, point_to, serve_hub
from test_stock_weights import INDEX, SAVED, written
from tiny_pixart import NAMES, save_tiny_pixart, tiny_captions

from ditas_core.checkpoints import CheckpointError, fingerprint, load_checkpoint, load_folder
from ditas_core.checkpoints.folders import STEM
from ditas_core.checkpoints.hub import fetch
from ditas_core.checkpoints.hub_sources import find_source

NAME = f"somebody/DiT-tiny@{REVISION}"
SOURCE = find_source(NAME)
HEAVY = f"transformer/{STEM}.safetensors"
assert SOURCE is not None


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("options", SAVED.values(), ids=SAVED)
def test_it_is_downloaded_as_it_was_saved(tmp_path: Path, options: dict[str, Any]) -> None:
    repository = written(tmp_path / "repository", **options)
    dtype = options.get("dtype", torch.float32)
    with serve_hub(repository) as hub:
        folder = fetch(SOURCE, cache=tmp_path / "own", endpoint=hub.endpoint)
        heavy = [p for method, p, _ in hub.asked if method == "GET" and p.endswith("tensors")]
    assert len(heavy) == len(set(heavy)) == len(list(repository.glob("*/*.safetensors")))
    assert list((folder / "transformer").glob("*.safetensors")) == [folder / HEAVY]
    assert load_folder(folder).fingerprint == fingerprint(tiny_transformer().to(dtype).float())


def test_another_programs_download_is_taken_where_every_shard_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "cache" / "models--somebody--DiT-tiny" / "snapshots" / REVISION
    written(cached, max_shard_size="100KB")
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
    repository = written(tmp_path / "repository", max_shard_size="100KB")
    told = {"weight_map": {f"layer.{i}": name for i, name in enumerate(names)}}
    (repository / "transformer" / INDEX).write_text(json.dumps(told))
    with serve_hub(repository) as hub:
        with pytest.raises(CheckpointError, match=said):
            fetch(SOURCE, cache=tmp_path / "own", endpoint=hub.endpoint)
        assert not [p for method, p, _ in hub.asked if method == "GET" and p.endswith("tensors")]
    assert not list((tmp_path / "own").rglob("config.json"))


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
