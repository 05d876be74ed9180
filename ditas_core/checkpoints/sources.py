"""Find a checkpoint: a local folder, an original weight file or a hub id."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from ..models import CheckpointError
from .captions import Captions
from .checkpoint import Checkpoint, load_folder
from .files.weights import read_headers
from .hub.fetching import Progress, fetch
from .hub.sources import HUB_SOURCES, converted_folder, find_source, known_need, own_cache
from .machine import Machine, this_machine
from .original_files import (
    Parts,
    choose_parts,
    load_original,
    need_of_original,
    parts_of,
    recognise_with,
)
from .preflight import Need, check_machine, preflight

HUB_IDS = f"REPO@REVISION on the hub, or one of {', '.join(HUB_SOURCES)}"


def load_checkpoint(
    source: str | Path,
    *,
    like: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    heads: int | None = None,
    captions: Captions | str | Path | None = None,
    machine: Machine | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Checkpoint:
    """Load a checkpoint from a local folder, an original weight file or a hub id.

    A hub id is ``REPO@REVISION``, or ``REPO`` for those whose revision is known.

    like      for a weight file: folder or hub id that lends autoencoder and schedule;
              None: the published ones, if they lie in the hub's cache
    dtype     of the transformer: float32 or bfloat16
    heads     for a weight file: attention heads; None: of the known size
    captions  for a text-conditioned model: embedded prompts, or their file; None: those in
              its folder
    machine   what may be used; None: what this machine has left
    progress  is told of downloads, and cancels them by raising

    Raises:
        CheckpointError: neither a folder, a file nor a hub id; no network; unusable
            files; or it does not fit, said before anything is allocated.
    """
    os.environ.setdefault("DIFFUSERS_DISABLE_REMOTE_CODE", "1")
    text = str(source)
    known = find_source(text)
    if isinstance(captions, str | Path):
        captions = Captions.load(Path(captions))
    if known is not None:
        room = this_machine(own_cache()) if machine is None else machine
        told = captions is not None
        folder = fetch(known, progress, machine=room, dtype=dtype, captions=told)
        check_machine(preflight(folder, name=known.repo), room, dtype)
        return load_folder(folder, known.repo, known.licence, dtype, captions)
    path = Path(source)
    room = this_machine(path.parent) if machine is None else machine
    if text and is_file(path):
        if captions is not None:
            raise CheckpointError("captions: expected none for a weight file, a DiT with classes")
        return load_original(path, find_parts(like, progress, machine), dtype, heads, room)
    if not text or not is_folder(path):
        raise CheckpointError(
            f"checkpoint: expected a folder, a weight file, {HUB_IDS}, got {text!r}"
        )
    if (path / "model_index.json").is_file() and has_weights(path):
        check_machine(preflight(path), room, dtype)
    return load_folder(path, dtype=dtype, captions=captions)


def loading_need(source: str | Path, like: str | Path | None = None) -> Need:
    """What loading takes, from headers; of a hub id that is not here yet, what is known of it.

    Raises:
        CheckpointError: nothing that can be loaded.
    """
    known = find_source(str(source))
    if known is not None:
        folder = converted_folder(known)
        return known_need(known) if folder is None else preflight(folder, name=known.repo)
    path = Path(source)
    if not is_file(path):
        return preflight(path)
    headers = read_headers(path)
    parts = find_parts(like)
    found = recognise_with(headers, None, parts)
    return need_of_original(headers, found, choose_parts(found, headers, parts))


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a null byte
        return False


def is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def has_weights(path: Path) -> bool:
    """Whether there is something to weigh; what is missing is told by loading."""
    return all(list((path / part).glob("*.safetensors")) for part in ("transformer", "vae"))


def find_parts(
    like: str | Path | None,
    progress: Callable[[Progress], None] | None = None,
    machine: Machine | None = None,
) -> Parts | None:
    """What a weight file lacks, from a folder or a hub id, which needs room on the disk."""
    if like is None or not str(like):
        return None
    known = find_source(str(like))
    if known is not None:
        room = this_machine(own_cache()) if machine is None else machine
        disk = Machine(disk=room.disk)  # its transformer is not loaded
        folder = converted_folder(known) or fetch(known, progress, machine=disk, captions=True)
        return parts_of(folder, known.repo, known.licence)
    if not is_folder(Path(like)):
        raise CheckpointError(f"like: expected a diffusers folder, {HUB_IDS}, got {str(like)!r}")
    return parts_of(Path(like))
