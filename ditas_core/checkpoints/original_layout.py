"""Names and shapes of the original DiT's state dict, and what they tell of the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models import CheckpointError

FREQUENCIES = 256
KNOWN_HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # DiT-S, -B, -L, -XL
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
EMBEDDERS = {
    "t_embedder.mlp.0.weight": "timestep_embedder.linear_1.weight",
    "t_embedder.mlp.0.bias": "timestep_embedder.linear_1.bias",
    "t_embedder.mlp.2.weight": "timestep_embedder.linear_2.weight",
    "t_embedder.mlp.2.bias": "timestep_embedder.linear_2.bias",
    "y_embedder.embedding_table.weight": "class_embedder.embedding_table.weight",
}
IN_BLOCK = {
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn.proj": ("attn1.to_out.0",),
    "mlp.fc1": ("ff.net.0.proj",),
    "mlp.fc2": ("ff.net.2",),
    "adaLN_modulation.1": ("norm1.linear",),
}
FINAL = {
    "final_layer.linear": ("proj_out_2",),
    "final_layer.adaLN_modulation.1": ("proj_out_1",),
}


@dataclass(frozen=True)
class Architecture:
    """What the shapes of an original state dict say; ``heads`` they do not say."""

    depth: int
    width: int
    heads: int
    patch: int
    in_channels: int
    out_channels: int
    latent_size: int
    classes: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every key of the state dict with its shape, in the original's order."""
        d, p = self.width, self.patch
        shapes: dict[str, tuple[int, ...]] = {
            "pos_embed": (1, (self.latent_size // p) ** 2, d),
            "x_embedder.proj.weight": (d, self.in_channels, p, p),
            "x_embedder.proj.bias": (d,),
            "t_embedder.mlp.0.weight": (d, FREQUENCIES),
            "t_embedder.mlp.0.bias": (d,),
            "t_embedder.mlp.2.weight": (d, d),
            "t_embedder.mlp.2.bias": (d,),
            "y_embedder.embedding_table.weight": (self.classes + 1, d),
        }
        linears = {
            f"blocks.{i}.{name}": shape
            for i in range(self.depth)
            for name, shape in {
                "attn.qkv": (3 * d, d),
                "attn.proj": (d, d),
                "mlp.fc1": (4 * d, d),
                "mlp.fc2": (d, 4 * d),
                "adaLN_modulation.1": (6 * d, d),
            }.items()
        }
        linears["final_layer.linear"] = (p * p * self.out_channels, d)
        linears["final_layer.adaLN_modulation.1"] = (2 * d, d)
        for name, shape in linears.items():
            shapes[f"{name}.weight"] = shape
            shapes[f"{name}.bias"] = shape[:1]
        return shapes


def fused_names(depth: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Original keys outside the embedders, each with the diffusers keys whose rows it holds."""
    pairs: dict[str, tuple[str, ...]] = {"x_embedder.proj": ("pos_embed.proj",)}
    for i in range(depth):
        for name, parts in IN_BLOCK.items():
            pairs[f"blocks.{i}.{name}"] = tuple(f"transformer_blocks.{i}.{p}" for p in parts)
    for name, parts in {**pairs, **FINAL}.items():
        for kind in ("weight", "bias"):
            yield f"{name}.{kind}", tuple(f"{part}.{kind}" for part in parts)


def original_names(depth: int) -> list[str]:
    """All keys of an original state dict, in its order."""
    return list(Architecture(depth, 1, 1, 1, 1, 1, 1, 1).shapes())


def embedder_name(block: int, part: str) -> str:
    return f"transformer_blocks.{block}.norm1.emb.{part}"


def diffusers_names(depth: int) -> list[str]:
    """All keys of a diffusers DiT's state dict."""
    own = [part for _, parts in fused_names(depth) for part in parts]
    return own + [embedder_name(i, p) for i in range(depth) for p in EMBEDDERS.values()]


def check_names(found: Mapping[str, object], wanted: list[str], what: str) -> None:
    """Raise a CheckpointError that names the first key missing or not wanted."""
    for key in wanted:
        if key not in found:
            raise CheckpointError(f"{what}: expected the tensor {key}, found none")
    known = set(wanted)
    for key in sorted(map(str, found)):
        if key not in known:
            raise CheckpointError(f"{what}: expected DiT's tensors and no others, got {key[:200]}")


def recognise(state: Mapping[str, Any], heads: int | None = None) -> Architecture:
    """The architecture, read from shapes alone (so meta tensors do); every key is checked.

    Raises:
        CheckpointError: a tensor is missing, unexpected or misshapen, or ``heads`` does not fit.
    """
    depth = 0
    seen = {key.split(".")[1] for key in map(str, state) if key.startswith("blocks.")}
    while str(depth) in seen:
        depth += 1
    order = original_names(max(depth, 1))
    check_names(state, order, "state dict")
    for key in order:
        check_tensor(key, state[key])
    width, in_channels, patch, _ = dimensions(state, "x_embedder.proj.weight", 4)
    _, tokens, _ = dimensions(state, "pos_embed", 3)
    rows, _ = dimensions(state, "y_embedder.embedding_table.weight", 2)
    outputs, _ = dimensions(state, "final_layer.linear.weight", 2)
    if math.isqrt(tokens) ** 2 != tokens:
        raise CheckpointError(f"pos_embed: expected a square number of tokens, got {tokens}")
    if outputs % patch**2:
        raise CheckpointError(
            f"final_layer.linear.weight: expected rows in multiples of {patch**2} "
            f"(patch {patch}), got {outputs}"
        )
    if rows < 2:
        raise CheckpointError(
            "y_embedder.embedding_table.weight: expected a row per class and one for none, got 1"
        )
    found = Architecture(
        depth=depth,
        width=width,
        heads=choose_heads(width, heads),
        patch=patch,
        in_channels=in_channels,
        out_channels=outputs // patch**2,
        latent_size=math.isqrt(tokens) * patch,
        classes=rows - 1,
    )
    for key, shape in found.shapes().items():
        if tuple(state[key].shape) != shape:
            raise CheckpointError(f"{key}: expected shape {shape}, got {tuple(state[key].shape)}")
    return found


def check_tensor(key: str, value: object) -> None:
    if not isinstance(value, Tensor):
        came = type(value).__name__
    elif value.layout != torch.strided or value.dtype not in FLOATS or not value.numel():
        came = f"{value.layout} {value.dtype} of shape {tuple(value.shape)}"
    else:
        return
    raise CheckpointError(
        f"{key}: expected a dense, non-empty tensor in single or half precision, got {came}"
    )


def dimensions(state: Mapping[str, Tensor], key: str, count: int) -> tuple[int, ...]:
    shape = tuple(state[key].shape)
    if len(shape) != count:
        raise CheckpointError(f"{key}: expected {count} dimensions, got shape {shape}")
    return shape


def choose_heads(width: int, heads: int | None) -> int:
    """Heads as given, of the known size, or 64 channels each."""
    chosen = KNOWN_HEADS.get(width, width // 64) if heads is None else heads
    if width % 4:
        raise CheckpointError(f"x_embedder.proj.weight: expected a width by fours, got {width}")
    if chosen < 1 or width % chosen:
        raise CheckpointError(
            f"heads: expected a number that divides the width {width}, got {chosen}; "
            "name the number that the model was trained with"
        )
    return chosen
