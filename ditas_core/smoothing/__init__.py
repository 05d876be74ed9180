"""Smoothing factors and folding: tensors in, tensors out."""

from .factors import (
    ALPHA_GRID,
    FLOOR,
    smoothing_factor,
    temporal_aggregate,
    weight_absmax,
)
from .folding import Affine, divide_rows, fold_modulation, multiply_columns

__all__ = [
    "ALPHA_GRID",
    "FLOOR",
    "Affine",
    "divide_rows",
    "fold_modulation",
    "multiply_columns",
    "smoothing_factor",
    "temporal_aggregate",
    "weight_absmax",
]
