"""Weight files, safetensors or ``torch.save`` archives: checked, then read.

Pickles are read with ``weights_only``, after the archive and the names in it were
checked; tensors are mapped from the file and copied one at a time.
"""

from __future__ import annotations

import argparse
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...models import CheckpointError
from ..machine import address_space_left, figure
from .archives import Entry, check_archive
from .headers import (
    DTYPES,
    MAX_TENSORS,
    REMEDY,
    Headers,
    OpenFile,
    TensorHeader,
    kind_of,
    open_file,
    read_safetensors,
    read_safetensors_header,
)
from .pickles import HOW_TO

WRAPPERS = ("ema", "state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")  # of distributed and compiled models


def unwrap(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict in a training checkpoint, its moving average if there is one."""
    for name in WRAPPERS:
        if isinstance(state.get(name), Mapping) and state[name]:
            state = state[name]
            break
    for prefix in PREFIXES:
        if state and all(type(key) is str and key.startswith(prefix) for key in state):
            state = {key[len(prefix) :]: value for key, value in state.items()}
    return state


ALLOWING = threading.Lock()


@contextmanager
def namespaces_allowed() -> Iterator[None]:
    """Training checkpoints keep their options as a Namespace, a bag of names.

    What torch allows is one list for all threads: one at a time adds to it and takes away.
    """
    with ALLOWING:
        if argparse.Namespace in torch.serialization.get_safe_globals():
            yield
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):
                yield


def load_archive(file: OpenFile, max_tensors: int) -> dict[str, Tensor]:
    """The state dict of a checked archive, mapped from it: nothing is read yet.

    Raises:
        CheckpointError: no state dict, something else than dense tensors in it, or more of
            them than the file has bytes for.
    """
    entries = check_archive(file)
    left = address_space_left()
    if left is not None and file.size > left:
        raise CheckpointError(
            f"{file.name}: expected {figure(file.size)} of address space to map the file, "
            f"got {figure(left)} (the process's limit); raise the limit, or pass safetensors"
        )
    try:
        with namespaces_allowed():
            state = torch.load(file.held, weights_only=True, mmap=True, map_location="cpu")
    except Exception as error:  # many types; each means an unusable file
        raise CheckpointError(
            f"{file.name}: expected a state dict of tensors, got a damaged file or one that "
            f"holds other things ({type(error).__name__}); nothing in it was run; {HOW_TO}"
        ) from None
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{file.name}: expected a state dict, got {type(state).__name__}")
    found = dict(unwrap(state))
    if not 0 < len(found) <= max_tensors:
        raise CheckpointError(f"{file.name}: expected 1 to {max_tensors} tensors, got {len(found)}")
    for key, value in found.items():
        if type(key) is not str:
            raise CheckpointError(
                f"{file.name}: expected a name for every tensor, got a {type(key).__name__}; "
                f"{HOW_TO}"
            )
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            came = value.layout if isinstance(value, Tensor) else type(value).__name__
            raise CheckpointError(
                f"{file.name}: {key[:200]}: expected a dense tensor, got {came}; {HOW_TO}"
            )
        if value.dtype not in DTYPES.values():
            raise CheckpointError(
                f"{file.name}: {key[:200]}: expected a dtype of {', '.join(DTYPES)}, "
                f"got {value.dtype}"
            )
    size = sum(value.numel() * value.element_size() for value in found.values())
    if size > file.size:  # a view may claim any size on a few bytes
        raise CheckpointError(
            f"{file.name}: expected at most {file.size} B of tensors, as the file has, got {size} B"
        )
    check_storages(file, found.values(), entries)
    return {key: value.detach() for key, value in found.items()}


def check_storages(file: OpenFile, tensors: Iterable[Tensor], entries: Mapping[str, Entry]) -> None:
    """Every storage is as large as an entry: torch maps what the pickle says, unseen."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    stored = Counter(
        entry.nbytes for name, entry in entries.items() if name.split("/")[1] == "data"
    )
    strange = Counter(size for size in storages.values() if size) - stored
    if strange:
        raise CheckpointError(
            f"{file.name}: expected every storage in an entry of its size, "
            f"got one of {max(strange)} B without; {REMEDY}"
        )


def headers_of(file: OpenFile, max_tensors: int = MAX_TENSORS) -> Headers:
    """Names, dtypes and shapes in an open file of either kind."""
    if kind_of(file) == "safetensors":
        return read_safetensors_header(file, max_tensors)
    state = load_archive(file, max_tensors)
    tensors = {key: TensorHeader(v.dtype, tuple(v.shape)) for key, v in state.items()}
    return Headers(file.name, "archive", file.size, tensors)


def read_headers(path: Path, max_tensors: int = MAX_TENSORS) -> Headers:
    """What a weight file holds; no tensor is read.

    Raises:
        CheckpointError: it is neither safetensors nor what ``torch.save`` writes, or
            anything about it is wrong; says what was expected, what came, what to do.
    """
    with open_file(path) as file:
        return headers_of(file, max_tensors)


def iterate_weights(
    path: Path, dtype: torch.dtype | None = None, max_tensors: int = MAX_TENSORS
) -> Iterator[tuple[str, Tensor]]:
    """The tensors one at a time, each in memory of its own, contiguous, on the CPU.

    dtype  floating-point tensors are converted to it; None leaves them as stored

    Raises:
        CheckpointError: see ``read_headers``.
    """
    with open_file(path) as file:
        headers = headers_of(file, max_tensors)
        if headers.kind == "safetensors":
            yield from read_safetensors(file, headers, dtype)
            return
        state = load_archive(file, max_tensors)
        for key in list(state):
            value = state.pop(key)
            wanted = dtype if dtype is not None and value.is_floating_point() else value.dtype
            file.check_whole()  # reading a mapping behind the file's end ends the process
            yield key, value.to(wanted, copy=True, memory_format=torch.contiguous_format)


def read_weights(
    path: Path, dtype: torch.dtype | None = None, max_tensors: int = MAX_TENSORS
) -> dict[str, Tensor]:
    """All tensors of a weight file; see ``iterate_weights``."""
    return dict(iterate_weights(path, dtype, max_tensors))
