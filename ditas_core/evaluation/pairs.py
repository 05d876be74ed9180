"""Whether paired results differ beyond chance, many pairs at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


def t_probability(t: float, freedom: int) -> float:
    """P(|T| >= |t|) of Student's t with this many degrees of freedom, a whole number from 1.

    The finite series of Abramowitz & Stegun 26.7.3 and 26.7.4 in theta = atan(t / sqrt(freedom)).

    Raises:
        ValueError: no degree of freedom.
    """
    if freedom < 1:
        raise ValueError(f"freedom: expected at least 1, got {freedom}")
    theta = math.atan(abs(t) / math.sqrt(freedom))
    sine, square = math.sin(theta), math.cos(theta) ** 2
    odd = freedom % 2
    term, total = (math.cos(theta), 0.0) if odd else (1.0, 0.0)
    for k in range(freedom // 2):
        total += term
        term *= square * (2 * k + 1 + odd) / (2 * k + 2 + odd)
    inside = 2 / math.pi * (theta + sine * total) if odd else sine * total
    return min(1.0, max(0.0, 1 - inside))


def paired_probability(differences: Tensor) -> float:
    """Of a mean at least as far from 0, were there no difference: the paired t test, (N,).

    1 where there are fewer than two, or where all of them are 0.
    """
    n = differences.numel()
    if n < 2:
        return 1.0
    values = differences.double()
    mean, error = float(values.mean()), float(values.std()) / math.sqrt(n)
    if error == 0:
        return float(mean == 0)
    return t_probability(mean / error, n - 1)


def holm(probabilities: Sequence[float]) -> list[float]:
    """Each adjusted for all of them, in their order: the chance of one false difference in any
    is what is bounded (Holm 1979)."""
    order = sorted(range(len(probabilities)), key=probabilities.__getitem__)
    adjusted, largest = [1.0] * len(order), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * probabilities[index]))
        adjusted[index] = largest
    return adjusted
