"""Quantized checkpoints on disk."""

from .folder import (
    is_quantized,
    load_quantized,
    save_quantized,
    stored_bytes,
)

__all__ = [
    "is_quantized",
    "load_quantized",
    "save_quantized",
    "stored_bytes",
]
