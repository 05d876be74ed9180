"""Quantized linear layers."""

from .build import build_layers
from .encoding import encode
from .linear import QuantizedLinear, effective_bits, stored_bits
from .size import group_bits_stored

__all__ = [
    "QuantizedLinear",
    "build_layers",
    "effective_bits",
    "encode",
    "group_bits_stored",
    "stored_bits",
]
