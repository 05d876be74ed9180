"""Quantized checkpoints on disk."""

from .folder import (
    is_quantized,
    load_quantized,
    parameter_count,
    save_quantized,
    stored_bytes,
    whole_model_bits,
)

__all__ = [
    "is_quantized",
    "load_quantized",
    "parameter_count",
    "save_quantized",
    "stored_bytes",
    "whole_model_bits",
]
