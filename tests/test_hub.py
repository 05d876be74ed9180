"""The hub's repositories, from a hub on loopback: download, faults, conversion, cache."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants as constants
import pytest
import torch
from children import exit_code, in_child
from hub_server import REVISION, Hub, point_to, serve_hub

from ditas_core.checkpoints import (
    HUB_SOURCES,
    Checkpoint,
    CheckpointError,
    HubSource,
    Machine,
    Progress,
    converted_folder,
    fetch_steps,
    find_source,
    known_need,
    load_checkpoint,
    load_folder,
    loading_need,
)
from ditas_core.checkpoints.hub import transfer
from ditas_core.checkpoints.hub.fetching import fetch
from ditas_core.checkpoints.hub.pickled_folder import convert_folder

SOURCE = HubSource("facebook/DiT-tiny", "cc-by-nc-4.0", 0.001, REVISION)
HEAVY, LIGHT = "transformer/diffusion_pytorch_model.bin", "transformer/config.json"


@pytest.fixture
def hub(repository: Path) -> Iterator[Hub]:
    with serve_hub(repository) as hub:
        yield hub


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")


class Waits(list[float]):
    """Stands for time.sleep."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def get(hub: Hub, cache: Path, source: HubSource = SOURCE, **options: Any) -> Path:
    options.setdefault("sleep", Waits())
    return fetch(
        source, options.pop("progress", None), cache=cache, endpoint=hub.endpoint, **options
    )


