"""A diffusers folder, often of pickles, written anew as safetensors: whole or not at all."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ...models import CheckpointError
from ...writing import whole_folder
from ..captions import FILE
from ..configurations import read_configurations
from ..files.folders import NAMES, STEM, WEIGHTS, Weights, check_inside, joined, weight_files
from ..files.headers import DTYPES, Headers
from ..files.weights import iterate_weights, read_headers
from ..loading import check_against, live, modern_names
from ..machine import figure

PICKLE = f"{STEM}.bin"
COPIED = ("model_index.json", "README.md", "scheduler/scheduler_config.json", FILE)
PARTS = ("transformer", "vae")
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


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
    try:
        with whole_folder(target) as work:
            for name in COPIED:
                if (folder / name).is_file():
                    (work / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(check_inside(folder / name, folder), work / name)
            done = 0
            for part, model in zip(PARTS, (said.transformer, said.vae), strict=True):
                files = weights_of(folder / part)
                wanted = set(model.state_dict())
                headers = [live(read_headers(file), wanted) for file in files]
                check_against(model, joined(headers), part)
                model.save_config(work / part)
                for count in rewrite(files, headers, work / part / WEIGHTS, wanted):
                    yield done + count
                done += sum(file.stat().st_size for file in files)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            heavy = (file for part in PARTS for file in weights_of(folder / part))
            need = figure(sum(file.stat().st_size for file in heavy))
            raise CheckpointError(
                f"{target.name}: expected {need} of room in {target.parent} for the conversion, "
                f"got none left ({error.strerror}); make room, or set HF_HOME to another disk"
            ) from None
        raise


def weights_of(folder: Path) -> Weights:
    """A model's weights in a checkpoint's folder, as safetensors if it has them.

    Raises:
        CheckpointError: see ``weight_files``.
    """
    if not any((folder / name).is_file() for name in NAMES) and (folder / PICKLE).is_file():
        return (check_inside(folder / PICKLE, folder.parent),)
    return weight_files(folder, folder.parent)


def rewrite(
    sources: Weights, headers: list[Headers], target: Path, wanted: set[str]
) -> Iterator[int]:
    """A model's weights as one safetensors file, without ever holding more than a tensor."""
    document: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    known = [each.tensors for each in headers]
    # as they are read: by their place in a safetensors file, else in the pickle's order
    ordered = [sorted(tensors.items(), key=lambda pair: pair[1].start) for tensors in known]
    for key, tensor in itertools.chain.from_iterable(ordered):
        (name,) = modern_names({key: None}, wanted)
        document[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    raw = json.dumps(document, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with target.open("wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        for source, tensors in zip(sources, known, strict=True):
            for key, value in iterate_weights(source):
                if key not in tensors:
                    continue
                if tensors[key].nbytes != value.numel() * value.element_size():
                    raise CheckpointError(f"{source.name}: expected {key} as checked, got another")
                room: Any = value.view(-1).view(torch.uint8).numpy()
                stream.write(room)
                yield stream.tell()
        stream.flush()
        os.fsync(stream.fileno())
    if read_headers(target).tensors.keys() != document.keys() - {"__metadata__"}:
        raise CheckpointError(f"{target.name}: expected what was written, got another file")
