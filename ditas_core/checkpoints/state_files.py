"""Original DiT state dicts as files: ``torch.save``'s format or safetensors."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .checkpoint import CheckpointError
from .original import unwrap


def half_is_exact(tensors: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(v.half().to(v.dtype), v) for v in tensors.values())


def compact_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Half precision if that is exact for every weight; ``pos_embed``, no weight, as it is."""
    weights = {key: value for key, value in state.items() if key != "pos_embed"}
    if half_is_exact(weights):
        return {**state, **{key: value.half() for key, value in weights.items()}}
    return dict(state)


def read_state(path: Path) -> Mapping[str, Any]:
    """A state dict from ``.safetensors`` or what ``torch.save`` wrote, out of its wrapper.

    Pickles are read with ``weights_only``: tensors and plain containers, nothing runs.

    Raises:
        CheckpointError: no file, damaged, or something else in it.
    """
    if not path.is_file():
        raise CheckpointError(f"state dict: expected a .pt or .safetensors file, got {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # the original's training script saves its options beside the weights
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # many types; each means an unusable file
        raise CheckpointError(
            f"{path.name}: expected a state dict of tensors, got a damaged file or one that "
            f"holds other things ({type(error).__name__}); nothing in it was run"
        ) from None
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path.name}: expected a state dict, got {type(state).__name__}")
    state = unwrap(state)
    size = sum(v.numel() * v.element_size() for v in state.values() if torch.is_tensor(v))
    if size > path.stat().st_size:  # a view may claim any size on a few bytes
        raise CheckpointError(
            f"{path.name}: expected at most {path.stat().st_size} B of tensors, as the file has, "
            f"got {size} B"
        )
    return state


def write_state(path: Path, state: Mapping[str, Tensor]) -> None:
    """Replace ``path`` in one step, in the format its suffix names (see ``read_state``)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        if path.suffix == ".safetensors":
            save_file(dict(state), part, metadata={"format": "pt"})
        else:
            torch.save(dict(state), part)
        part.chmod(0o644)  # safetensors makes it private
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
