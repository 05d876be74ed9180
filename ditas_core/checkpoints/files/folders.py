"""The files of a checkpoint's folder: small ones read, weights found, whole or in shards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ...models import CheckpointError
from ...specs import brief
from .headers import MAX_TENSORS, Headers, TensorHeader
from .weights import iterate_weights, read_headers

STEM = "diffusion_pytorch_model"
WEIGHTS = f"{STEM}.safetensors"
REVISION = re.compile("[0-9a-f]{40}")
VARIANTS = ("", "fp16", "bf16")
"""What ``save_pretrained(variant=...)`` puts into names, in the order in which they are taken."""
MAX_CARD = 65_536
LICENCE = re.compile(r"[A-Za-z0-9 .+-]{1,60}")
SHARD = re.compile(rf"{STEM}[A-Za-z0-9._-]{{0,60}}\.safetensors")
MAX_SHARDS = 100
NAMES = tuple(
    name
    for variant in VARIANTS
    for name in (
        f"{STEM}.{variant}.safetensors" if variant else WEIGHTS,
        f"{WEIGHTS}.index.{variant}.json" if variant else f"{WEIGHTS}.index.json",
    )
)
"""A model's safetensors or their shard index, the first one that is there is taken."""
Weights: TypeAlias = tuple[Path, ...]
"""The safetensors files that hold one model together."""


def read_json(path: Path, root: Path | None = None) -> dict[str, Any]:
    """A JSON object from a file of at most 1 MB.

    root  the checkpoint's folder, which no link may lead out of; None: the file's own

    Raises:
        CheckpointError: there is no such file, it lies elsewhere, or holds something else.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path.name}: expected this file in {path.parent.resolve().name}, found none"
        )
    check_inside(path, path.parent if root is None else root)
    if path.stat().st_size > 1_000_000:
        raise CheckpointError(f"{path.name}: expected at most 1 MB, got {path.stat().st_size} B")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name}: expected JSON ({error})") from None
    except OSError as error:
        raise CheckpointError(
            f"{path.name}: expected a file that can be read ({error.strerror})"
        ) from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name}: expected a JSON object, got {type(value).__name__}")
    return value


def check_inside(path: Path, folder: Path) -> Path:
    """``path``, if no symbolic link leads it out of its folder (or out of the hub cache's).

    The hub's cache links each file, models--*/snapshots/COMMIT/**, to models--*/blobs/*.

    Raises:
        CheckpointError: it lies elsewhere.
    """
    home, real = folder.resolve(), path.resolve()
    places = [home, home.parent]  # a snapshot's folder, or that of a part in it
    if path.parent.resolve().is_relative_to(home):  # or the snapshot is itself the part
        places.append(path.parent.resolve())
    blobs = [place.parents[1] / "blobs" for place in places if is_snapshot(place)]
    if not real.is_relative_to(home) and real.parent not in blobs:
        raise CheckpointError(
            f"{path.name}: expected a file in {folder.name}, got a link to a place outside it; "
            "copy the file there"
        )
    return path


def is_snapshot(place: Path) -> bool:
    """Whether a folder lies where huggingface_hub keeps one revision of a model."""
    return (
        bool(REVISION.fullmatch(place.name))
        and place.parent.name == "snapshots"
        and place.parents[1].name.startswith("models--")
    )


def weight_files(folder: Path, root: Path | None = None) -> Weights:
    """The safetensors of a model's folder: one file, or the shards that an index names.

    In full precision before half, as diffusers names them.

    Raises:
        CheckpointError: there are none, or of another kind; says what to do.
    """
    home = folder if root is None else root
    for path in (folder / name for name in NAMES):
        if path.is_file():
            whole = path.suffix == ".safetensors"
            return (check_inside(path, home),) if whole else shards_of(path, home)
    if (folder / f"{STEM}.bin").is_file() or (folder / f"{STEM}.bin.index.json").is_file():
        raise CheckpointError(
            f"{folder.name}: expected {WEIGHTS} (safetensors), got a pickle, {STEM}.bin; convert "
            "it once: save_pretrained(..., safe_serialization=True)"
        )
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    found = f"got {others[0][:80]}: rename it, if it holds the weights" if others else "found none"
    raise CheckpointError(f"{folder.name}: expected {WEIGHTS} (safetensors weights), {found}")


def shards_said(index: Path, root: Path) -> dict[str, set[str]]:
    """The files that a shard index names, plain names all, and the tensors that each holds.

    Raises:
        CheckpointError: an index of something else, or of too much.
    """
    mapped = read_json(index, root).get("weight_map")
    if not isinstance(mapped, dict) or not 0 < len(mapped) <= MAX_TENSORS:
        raise CheckpointError(
            f"{index.name}: expected a weight_map of 1 to {MAX_TENSORS} tensors, "
            f"got {brief(mapped)}"
        )
    said: dict[str, set[str]] = {}
    for tensor, name in mapped.items():
        if not isinstance(name, str) or not SHARD.fullmatch(name):
            raise CheckpointError(
                f"{index.name}: expected names such as {STEM}-00001-of-00002.safetensors, "
                f"got {brief(name)}"
            )
        said.setdefault(name, set()).add(tensor)
    if len(said) > MAX_SHARDS:
        raise CheckpointError(
            f"{index.name}: expected at most {MAX_SHARDS} shards, got {len(said)}"
        )
    return said


def shards_of(index: Path, root: Path) -> Weights:
    """The files that a shard index names; each holds just the tensors that it says.

    Raises:
        CheckpointError: see ``shards_said``; or a shard is missing, elsewhere, or other.
    """
    said = shards_said(index, root)
    for name, tensors in said.items():
        path = index.parent / name
        if not path.is_file():
            raise CheckpointError(f"{index.name}: expected {name} beside it, found none")
        found = set(read_headers(check_inside(path, root)).tensors)
        if found != tensors:
            raise CheckpointError(
                f"{name}: expected the tensors that {index.name} says, got "
                f"{len(found - tensors)} others and {len(tensors - found)} missing"
            )
    return tuple(index.parent / name for name in sorted(said))


def joined_headers(files: Weights) -> Headers:
    """What the files hold together; no tensor is read.

    Raises:
        CheckpointError: see ``read_headers``; or a tensor stands in two of them.
    """
    return joined([read_headers(file) for file in files])


def joined(parts: list[Headers]) -> Headers:
    """Headers of several files as if they were one.

    Raises:
        CheckpointError: a tensor stands in two of them.
    """
    if len(parts) == 1:
        return parts[0]
    tensors: dict[str, TensorHeader] = {}
    for part in parts:
        twice = sorted(set(tensors) & set(part.tensors))
        if twice:
            raise CheckpointError(f"{part.name}: expected every tensor once, got {twice[0]} twice")
        tensors.update(part.tensors)
    size = sum(part.file_bytes for part in parts)
    return Headers(f"{parts[0].name} ...", "safetensors", size, tensors)


def joined_weights(files: Weights, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """The tensors of all files one at a time; see ``iterate_weights``."""
    for file in files:
        yield from iterate_weights(file, dtype)


def licence_of_card(path: Path) -> str:
    """The licence that a model card's front matter names, if it looks like one, or "unknown".

    Raises:
        CheckpointError: the card lies outside its folder.
    """
    if path.is_file():
        with check_inside(path, path.parent).open("rb") as stream:
            text = stream.read(MAX_CARD).decode("utf-8", errors="replace")
        for line in text.splitlines()[:40]:
            if line.startswith("license:"):
                said = line.split(":", 1)[1].strip().strip("\"'")
                return said if LICENCE.fullmatch(said) else "unknown"
    return "unknown"
