"""Rotations of a layer's inputs in blocks of channels: tensors in, tensors out.

Y = X W^T = (X R) (W R)^T      R = diag(R_b, ..., R_b), R_b orthogonal (B, B)
"""

from __future__ import annotations

import torch
from torch import Tensor


def hadamard(size: int) -> Tensor:
    """Sylvester's matrix over sqrt(size), (size, size) float32: symmetric and its own inverse.

    Raises:
        ValueError: a size that is no power of two.
    """
    if size < 1 or size & (size - 1):
        raise ValueError(f"size: expected a power of two, got {size}")
    found = torch.ones(1, 1, device="cpu")
    while len(found) < size:
        found = torch.cat([torch.cat([found, found], 1), torch.cat([found, -found], 1)])
    return found / size**0.5


def rotate(x: Tensor, rotation: Tensor | None) -> Tensor:
    """X R: every B neighbouring channels of x (..., C) times the block (B, B); None: x itself."""
    if rotation is None:
        return x
    blocks = x.reshape(*x.shape[:-1], -1, len(rotation))  # (..., C / B, B)
    return (blocks @ rotation.to(x.device, x.dtype)).reshape(x.shape)
