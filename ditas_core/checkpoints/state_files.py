"""Original DiT state dicts as files: ``torch.save``'s format or safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..writing import whole_file
from .files.weights import read_weights


def half_is_exact(tensors: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(v.half().to(v.dtype), v) for v in tensors.values())


def compact_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Half precision if that is exact for every weight; ``pos_embed``, no weight, as it is."""
    weights = {key: value for key, value in state.items() if key != "pos_embed"}
    if half_is_exact(weights):
        return {**state, **{key: value.half() for key, value in weights.items()}}
    return dict(state)


def read_state(path: Path, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """A state dict from safetensors or what ``torch.save`` wrote, out of its wrapper.

    The file is checked first and told by its content; of pickles only tensors and plain
    containers are read, nothing runs. See ``read_weights``.

    Raises:
        CheckpointError: no file, damaged, or something else in it.
    """
    return read_weights(path, dtype)


def write_state(path: Path, state: Mapping[str, Tensor]) -> None:
    """Replace ``path`` in one step, in the format its suffix names (see ``read_state``)."""
    with whole_file(path) as part:
        if path.suffix == ".safetensors":
            save_file(dict(state), part, metadata={"format": "pt"})
        else:
            torch.save(dict(state), part)
        part.chmod(0o644)  # safetensors makes it private
