"""A diffusers folder, often of pickles, written anew as safetensors: whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .captions import FILE
from .configurations import read_configurations
from .errors import CheckpointError
from .folders import STEM, WEIGHTS, check_inside
from .headers import DTYPES, Headers
from .loading import check_against, live, modern_names
from .machine import figure
from .weights import iterate_weights, read_headers

PICKLE = f"{STEM}.bin"
COPIED = ("model_index.json", "README.md", "scheduler/scheduler_config.json", FILE)
PARTS = ("transformer", "vae")
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def convert_folder(folder: Path, target: Path) -> Iterator[int]:
    """Write ``target`` with the same tensors and configurations; yields the bytes done.

    Pickles are checked, read with ``weights_only`` and copied one tensor at a time. An
    existing ``target`` is left as it is.

    Raises:
        CheckpointError: a file is missing, damaged or holds something else; no room left.
    """
    if target.is_dir():
        return
    said = read_configurations(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".convert-", dir=target.parent))
    try:
        for name in COPIED:
            if (folder / name).is_file():
                (work / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(check_inside(folder / name, folder), work / name)
        done = 0
        for part, model in zip(PARTS, (said.transformer, said.vae), strict=True):
            source = check_inside(weights_of(folder / part), folder)
            headers = live(read_headers(source))
            check_against(model, headers, part)
            model.save_config(work / part)
            for count in rewrite(source, headers, work / part / WEIGHTS, set(model.state_dict())):
                yield done + count
            done += source.stat().st_size
        os.chmod(work, 0o755)
        os.replace(work, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            need = figure(sum(weights_of(folder / p).stat().st_size for p in PARTS))
            raise CheckpointError(
                f"{target.name}: expected {need} of room in {target.parent} for the conversion, "
                f"got none left ({error.strerror}); make room, or set HF_HOME to another disk"
            ) from None
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def weights_of(folder: Path) -> Path:
    """A model's weights, as safetensors if it has them.

    Raises:
        CheckpointError: there are none in one file.
    """
    for name in (WEIGHTS, PICKLE):
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder.name}: expected {WEIGHTS} or {PICKLE}, found neither")


def rewrite(source: Path, headers: Headers, target: Path, wanted: set[str]) -> Iterator[int]:
    """One weight file as safetensors, without ever holding more than a tensor of it."""
    document: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    # as they are read: by their place in a safetensors file, else in the pickle's order
    for key, tensor in sorted(headers.tensors.items(), key=lambda pair: pair[1].start):
        (name,) = modern_names({key: None}, wanted)
        document[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    raw = json.dumps(document, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with target.open("wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        for key, value in iterate_weights(source):
            if key not in headers.tensors:
                continue
            if headers.tensors[key].nbytes != value.numel() * value.element_size():
                raise CheckpointError(f"{source.name}: expected {key} as checked, got another")
            room: Any = value.view(-1).view(torch.uint8).numpy()
            stream.write(room)
            yield stream.tell()
        stream.flush()
        os.fsync(stream.fileno())
    if read_headers(target).tensors.keys() != document.keys() - {"__metadata__"}:
        raise CheckpointError(f"{target.name}: expected what was written, got another file")
