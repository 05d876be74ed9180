"""Hadamard rotation: a few large channels become many of middling size.

    Y = Q(X R) Q(W R)^T + b        R = diag(H_B, ..., H_B),  H_B = Sylvester's +-1 matrix / sqrt(B)

R is orthogonal, so that without rounding the layer computes what it did. A channel m times as
large as its block's others widens a token's range m times; rotated, all B of them hold about
m / sqrt(B) of it. The rows of W, which have no such channels, hardly change. This is what QuaRot
does to the inputs that no layer before them can rotate (Ashkboos et al., "QuaRot", NeurIPS 2024),
there with a Hadamard matrix of all channels.

Departures: blocks of at most ``block`` channels, the largest power of two that divides the
channels, since 1152 = 128 * 9 has no Sylvester matrix; and all inputs are rotated by the layer
itself. QuaRot rotates the stream between the blocks of a language model within their weights: a
DiT's normalisation multiplies each channel of each image by a scale of its own, and GELU stands
before fc2, with which no rotation commutes. The rows of V could take the output projection's
exactly, where B divides a head: at width 256 that is 2 % of all products, and DiT-XL/2's heads of
72 channels are divided by blocks of 8 only.

Costs 2 B C operations a token at run time, next to 2 C C_out of each layer that has the input, and
no bits. What a calibration knows of single channels does not hold of rotated ones: their second
moment is R^T M R exactly, their extremes are those of the tokens that were kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...smoothing import hadamard
from ...specs import check_whole


@dataclass(frozen=True)
class Settings:
    """
    block  most channels that are mixed with each other
    """

    block: int

    def __post_init__(self) -> None:
        check_whole("block", self.block, 2, 2**14)


def block(channels: int, settings: Settings) -> Tensor:
    """(B, B), B the largest power of two up to the setting that divides the channels."""
    size = 1
    while 2 * size <= settings.block and channels % (2 * size) == 0:
        size *= 2
    return hadamard(size)
