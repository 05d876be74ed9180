"""Repositories of the hub: downloaded by revision, converted once.

``facebook/DiT-XL-2-256`` and ``-512`` are known with their revisions; any other is named
with one, ``REPO@REVISION``. They often hold pickles. The files are compared with the
hashes that the hub announces for the revision, pickles are read with ``weights_only``,
and all is written once as a safetensors folder, which is what gets loaded.
Everything lies under ``HF_HOME/ditas/REPOSITORY/REVISION``; a lock keeps a second
process from doing the same work, and a folder gets its name when it is whole.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ...models import CheckpointError
from ..captions import FILE
from ..files.folders import NAMES, WEIGHTS, check_inside, shards_said
from ..machine import Machine
from ..preflight import check_machine
from .checks import check_kind, check_remote, need_of_parts
from .pickled_folder import PARTS, PICKLE, convert_folder
from .sources import CONVERTED, HubSource, converted_folder, need_to_load, own_cache, place_of
from .transfer import REMEDY, NotThere, Remote, Sleep, arrived, download, file_hash, look_up, tell

SMALL_FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "transformer/config.json",
    "vae/config.json",
)
OPTIONAL_FILES = ("README.md", FILE)
INDICES = tuple(name for name in NAMES if name.endswith(".json"))


@dataclass(frozen=True)
class Progress:
    """Where fetching stands: what is done now, and bytes done of all."""

    doing: str
    done: int
    total: int


def in_hub_cache(source: HubSource) -> tuple[Path, list[list[str]]] | None:
    """The same revision as another program downloaded it, and each part's files, if all there."""
    from huggingface_hub import try_to_load_from_cache

    def find(name: str) -> str | None:
        path = try_to_load_from_cache(source.repo, name, revision=source.revision)
        return path if isinstance(path, str) else None

    found = [find(name) for name in SMALL_FILES]
    if found[0] is None or not all(found):
        return None
    raw = Path(found[0]).parent
    weights: list[list[str]] = []
    for part in PARTS:
        named = next((n for n in source.formats if find(f"{part}/{n}")), "")
        names = shards_said(raw / part / named, raw) if named in INDICES else [named]
        if not named or not all(find(f"{part}/{name}") for name in names):
            return None
        weights.append([f"{part}/{name}" for name in sorted(names)])
    return raw, weights


def fetch_steps(
    source: HubSource,
    cache: Path | None = None,
    endpoint: str | None = None,
    machine: Machine | None = None,
    dtype: torch.dtype = torch.float32,
    sleep: Sleep = time.sleep,
    captions: bool = False,
) -> Generator[Progress, None, Path]:
    """Download and convert; returns the safetensors folder. Close it to cancel.

    captions  are at hand: a text-conditioned model that comes without is taken, too

    Raises:
        CheckpointError: offline, refused, damaged, no room, or too large for ``machine``.
    """
    from filelock import FileLock, Timeout

    cache = own_cache() if cache is None else cache
    ready = converted_folder(source, cache)
    if ready is not None:
        return ready
    place = place_of(source, cache)
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place.with_name(f"{place.name}.lock"))
        while True:
            try:
                lock.acquire(timeout=0)
                break
            except Timeout:
                yield Progress("waiting for another process", 0, 1)
                sleep(0.2)
    except OSError as error:
        raise no_place(place, error) from None
    try:
        ready = converted_folder(source, cache)
        if ready is None:
            room = machine or Machine()
            ready = yield from make(source, place, endpoint, room, dtype, sleep, captions)
    except OSError as error:
        raise no_place(place, error) from None
    finally:
        lock.release()
    return ready


def no_place(place: Path, error: OSError) -> CheckpointError:
    """What is said where the checkpoint cannot be kept."""
    return CheckpointError(
        f"{'/'.join(place.parts[-3:])}: expected a place to keep the checkpoint, got "
        f"{error.strerror or 'another file there'}; free it, or set HF_HOME to another place"
    )


