"""The original DiT, written down plainly from the paper and its published layout.

Independent of diffusers and of this package: only torch, on the original's own state dict.
(Peebles & Xie, 2022, "Scalable Diffusion Models with Transformers".)
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def normalized(h: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """A norm without gain, and its modulation: h (N, T, D), shift and scale (N, 1, D)."""
    return F.layer_norm(h, h.shape[-1:], eps=eps) * (1 + scale) + shift


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """All (N, T, D)."""
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (N, H, T, D / H)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (N, H, T, T)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


@torch.no_grad()
def original_dit(
    state: Mapping[str, Tensor],
    heads: int,
    x: Tensor,
    t: Tensor,
    y: Tensor,
    divisor: int = 127,
    mlp_eps: float = 1e-5,
) -> Tensor:
    """x (N, C, S, S), t and y (N,) -> (N, C_out, S, S); every tensor is used, and once.

    divisor, mlp_eps  diffusers' own; published with 128 and 1e-6
    """
    left = dict(state)

    def linear(name: str, h: Tensor) -> Tensor:
        return F.linear(h, left.pop(f"{name}.weight"), left.pop(f"{name}.bias"))

    kernel = left.pop("x_embedder.proj.weight")
    patch = kernel.shape[-1]
    h = F.conv2d(x, kernel, left.pop("x_embedder.proj.bias"), stride=patch)
    h = h.flatten(2).transpose(1, 2) + left.pop("pos_embed")  # (N, T, D)
    angles = t[:, None] * torch.exp(-math.log(10000) * torch.arange(128.0) / divisor)
    c = linear("t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()], dim=1))  # (N, D)
    c = linear("t_embedder.mlp.2", F.silu(c)) + left.pop("y_embedder.embedding_table.weight")[y]
    c = F.silu(c)[:, None]
    for block in range(sum(key.endswith(".attn.qkv.weight") for key in state)):
        name = f"blocks.{block}"
        modulation = linear(f"{name}.adaLN_modulation.1", c).chunk(6, dim=-1)
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = modulation
        qkv = linear(f"{name}.attn.qkv", normalized(h, shift_msa, scale_msa)).chunk(3, dim=-1)
        h = h + gate_msa * linear(f"{name}.attn.proj", attention(*qkv, heads))
        fed = linear(f"{name}.mlp.fc1", normalized(h, shift_mlp, scale_mlp, mlp_eps))
        h = h + gate_mlp * linear(f"{name}.mlp.fc2", F.gelu(fed, approximate="tanh"))
    shift, scale = linear("final_layer.adaLN_modulation.1", c).chunk(2, dim=-1)
    h = linear("final_layer.linear", normalized(h, shift, scale))  # (N, T, p * p * C)
    assert not left
    grid = math.isqrt(h.shape[1])
    h = h.unflatten(2, (patch, patch, -1)).unflatten(1, (grid, grid))  # (N, g, g, p, p, C)
    return h.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
