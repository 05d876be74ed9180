"""Quantized linear layers."""

from .build import build_layers
from .encoding import encode
from .linear import QuantizedLinear, stored_bits

__all__ = ["QuantizedLinear", "build_layers", "encode", "stored_bits"]
