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
from .parts import check_rounding, round_weight

__all__ = [
    "WeightFit",
    "check_rounding",
    "coded_fits",
    "fit_weight",
    "fit_weights",
    "joined",
    "passing_variance",
    "prefers_weight_start",
    "quick_fit",
    "released_fits",
    "round_weight",
]
