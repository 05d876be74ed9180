"""PixArt: conditioned on embedded captions, adaLN-single.

    group  layers                 its division by s is absorbed by
    qkv    attn1.to_q to_k to_v   nothing
    proj   attn1.to_out.0         the rows of attn1.to_v
    q2     attn2.to_q             nothing: its input is the residual stream itself
    kv2    attn2.to_k to_v        nothing: its input is the text, the same in all blocks
    proj2  attn2.to_out.0         the rows of attn2.to_v
    fc1    ff.net.0.proj          nothing
    fc2    ff.net.2               nothing

attn1 is self-, attn2 cross-attention. adaLN-single cannot absorb a division: scale =
table_b + e(t) is the sum of the block's own table and an embedding of the timestep that
all blocks share. (1 + table_b + e(t)) / s needs e(t) / s, and with it the same s in every
block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import PixArtTransformer2DModel
from torch import Tensor, nn

from ..specs import brief
from .errors import CheckpointError
from .family import ATTENTION, FEED_FORWARD, Conditions, Embedded, Family, Kind
from .groups import SmoothingGroup, attended, on_the_fly

SHORT = 120
"""Tokens of a caption in PixArtAlphaPipeline; in PixArtSigmaPipeline they are 300."""


class PixArt(Family):
    name = "PixArt"
    cls = PixArtTransformer2DModel
    pipelines = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
    norm_type = "ada_norm_single"
    blocks = "adaLN-single"
    text = True
    guidance_scale = 4.5  # as the stock pipelines draw
    # a fixed table, and what only training used
    dead = frozenset({"pos_embed.pos_embed", "caption_projection.y_embedding"})
    kinds: ClassVar[Mapping[str, Kind]] = {
        **ATTENTION,
        "q2": Kind("#0072B2", "In PixArt models: what each image token asks of the text."),
        "kv2": Kind(
            "#56B4E9", "In PixArt models: the two products that read the text's embedding."
        ),
        "proj2": Kind("#9CC9E8", "In PixArt models: the product after attention to the text."),
        **FEED_FORWARD,
    }
    said = "in a PixArt model [[q2]], [[kv2]] and [[proj2]] attend to the text"

    def block_groups(self, block: int) -> tuple[SmoothingGroup, ...]:
        return (
            on_the_fly(block, "qkv", "attn1.to_q", "attn1.to_k", "attn1.to_v"),
            attended(block, "proj", "attn1"),
            on_the_fly(block, "q2", "attn2.to_q"),
            on_the_fly(block, "kv2", "attn2.to_k", "attn2.to_v"),
            attended(block, "proj2", "attn2"),
            on_the_fly(block, "fc1", "ff.net.0.proj"),
            on_the_fly(block, "fc2", "ff.net.2"),
        )

    def modulations(self, transformer: nn.Module) -> tuple[str, ...]:
        return ("adaln_single.linear",)

    def check_options(self, config: Mapping[str, Any]) -> None:
        if config.get("attention_type", "default") not in ("default", None):
            raise CheckpointError(
                "transformer: expected blocks without additional attention, got attention_type "
                f"{brief(config['attention_type'])}"
            )
        if config.get("cross_attention_dim", 0) is None:
            raise CheckpointError(
                "transformer: expected cross-attention, got cross_attention_dim null"
            )
        for option in ("double_self_attention", "only_cross_attention"):
            if config.get(option):
                raise CheckpointError(
                    f"transformer: expected self- and cross-attention, got {option} true"
                )

    def conditions(self, transformer: nn.Module, captions: Embedded, pixels: int) -> Conditions:
        return TextConditions(captions, pixels if is_told(transformer) else None)

    def caption_width(self, transformer: nn.Module) -> int:
        config: Any = transformer.config
        return int(config.caption_channels or config.cross_attention_dim)

    def pipeline_of(self, transformer: nn.Module, tokens: int) -> str:
        return self.pipelines[0 if tokens <= SHORT or is_told(transformer) else 1]


def is_told(transformer: nn.Module) -> bool:
    """Whether it takes the images' size: PixArt-alpha at 1024 px."""
    return bool(transformer.use_additional_conditions)


def repeated(embeds: Tensor, mask: Tensor) -> Tensor:
    """(L, D) in which the positions that the mask hides hold the caption's own tokens again.

    Attention ignores them whatever they are. But the layers before it compute them, and
    what pads a short caption would decide their ranges and statistics.
    """
    own = embeds[mask]  # (n, D)
    hidden = (~mask).nonzero().flatten()
    filled = embeds.clone()
    filled[hidden] = own[torch.arange(len(hidden)) % len(own)]
    return filled  # (L, D)


@dataclass(frozen=True, eq=False)
class TextConditions:
    """What a PixArt transformer takes beside latents and timestep.

    pixels  height and width of the images where the model is told, otherwise None
    """

    captions: Embedded
    pixels: int | None

    def __call__(self, labels: Tensor) -> dict[str, Any]:
        """Arguments of a batch (2N, ...) for captions number ``labels`` (N,), conditional first."""
        captions, n = self.captions, len(labels)
        null = repeated(captions.null_embeds, captions.null_mask)
        chosen = [repeated(captions.embeds[i], captions.mask[i]) for i in labels.tolist()]
        masks = [captions.mask[i] for i in labels.tolist()]
        arguments: dict[str, Any] = {
            "encoder_hidden_states": torch.stack([*chosen, *[null] * n]).float(),  # (2N, L, D)
            "encoder_attention_mask": torch.stack([*masks, *[captions.null_mask] * n]),  # (2N, L)
        }
        if self.pixels is not None:
            side = float(self.pixels)
            arguments["added_cond_kwargs"] = {
                "resolution": torch.tensor([[side, side]]).repeat(2 * n, 1),  # (2N, 2)
                "aspect_ratio": torch.ones(2 * n, 1),  # (2N, 1)
            }
        return arguments
