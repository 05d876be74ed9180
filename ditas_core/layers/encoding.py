"""Integer codes and scales of a weight, as a layer stores them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..quantizer import QParams, quantize
from ..specs import FULL_PRECISION_BITS, Granularity, QuantizerSpec


def encode(
    target: Tensor, spec: QuantizerSpec, columns: Tensor | None = None
) -> tuple[Tensor, QParams]:
    """Codes (uint8, from 0) and parameters of a weight (C_out, C).

    ``columns`` (C,) multiplies the scales afterwards: Q(W) s. Strided groups give
    tables of shape (P, C), see ``QuantizedLinear``.

    Raises:
        ValueError: strided groups that do not divide the output channels.
    """
    if spec.bits >= FULL_PRECISION_BITS:
        weight = target if columns is None else target * columns
        return weight.clone(), QParams(torch.ones(1), torch.zeros(1))
    codes, (scale, zero_point) = quantize(target, spec)
    if spec.granularity is Granularity.PER_STRIDED_GROUP:
        if len(target) % spec.group_size:
            raise ValueError(
                f"weight: expected output channels in multiples of {spec.group_size} for "
                f"strided groups, got {len(target)}"
            )
        scale = scale.reshape(-1, target.shape[1])  # (P, C)
        zero_point = zero_point.reshape(-1, target.shape[1])
    if columns is not None:
        scale = scale * columns
    return (codes - spec.qmin).to(torch.uint8), QParams(scale, zero_point)
