"""The patch embedding in bfloat16: computed in float32 where the processor's kernel is wrong.

Some kernels are: oneDNN's bfloat16 convolution of kernel 16 and stride 16 has a relative
error of 1.06 on processors with AMX, of kernels 2, 4 and 8 it is right. A model with such
a first layer draws nonsense, so it is tried once, on noise, before it is used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BOUND = 2.0**-6
"""Largest relative error that bfloat16 explains. Its products are added in float32 and
rounded once, by 2^-9 at most; a kernel that also rounds partial sums stays below 2^-7."""
NOTE = "the patch embedding is computed in float32: this processor's bfloat16 kernel is wrong"


class ExactPatches(nn.Conv2d):
    """A patch embedding that computes in float32; input, output and weights keep their dtype."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.float()
        y = F.conv2d(x.float(), self.weight.float(), bias, self.stride)  # (N, D, H / p, W / p)
        return y.to(x.dtype)


@torch.no_grad()
def bfloat16_error(conv: nn.Conv2d) -> float:
    """|y - y32| / |y32| of the same operands on seeded noise; NaN counts as infinite."""
    x = torch.randn(2, conv.in_channels, *(4 * k for k in conv.kernel_size),
                    generator=torch.Generator().manual_seed(0)).bfloat16()  # fmt: skip
    weight = conv.weight.cpu().bfloat16()
    rounded = F.conv2d(x, weight, None, conv.stride).float()
    exact = F.conv2d(x.float(), weight.float(), None, conv.stride)
    error = float((rounded - exact).norm() / exact.norm().clamp(min=1e-30))
    return error if error == error else float("inf")


def patches_of(transformer: nn.Module) -> Any:
    """The module that holds the patch embedding, a convolution called ``proj``; None without."""
    place = getattr(transformer, "pos_embed", None)
    return place if isinstance(getattr(place, "proj", None), nn.Conv2d) else None


def settle_patches_(transformer: nn.Module) -> nn.Module:
    """Exchange the patch embedding of a bfloat16 model where its kernel is wrong here."""
    place = patches_of(transformer)
    if place is None or place.proj.weight.dtype != torch.bfloat16:
        return transformer
    conv = place.proj
    if not isinstance(conv, ExactPatches) and bfloat16_error(conv) > BOUND:
        exact = ExactPatches(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride,
            bias=conv.bias is not None, device="meta",
        )  # fmt: skip
        exact.weight, exact.bias = conv.weight, conv.bias
        place.proj = exact.train(conv.training)
    return transformer


def has_exact_patches(transformer: nn.Module) -> bool:
    """Whether ``settle_patches_`` exchanged the patch embedding, and it matters."""
    place = patches_of(transformer)
    if place is None or not isinstance(place.proj, ExactPatches):
        return False
    return bool(place.proj.weight.dtype == torch.bfloat16)
