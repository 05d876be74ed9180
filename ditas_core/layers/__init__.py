"""Quantized linear layers."""

from .linear import QuantizedLinear

__all__ = ["QuantizedLinear"]
