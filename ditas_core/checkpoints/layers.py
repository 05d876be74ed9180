"""From a transformer to its quantizable layers and smoothing groups.

A smoothing group is a set of linear layers with one and the same input, hence
one smoothing factor. In a DiT block:

    group  layers          its division by s is absorbed by
    qkv    to_q to_k to_v  adaLN, shift_msa and scale_msa (chunks 0, 1)
    proj   to_out.0        the rows of to_v
    fc1    ff.net.0.proj   adaLN, shift_mlp and scale_mlp (chunks 3, 4)
    fc2    ff.net.2        nothing: divided on the fly
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch.nn as nn
from diffusers import DiTTransformer2DModel


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


def block_groups(index: int) -> tuple[SmoothingGroup, ...]:
    """The four groups of one DiT block."""
    at = f"transformer_blocks.{index}"
    modulation = f"{at}.norm1.linear"
    attention = f"{at}.attn1"
    return (
        SmoothingGroup(
            f"{index}.qkv",
            index,
            "qkv",
            (f"{attention}.to_q", f"{attention}.to_k", f"{attention}.to_v"),
            Absorber.MODULATION,
            modulation,
            0,
            1,
        ),
        SmoothingGroup(
            f"{index}.proj",
            index,
            "proj",
            (f"{attention}.to_out.0",),
            Absorber.VALUE_ROWS,
            f"{attention}.to_v",
        ),
        SmoothingGroup(
            f"{index}.fc1",
            index,
            "fc1",
            (f"{at}.ff.net.0.proj",),
            Absorber.MODULATION,
            modulation,
            3,
            4,
        ),
        SmoothingGroup(f"{index}.fc2", index, "fc2", (f"{at}.ff.net.2",), Absorber.ON_THE_FLY),
    )


def smoothing_groups(transformer: DiTTransformer2DModel) -> tuple[SmoothingGroup, ...]:
    """All groups of a transformer, in execution order."""
    return tuple(
        group for i in range(len(transformer.transformer_blocks)) for group in block_groups(i)
    )


def get_linear(transformer: nn.Module, path: str) -> nn.Linear:
    """The linear layer at ``path``.

    Raises:
        TypeError: what lies there is not a linear layer with a bias.
    """
    module = transformer.get_submodule(path)
    if not isinstance(module, nn.Linear) or module.bias is None:
        raise TypeError(f"{path}: expected a linear layer with a bias, got {type(module).__name__}")
    return module
