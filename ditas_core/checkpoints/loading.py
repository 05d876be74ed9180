"""Models from checked folders: the configuration is bounded, every weight is there."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from diffusers import AutoencoderKL
from diffusers.models.embeddings import PatchEmbed, get_1d_sincos_pos_embed_from_grid

from ..models import FAMILIES, CheckpointError
from ..specs import brief
from .files.folders import Weights, joined_headers, joined_weights, read_json, weight_files
from .files.headers import Headers

MAX_NUMBER = 2**20
MAX_LIST = 64
MIN_SCALING = 1e-4
MAX_TABLE = 2**27
"""Numbers in a table of positions, tokens x width: 512 MB."""
# what a number in a configuration may reach before anything is built from it
LIMITS = {"num_layers": 512, "sample_size": 4096, "layers_per_block": 32, "patch_size": 64}
SEVERAL = ("block_out_channels", "sample_size")
NOT_NEGATIVE = ("norm_eps", "dropout")
DEAD = frozenset[str]().union(*(family.dead for family in FAMILIES))
# diffusers renamed the attention of the autoencoder; older files keep the old names
OLD_ATTENTION = re.compile(r"(.*attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")
NEW_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def build_empty(cls: Any, config: dict[str, Any], what: str, *, positions: bool = True) -> Any:
    """``cls`` of a configuration, its parameters without memory; options it lacks are left out.

    Nothing that other threads see is changed meanwhile: they may build modules, too.

    positions  compute the table of positions, which takes memory; otherwise ``fill_`` does,
               when the weights are known to be of that size

    Raises:
        CheckpointError: a number out of bounds, or the class takes no such configuration.
    """
    known = inspect.signature(cls.__init__).parameters
    options = {k: v for k, v in config.items() if k in known and not k.startswith("_")}
    for key, value in options.items():
        check_option(key, value, known[key], what)
    if cls is AutoencoderKL:
        check_autoencoder(config, what)
    try:
        with torch.device("meta"):  # of this thread alone
            model = cls(**options)
    except Exception as error:  # diffusers raises many types; each means an unusable file
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{what}: expected a configuration of {cls.__name__} ({first[:200]})"
        ) from None
    for module in tables_of(model):
        _, tokens, width = module.pos_embed.shape
        if tokens * width > MAX_TABLE:
            raise CheckpointError(
                f"{what}: expected tokens x width of at most {MAX_TABLE} (a table of positions "
                f"of {4 * MAX_TABLE >> 20} MB), got {tokens} x {width}"
            )
    if positions:
        compute_positions_(model)
    return model


def check_autoencoder(config: dict[str, Any], what: str) -> None:
    """Raise CheckpointError for another class, or what latents cannot be decoded with.

    Other classes' weights fit, too, and give other images.
    """
    name = config.get("_class_name")
    if name not in (None, "AutoencoderKL"):
        raise CheckpointError(
            f"{what}: expected an AutoencoderKL, got {brief(name)}: how another autoencoder "
            "decodes is not known here"
        )
    scaling = config.get("scaling_factor", 1)
    if scaling < MIN_SCALING:
        raise CheckpointError(
            f"{what}: expected scaling_factor of at least {MIN_SCALING}, got {scaling}"
        )
    if config.get("out_channels", 3) != 3:
        raise CheckpointError(
            f"{what}: expected images of 3 channels, got out_channels {config['out_channels']}"
        )


def check_option(key: str, value: Any, known: inspect.Parameter, what: str) -> None:
    """Raise CheckpointError unless an option's value is of the type that its class declares.

    What the class declares otherwise than by plain types is left to its constructor.
    """
    kinds = set(get_args(known.annotation)) or {known.annotation}
    if isinstance(value, list) and len(value) > MAX_LIST:
        raise CheckpointError(f"{what}: expected up to {MAX_LIST} {key}, got {len(value)}")
    if value is None and (type(None) in kinds or known.default is None):
        return
    if kinds & {int, float}:
        several = isinstance(value, list) and (key in SEVERAL or ... in kinds)
        for number in value if several else [value]:
            check_number(key, number, float in kinds, what)
    elif bool in kinds and not isinstance(value, bool):
        raise CheckpointError(f"{what}: expected {key} true or false, got {brief(value)}")


def check_number(key: str, number: Any, fraction: bool, what: str) -> None:
    """Raise CheckpointError unless a number is positive, or a bounded ``fraction``."""
    if type(number) not in (int, float):
        raise CheckpointError(f"{what}: expected a number as {key}, got {brief(number)}")
    limit = LIMITS.get(key, MAX_NUMBER)
    low = -limit if fraction and key not in NOT_NEGATIVE else 0
    if not low <= number <= limit or (number == 0 and not fraction):  # NaN is in no bounds
        least = f"{low} or more" if fraction else "more than 0"
        raise CheckpointError(
            f"{what}: expected {key} of {least} and at most {limit}, got {brief(number)}"
        )


def tables_of(model: torch.nn.Module) -> list[PatchEmbed]:
    """The parts that hold a fixed sine-cosine table of positions which no file holds."""
    found = [module for module in model.modules() if isinstance(module, PatchEmbed)]
    fixed = [module for module in found if "pos_embed" in module._non_persistent_buffers_set]
    return [module for module in fixed if module.pos_embed is not None]


def compute_positions_(model: torch.nn.Module) -> None:
    """Compute these tables as diffusers does, bit by bit, without its four copies."""
    for module in tables_of(model):
        _, tokens, width = module.pos_embed.shape
        size = math.isqrt(tokens)
        places = torch.arange(size, dtype=torch.float32) / (size / module.base_size)
        places = places / module.interpolation_scale
        line = get_1d_sincos_pos_embed_from_grid(width // 2, places).float()  # (size, D / 2)
        table = torch.empty(size, size, width)  # row, column
        table[:, :, : width // 2] = line[None]
        table[:, :, width // 2 :] = line[:, None]
        module.pos_embed = table.view(1, tokens, width)


def modern_names(names: dict[str, Any], wanted: set[str]) -> dict[str, Any]:
    """Old names of the attention replaced where the model has the new ones."""
    found = {}
    for name, value in names.items():
        old = OLD_ATTENTION.fullmatch(name)
        new = f"{old[1]}.{NEW_ATTENTION[old[2]]}.{old[3]}" if old else name
        found[new if new in wanted else name] = value
    return found


def live(headers: Headers, wanted: Collection[str] = ()) -> Headers:
    """Without the dead buffers, but for those that a model wants."""
    dead = DEAD - set(wanted)
    return replace(headers, tensors={k: t for k, t in headers.tensors.items() if k not in dead})


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
    weights = weight_files(path, path.parent)
    config = read_json(path / "config.json", path.parent)
    return fill_(build_empty(cls, config, path.name, positions=False), weights, path.name, dtype)


def fill_(model: Any, weights: Weights, what: str, dtype: torch.dtype = torch.float32) -> Any:
    """A model without memory, with the weights of its files; see ``load_whole``."""
    wanted = set(model.state_dict())
    headers = live(joined_headers(weights), wanted)
    check_against(model, headers, what)
    pairs = joined_weights(weights, dtype)
    tensors = {key: value for key, value in pairs if key in headers.tensors}
    model.load_state_dict(modern_names(tensors, wanted), strict=True, assign=True)
    compute_positions_(model)
    return model.requires_grad_(False).eval()
