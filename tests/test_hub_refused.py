"""What a repository of the hub is refused for, and how little of it was fetched by then."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants as constants
import pytest
import torch
from diffusers import DiTTransformer2DModel
from hub_server import REVISION, Hub, serve_hub
from test_hub import Waits, hub_cache
from tiny_pipelines import edit_json
from tiny_pixart import save_tiny_pixart

from ditas_core.checkpoints import (
    CheckpointError,
    Machine,
    check_machine,
    find_source,
    preflight,
)
from ditas_core.checkpoints.hub import fetch
from ditas_core.checkpoints.hub_checks import need_of_parts
from ditas_core.checkpoints.pickled_folder import convert_folder
from ditas_core.checkpoints.transfer import ask, look_up

SOURCE = find_source(f"facebook/DiT-tiny@{REVISION}")
assert SOURCE is not None
WEIGHTS = ("transformer/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.bin")


@pytest.fixture
def served(repository: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(repository, tmp_path / "served"))


@pytest.fixture
def hub(served: Path) -> Iterator[Hub]:
    with serve_hub(served) as hub:
        yield hub


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))


def get(hub: Hub, cache: Path, **options: Any) -> Path:
    return fetch(SOURCE, cache=cache, endpoint=hub.endpoint, sleep=Waits(), **options)


def weights_asked_for(hub: Hub) -> list[str]:
    return [path for method, path, _ in hub.asked if method == "GET" and path.endswith(".bin")]


def halved(folder: Path) -> None:
    file = folder / WEIGHTS[0]
    torch.save({k: v.half() for k, v in torch.load(file, weights_only=True).items()}, file)


def raw_of(cache: Path) -> Path:
    return cache / "facebook--DiT-tiny" / REVISION / "raw"


# What loading takes


@pytest.mark.parametrize("kind", ["float32", "float16", "PixArt"])
def test_what_is_counted_before_the_weights_is_what_loading_takes(
    served: Path, tmp_path: Path, kind: str
) -> None:
    """The files' sizes alone would tell half of it where they hold half precision."""
    if kind == "PixArt":
        served = save_tiny_pixart(tmp_path / "pixart", told=True)
    if kind == "float16":
        halved(served)
    list(convert_folder(served, tmp_path / "converted"))
    after = preflight(tmp_path / "converted")
    sizes = [
        next((served / part).glob("diffusion_*")).stat().st_size for part in ("transformer", "vae")
    ]
    before = need_of_parts(SOURCE, served, captions=True, sizes=sizes)
    assert before.parameters == after.parameters
    # apart from the largest tensor as stored: what surrounds the numbers of a file counts there
    assert after.float32 == pytest.approx(before.float32, abs=50_000)
    assert before.float32 - before.bfloat16 == after.float32 - after.bfloat16


@pytest.mark.parametrize("where", ["hub", "its cache"])
def test_half_precision_that_does_not_fit_is_not_downloaded(
    served: Path, tmp_path: Path, where: str, monkeypatch: Any
) -> None:
    """Held in float32 it takes twice what its file has."""
    config = served / "transformer" / "config.json"
    edit_json(config, num_attention_heads=4, attention_head_dim=64, num_layers=3)
    model = DiTTransformer2DModel.from_config(json.loads(config.read_text()))
    torch.save(model.half().state_dict(), served / WEIGHTS[0])
    with serve_hub(served) as hub:
        size = (served / WEIGHTS[0]).stat().st_size
        machine = Machine(memory=256 * 2**20 + int(1.5 * size))
        if where == "its cache":
            hub_cache(served, tmp_path / "none")
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(CheckpointError, match=r"DiT-tiny: needs .* in float32, .* are free"):
            get(hub, tmp_path / "cache", machine=machine)
        assert not weights_asked_for(hub)
        folder = get(hub, tmp_path / "cache", machine=machine, dtype=torch.bfloat16)
    check_machine(preflight(folder), machine, torch.bfloat16)
    with pytest.raises(CheckpointError, match="needs"):
        check_machine(preflight(folder), machine)


