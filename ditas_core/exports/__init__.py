"""Folders that stock diffusers loads: smoothed, with injected outliers, or quantized for torchao
and sdnq."""

from .formats import LEAVABLE, QUANTIZED, Stored, fit_recipe
from .injected import injected_transformer
from .smoothed import foldable_factors, relative_difference, smoothed_transformer
from .stock import (
    FORMS,
    ExportProgress,
    StockExport,
    export_injected,
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
    "export_injected",
    "export_stock",
    "final_latents",
    "fit_recipe",
    "foldable_factors",
    "injected_transformer",
    "iterate_export",
    "relative_difference",
    "smoothed_transformer",
]
