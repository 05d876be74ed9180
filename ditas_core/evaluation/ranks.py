"""Rank correlation of a prediction with what was measured, with an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RESAMPLES = 1000


@dataclass(frozen=True)
class Correlation:
    """Spearman's, from -1 to 1, with a 95 % interval; of so many pairs.

    low, high  NaN where no resample has a correlation
    """

    rho: float
    low: float
    high: float
    count: int


def ranks(values: Tensor) -> Tensor:
    """From 0, equal values share the mean of theirs: (N,) float64."""
    less = (values[None, :] < values[:, None]).sum(1)  # (N,)
    equal = (values[None, :] == values[:, None]).sum(1)  # (N,)
    return less.double() + (equal.double() - 1) / 2


def spearman(first: Sequence[float] | Tensor, second: Sequence[float] | Tensor) -> float:
    """Correlation of the ranks (Spearman, 1904); NaN where one of the two is constant.

    Raises:
        ValueError: not two of one length, of at least two numbers, none of them NaN.
    """
    a, b = torch.as_tensor(first).double(), torch.as_tensor(second).double()
    if a.ndim != 1 or a.shape != b.shape or len(a) < 2:
        raise ValueError(
            f"ranks: expected two of one length from 2, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if bool(torch.isnan(a).any() | torch.isnan(b).any()):
        raise ValueError("ranks: expected numbers, got NaN")
    a, b = ranks(a) - (len(a) - 1) / 2, ranks(b) - (len(b) - 1) / 2  # (N,) both
    scale = math.sqrt(float(a.square().sum() * b.square().sum()))
    return float((a * b).sum()) / scale if scale > 0 else math.nan


def within(first: Tensor, second: Tensor, strata: Tensor) -> float:
    """The mean of Spearman's correlations in each stratum that has one; strata (N,) int64."""
    found = []
    for stratum in strata.unique():
        mine = strata == stratum
        if int(mine.sum()) > 1 and not math.isnan(rho := spearman(first[mine], second[mine])):
            found.append(rho)
    return math.fsum(found) / len(found) if found else math.nan


def correlations(
    predictions: Sequence[Sequence[float]],
    measured: Sequence[float],
    strata: Sequence[int] | None = None,
    seed: int = 0,
) -> list[Correlation]:
    """Of each prediction with what was measured; where there are several, of the difference of the
    last from the first as well.

    With ``strata`` it is the mean of the correlations within them, and what the strata have in
    common does not count. The interval is that of the percentile bootstrap (Efron, 1979) over
    pairs, within strata; all predictions see the same resamples, so that a difference is paired.
    """
    real = torch.as_tensor(measured).double()  # (N,)
    every = [torch.as_tensor(one).double() for one in predictions]  # (N,) each
    of = torch.zeros(len(real), dtype=torch.long) if strata is None else torch.as_tensor(strata)
    generator = torch.Generator().manual_seed(seed)

    def all_of(rows: Tensor) -> list[float]:
        found = [within(one[rows], real[rows], of[rows]) for one in every]
        return [*found, found[-1] - found[0]] if len(found) > 1 else found

    groups = [(of == stratum).nonzero().flatten() for stratum in of.unique()]
    drawn = []
    for _ in range(RESAMPLES):
        rows = torch.cat([g[torch.randint(len(g), (len(g),), generator=generator)] for g in groups])
        drawn.append(all_of(rows))
    table = torch.tensor(drawn, dtype=torch.float64)  # (R, P)
    made = []
    for column, rho in enumerate(all_of(torch.arange(len(real)))):
        known = table[:, column]
        known = known[~known.isnan()]
        low = high = math.nan
        if len(known):
            ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
            low, high = torch.quantile(known, ends).tolist()
        made.append(Correlation(rho, low, high, len(real)))
    return made