def test_leftovers_of_other_files_are_not_room_on_the_disk(hub: Hub, tmp_path: Path) -> None:
    """Only what the download goes on from counts as downloaded."""
    cache = tmp_path / "cache"
    (raw_of(cache) / "transformer").mkdir(parents=True)
    left = raw_of(cache) / f"{WEIGHTS[0]}.deadbeefdeadbeef.part"
    left.write_bytes(b"x" * 10_000_000)
    (raw_of(cache) / "notes").write_bytes(b"x" * 10_000_000)
    with pytest.raises(CheckpointError, match="of free disk"):
        get(hub, cache, machine=Machine(disk=1))
    shutil.rmtree(raw_of(cache))
    with pytest.raises(InterruptedError):
        get(hub, cache, progress=stop_at(WEIGHTS[1]))
    size = sum((hub.folder / name).stat().st_size for name in WEIGHTS)
    there = (hub.folder / WEIGHTS[0]).stat().st_size
    with pytest.raises(CheckpointError, match="of free disk"):
        get(hub, cache, machine=Machine(disk=2 * size - there - 20_000))
    assert get(hub, cache, machine=Machine(disk=2 * size - there)).is_dir()


def stop_at(name: str) -> Callable[[Any], None]:
    """Raise once this file begins."""

    def stop(step: Any) -> None:
        if step.doing == f"downloading {name}":
            raise InterruptedError

    return stop


# What is no model that is understood


@pytest.mark.parametrize("where", ["hub", "its cache"])
@pytest.mark.parametrize(
    ("file", "cls", "words"),
    [
        ("model_index.json", "FluxPipeline", "got 'FluxPipeline'"),
        ("transformer/config.json", "UNet2DConditionModel", "it is a convolutional U-Net"),
        ("scheduler/scheduler_config.json", "FlowMatchEulerDiscreteScheduler", "a flow-matching"),
    ],
)
def test_what_cannot_be_loaded_is_refused_before_its_weights(
    served: Path, tmp_path: Path, file: str, cls: str, words: str, where: str, monkeypatch: Any
) -> None:
    edit_json(served / file, _class_name=cls)
    with serve_hub(served) as hub:
        if where == "its cache":
            hub_cache(served, tmp_path / "none")
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(CheckpointError, match=f"^facebook/DiT-tiny: .*{words}"):
            get(hub, tmp_path / "cache")
        assert not weights_asked_for(hub)


# Places and addresses that are none


@pytest.mark.parametrize("blocked", ["", "raw", "raw/transformer", "safetensors"])
def test_a_file_where_a_folder_belongs_is_said(hub: Hub, tmp_path: Path, blocked: str) -> None:
    place = raw_of(tmp_path).parent / blocked
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("mine")
    with pytest.raises(CheckpointError, match=r"expected .*; free it, or set HF_HOME") as caught:
        get(hub, tmp_path)
    assert str(tmp_path) not in str(caught.value)
    assert place.read_text() == "mine"


def address(hub: Hub) -> str:
    return f"{hub.endpoint}/someone/theirs/resolve/{REVISION}/model_index.json"


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("told", ["http://[::1", "http://[x]/", "//[/x"])
def test_an_address_that_is_none_is_said(hub: Hub, method: str, told: str) -> None:
    for path in ("model_index.json", "HEAD model_index.json"):
        hub.faults[path] = [(302, {"Location": told})]
    with pytest.raises(CheckpointError, match=r"hub: expected .* got one that is none"):
        list(ask(address(hub), method, {}, Waits()))
    with pytest.raises(CheckpointError, match=r"hub: expected an address.*check HF_ENDPOINT"):
        list(look_up("http://[::1/model_index.json", {}, Waits()))


@pytest.mark.parametrize("size", ["\u00b2", "9" * 5000, "-1", "1e3"])
def test_a_size_that_is_none_is_said(hub: Hub, size: str) -> None:
    told = {"X-Linked-Size": size, "ETag": "0" * 40}
    hub.faults["HEAD model_index.json"] = [(200, told)]
    with pytest.raises(CheckpointError, match="hub: expected the size and hash"):
        list(look_up(address(hub), {}, Waits()))
