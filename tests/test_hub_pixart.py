"""Text-conditioned repositories of the hub: their captions lie in them, or are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hub_server import REVISION, point_to, serve_hub
from test_hub import Waits
from tiny_pixart import NAMES, save_tiny_pixart, tiny_captions, tiny_pixart, with_dead_buffers

from ditas_core.checkpoints import (
    CheckpointError,
    find_source,
    fingerprint,
    load_checkpoint,
    load_folder,
)
from ditas_core.checkpoints.hub.fetching import fetch

HEAVY = "transformer/diffusion_pytorch_model.safetensors"
NAME = f"someone/pixart@{REVISION}"


def test_captions_of_the_repository(tmp_path: Path, monkeypatch: Any) -> None:
    served = save_tiny_pixart(tmp_path / "served", told=False)
    with serve_hub(served) as hub:
        point_to(hub, monkeypatch)
        source = find_source(NAME)
        assert source is not None
        folder = fetch(source, cache=tmp_path / "cache", endpoint=hub.endpoint, sleep=Waits())
        found = load_folder(folder)
    here = load_folder(served)
    assert found.fingerprint == here.fingerprint and found.class_names == NAMES
    assert found.captions is not None and found.captions.sha256 == tiny_captions().sha256
    assert found.licence == "mit"


def test_captions_that_are_given(tmp_path: Path, monkeypatch: Any) -> None:
    served = save_tiny_pixart(tmp_path / "served", told=False)
    (served / "captions.safetensors").unlink()
    given = tiny_captions(seed=4)
    (tmp_path / "mine").mkdir()
    file = given.save(tmp_path / "mine")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    with serve_hub(served) as hub:
        point_to(hub, monkeypatch)
        with pytest.raises(
            CheckpointError, match=r"someone/pixart: expected captions\.safetensors"
        ):
            load_checkpoint(NAME)
        assert not hub.requests("GET", HEAVY), "refused before the weights are fetched"
        found = load_checkpoint(NAME, captions=file)
        assert found.captions is not None and found.captions.sha256 == given.sha256
        # converted now; loading says what is missing
        with pytest.raises(CheckpointError, match="has no text encoder"):
            load_checkpoint(NAME)
    assert found.fingerprint == load_folder(served, captions=given).fingerprint


@pytest.mark.parametrize("pickled", [False, True])
def test_dead_buffers_of_published_repositories(
    pickled: bool, tmp_path: Path, monkeypatch: Any
) -> None:
    served = with_dead_buffers(save_tiny_pixart(tmp_path / "served", told=True), pickled)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    with serve_hub(served) as hub:
        point_to(hub, monkeypatch)
        found = load_checkpoint(NAME)
    assert found.fingerprint == fingerprint(tiny_pixart(told=True))
