"""Quantized linear layers."""

from .build import build_layers, empty_layers, encode
from .integer import accumulators, signed_activations
from .linear import (
    QuantizedLinear,
    effective_bits,
    multiply_numbers_,
    run_as_,
    stored_bits,
)
from .size import group_bits_stored

__all__ = [
    "QuantizedLinear",
    "accumulators",
    "build_layers",
    "effective_bits",
    "empty_layers",
    "encode",
    "group_bits_stored",
    "multiply_numbers_",
    "run_as_",
    "signed_activations",
    "stored_bits",
]
