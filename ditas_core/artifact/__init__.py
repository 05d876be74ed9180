"""Quantized checkpoints on disk."""

from .folder import (
    check_new_file,
    check_new_folder,
    is_quantized,
    load_quantized,
    save_quantized,
    stored_bytes,
    whole_folder,
    write_text,
)

__all__ = [
    "check_new_file",
    "check_new_folder",
    "is_quantized",
    "load_quantized",
    "save_quantized",
    "stored_bytes",
    "whole_folder",
    "write_text",
]