def make(
    source: HubSource,
    place: Path,
    endpoint: str | None,
    machine: Machine,
    dtype: torch.dtype,
    sleep: Sleep,
    captions: bool,
) -> Generator[Progress, None, Path]:
    """With the lock held: download unless another program did, then convert."""
    for left in place.glob(f".{CONVERTED}-*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    cached = in_hub_cache(source)
    if cached is not None:
        raw, parts = cached
        weights = [name for names in parts for name in names]
        sizes = [sum((raw / name).stat().st_size for name in names) for names in parts]
        need = need_of_parts(source, raw, captions or (raw / FILE).is_file(), sizes)
        check_machine(replace(need, disk=need.disk // 2), machine, dtype)
        yield from check_cached(raw, weights)
    else:
        raw = place / "raw"
        weights = yield from download_all(source, raw, endpoint, machine, dtype, sleep, captions)
    total = sum((raw / name).stat().st_size for name in weights)
    for done in convert_folder(raw, place / CONVERTED):
        yield Progress("converting to safetensors", done, total)
    shutil.rmtree(place / "raw", ignore_errors=True)
    return place / CONVERTED


def check_cached(raw: Path, weights: list[str]) -> Generator[Progress, None, None]:
    """Files in the hub's cache lie there themselves and are what their names' hashes say."""
    for name in (*SMALL_FILES, *weights):
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
    captions: bool,
) -> Generator[Progress, None, list[str]]:
    """All files of the revision; what can be told without the weights is checked before them.

    Before the first byte that is what their sizes tell: room on the disk, and in memory if
    they hold float32. Returns the names of the weights.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils._headers import build_hf_headers

    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(
            f"{source.title}: expected it on the hub or in the local cache, "
            f"got neither: HF_HUB_OFFLINE is set; {REMEDY}"
        )
    headers = dict(build_hf_headers(library_name="ditas"))
    files: dict[str, Remote] = {}
    for name in SMALL_FILES:
        files |= yield from first_there(source, (name,), endpoint, headers, sleep)
    for name in OPTIONAL_FILES:
        files |= yield from first_there(source, (name,), endpoint, headers, sleep, True)
    parts: list[dict[str, Remote]] = []
    for part in PARTS:
        names = tuple(f"{part}/{name}" for name in source.formats)
        found = yield from first_there(source, names, endpoint, headers, sleep)
        (name,) = found
        if name.endswith(INDICES):
            files |= found
            for _ in download(found[name], raw / name, headers, sleep):
                yield Progress(f"downloading {name}", 0, source.bytes or 1)
            found = {}
            for shard in sorted(shards_said(raw / name, raw)):
                names = (f"{part}/{shard}",)
                found |= yield from first_there(source, names, endpoint, headers, sleep)
        parts.append(found)
    weights = [name for found in parts for name in found]
    files |= {name: remote for found in parts for name, remote in found.items()}
    there = sum(arrived(remote, raw / name) for name, remote in files.items())
    sizes = [sum(remote.size for remote in found.values()) for found in parts]
    captions = captions or FILE in files
    need = need_to_load(source, *sizes)
    check_machine(replace(need, disk=max(0, need.disk - there)), machine, dtype)
    total = sum(remote.size for remote in files.values())
    before = 0
    for name, remote in files.items():
        if name == weights[0]:  # all that is small is here
            need = need_of_parts(source, raw, captions, sizes)
            check_machine(replace(need, disk=0), machine, dtype)
        for done in download(remote, raw / name, headers, sleep):
            yield Progress(f"downloading {name}", before + done, total)
        before += remote.size
        if name == SMALL_FILES[0]:
            check_kind(source, raw, captions)
    return weights


def first_there(
    source: HubSource,
    names: tuple[str, ...],
    endpoint: str | None,
    headers: dict[str, str],
    sleep: Sleep,
    optional: bool = False,
) -> Generator[Progress, None, dict[str, Remote]]:
    """What the hub says of the first of these files that it has; empty for none if optional."""
    from huggingface_hub import hf_hub_url

    waiting = Progress("asking the hub", 0, source.bytes or 1)
    for name in names:
        yield waiting
        url = hf_hub_url(source.repo, name, revision=source.revision, endpoint=endpoint)
        try:
            remote = yield from tell(look_up(url, headers, sleep), waiting)
            return {name: check_remote(source, name, remote)}
        except NotThere as error:
            if name == names[-1] and not optional:
                raise CheckpointError(f"{source.title}: {error}{whole_files(name)}") from None
        except CheckpointError as error:
            raise CheckpointError(f"{source.title}: {error}") from None
    return {}


def whole_files(name: str) -> str:
    """What is said where a part's weights are missing."""
    if not name.endswith(PICKLE):
        return ""
    return (
        f"; weights under other names than {WEIGHTS} (whole, in shards, .fp16, .bf16) and {PICKLE} "
        "are not taken: save the model with diffusers and name its folder"
    )


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
