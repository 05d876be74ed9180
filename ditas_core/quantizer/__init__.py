"""Affine quantization: pure functions on tensors."""

from .affine import (
    Coded,
    QParams,
    activation_codes,
    choose_qparams,
    dequantize,
    fake_quantize,
    fake_quantize_in_range,
    from_codes,
    of_elements,
    params_from_range,
    quantize,
    to_codes,
)
from .grouping import group_view
from .packing import PACKED_BITS, pack_nibbles, unpack_nibbles

__all__ = [
    "PACKED_BITS",
    "Coded",
    "QParams",
    "activation_codes",
    "choose_qparams",
    "dequantize",
    "fake_quantize",
    "fake_quantize_in_range",
    "from_codes",
    "group_view",
    "of_elements",
    "pack_nibbles",
    "params_from_range",
    "quantize",
    "to_codes",
    "unpack_nibbles",
]
