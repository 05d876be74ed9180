"""Affine quantization and number formats: pure functions on tensors."""

from .affine import (
    Coded,
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
from .formats import (
    format_params,
    from_patterns,
    levels,
    round_to_element,
    scale_patterns,
    scale_values,
    to_patterns,
)
from .grouping import group_view
from .packing import PACKED_BITS, pack_nibbles, unpack_nibbles
from .params import QParams

__all__ = [
    "PACKED_BITS",
    "Coded",
    "QParams",
    "activation_codes",
    "choose_qparams",
    "dequantize",
    "fake_quantize",
    "fake_quantize_in_range",
    "format_params",
    "from_codes",
    "from_patterns",
    "group_view",
    "levels",
    "of_elements",
    "pack_nibbles",
    "params_from_range",
    "quantize",
    "round_to_element",
    "scale_patterns",
    "scale_values",
    "to_codes",
    "to_patterns",
    "unpack_nibbles",
]
