"""DiT: conditioned on classes, adaLN-Zero.

group  layers          its division by s is absorbed by
qkv    to_q to_k to_v  adaLN, shift_msa and scale_msa (chunks 0, 1)
proj   to_out.0        the rows of to_v
fc1    ff.net.0.proj   adaLN, shift_mlp and scale_mlp (chunks 3, 4)
fc2    ff.net.2        nothing: divided on the fly
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from .family import ATTENTION, FEED_FORWARD, Family, Kind
from .groups import SmoothingGroup, attended, modulated, on_the_fly

NULL_CLASS = 1000
"""The unconditional class; stock DiTPipeline has no other."""


class DiT(Family):
    name = "DiT"
    cls = DiTTransformer2DModel
    pipelines = ("DiTPipeline",)
    norm_type = "ada_norm_zero"
    blocks = "adaLN-Zero"
    text = False
    guidance_scale = 1.5  # as the paper samples
    dead = frozenset({"pos_embed.pos_embed"})  # a fixed table
    repeated = "norm1.emb."  # timestep and class are embedded once; the stock class does per block
    kinds: ClassVar[Mapping[str, Kind]] = {**ATTENTION, **FEED_FORWARD}
    said = "[[qkv]] and [[proj]] are attention, [[fc1]] and [[fc2]] the feed-forward"

    def block_groups(self, block: int) -> tuple[SmoothingGroup, ...]:
        qkv = ("attn1.to_q", "attn1.to_k", "attn1.to_v")
        return (
            modulated(block, "qkv", "norm1", (0, 1), *qkv),
            attended(block, "proj", "attn1"),
            modulated(block, "fc1", "norm1", (3, 4), "ff.net.0.proj"),
            on_the_fly(block, "fc2", "ff.net.2"),
        )

    def modulations(self, transformer: nn.Module) -> tuple[str, ...]:
        blocks: Any = transformer.transformer_blocks
        return (
            *(f"transformer_blocks.{i}.norm1.linear" for i in range(len(blocks))),
            "proj_out_1",
        )


def null_class(transformer: nn.Module) -> int:
    """The row of no class, the last one of the label table: as many classes are before it."""
    config = getattr(transformer, "config", None)
    return int(getattr(config, "num_embeds_ada_norm", None) or NULL_CLASS)


def class_conditions(transformer: nn.Module, labels: Tensor) -> dict[str, Any]:
    """Class numbers (N,), then as many times no class: arguments of both halves (2N,)."""
    return {"class_labels": torch.cat([labels, torch.full_like(labels, null_class(transformer))])}
