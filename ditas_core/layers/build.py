"""From a fitted float weight to finished quantized layers."""

from __future__ import annotations

from torch import Tensor

from ..quantizer import QParams
from ..specs import FULL_PRECISION_BITS, Convention, Granularity, QuantizerSpec
from .encoding import encode
from .linear import QuantizedLinear

ROW_SCALED = (Granularity.PER_CHANNEL, Granularity.PER_GROUP)


def build_layers(
    target: Tensor,
    branch: tuple[Tensor, Tensor],
    biases: list[Tensor],
    quantizers: tuple[QuantizerSpec, QuantizerSpec],
    convention: Convention,
    columns: Tensor | None = None,
    smoothing: Tensor | None = None,
    divisors: list[Tensor | None] | None = None,
) -> list[QuantizedLinear]:
    """Layers whose weights are quantized as one, cut along the rows, one per bias.

    target     what is rounded, (sum of C_out, C)
    branch     up (sum of C_out, r), down (r, C)
    columns    s (C,) where it is applied after rounding: scales and ``down`` times s
    smoothing  s (C,) where the input is divided on the fly
    divisors   per layer (C_out,) or None: rows divided after rounding (V folded
               with the smoothing factor of the output projection)
    """
    weight_spec, activation_spec = quantizers
    codes, params = encode(target, weight_spec, columns)
    up, down = branch
    if columns is not None:
        down = down * columns
    layers = []
    start = 0
    for bias, divisor in zip(biases, divisors or [None] * len(biases), strict=True):
        rows = slice(start, start + len(bias))
        part, part_up = codes[rows].clone(), up[rows].clone()
        part_params, row_scale = rows_of(params, rows, weight_spec), None
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
                None if smoothing is None else smoothing.clone(),
                row_scale,
                convention.branch_input == "full",
                start if convention.fused_qkv else 0,
                len(biases) if convention.fused_qkv else 1,
            )
        )
        start += len(bias)
    return layers


def rows_of(params: QParams, rows: slice, spec: QuantizerSpec) -> QParams:
    """Scale and zero point of some rows; tables and shared scales stay whole."""
    if spec.bits >= FULL_PRECISION_BITS or spec.granularity not in ROW_SCALED:
        return QParams(params.scale.clone(), params.zero_point.clone())
    return QParams(params.scale[rows].clone(), params.zero_point[rows].clone())


def divide(
    codes: Tensor, params: QParams, spec: QuantizerSpec, divisor: Tensor
) -> tuple[Tensor, QParams, Tensor | None]:
    """Divide the rows: in their scales, or by a row scale where those do not lie in a row."""
    if spec.bits >= FULL_PRECISION_BITS:
        return codes / divisor[:, None], params, None
    if spec.granularity in ROW_SCALED:
        shape = (-1,) + (1,) * (params.scale.ndim - 1)
        return codes, QParams(params.scale / divisor.reshape(shape), params.zero_point), None
    return codes, params, (1.0 / divisor)[:, None]
