"""Training-free low-rank decomposition."""

from .alternation import LowRankFit, fit_branch, released_iterates
from .moment import InputMoment, input_moment
from .subspace import OVERSAMPLING, leading_subspace

__all__ = [
    "OVERSAMPLING",
    "InputMoment",
    "LowRankFit",
    "fit_branch",
    "input_moment",
    "leading_subspace",
    "released_iterates",
]
