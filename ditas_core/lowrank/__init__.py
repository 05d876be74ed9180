"""Training-free low-rank decomposition."""

from .alternation import LowRankFit, fit_branch, released_iterates
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
from .moment import InputMoment, input_moment
from .subspace import OVERSAMPLING, leading_subspace

__all__ = [
    "OVERSAMPLING",
    "InputMoment",
    "LowRankFit",
    "WeightFit",
    "fit_branch",
    "fit_weight",
    "fit_weights",
    "input_moment",
    "joined",
    "leading_subspace",
    "passing_variance",
    "prefers_weight_start",
    "quick_fit",
    "released_fits",
    "released_iterates",
]
