"""Smoothing groups and the linear layers in them.

A smoothing group is a set of linear layers with one and the same input, hence
one smoothing factor. Which groups a block has is its family's matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch.nn as nn


class Absorber(StrEnum):
    """Where the division by s goes."""

    MODULATION = "modulation"
    VALUE_ROWS = "value_rows"
    ON_THE_FLY = "on_the_fly"


@dataclass(frozen=True)
class SmoothingGroup:
    """Layers that share one input; names are paths in the transformer."""

    name: str
    block: int
    kind: str
    layers: tuple[str, ...]
    absorber: Absorber
    absorber_path: str = ""
    shift_chunk: int = 0
    scale_chunk: int = 0

    @property
    def title(self) -> str:
        """For people: ``block 3 · fc1``."""
        return f"block {self.block} · {self.kind}"


def on_the_fly(block: int, kind: str, *layers: str) -> SmoothingGroup:
    at = f"transformer_blocks.{block}"
    paths = tuple(f"{at}.{layer}" for layer in layers)
    return SmoothingGroup(f"{block}.{kind}", block, kind, paths, Absorber.ON_THE_FLY)


def modulated(
    block: int, kind: str, norm: str, chunks: tuple[int, int], *layers: str
) -> SmoothingGroup:
    """Layers behind a normalisation, with the chunks of its shift and scale."""
    at = f"transformer_blocks.{block}"
    return SmoothingGroup(
        f"{block}.{kind}",
        block,
        kind,
        tuple(f"{at}.{layer}" for layer in layers),
        Absorber.MODULATION,
        f"{at}.{norm}.linear",
        *chunks,
    )


def attended(block: int, kind: str, attention: str) -> SmoothingGroup:
    """The output projection of an attention.

    softmax(QK^T) V is linear in V channel by channel, whatever the mask: its rows take the
    division exactly.
    """
    at = f"transformer_blocks.{block}.{attention}"
    return SmoothingGroup(
        f"{block}.{kind}", block, kind, (f"{at}.to_out.0",), Absorber.VALUE_ROWS, f"{at}.to_v"
    )


def input_channels(transformer: nn.Module, group: SmoothingGroup) -> int:
    """Of the group's input, whether its layers are quantized or not."""
    layer: Any = transformer.get_submodule(group.layers[0])
    return int(layer.in_features)


def group_fed_by(
    group: SmoothingGroup, groups: tuple[SmoothingGroup, ...]
) -> SmoothingGroup | None:
    """The group whose division lies in the rows of one of this group's layers (V), if any."""
    for other in groups:
        if other.absorber is Absorber.VALUE_ROWS and other.absorber_path in group.layers:
            return other
    return None


def get_linear(transformer: nn.Module, path: str) -> nn.Linear:
    """The linear layer at ``path``.

    Raises:
        TypeError: what lies there is not a linear layer.
    """
    module = transformer.get_submodule(path)
    if not isinstance(module, nn.Linear):
        raise TypeError(f"{path}: expected a linear layer, got {type(module).__name__}")
    return module
