"""What becomes of the weights of a group that share an input: a method's parts, composed."""

from .fit import (
    WeightFit,
    coded_fits,
    fit_weight,
    fit_weights,
    joined,
    passing_variance,
    prefers_weight_start,
    quick_fit,
    released_fits,
)
from .parts import aggregated, check_parts, rotation_of, round_weight, roundings

__all__ = [
    "WeightFit",
    "aggregated",
    "check_parts",
    "coded_fits",
    "fit_weight",
    "fit_weights",
    "joined",
    "passing_variance",
    "prefers_weight_start",
    "quick_fit",
    "released_fits",
    "rotation_of",
    "round_weight",
    "roundings",
]
