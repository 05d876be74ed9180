"""Temporal-aggregated smoothing (TAS): from channel maxima to the smoothing factor.

    s_c = (max over t, batch, tokens of |X_c|)^alpha / (max over outputs of |W_c|)^(1 - alpha)

every maximum and s clamped to at least 1e-4 (DiTAS, Dong & Zhang, WACV 2025).
"""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR = 1e-4
ALPHA_GRID: tuple[float, ...] = tuple(round(0.05 * i, 2) for i in range(21))


def temporal_aggregate(act_absmax: Tensor) -> Tensor:
    """Maximum over every dimension but the last: (..., C) -> (C,)."""
    return act_absmax.reshape(-1, act_absmax.shape[-1]).amax(0)  # (C,)


def weight_absmax(weights: list[Tensor]) -> Tensor:
    """Largest |W| per input channel over all outputs of the layers that share one input.

    Each weight is (C_out, C); the result is (C,).
    """
    return torch.stack([w.abs().amax(0) for w in weights]).amax(0)  # (C,)


def smoothing_factor(act_absmax: Tensor, w_absmax: Tensor, alpha: float | None) -> Tensor:
    """s per input channel, (C,); ``alpha`` None is the identity s = 1.

    Raises:
        ValueError: the two maxima differ in shape, or alpha is outside [0, 1].
    """
    if act_absmax.shape != w_absmax.shape or act_absmax.ndim != 1:
        raise ValueError(
            f"maxima: expected two equal 1-D shapes, got {tuple(act_absmax.shape)} "
            f"and {tuple(w_absmax.shape)}"
        )
    if alpha is None:
        return torch.ones_like(act_absmax)
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha: expected 0 to 1, got {alpha}")
    a = act_absmax.clamp(min=FLOOR)
    w = w_absmax.clamp(min=FLOOR)
    return (a**alpha / w ** (1 - alpha)).clamp(min=FLOOR)  # (C,)
