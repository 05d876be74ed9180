"""How often pure guessing would do as well."""

from __future__ import annotations

import math


def guessing_probability(right: int, asked: int, chance: float = 0.5) -> float:
    """P(at least ``right`` of ``asked`` answers right) where each is right with ``chance``.

    The exact upper tail of the binomial distribution; 1 where nothing was asked.

    Raises:
        ValueError: more right answers than questions, or a chance outside 0 to 1.
    """
    if not 0 <= right <= asked:
        raise ValueError(f"right: expected 0 to {asked}, got {right}")
    if not 0.0 <= chance <= 1.0:
        raise ValueError(f"chance: expected 0 to 1, got {chance}")
    terms = (
        math.comb(asked, k) * chance**k * (1.0 - chance) ** (asked - k)
        for k in range(right, asked + 1)
    )
    return min(1.0, math.fsum(terms))
