"""Quantized checkpoints on disk."""

from .folder import is_quantized, load_quantized, save_quantized, whole_folder, write_text

__all__ = ["is_quantized", "load_quantized", "save_quantized", "whole_folder", "write_text"]
