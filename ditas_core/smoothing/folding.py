"""Absorb a division by s into the layer that produces the channels.

Pure functions on weights: each returns new tensors. ``s`` is (C,).

    adaLN  x_hat * (1 + scale) + shift, with shift = A c + a, scale = B c + b:
           divided by s:  A/s, a/s,  B/s, (b + 1)/s - 1
    rows   y = W x + b, divided by s:  W/s, b/s row by row (the V projection)
    columns of the consumer, multiplied by s:  W * s
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Affine(NamedTuple):
    """Weight (C_out, C_in) and bias (C_out,) of a linear layer."""

    weight: Tensor
    bias: Tensor


def fold_modulation(modulation: Affine, s: Tensor, shift_chunk: int, scale_chunk: int) -> Affine:
    """Divide one shift/scale pair of an adaLN modulation by s.

    The modulation's rows are chunks of C rows; in DiT they are
    shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp (chunks 0 to 5).
    """
    c = s.numel()
    weight, bias = modulation.weight.clone(), modulation.bias.clone()
    shift = slice(shift_chunk * c, (shift_chunk + 1) * c)
    scale = slice(scale_chunk * c, (scale_chunk + 1) * c)
    weight[shift] = weight[shift] / s[:, None]  # (C, D)
    bias[shift] = bias[shift] / s  # (C,)
    weight[scale] = weight[scale] / s[:, None]  # (C, D)
    bias[scale] = (bias[scale] + 1) / s - 1  # (C,)
    return Affine(weight, bias)


def divide_rows(linear: Affine, s: Tensor) -> Affine:
    """Divide a layer's outputs by s."""
    return Affine(linear.weight / s[:, None], linear.bias / s)


def multiply_columns(weight: Tensor, s: Tensor) -> Tensor:
    """Undo a division of the inputs by s: ``W * s``, (C_out, C)."""
    return weight * s[None, :]
