"""Affine quantization: pure functions on tensors."""

from .affine import (
    QParams,
    activation_codes,
    choose_qparams,
    dequantize,
    fake_quantize,
    fake_quantize_in_range,
    from_codes,
    params_from_range,
    quantize,
)
from .grouping import group_view
from .packing import PACKED_BITS, pack_nibbles, unpack_nibbles

__all__ = [
    "PACKED_BITS",
    "QParams",
    "activation_codes",
    "choose_qparams",
    "dequantize",
    "fake_quantize",
    "fake_quantize_in_range",
    "from_codes",
    "group_view",
    "pack_nibbles",
    "params_from_range",
    "quantize",
    "unpack_nibbles",
]
