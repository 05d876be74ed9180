"""From fitted float weights to finished quantized layers; the same layers without numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from ..quantizer import (
    PACKED_BITS,
    Coded,
    QParams,
    group_view,
    pack_nibbles,
    quantize,
    scale_patterns,
)
from ..specs import (
    FULL_PRECISION_BITS,
    BitWidths,
    Convention,
    Granularity,
    LayerRecipe,
    QuantizerSpec,
)
from .linear import QuantizedLinear

ROW_SCALED = (Granularity.PER_CHANNEL, Granularity.PER_GROUP)


def build_layers(
    fits: Sequence[tuple[Tensor, Tensor, Tensor]],
    biases: Sequence[Tensor],
    bits: BitWidths,
    convention: Convention,
    s: Tensor | None = None,
    on_the_fly: bool = False,
    divisors: Sequence[Tensor | None] | None = None,
    rounded: Sequence[Coded | None] | None = None,
    rotation: Tensor | None = None,
) -> list[QuantizedLinear]:
    """The layers that share one input, one per bias.

    fits        target (C_out, C), which is rounded, and branch up (C_out, r), down (r, C): one
                per layer, or one for all of them, which is cut along its rows
    s           what the input is divided by, (C,): already in the targets, unless rounding
                commutes with smoothing; then scales and ``down`` are multiplied by it here
    on_the_fly  whether the layers divide by s themselves
    divisors    per layer (C_out,) or None: rows divided after rounding (V folded
                with the smoothing factor of the output projection)
    rounded     per fit the codes of its target where they are chosen already; None: the nearest
    rotation    what the layers rotate every block of inputs by after the division, (B, B): in the
                targets already
    """
    weight_spec, activation_spec = convention.quantizers(bits)
    columns = s if convention.smoothing_commutes else None
    divisors = divisors or [None] * len(biases)
    rounded = rounded or [None] * len(fits)
    together = len(biases) // len(fits)
    layers = []
    for number, (target, up, down) in enumerate(fits):
        codes, params = encode(target, weight_spec, columns, rounded[number])
        if columns is not None:
            down = down * columns
        start = 0
        for index in range(number * together, (number + 1) * together):
            bias, divisor = biases[index], divisors[index]
            rows = slice(start, start + len(bias))
            part, part_up = codes[rows].clone(), up[rows].clone()
            part_params, row_scale = rows_of(params, rows, weight_spec), None
            if weight_spec.bits <= PACKED_BITS:
                part = pack_nibbles(part)
            if divisor is not None:
                bias, part_up = bias / divisor, part_up / divisor[:, None]
                part, part_params, row_scale = divide(part, part_params, weight_spec, divisor)
            layers.append(
                QuantizedLinear(
                    weight_spec,
                    activation_spec,
                    part,
                    part_params,
                    bias.clone(),
                    (part_up, down.clone()),
                    s.clone() if on_the_fly and s is not None else None,
                    row_scale,
                    convention.branch_input == "full",
                    start,
                    together,
                    rotation,
                )
            )
            start += len(bias)
    return layers


def empty_layers(
    shapes: Sequence[tuple[int, int]],
    layer: LayerRecipe,
    convention: Convention,
    on_the_fly: bool = False,
    divided: Collection[int] = (),
    rotation: Tensor | None = None,
) -> list[QuantizedLinear]:
    """The layers that share one input as ``build_layers`` makes them, on the meta device: the one
    description of what is stored.

    shapes   (C_out, C) of each layer
    divided  indices of the layers whose rows are divided (V, where the output
             projection is smoothed)
    rotation  as ``build_layers`` takes it, with its numbers, which no file holds

    Raises:
        ValueError: no layer, several inputs, or strided groups that do not divide the weights.
    """
    inputs = {c for _, c in shapes}
    if len(inputs) != 1:
        raise ValueError(f"shapes: expected layers that share one input, got {list(shapes)}")
    (c,) = inputs
    rows = [c_out for c_out, _ in shapes]
    most = 0 if layer.bits.weight_bits >= FULL_PRECISION_BITS else layer.low_rank.rank
    with torch.device("meta"):
        fits = []
        for height in [sum(rows)] if convention.fused_qkv else rows:
            rank = min(most, height, c)
            fits.append((torch.empty(height, c), torch.empty(height, rank), torch.empty(rank, c)))
        s = None if layer.alpha is None else torch.empty(c)
        divisors = [torch.empty(n) if i in divided else None for i, n in enumerate(rows)]
        biases = [torch.empty(n) for n in rows]
        return build_layers(
            fits, biases, layer.bits, convention, s, on_the_fly, divisors, rotation=rotation
        )


def encode(
    target: Tensor,
    spec: QuantizerSpec,
    columns: Tensor | None = None,
    rounded: Coded | None = None,
) -> tuple[Tensor, QParams]:
    """Codes (uint8, from 0) and parameters of a weight (C_out, C), ``rounded`` or the nearest, as
    ``QuantizedLinear`` has them.

    ``columns`` (C,) multiplies the scales afterwards: Q(W) s. Strided groups give
    tables of shape (P, C), see ``QuantizedLinear``.

    Raises:
        ValueError: strided groups that do not divide the output channels.
    """
    if spec.bits >= FULL_PRECISION_BITS:
        weight = target if columns is None else target * columns
        return weight.clone(), QParams(target.new_ones(1), target.new_zeros(1))
    strided = spec.granularity is Granularity.PER_STRIDED_GROUP
    if strided and len(target) % spec.group_size:
        raise ValueError(
            f"weight: expected output channels in multiples of {spec.group_size} for "
            f"strided groups, got {len(target)}"
        )
    if target.is_meta:  # has a shape and no range
        grouped, dims = group_view(target, spec)
        codes, scale = target.to(torch.int32), grouped.amin(dims, keepdim=True)
        shared = torch.empty(1) if spec.format is not None and spec.format.tensor_scale else None
        params = QParams(scale, scale.clone(), shared)
    else:
        codes, params = rounded or quantize(target, spec)
    if spec.format is not None:
        shared = None if params.tensor_scale is None else params.tensor_scale.reshape(1)
        scale = scale_patterns(params.scale, spec.format)
        return codes.to(torch.uint8), QParams(scale, params.zero_point, shared)
    scale, zero_point = params.scale, params.zero_point
    if strided:
        scale = scale.reshape(-1, target.shape[1])  # (P, C)
        zero_point = zero_point.reshape(-1, target.shape[1])
    if columns is not None:
        scale = scale * columns
    return (codes - spec.qmin).to(torch.uint8), QParams(scale, zero_point)


def rows_of(params: QParams, rows: slice, spec: QuantizerSpec) -> QParams:
    """Scale and zero point of some rows; tables and shared scales stay whole."""
    if spec.bits >= FULL_PRECISION_BITS or spec.granularity not in ROW_SCALED:
        return QParams(params.scale.clone(), params.zero_point.clone(), params.tensor_scale)
    scale, zero_point = params.scale[rows].clone(), params.zero_point[rows].clone()
    return QParams(scale, zero_point, params.tensor_scale)


def divide(
    codes: Tensor, params: QParams, spec: QuantizerSpec, divisor: Tensor
) -> tuple[Tensor, QParams, Tensor | None]:
    """Divide the rows: in their scales, or by a row scale where those do not lie in a row."""
    if spec.bits >= FULL_PRECISION_BITS:
        return codes / divisor[:, None], params, None
    coarse = spec.format is not None and spec.format.scale != "float32"
    if spec.granularity in ROW_SCALED and not coarse:
        shape = (-1,) + (1,) * (params.scale.ndim - 1)
        return codes, QParams(params.scale / divisor.reshape(shape), params.zero_point), None
    return codes, params, (1.0 / divisor)[:, None]
