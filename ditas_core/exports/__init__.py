"""Folders that stock diffusers loads: smoothed, or quantized in the formats of torchao and sdnq."""

from .formats import LEAVABLE, QUANTIZED, Stored, fit_recipe
from .smoothed import foldable_factors, relative_difference, smoothed_transformer
from .stock import (
    FORMS,
    ExportProgress,
    StockExport,
    export_stock,
    final_latents,
    iterate_export,
)

__all__ = [
    "FORMS",
    "LEAVABLE",
    "QUANTIZED",
    "ExportProgress",
    "StockExport",
    "Stored",
    "export_stock",
    "final_latents",
    "fit_recipe",
    "foldable_factors",
    "iterate_export",
    "relative_difference",
    "smoothed_transformer",
]
