"""Smoothing factors, rotations and folding: tensors in, tensors out."""

from .factors import (
    ALPHA_GRID,
    FLOOR,
    smoothing_factor,
    temporal_aggregate,
    weight_absmax,
)
from .folding import Affine, divide_rows, fold_modulation, multiply_columns
from .rotation import hadamard, rotate

__all__ = [
    "ALPHA_GRID",
    "FLOOR",
    "Affine",
    "divide_rows",
    "fold_modulation",
    "hadamard",
    "multiply_columns",
    "rotate",
    "smoothing_factor",
    "temporal_aggregate",
    "weight_absmax",
]