def left_in(cache: Path) -> set[str]:
    """Names of the files below, without locks."""
    return {p.name for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock"}


# What goes well


def test_a_repository_of_pickles_becomes_a_checkpoint(
    hub: Hub, tmp_path: Path, random_checkpoint: Checkpoint
) -> None:
    seen: list[Progress] = []
    folder = get(hub, tmp_path, progress=seen.append)
    loaded = load_folder(folder)
    assert loaded.fingerprint == random_checkpoint.fingerprint
    assert loaded.class_names == random_checkpoint.class_names
    assert loaded.licence == "cc-by-nc-4.0"
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = random_checkpoint.vae.decode(latents).sample
    assert torch.equal(loaded.vae.decode(latents).sample, expected)
    assert not [p for p in folder.rglob("*") if p.suffix == ".bin" or p.is_symlink()]
    assert not (folder.parent / "raw").exists()
    config = json.loads((folder / "transformer" / "config.json").read_text())
    assert config["_class_name"] == "DiTTransformer2DModel" and "num_vector_embeds" not in config
    # progress: from nothing to all of it, never backwards within one activity
    doing = {step.doing for step in seen}
    assert f"downloading {HEAVY}" in doing and "converting to safetensors" in doing
    for what in doing:
        counts = [step.done for step in seen if step.doing == what]
        assert counts == sorted(counts)
    assert all(0 <= step.done <= step.total for step in seen)
    # the second time nothing is asked of anyone
    asked = len(hub.asked)
    assert get(hub, tmp_path) == converted_folder(SOURCE, tmp_path) == folder
    assert len(hub.asked) == asked


def test_the_token_stays_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    get(hub, tmp_path)
    assert hub.requests("HEAD", HEAVY)[0]["authorization"] == "Bearer hf_secret"
    (elsewhere,) = hub.requests("GET", HEAVY)
    assert "authorization" not in elsewhere and elsewhere["host"].startswith("localhost")


def test_a_dropped_connection_goes_on_where_it_broke(hub: Hub, tmp_path: Path) -> None:
    hub.faults[HEAVY] = ["drop", "drop", "cut", 500, "drop"]
    hub.faults[LIGHT] = ["drop"]
    assert load_folder(get(hub, tmp_path)).latent_shape == (4, 8, 8)
    starts = [int(h.get("range", "bytes=0-")[6:-1]) for h in hub.requests("GET", HEAVY)]
    assert starts == sorted(starts) and starts[1] > 0 and starts[-1] > starts[1]
    hub.faults[HEAVY] = ["drop", "all again"]  # a server without ranges
    assert load_folder(get(hub, tmp_path / "again")).latent_shape == (4, 8, 8)


def test_a_silent_connection_gives_way_and_the_rest_is_asked_for(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever cancels waits for one silence, not for the end of it."""
    assert transfer.TIMEOUT <= 4
    monkeypatch.setattr(transfer, "TIMEOUT", 0.3)
    hub.faults[HEAVY] = ["stall"]
    began = time.monotonic()
    get(hub, tmp_path)
    assert time.monotonic() - began < 30, "the server would be silent for a minute"
    assert len(hub.requests("GET", HEAVY)) == 2
    assert load_folder(get(hub, tmp_path)).latent_shape == (4, 8, 8)


@pytest.mark.parametrize(
    ("first", "rest"),
    [("drop", "all again, short"), ("a page", "a page, short"), ("cut", "cut")],
)
def test_a_server_that_never_comes_further_is_given_up(
    hub: Hub, tmp_path: Path, first: str, rest: str
) -> None:
    """It answers every request, with the beginning alone, something short, or nothing."""
    hub.faults[HEAVY] = [first] + [rest] * 100
    with pytest.raises(CheckpointError, match="connection broke 5 times; what arrived is kept"):
        get(hub, tmp_path)
    assert len(hub.requests("GET", HEAVY)) <= 8


def test_a_cancelled_download_is_resumed(hub: Hub, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(transfer, "CHUNK", 10_000)
    steps = fetch_steps(SOURCE, tmp_path, hub.endpoint, sleep=Waits())
    for step in steps:
        if step.doing == f"downloading {HEAVY}" and step.done > 50_000:
            break
    steps.close()
    (part,) = (n for n in left_in(tmp_path) if n.endswith(".part"))
    assert part.startswith("diffusion_pytorch_model.bin.")
    assert converted_folder(SOURCE, tmp_path) is None
    assert load_folder(get(hub, tmp_path)).latent_shape == (4, 8, 8)
    assert int(hub.requests("GET", HEAVY)[-1]["range"][6:-1]) >= 10_000

    def stop(step: Progress) -> None:
        if step.doing.startswith("converting"):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        get(hub, tmp_path / "again", progress=stop)
    assert not [n for n in left_in(tmp_path / "again") if "convert" in n]
    assert load_folder(get(hub, tmp_path / "again")).latent_shape == (4, 8, 8)


# What goes wrong


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "gated, private or gone"),
        (403, "gated, private or gone"),
        (404, "no such repository, revision or file"),
        (410, "no such repository, revision or file"),
        (418, "got 418"),
    ],
)
@pytest.mark.parametrize("path", [f"HEAD {HEAVY}", "HEAD model_index.json", HEAVY, LIGHT])
def test_refusals_are_said_once(
    hub: Hub, tmp_path: Path, path: str, status: int, words: str
) -> None:
    hub.faults[path] = [status]
    waits = Waits()
    with pytest.raises(CheckpointError, match=words) as caught:
        get(hub, tmp_path, sleep=waits)
    assert "expected" in str(caught.value) and "\n" not in str(caught.value)
    assert not waits and converted_folder(SOURCE, tmp_path) is None


def test_a_card_may_be_missing(hub: Hub, tmp_path: Path) -> None:
    hub.faults["HEAD README.md"] = [404]
    assert load_folder(get(hub, tmp_path)).licence == "unknown"


def test_busy_servers_are_waited_for_as_they_ask_within_bounds(hub: Hub, tmp_path: Path) -> None:
    waits = Waits()
    later = [(429, "3"), (429, "soon"), (503, "9999")]
    hub.faults[f"HEAD {HEAVY}"] = [(status, {"Retry-After": told}) for status, told in later]
    assert load_folder(get(hub, tmp_path, sleep=waits)).latent_shape == (4, 8, 8)
    assert sum(waits) == 3 + 2 + 60 and max(waits) <= 1  # ticks, so that cancelling is heard
    hub.faults[f"HEAD {HEAVY}"] = [(429, {"Retry-After": "1"})] * 10
    with pytest.raises(CheckpointError, match=r"429, too many requests.*5 tries"):
        get(hub, tmp_path / "again")
    assert len(hub.faults[f"HEAD {HEAVY}"]) == 5


def test_a_hub_that_is_not_there(tmp_path: Path, monkeypatch: Any) -> None:
    waits = Waits()
    with pytest.raises(CheckpointError, match=r"go online once, or pass a local.*5 tries"):
        fetch(SOURCE, cache=tmp_path, endpoint="http://127.0.0.1:9", sleep=waits)
    assert len(waits) > 3
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
        fetch(SOURCE, cache=tmp_path, endpoint="http://127.0.0.1:9", sleep=waits)


def test_wrong_bytes_are_refused_and_removed(hub: Hub, tmp_path: Path) -> None:
    for path in (LIGHT, HEAVY):
        hub.faults[path] = ["wrong"]
        with pytest.raises(CheckpointError, match=r"expected the hash \w+, got .*removed"):
            get(hub, tmp_path)
        assert not [p for p in tmp_path.rglob("*") if path in str(p)]
        assert converted_folder(SOURCE, tmp_path) is None
    assert load_folder(get(hub, tmp_path)).latent_shape == (4, 8, 8)


def test_what_another_download_left_is_checked(hub: Hub, tmp_path: Path) -> None:
    raw = tmp_path / "facebook--DiT-tiny" / REVISION / "raw"
    (raw / "transformer").mkdir(parents=True)
    etag = hashlib.sha256((hub.folder / HEAVY).read_bytes()).hexdigest()
    part = raw / f"{HEAVY}.{etag[:16]}.part"
    part.write_bytes(b"x" * 1000)  # not its beginning
    with pytest.raises(CheckpointError, match="expected the hash"):
        get(hub, tmp_path)
    assert not part.exists()
    part.write_bytes(b"x" * 10_000_000)  # longer than the file
    (raw / "model_index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"model_index\.json: expected"):
        get(hub, tmp_path)
    assert load_folder(get(hub, tmp_path)).latent_shape == (4, 8, 8)


def test_links_in_the_cache_are_refused(hub: Hub, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    cache = tmp_path / "cache"
    raw = cache / "facebook--DiT-tiny" / REVISION / "raw"
    raw.mkdir(parents=True)
    (raw / "model_index.json").symlink_to(secret)
    with pytest.raises(CheckpointError, match="got a link"):
        get(hub, cache)
    (raw / "model_index.json").unlink()
    (raw / "transformer").mkdir()
    etag = hashlib.sha256((hub.folder / HEAVY).read_bytes()).hexdigest()
    (raw / f"{HEAVY}.{etag[:16]}.part").symlink_to(secret)
    with pytest.raises(CheckpointError, match="got a link"):
        get(hub, cache)
    assert secret.read_text() == "mine"
    shutil.rmtree(raw)
    (raw.parent / "safetensors").symlink_to(tmp_path)
    with pytest.raises(CheckpointError, match="got a link"):
        get(hub, cache)


def test_what_is_pinned_is_compared(hub: Hub, tmp_path: Path) -> None:
    hub.commit = "f" * 40
    with pytest.raises(CheckpointError, match=f"expected revision {REVISION}, got 'ffff"):
        get(hub, tmp_path)
    hub.commit = ""
    pinned = replace(SOURCE, sha256={HEAVY: "0" * 64})
    with pytest.raises(CheckpointError, match="expected the hash 0000"):
        get(hub, tmp_path, pinned)
    with pytest.raises(CheckpointError, match="expected at most"):
        get(hub, tmp_path, replace(SOURCE, bytes=100_000))
    assert not hub.requests("GET", HEAVY)
    etag = hashlib.sha256((hub.folder / HEAVY).read_bytes()).hexdigest()
    assert get(hub, tmp_path, replace(SOURCE, sha256={HEAVY: etag})).is_dir()


def test_what_does_not_fit_is_not_downloaded(hub: Hub, tmp_path: Path) -> None:
    for machine, words in (
        (Machine(disk=100_000), "of free disk for the download and its conversion, got 0.1 MB"),
        (Machine(memory=2**20), "are free"),
        (Machine(address_space=2**20), "of address space"),
    ):
        with pytest.raises(CheckpointError, match=words):
            get(hub, tmp_path, machine=machine)
    assert not [entry for entry in hub.asked if entry[0] == "GET"]


class FullDisk(io.BufferedRandom):
    room = 60_000

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > FullDisk.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def test_a_full_disk_is_said_and_cleaned(hub: Hub, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(transfer, "CHUNK", 10_000)
    monkeypatch.setattr(
        transfer.os, "fdopen", lambda fd, mode: FullDisk(io.FileIO(fd, "r+")), raising=True
    )
    with pytest.raises(CheckpointError, match=r"of room in .*none left .*HF_HOME"):
        get(hub, tmp_path)
    monkeypatch.undo()
    assert not [n for n in left_in(tmp_path) if n.endswith(".part")]

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ditas_core.checkpoints.hub.pickled_folder.os.fsync", full)
    with pytest.raises(CheckpointError, match=r"of room in .*for the conversion"):
        list(convert_folder(hub.folder, tmp_path / "target"))
    monkeypatch.undo()
    assert not [p for p in tmp_path.iterdir() if "convert" in p.name or p.name == "target"]


# Processes


def fetch_until_killed(endpoint: str, cache: Path, when: str) -> None:
    """In a child."""
    transfer.CHUNK = 20_000

    def die(step: Progress) -> None:
        if step.doing.startswith(when) and step.done > 100_000:
            os.kill(os.getpid(), signal.SIGKILL)

    fetch_in_child(endpoint, cache, die)


def fetch_in_child(endpoint: str, cache: Path, progress: Any = None) -> None:
    constants.HF_HUB_CACHE = str(cache / "none")
    fetch(SOURCE, progress, cache=cache, endpoint=endpoint, sleep=time.sleep)


@pytest.mark.parametrize("when", ["downloading", "converting"])
def test_a_killed_process_leaves_nothing_that_loads(hub: Hub, tmp_path: Path, when: str) -> None:
    child = in_child(fetch_until_killed, hub.endpoint, tmp_path, when)
    assert exit_code(child) == -signal.SIGKILL
    assert converted_folder(SOURCE, tmp_path) is None
    folder = get(hub, tmp_path)
    assert load_folder(folder).latent_shape == (4, 8, 8)
    assert {p.name for p in folder.parent.iterdir()} == {"safetensors"}


def test_two_processes_do_the_work_once(hub: Hub, tmp_path: Path) -> None:
    children = [in_child(fetch_in_child, hub.endpoint, tmp_path) for _ in "12"]
    assert [exit_code(child) for child in children] == [0, 0]
    assert len(hub.requests("GET", HEAVY)) == 1
    assert load_folder(get(hub, tmp_path)).latent_shape == (4, 8, 8)


# The known repositories, and the hub's own cache


def test_the_known_repositories_are_pinned() -> None:
    for repo in ("facebook/DiT-XL-2-256", "facebook/DiT-XL-2-512"):
        source = find_source(repo)
        assert source is not None and source == HUB_SOURCES[repo]
        assert source.licence == "cc-by-nc-4.0" and len(source.revision) == 40
        need = known_need(source)
        assert 3e9 < need.bfloat16 + 1.4e9 < need.float32 < 4e9 and need.disk > 6e9
        other = find_source(f"{repo}@{REVISION}")
        assert other is not None and other.revision == REVISION and not other.sha256
        with pytest.raises(CheckpointError, match="40 hexadecimal"):
            find_source(f"{repo}@main")
    assert find_source("facebook/DiT-XL-2-1024") is None


@pytest.mark.parametrize("repo", ["facebook/DiT-XL-2-256", "someone/their-dit"])
def test_a_repository_loads_by_its_name(hub: Hub, monkeypatch: Any, repo: str) -> None:
    point_to(hub, monkeypatch)
    name = repo if repo in HUB_SOURCES else f"{repo}@{REVISION}"
    seen: list[Progress] = []
    loaded = load_checkpoint(name, dtype=torch.bfloat16, progress=seen.append)
    assert loaded.name == repo and loaded.licence == "cc-by-nc-4.0"
    assert {p.dtype for p in loaded.transformer.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in loaded.vae.parameters()} == {torch.float32}
    assert seen and hub.requests("GET", HEAVY)
    parameters = sum(p.numel() for p in loaded.transformer.parameters())
    assert loading_need(name).parameters == parameters


def hub_cache(repository: Path, cache: Path) -> Path:
    """The repository as huggingface_hub keeps it: blobs by hash, a snapshot of links."""
    home = cache / "models--facebook--DiT-tiny"
    snapshot = home / "snapshots" / REVISION
    for file in repository.rglob("*"):
        if file.is_file():
            blob = home / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
            blob.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, blob)
            link = snapshot / file.relative_to(repository)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def test_what_the_hub_cache_holds_is_converted_offline(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random_checkpoint: Checkpoint
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    snapshot = hub_cache(repository, tmp_path / "none")
    folder = fetch(SOURCE, cache=tmp_path / "own")
    assert load_folder(folder).fingerprint == random_checkpoint.fingerprint
    assert (snapshot / HEAVY).is_file()  # not ours to remove
    blob = (snapshot / HEAVY).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="expected the hash"):
        fetch(SOURCE, cache=tmp_path / "again")
    (snapshot / HEAVY).unlink()
    (snapshot / HEAVY).symlink_to(repository / HEAVY)
    with pytest.raises(CheckpointError, match="a link to a place outside"):
        fetch(SOURCE, cache=tmp_path / "again")


@pytest.mark.slow
def test_the_command_line_fetches_and_then_works_offline(hub: Hub, tmp_path: Path) -> None:
    env = {**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.endpoint}
    for name in ("HF_TOKEN", "HF_HUB_CACHE"):
        env.pop(name, None)
    command = [sys.executable, "-m", "ditas_core", "info", "facebook/DiT-XL-2-512", "--json"]

    def info(**more: str) -> dict[str, Any]:
        done = subprocess.run(
            command, capture_output=True, text=True, env={**env, **more}, timeout=120
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        assert told["preflight"].pop("available") > 0  # another figure every time
        return told

    first = info()
    assert first["name"] == "facebook/DiT-XL-2-512" and first["licence"] == "cc-by-nc-4.0"
    again = info(HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    assert again == first
