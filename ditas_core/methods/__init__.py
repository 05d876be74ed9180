"""What becomes of the weights of a group that share an input: a method's parts, composed."""

from .fit import (
    WeightFit,
    fit_weight,
    fit_weights,
    joined,
    passing_variance,
    prefers_weight_start,
    quick_fit,
    released_fits,
)

__all__ = [
    "WeightFit",
    "fit_weight",
    "fit_weights",
    "joined",
    "passing_variance",
    "prefers_weight_start",
    "quick_fit",
    "released_fits",
]
