"""The original DiT, written down plainly from the paper and its published layout.

Independent of diffusers and of this package: only torch. Module names are the
original's, so its state dicts load with ``strict=True``.
(Peebles & Xie, 2022, "Scalable Diffusion Models with Transformers".)
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (N, T, D), shift and scale (N, D)."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class PatchEmbedder(nn.Module):
    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)  # (N, T, D)


class TimestepEmbedder(nn.Module):
    """Cosines, then sines, of t times 128 frequencies ``10000 ** (-i / divisor)``; an MLP."""

    def __init__(self, width: int, divisor: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.divisor = divisor

    def forward(self, t: Tensor) -> Tensor:
        index = torch.arange(128, dtype=torch.float32)
        frequencies = torch.exp(-math.log(10000) * index / self.divisor)
        angles = t[:, None].float() * frequencies  # (N, 128)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1))  # (N, D)


class LabelEmbedder(nn.Module):
    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(rows, width)

    def forward(self, labels: Tensor) -> Tensor:
        return self.embedding_table(labels)  # (N, D)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        size = width // self.heads
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, size)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (N, H, T, D / H) each
        scores = q @ k.transpose(-2, -1) / math.sqrt(size)  # (N, H, T, T)
        mixed = scores.softmax(-1) @ v
        return self.proj(mixed.transpose(1, 2).reshape(n, tokens, width))


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """adaLN-Zero: the condition shifts, scales and gates attention and MLP."""

    def __init__(self, width: int, heads: int, mlp_eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=mlp_eps, elementwise_affine=False)
        self.mlp = Mlp(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(
            c
        ).chunk(6, dim=1)
        attended = self.attn(modulate(self.norm1(x), shift_msa, scale_msa))
        x = x + gate_msa.unsqueeze(1) * attended
        fed = self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp))
        return x + gate_mlp.unsqueeze(1) * fed


class FinalLayer(nn.Module):
    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class OriginalDiT(nn.Module):
    """As published with ``divisor`` 128 and ``mlp_eps`` 1e-6; diffusers has 127 and 1e-5."""

    def __init__(
        self,
        state: Mapping[str, Tensor],
        heads: int,
        divisor: int = 128,
        mlp_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        width, channels, self.patch, _ = state["x_embedder.proj.weight"].shape
        outputs = state["final_layer.linear.weight"].shape[0]
        depth = sum(key.endswith(".attn.qkv.weight") for key in state)
        self.out_channels = outputs // self.patch**2
        self.x_embedder = PatchEmbedder(channels, width, self.patch)
        self.t_embedder = TimestepEmbedder(width, divisor)
        self.y_embedder = LabelEmbedder(len(state["y_embedder.embedding_table.weight"]), width)
        self.pos_embed = nn.Parameter(torch.zeros(state["pos_embed"].shape), requires_grad=False)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_eps) for _ in range(depth))
        self.final_layer = FinalLayer(width, outputs)
        self.load_state_dict(dict(state), strict=True)
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """x (N, C, S, S), t and y (N,) -> (N, C_out, S, S)."""
        h = self.x_embedder(x) + self.pos_embed
        c = self.t_embedder(t) + self.y_embedder(y)
        for block in self.blocks:
            h = block(h, c)
        return self.unpatchify(self.final_layer(h, c))

    def unpatchify(self, h: Tensor) -> Tensor:
        """(N, T, p * p * C) -> (N, C, S, S)."""
        n, tokens, _ = h.shape
        grid, p, channels = math.isqrt(tokens), self.patch, self.out_channels
        h = h.reshape(n, grid, grid, p, p, channels).permute(0, 5, 1, 3, 2, 4)
        return h.reshape(n, channels, grid * p, grid * p)
