"""Two 4-bit codes in one byte: how codes of at most 4 bits are stored on disk."""

from __future__ import annotations

import torch
from torch import Tensor

PACKED_BITS = 4
"""Up to so many bits two codes share a byte."""


def pack_nibbles(codes: Tensor) -> Tensor:
    """uint8 (C_out, C_in), values 0 to 15 -> uint8 (C_out, ceil(C_in / 2)).

    Raises:
        ValueError: a code above 15, or another dtype than uint8.
    """
    within = codes.is_meta or int(codes.max()) <= 15
    if codes.dtype != torch.uint8 or codes.ndim != 2 or not within:
        raise ValueError("codes: expected 2-D uint8 from 0 to 15")
    if codes.shape[1] % 2:
        codes = torch.cat([codes, torch.zeros_like(codes[:, :1])], dim=1)
    return codes[:, ::2] | (codes[:, 1::2] << 4)  # (C_out, ceil(C_in / 2))


def unpack_nibbles(packed: Tensor, columns: int) -> Tensor:
    """Inverse of ``pack_nibbles`` for ``columns`` input channels."""
    if packed.dtype != torch.uint8 or packed.shape[1] != (columns + 1) // 2:
        raise ValueError(
            f"packed: expected uint8 with {(columns + 1) // 2} columns, got {tuple(packed.shape)}"
        )
    pairs = torch.stack([packed & 15, packed >> 4], dim=-1)  # (C_out, ceil(C_in / 2), 2)
    return pairs.flatten(1)[:, :columns].contiguous()
