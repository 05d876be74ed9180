"""Training on a part of the tokens: TREAD (Krause et al., ICCV 2025, arXiv 2501.04765).

For each image a random part of the tokens goes through the middle blocks; the others are carried
past them and join again before the last ones. The architecture stays as it is: the model is
sampled with every token in every block, and the anneal trains it that way.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import DiTTransformer2DModel
from torch import Tensor

WHOLE = 2  # blocks at each end that see every token


def draw_kept(images: int, tokens: int, share: float, generator: torch.Generator) -> Tensor:
    """Indices (images, K) of the tokens that stay, each row in rising order; K = share x tokens."""
    order = torch.rand(images, tokens, generator=generator).argsort(1)  # (images, tokens)
    return order[:, : max(1, round(share * tokens))].sort(1).values  # (images, K)


def routed_forward(
    model: DiTTransformer2DModel, latents: Tensor, timestep: Tensor, labels: Tensor, kept: Tensor
) -> Tensor:
    """The stock forward pass with only the ``kept`` tokens (B, K) in the middle blocks.

    Returns the noise (B, C, H, W). With every token kept it is the stock pass.

    Raises:
        ValueError: no blocks in the middle.
    """
    blocks = model.transformer_blocks
    if len(blocks) <= 2 * WHOLE:
        raise ValueError(f"expected more than {2 * WHOLE} blocks to route past, got {len(blocks)}")
    hidden = model.pos_embed(latents)  # (B, N, D)
    places = kept[:, :, None].expand(-1, -1, hidden.shape[2])  # (B, K, D)
    whole = hidden
    for index, block in enumerate(blocks):
        if index == WHOLE:
            whole, hidden = hidden, hidden.gather(1, places)  # (B, K, D)
        if index == len(blocks) - WHOLE:
            hidden = whole.scatter(1, places, hidden.to(whole.dtype))  # (B, N, D)
        hidden = block(hidden, timestep=timestep, class_labels=labels)
    conditioning = blocks[0].norm1.emb(timestep, labels, hidden_dtype=hidden.dtype)  # (B, D)
    shift, scale = model.proj_out_1(F.silu(conditioning)).chunk(2, dim=1)  # (B, D) each
    hidden = model.norm_out(hidden) * (1 + scale[:, None]) + shift[:, None]  # (B, N, D)
    hidden = model.proj_out_2(hidden)  # (B, N, p x p x C)
    side, patch = round(hidden.shape[1] ** 0.5), model.config.patch_size
    hidden = hidden.unflatten(2, (patch, patch, -1)).unflatten(
        1, (side, side)
    )  # (B, h, w, p, p, C)
    hidden = hidden.permute(0, 5, 1, 3, 2, 4)  # (B, C, h, p, w, p)
    return hidden.reshape(len(hidden), -1, side * patch, side * patch)  # (B, C, H, W)
