"""Folders that stock diffusers loads: smoothed, or quantized in the formats of torchao and sdnq."""

from .formats import LEAVABLE, QUANTIZED, Stored, fit_recipe
from .smoothed import foldable_factors, relative_difference, smoothed_transformer
from .stock import FORMS, StockExport, export_stock, final_latents

__all__ = [
    "FORMS",
    "LEAVABLE",
    "QUANTIZED",
    "StockExport",
    "Stored",
    "export_stock",
    "final_latents",
    "fit_recipe",
    "foldable_factors",
    "relative_difference",
    "smoothed_transformer",
]
