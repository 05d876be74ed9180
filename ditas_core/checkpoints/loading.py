"""Models from checked folders: the configuration is bounded, every weight is there."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import torch
from diffusers.models.embeddings import PatchEmbed, get_2d_sincos_pos_embed
from torch import Tensor

from .errors import CheckpointError
from .headers import MAX_TENSORS, Headers
from .weights import read_headers, read_weights

STEM = "diffusion_pytorch_model"
WEIGHTS = f"{STEM}.safetensors"
MAX_NUMBER = 2**20
# what a number in a configuration may reach before anything is built from it
LIMITS = {"num_layers": 512, "sample_size": 4096, "layers_per_block": 32, "patch_size": 64}
# diffusers renamed the attention of the autoencoder; older files keep the old names
OLD_ATTENTION = re.compile(r"(.*attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")
NEW_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of at most 1 MB."""
    if not path.is_file():
        raise CheckpointError(f"{path.name}: expected this file in {path.parent}, found none")
    if path.stat().st_size > 1_000_000:
        raise CheckpointError(f"{path.name}: expected at most 1 MB, got {path.stat().st_size} B")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name}: expected JSON ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name}: expected a JSON object, got {type(value).__name__}")
    return value


def check_inside(path: Path, folder: Path) -> Path:
    """``path``, if no symbolic link leads it out of its folder (or out of the hub cache's).

    Raises:
        CheckpointError: it lies elsewhere.
    """
    home = folder.resolve()
    real = path.resolve()
    for place in (home, home.parent):
        if place.parent.name == "snapshots":  # the hub's cache links each file to ../../blobs
            home = place.parent.parent
            break
    if not real.is_relative_to(home):
        raise CheckpointError(
            f"{path.name}: expected a file in {folder.name}, got a link to a place outside it; "
            "copy the file there"
        )
    return path


def weight_file(folder: Path, root: Path | None = None) -> Path:
    """The safetensors file of a model's folder.

    Raises:
        CheckpointError: there is none, or another kind; says what to do.
    """
    path = folder / WEIGHTS
    if path.is_file():
        return check_inside(path, folder if root is None else root)
    if any((folder / f"{STEM}.{kind}.index.json").is_file() for kind in ("safetensors", "bin")):
        raise CheckpointError(
            f"{folder.name}: expected {WEIGHTS}, got one in several parts; save it in one: "
            'save_pretrained(..., max_shard_size="100GB")'
        )
    if (folder / f"{STEM}.bin").is_file():
        raise CheckpointError(
            f"{folder.name}: expected {WEIGHTS} (safetensors), got a pickle, {STEM}.bin; convert "
            "it once: save_pretrained(..., safe_serialization=True)"
        )
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    found = f"got {others[0][:80]}: rename it, if it holds the weights" if others else "found none"
    raise CheckpointError(f"{folder.name}: expected {WEIGHTS} (safetensors weights), {found}")


def build_empty(cls: Any, config: dict[str, Any], what: str) -> Any:
    """``cls`` of a configuration, its parameters without memory; options it lacks are left out.

    Nothing that other threads see is changed meanwhile: they may build modules, too.

    Raises:
        CheckpointError: a number out of bounds, or the class takes no such configuration.
    """
    known = inspect.signature(cls.__init__).parameters
    options = {k: v for k, v in config.items() if k in known and not k.startswith("_")}
    for key, value in options.items():
        if type(known[key].default) in (int, float) and isinstance(value, str | dict):
            raise CheckpointError(f"{what}: expected a number as {key}, got {str(value)[:40]!r}")
        for number in value if isinstance(value, list) else [value]:
            limit = LIMITS.get(key, MAX_NUMBER)
            if isinstance(number, (int, float)) and not -1 <= number <= limit:
                raise CheckpointError(f"{what}: expected {key} of at most {limit}, got {number}")
    try:
        with torch.device("meta"):  # of this thread alone
            model = cls(**options)
    except Exception as error:  # diffusers raises many types; each means an unusable file
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{what}: expected a configuration of {cls.__name__} ({first})"
        ) from None
    compute_positions_(model)
    return model


def compute_positions_(model: torch.nn.Module) -> None:
    """The fixed sine-cosine embedding of patches, the one table that no file holds."""
    for module in model.modules():
        if isinstance(module, PatchEmbed) and module.pos_embed is not None:
            table = get_2d_sincos_pos_embed(
                module.proj.out_channels,
                module.base_size,
                base_size=module.base_size,
                interpolation_scale=module.interpolation_scale,
                output_type="pt",
            )
            module.pos_embed = table.float()[None]  # (1, T, D)


def modern_names(names: dict[str, Any], wanted: set[str]) -> dict[str, Any]:
    """Old names of the attention replaced where the model has the new ones."""
    found = {}
    for name, value in names.items():
        old = OLD_ATTENTION.fullmatch(name)
        new = f"{old[1]}.{NEW_ATTENTION[old[2]]}.{old[3]}" if old else name
        found[new if new in wanted else name] = value
    return found


def check_against(model: torch.nn.Module, headers: Headers, what: str) -> None:
    """Every weight of the model, of its shape, and none besides; nothing was read yet."""
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = modern_names({k: t.shape for k, t in headers.tensors.items()}, set(wanted))
    for kind, keys in (("missing", wanted.keys() - found), ("unexpected", found.keys() - wanted)):
        if keys:
            raise CheckpointError(
                f"{what}: expected the weights that its configuration says, got {len(keys)} "
                f"{kind} keys: {min(keys)}"
            )
    for key, shape in wanted.items():
        if found[key] != shape:
            raise CheckpointError(f"{what}: {key}: expected shape {shape}, got {found[key]}")
    for key, tensor in headers.tensors.items():
        if not tensor.dtype.is_floating_point:
            raise CheckpointError(f"{what}: {key}: expected floating point, got {tensor.dtype}")


def load_whole(cls: Any, path: Path, dtype: torch.dtype = torch.float32) -> Any:
    """``cls`` from a folder's safetensors, on the CPU; every weight must be there, none besides.

    The file's header is checked against the model before a tensor is read.

    Raises:
        CheckpointError: a file is missing, damaged, or holds another model.
    """
    weights = weight_file(path, path.parent)
    model = build_empty(cls, read_json(path / "config.json"), path.name)
    check_against(model, read_headers(weights, MAX_TENSORS), path.name)
    tensors: dict[str, Tensor] = modern_names(read_weights(weights, dtype), set(model.state_dict()))
    model.load_state_dict(tensors, strict=True, assign=True)
    return model.requires_grad_(False).eval()
