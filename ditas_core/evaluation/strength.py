"""Measures of how far a few channels stand out, and per-timestep smoothing factors.

ratio     max over channels / median over channels
kurtosis  m4 / m2^2 - 3 of the channels' maxima; 0 of a normal distribution
absmax    max over channels, in the units of the activations
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor

from ..smoothing import FLOOR, smoothing_factor


class Measure(StrEnum):
    """Outlier strength of one layer at one timestep."""

    RATIO = "ratio"
    KURTOSIS = "kurtosis"
    ABSMAX = "absmax"


class Half(StrEnum):
    """Which half of a guided batch: with the class, without, or the larger of both."""

    BOTH = "both"
    CONDITIONAL = "conditional"
    UNCONDITIONAL = "unconditional"


def excess_kurtosis(values: Tensor) -> Tensor:
    """m4 / m2^2 - 3 over the last dimension, (..., C) -> (...); 0 without any spread."""
    values = values.double()
    centred = values - values.mean(-1, keepdim=True)
    second = centred.square().mean(-1)
    fourth = centred.pow(4).mean(-1)
    tiny = (values.square().mean(-1) * 1e-12).clamp(min=1e-30)
    flat = second <= tiny
    return torch.where(flat, 0.0, fourth / second.square().clamp(min=1e-60) - 3).float()


def outlier_strength(absmax: Tensor, measure: Measure | str = Measure.RATIO) -> Tensor:
    """Strength over the channels, (..., C) -> (...).

    Raises:
        ValueError: an unknown measure.
    """
    measure = Measure(measure)
    if measure is Measure.KURTOSIS:
        return excess_kurtosis(absmax)
    loudest = absmax.amax(-1)
    if measure is Measure.ABSMAX:
        return loudest
    return loudest / absmax.median(-1).values.clamp(min=FLOOR)


def step_factors(absmax: Tensor, w_absmax: Tensor, alpha: float | None) -> Tensor:
    """s_t as if every step had its own maxima: (T, C), (C,) -> (T, C).

    One factor serves all steps in DiTAS, that of the maxima over time; what these rows
    differ from it by is what temporal aggregation gives away.

    Raises:
        ValueError: shapes that do not fit, or alpha outside [0, 1].
    """
    if absmax.ndim != 2:
        raise ValueError(f"absmax: expected (T, C), got {tuple(absmax.shape)}")
    return torch.stack([smoothing_factor(row, w_absmax, alpha) for row in absmax])


def loudest_channels(act_absmax: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` loudest channels, loudest first, (min(count, C),)."""
    return act_absmax.argsort(descending=True, stable=True)[:count]
