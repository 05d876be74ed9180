"""Whether a checkpoint fits this machine, from headers alone, before anything is allocated.

In dtype d, of b bytes per element, loading takes at its peak

    folder     P b + V 4 + L + W        one tensor is read, then converted
    original   S b + P b + V 4 + L + W  its layout stands beside the new one

with P parameters of the transformer as diffusers stores it, S those in the file, V the
autoencoder's (which stays in float32), L the bytes of the largest tensor as stored and
W for a forward pass of a few samples. A ``torch.save`` archive is mapped as well, which
takes address space but no memory that cannot be given back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from ..models import CheckpointError
from .files.folders import joined_headers, weight_files
from .files.headers import Headers
from .loading import live
from .machine import Machine, dtype_name, figure
from .original_layout import EMBEDDERS, Architecture

WORKING = 256 * 2**20
DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Need:
    """What loading takes, in bytes; ``parameters`` are the transformer's.

    disk    to be written: downloads and their conversion
    mapped  address space for files that are mapped
    """

    name: str
    file_bytes: int
    parameters: int
    float32: int
    bfloat16: int
    disk: int = 0
    mapped: int = 0

    def memory(self, dtype: torch.dtype) -> int:
        return self.bfloat16 if dtype == torch.bfloat16 else self.float32


def diffusers_parameters(found: Architecture) -> int:
    """Parameters once converted: every block gets its own copy of the embedders."""
    shapes = found.shapes()
    shapes.pop("pos_embed")  # fixed, no parameter
    once = sum(math.prod(shape) for shape in shapes.values())
    copied = sum(math.prod(shapes[name]) for name in EMBEDDERS)
    return once + (found.depth - 1) * copied


def largest(headers: Headers) -> int:
    return max((tensor.nbytes for tensor in headers.tensors.values()), default=0)


def preflight(folder: Path, name: str = "") -> Need:
    """What loading a diffusers folder takes.

    Raises:
        CheckpointError: its files cannot be loaded at all; no tensor was read to know.
    """
    transformer = live(joined_headers(weight_files(folder / "transformer", folder)))
    vae = joined_headers(weight_files(folder / "vae", folder))
    return need_of(name or folder.name, transformer, vae, transformer.parameters, 0)


def need_of(name: str, file: Headers, vae: Headers | None, parameters: int, beside: int) -> Need:
    """The sums above, from headers."""
    files = [file] if vae is None else [file, vae]
    fixed = 4 * (vae.parameters if vae else 0) + largest(file)
    mapped = sum(headers.file_bytes for headers in files if headers.kind == "archive")
    total = sum(headers.file_bytes for headers in files)
    return add_up(name, total, parameters, fixed, beside, mapped=mapped)


def add_up(
    name: str,
    file_bytes: int,
    parameters: int,
    fixed: int,
    beside: int = 0,
    disk: int = 0,
    mapped: int = 0,
) -> Need:
    """The sums above; ``beside`` counts parameters that stand beside the transformer's.

    fixed  bytes in any dtype, but for the forward pass: V 4 + L
    """
    single, half = ((parameters + beside) * dtype.itemsize + fixed + WORKING for dtype in DTYPES)
    return Need(name, file_bytes, parameters, single, half, disk, mapped)


def check_fits(
    need: Need,
    available_memory: int | None,
    free_disk: int | None,
    dtype: torch.dtype = torch.float32,
    address_space: int | None = None,
) -> None:
    """Raise where it does not fit; None is no limit.

    Raises:
        CheckpointError: too little memory or disk, with the figures and what would fit.
    """
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype: expected float32 or bfloat16, got {dtype}")
    if free_disk is not None and need.disk > free_disk:
        raise CheckpointError(
            f"{need.name}: expected {figure(need.disk)} of free disk for the download and its "
            f"conversion, got {figure(free_disk)}; make room, or set HF_HOME to another disk"
        )
    rooms = [("memory", available_memory, 0), ("address space", address_space, need.mapped)]
    for what, room, more in rooms:
        if room is None or need.memory(dtype) + more <= room:
            continue
        if dtype == torch.float32 and need.bfloat16 + more <= room:
            advice = (
                "pass --weights bfloat16 (dtype=torch.bfloat16), or choose its bfloat16 entry "
                "on the page"
            )
        else:
            advice = "close other programs, or take a smaller checkpoint or a larger machine"
        raise CheckpointError(
            f"{need.name}: needs {figure(need.float32 + more)} of {what} in float32, "
            f"{figure(need.bfloat16 + more)} in bfloat16, {figure(room)} are free, "
            f"{dtype_name(dtype)} was expected to fit: {advice}"
        )


def check_machine(need: Need, machine: Machine, dtype: torch.dtype = torch.float32) -> None:
    """``check_fits`` on a machine."""
    check_fits(need, machine.memory, machine.disk, dtype, machine.address_space)
