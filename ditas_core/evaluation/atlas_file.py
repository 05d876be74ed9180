"""The atlas on disk: safetensors, one deflated byte per value on each group's log scale.

The conditional half is stored as it is and the other as its distance from it, both as
differences from step to step, which is what makes them small: a channel that is loud
stays loud.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..smoothing import FLOOR
from ..specs import check_number, parse_json, read_timesteps
from ..writing import whole_file

FORMAT = "ditas-atlas-2"
HALVES = 2
LEVELS = 255
LOUDEST = 100  # beyond every logarithm of a number in single precision


class AtlasError(ValueError):
    """An atlas file that cannot be used."""


class StoredGroup(NamedTuple):
    """What is kept of one group: halves (T, 2, C), maxima (C,) each."""

    title: str
    halves: Tensor
    act_absmax: Tensor
    weight_absmax: Tensor


def steps_apart(codes: Tensor) -> Tensor:
    """First row, then each row's difference from the one before, modulo 256; (T, ...) uint8."""
    return torch.cat([codes[:1], codes[1:] - codes[:-1]])


def deflate(codes: Tensor) -> Tensor:
    """(T, 2, C) uint8 -> deflated bytes, (n,) uint8."""
    parts = [codes[:, :1], codes[:, 1:] - codes[:, :1]]  # wraps, as uint8 does
    planes = [steps_apart(part).contiguous().numpy().tobytes() for part in parts]
    return torch.frombuffer(bytearray(zlib.compress(b"".join(planes), 9)), dtype=torch.uint8)


def inflate(packed: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Inverse of ``deflate``; never unpacks more than ``shape`` holds.

    Raises:
        ValueError: other bytes than a group of that shape.
    """
    steps, halves, channels = shape
    size = steps * halves * channels
    stream = zlib.decompressobj()
    data = stream.decompress(packed.numpy().tobytes(), size + 1)
    if len(data) != size or not stream.eof:
        raise ValueError(f"expected {size} values in {shape}")
    flat = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    first = flat[: steps * channels].view(steps, 1, channels)
    second = flat[steps * channels :].view(steps, halves - 1, channels)
    first, second = (part.cumsum(0, dtype=torch.uint8) for part in (first, second))
    return torch.cat([first, second + first], dim=1)


def write_atlas(
    path: Path, checkpoint: str, timesteps: tuple[int, ...], groups: Mapping[str, StoredGroup]
) -> None:
    """Written beside ``path``, then renamed."""
    tensors, ranges = {}, {}
    for name, group in groups.items():
        logs = group.halves.clamp(min=FLOOR).log()  # (T, 2, C)
        low, high = float(logs.min()), float(logs.max())
        span = max(high - low, 1e-6)
        tensors[f"{name}.halves"] = deflate(((logs - low) / span * LEVELS).round().to(torch.uint8))
        tensors[f"{name}.act"] = group.act_absmax.float().contiguous()
        tensors[f"{name}.weight"] = group.weight_absmax.float().contiguous()
        ranges[name] = [group.title, low, span, list(logs.shape)]
    metadata = {
        "format": FORMAT,
        "checkpoint": checkpoint,
        "timesteps": json.dumps(timesteps),
        "groups": json.dumps(ranges),
    }
    with whole_file(path) as part:
        save_file(tensors, part, metadata=metadata)


def read_group(file: Any, name: str, entry: list[Any], steps: int) -> StoredGroup:
    """One group of an open file.

    Raises:
        ValueError: parts that do not fit together.
    """
    title, low, span, found = entry
    act = file.get_tensor(f"{name}.act")
    weight = file.get_tensor(f"{name}.weight")
    if act.ndim != 1 or weight.shape != act.shape:
        raise ValueError(f"{name}: maxima of {tuple(act.shape)} and {tuple(weight.shape)}")
    shape = (steps, HALVES, act.numel())
    if tuple(found) != shape:
        raise ValueError(f"{name}: expected {shape}, found {found}")
    codes = inflate(file.get_tensor(f"{name}.halves"), shape)
    check_number(f"{name}: low", low, -LOUDEST, LOUDEST)
    check_number(f"{name}: span", span, 0, 2 * LOUDEST)
    values = (codes.float() / LEVELS * span + low).exp()
    for part, tensor in (("halves", values), ("act", act), ("weight", weight)):
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name}.{part}: expected finite numbers")
    return StoredGroup(str(title), values, act, weight)


def read_atlas(path: Path) -> tuple[str, tuple[int, ...], dict[str, StoredGroup]]:
    """Checkpoint, timesteps and groups.

    Raises:
        AtlasError: no such file, or not an atlas.
    """
    if not path.is_file():
        raise AtlasError(f"atlas: expected a file, found no {path.name}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise AtlasError(f"{path.name}: expected a file of format {FORMAT}")
            times = read_timesteps(metadata["timesteps"])
            entries = parse_json("groups", metadata["groups"]).items()
            groups = {name: read_group(file, name, entry, len(times)) for name, entry in entries}
            return metadata["checkpoint"], times, groups
    except AtlasError:
        raise
    except (
        SafetensorError,
        AttributeError,
        IndexError,
        KeyError,
        RuntimeError,
        TypeError,
        ValueError,
        zlib.error,
    ) as error:
        raise AtlasError(f"{path.name}: expected an atlas ({error})") from error
