"""A quantized transformer, layer by layer, as formats of other libraries take it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..evaluation import sqnr_db
from ..layers import QuantizedLinear
from ..models import Transformer, get_linear
from ..specs import FULL_PRECISION_BITS

HALF_DB = 60.0
"""What half precision must keep of a weight: far more than 8 bits do."""


class Layer(NamedTuple):
    """The tensors of one quantized layer; G groups of inputs, one where a row has one scale.

    codes       int (C_out, C_in), from ``qmin`` of its quantizer
    scale       float32 (C_out, G); ``zero_point`` the same shape, in codes from 0
    group       inputs that share a scale
    up, down    (C_out, r), (r, C_in); r is 0 without a branch
    divisor     (C_in,): what the input is divided by; None where nothing does
    activation  its bits; 16 where they are left alone
    """

    bits: int
    activation: int
    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    group: int
    up: Tensor
    down: Tensor
    divisor: Tensor | None


def layer_of(module: QuantizedLinear) -> Layer:
    """What a module computes with."""
    spec = module.weight_spec
    rows = module.out_features
    return Layer(
        spec.bits,
        module.activation_spec.bits,
        module.unpacked().int() + spec.qmin,
        module.scale.reshape(rows, -1).contiguous(),
        module.zero_point.reshape(rows, -1).contiguous(),
        min(spec.group_size or module.in_features, module.in_features),
        module.up,
        module.down,
        module.smoothing,
    )


def stored_layers(transformer: nn.Module) -> Iterator[tuple[str, Layer]]:
    """All layers with codes, by path."""
    for path, module in transformer.named_modules():
        if isinstance(module, QuantizedLinear) and module.weight_spec.bits < FULL_PRECISION_BITS:
            yield path, layer_of(module)


def plain_tensors(transformer: Transformer, stock: Transformer) -> dict[str, Tensor]:
    """What is stored as it is, under the stock class's names; in half precision where exact.

    stock  the transformer before it was quantized: a layer that had no bias gets none
    """
    found: dict[str, Tensor] = {}
    quantized = {p: m for p, m in transformer.named_modules() if isinstance(m, QuantizedLinear)}
    for name, value in transformer.state_dict().items():
        path, _, last = name.rpartition(".")
        layer = quantized.get(path)
        if layer is None or (last == "bias" and get_linear(stock, path).bias is not None):
            found[name] = narrowed(value)
        elif last == "codes" and layer.weight_spec.bits >= FULL_PRECISION_BITS:
            found[f"{path}.weight"] = narrowed(value)
    return found


@torch.no_grad()
def halve_(transformer: nn.Module) -> None:
    """Round the weights that were left in floats to half precision, where that is fine enough.

    Without it a folded modulation, a third of a DiT, would be stored in single precision.
    """
    for parameter in transformer.parameters():
        if parameter.ndim > 1:
            rounded = parameter.half().to(parameter.dtype)
            if float(sqnr_db(parameter[None], rounded[None])) >= HALF_DB:
                parameter.data = rounded


def narrowed(value: Tensor) -> Tensor:
    """On the CPU, whole, and in half precision where that is exact."""
    value = value.detach().cpu().contiguous()
    if value.is_floating_point() and torch.equal(value.half().to(value.dtype), value):
        value = value.half()
    return value.clone()
