"""Quantized linear layers."""

from .build import build_layers, empty_layers, encode
from .linear import QuantizedLinear, effective_bits, stored_bits
from .size import group_bits_stored

__all__ = [
    "QuantizedLinear",
    "build_layers",
    "effective_bits",
    "empty_layers",
    "encode",
    "group_bits_stored",
    "stored_bits",
]
