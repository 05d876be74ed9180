"""The hub repositories that this package knows: found, downloaded, converted once.

``facebook/DiT-XL-2-256`` and ``-512`` hold pickles. They are downloaded by their pinned
revision, compared with the hashes that the hub announces for it, read with
``weights_only`` and written once as a safetensors folder, which is what gets loaded.
Everything lies under ``HF_HOME/ditas/REPOSITORY/REVISION``; a lock keeps a second
process from doing the same work, and a folder gets its name when it is whole.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from .errors import CheckpointError
from .loading import check_inside
from .machine import Machine, figure
from .pickled_folder import PICKLE, convert_folder
from .preflight import WORKING, Need, check_machine
from .transfer import REMEDY, Remote, Sleep, download, file_hash, look_up, tell

SMALL_FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "transformer/config.json",
    "vae/config.json",
)
OPTIONAL_FILES = ("README.md",)
WEIGHT_FILES = (f"transformer/{PICKLE}", f"vae/{PICKLE}")
MAX_SMALL = 1_000_000
CONVERTED = "safetensors"


@dataclass(frozen=True)
class HubSource:
    """A hub repository that this package knows.

    revision  the commit that is downloaded, 40 hexadecimal digits
    bytes     of its weights
    sha256    of files, where they are known beforehand; the hub's own are checked anyway
    """

    repo: str
    licence: str
    gigabytes: float
    revision: str = ""
    bytes: int = 0
    sha256: dict[str, str] = field(default_factory=dict)


HUB_SOURCES: dict[str, HubSource] = {
    "facebook/DiT-XL-2-256": HubSource(
        "facebook/DiT-XL-2-256",
        "cc-by-nc-4.0",
        3.3,
        "eab87f77abd5aef071a632f08807fbaab0b704d0",
        3_334_245_438,
    ),
    "facebook/DiT-XL-2-512": HubSource(
        "facebook/DiT-XL-2-512",
        "cc-by-nc-4.0",
        3.3,
        "101a3d462b22d64c4afdd4d0c8c59a2c0b961b99",
        3_334_245_438,
    ),
}


@dataclass(frozen=True)
class Progress:
    """Where fetching stands: what is done now, and bytes done of all."""

    doing: str
    done: int
    total: int


def find_source(text: str) -> HubSource | None:
    """A known repository, ``REPO`` or ``REPO@REVISION``.

    Raises:
        CheckpointError: a revision that is no commit.
    """
    repo, at, revision = text.partition("@")
    source = HUB_SOURCES.get(repo)
    if source is None or not at:
        return source
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise CheckpointError(
            f"{repo}: expected a commit of 40 hexadecimal digits behind @, got {revision[:60]!r}"
        )
    return replace(source, revision=revision, bytes=0, sha256={})


def own_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "ditas"


def place_of(source: HubSource, cache: Path) -> Path:
    """Where everything about one revision lies."""
    return cache / source.repo.replace("/", "--") / source.revision


def converted(source: HubSource, cache: Path | None = None) -> Path | None:
    """The safetensors folder, if it was made already."""
    folder = place_of(source, own_cache() if cache is None else cache) / CONVERTED
    if folder.is_symlink():
        raise CheckpointError(f"{folder}: expected a folder, got a link to one; remove it")
    return folder if folder.is_dir() else None


def in_hub_cache(source: HubSource) -> Path | None:
    """The same revision as another program downloaded it, if it is all there."""
    from huggingface_hub import try_to_load_from_cache

    found = [
        try_to_load_from_cache(source.repo, name, revision=source.revision)
        for name in (*SMALL_FILES, *WEIGHT_FILES)
    ]
    if not all(isinstance(path, str) for path in found):
        return None
    return Path(str(found[0])).parent


def need_to_load(source: HubSource, sizes: dict[str, int]) -> Need:
    """What downloading, converting and loading take; the files hold float32."""
    transformer, vae = (sizes.get(name, 0) for name in WEIGHT_FILES)
    total = transformer + vae
    return Need(
        source.repo,
        total,
        transformer // 4,
        transformer + vae + WORKING,
        transformer // 2 + vae + WORKING,
        disk=2 * total,
        mapped=0,
    )


def known_need(source: HubSource) -> Need:
    """The same from what is known before anything is asked of the hub."""
    vae = source.bytes // 10  # sd-vae's share
    return need_to_load(source, dict(zip(WEIGHT_FILES, (source.bytes - vae, vae), strict=True)))


def fetch_steps(
    source: HubSource,
    cache: Path | None = None,
    endpoint: str | None = None,
    machine: Machine | None = None,
    dtype: torch.dtype = torch.float32,
    sleep: Sleep = time.sleep,
) -> Generator[Progress, None, Path]:
    """Download and convert; returns the safetensors folder. Close it to cancel.

    Raises:
        CheckpointError: offline, refused, damaged, no room, or too large for ``machine``.
    """
    from filelock import FileLock, Timeout

    cache = own_cache() if cache is None else cache
    ready = converted(source, cache)
    if ready is not None:
        return ready
    place = place_of(source, cache)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place.with_name(f"{place.name}.lock"))
        while True:
            try:
                lock.acquire(timeout=0)
                break
            except Timeout:
                yield Progress("waiting for another process", 0, 1)
                sleep(0.2)
    except OSError as error:
        raise CheckpointError(
            f"{cache}: expected a place to keep the checkpoint, got {error.strerror}; set HF_HOME"
        ) from None
    try:
        ready = converted(source, cache)
        if ready is None:
            ready = yield from make(source, place, endpoint, machine or Machine(), dtype, sleep)
    finally:
        lock.release()
    return ready


def make(
    source: HubSource,
    place: Path,
    endpoint: str | None,
    machine: Machine,
    dtype: torch.dtype,
    sleep: Sleep,
) -> Generator[Progress, None, Path]:
    """With the lock held: download unless another program did, then convert."""
    for left in place.glob(".convert-*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    raw = in_hub_cache(source)
    if raw is not None:
        sizes = {name: (raw / name).stat().st_size for name in WEIGHT_FILES}
        need = need_to_load(source, sizes)
        check_machine(replace(need, disk=need.disk // 2), machine, dtype)
        yield from check_cached(raw)
    else:
        raw = place / "raw"
        yield from download_all(source, raw, endpoint, machine, dtype, sleep)
    total = sum((raw / name).stat().st_size for name in WEIGHT_FILES)
    for done in convert_folder(raw, place / CONVERTED):
        yield Progress("converting to safetensors", done, total)
    shutil.rmtree(place / "raw", ignore_errors=True)
    return place / CONVERTED


def check_cached(raw: Path) -> Generator[Progress, None, None]:
    """Files in the hub's cache lie there themselves and are what their names' hashes say."""
    for name in (*SMALL_FILES, *WEIGHT_FILES):
        real = check_inside(raw / name, raw).resolve()
        if re.fullmatch(r"[0-9a-f]{64}", real.name):
            now = Progress(f"checking {name}", 0, real.stat().st_size)
            found = yield from tell(file_hash(real, real.name), now)
            if found != real.name:
                raise CheckpointError(
                    f"{name}: expected the hash {real.name} of the hub's cache, got {found}; "
                    f"remove {real} and try again"
                )


def download_all(
    source: HubSource,
    raw: Path,
    endpoint: str | None,
    machine: Machine,
    dtype: torch.dtype,
    sleep: Sleep,
) -> Generator[Progress, None, None]:
    """All files of the revision; sizes and room are checked before the first byte."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils._headers import build_hf_headers

    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(
            f"{source.repo}: expected {source.gigabytes} GB from the hub or in the local cache, "
            f"got neither: HF_HUB_OFFLINE is set; {REMEDY}"
        )
    headers = dict(build_hf_headers(library_name="ditas"))
    files: dict[str, Remote] = {}
    waiting = Progress("asking the hub", 0, source.bytes or 1)
    for name in (*SMALL_FILES, *OPTIONAL_FILES, *WEIGHT_FILES):
        url = hf_hub_url(source.repo, name, revision=source.revision, endpoint=endpoint)
        try:
            remote = yield from tell(look_up(url, headers, sleep), waiting)
            files[name] = check_remote(source, name, remote)
        except CheckpointError as error:
            if name not in OPTIONAL_FILES or "got 404" not in str(error):
                raise CheckpointError(f"{source.repo} ({source.gigabytes} GB): {error}") from None
    there = sum(f.stat().st_size for f in raw.rglob("*") if f.is_file())
    need = need_to_load(source, {name: files[name].size for name in WEIGHT_FILES})
    check_machine(replace(need, disk=max(0, need.disk - there)), machine, dtype)
    total = sum(remote.size for remote in files.values())
    before = 0
    for name, remote in files.items():
        for done in download(remote, raw / name, headers, sleep):
            yield Progress(f"downloading {name}", before + done, total)
        before += remote.size


