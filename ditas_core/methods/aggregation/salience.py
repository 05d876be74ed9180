"""Steps weighted by salience: maxima count for more where they do not fall together with weights'.

    a_c = sum over t of eta_t max|X_tc|        eta_t = exp(-rho_t) / sum over tau of exp(-rho_tau)

rho_t is Spearman's rank correlation, over the channels, of the input's maxima at step t with the
weights'. Smoothing moves what is large from inputs into weights: where the loud channels of both
are others, there is room for it, and such steps decide. This is PTQ4DiT's Spearman's-rho-guided
salience calibration (Wu et al., "PTQ4DiT", NeurIPS 2024).

Departures: the maximum over both guidance halves is one step's; alpha is searched where PTQ4DiT
takes the geometric mean, alpha = 1/2; and all steps of the calibration count, where PTQ4DiT draws
some. eta lies within a factor e^2 of each other, so that a is close to the mean over the steps,
which is never above the maximum: an input may be larger than what its factor was made for.

Costs sorting (T, C).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Settings:
    """None."""


def aggregate(act_absmax: Tensor, w_absmax: Tensor, settings: Settings) -> Tensor:
    """Of (T, C) and (C,), (C,)."""
    eta = torch.softmax(-spearman(act_absmax, w_absmax), 0)  # (T,)
    return (eta[:, None] * act_absmax).sum(0)  # (C,)


def spearman(rows: Tensor, other: Tensor) -> Tensor:
    """Rank correlation of each row (T, C) with another (C,): (T,). Of what is constant 0."""
    a, b = (centred(ranks(x)) for x in (rows, other[None]))
    norms = a.norm(dim=1) * b.norm(dim=1)  # (T,)
    return ((a * b).sum(1) / norms.clamp(min=1e-30)).to(rows.dtype)


def centred(x: Tensor) -> Tensor:
    return x - x.mean(1, keepdim=True)


def ranks(x: Tensor) -> Tensor:
    """Of the elements of each row, equal ones sharing the mean of theirs, float64 (T, C)."""
    ordered = x.contiguous().sort(1).values
    below = torch.searchsorted(ordered, x.contiguous())
    upto = torch.searchsorted(ordered, x.contiguous(), right=True)
    return (below + upto - 1).double() / 2