def check_remote(source: HubSource, name: str, remote: Remote) -> Remote:
    """What the hub announces, against what is pinned.

    Raises:
        CheckpointError: another revision, hash or size.
    """
    if remote.commit and remote.commit != source.revision:
        raise CheckpointError(
            f"{name}: expected revision {source.revision}, got {remote.commit[:60]!r}"
        )
    pinned = source.sha256.get(name)
    if pinned is not None and remote.etag != pinned:
        raise CheckpointError(f"{name}: expected the hash {pinned}, got {remote.etag}")
    heavy = name in WEIGHT_FILES
    limit = int(1.1 * source.bytes) if heavy and source.bytes else 20_000_000_000
    limit = limit if heavy else MAX_SMALL
    if remote.size > limit:
        raise CheckpointError(
            f"{name}: expected at most {figure(limit)}, got {figure(remote.size)}"
        )
    if heavy and len(remote.etag) != 64:
        raise CheckpointError(f"{name}: expected a sha256 from the hub, got {remote.etag}")
    return remote


def fetch(
    source: HubSource, progress: Callable[[Progress], None] | None = None, **options: Any
) -> Path:
    """``fetch_steps`` to its end; ``progress`` is told, and cancels by raising."""
    steps = fetch_steps(source, **options)
    try:
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return Path(end.value)
            if progress is not None:
                progress(step)
    finally:
        steps.close()
