"""Training-free low-rank branch ``W ~ Q + L R``, by alternation.

    Q      <- quant(W - L R)
    L, R   <- argmin of rank r of |(W - Q - L R) G|_F

``G G^T = M`` is the second moment of the layer's input. ``released_iterates`` is
the authors' own alternation: G = I, and the last iterate is the result. It gains
little: the residual of rounding is close to white, so r of C directions hold
hardly more than r/C of it. The *output* error, however, is the residual seen
through G, and DiT inputs live in few directions, so the same rank removes most
of the error there: ``fit_branch``, which also keeps the best iterate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .moment import InputMoment
from .subspace import leading_subspace

Quantize = Callable[[Tensor], Tensor]


class LowRankFit(NamedTuple):
    """``up`` L (C_out, r), ``down`` R (r, C_in), the scores of all iterates, plain first."""

    up: Tensor
    down: Tensor
    scores: tuple[float, ...]
    best: int


class Iterate(NamedTuple):
    """``error`` W - Q (C_out, C), which the next branch approximates, and the score of Q, L, R."""

    error: Tensor
    score: float


def evaluate(
    weight: Tensor,
    target: Tensor,
    quantize: Quantize,
    moment: InputMoment,
    rounding_variance: float,
) -> Iterate:
    """Round the target W - L R; the score is ``tr((T - Q) M (T - Q)^T) + v |Q|_F^2``."""
    quantized = quantize(target)  # (C_out, C)
    error = weight - quantized
    own = rounding_variance * float(quantized.square().sum()) if rounding_variance else 0.0
    left = error if target is weight else target - quantized  # (C_out, C) = W - Q - L R
    return Iterate(error, moment.cost(left) + own)


def alternate(
    weight: Tensor,
    error: Tensor,
    quantize: Quantize,
    rank: int,
    moment: InputMoment,
    rounding_variance: float,
    power_iterations: int,
) -> tuple[Iterate, tuple[Tensor, Tensor]]:
    """The best branch of W - Q = ``error``, and the weight rounded anew beside it."""
    up, down = leading_subspace(error, moment, rank, power_iterations)
    target = torch.addmm(weight, up, down, alpha=-1)  # (C_out, C)
    return evaluate(weight, target, quantize, moment, rounding_variance), (up, down)


def fit_branch(
    weight: Tensor,
    quantize: Quantize,
    rank: int,
    alternations: int,
    moment: InputMoment,
    rounding_variance: float = 0.0,
    power_iterations: int = 2,
) -> LowRankFit:
    """Alternate and keep the best iterate by the output error it leaves,

        tr((W - Q - L R) M (W - Q - L R)^T) + v |Q|_F^2

    v = ``rounding_variance`` is the variance of the activations' own rounding
    error, which passes through Q only when the branch multiplies the
    full-precision input. Where it does, a second start joins L R = 0: the best
    rank r of W itself. Both get one alternation, the better one all of them.

    weight     (C_out, C) float32
    quantize   rounds such a tensor and leaves its argument as it is
    alternations, power_iterations   of the better start; of each ``leading_subspace``

    The plain rounding of W, without a branch, is the first candidate, so the
    result is never worse than it in the score; where it wins, ``best`` is 0 and
    the factors are zero. Equal arguments give bit-equal results.

    Raises:
        ValueError: rank below 1 or above what the weight's shape allows.
    """
    limit = min(weight.shape)
    if not 1 <= rank <= limit:
        raise ValueError(f"rank: expected 1 to {limit}, got {rank}")
    plain = evaluate(weight, weight, quantize, moment, rounding_variance)
    scores = [plain.score]
    best = 0
    best_pair = weight.new_zeros(weight.shape[0], rank), weight.new_zeros(rank, weight.shape[1])
    starts = [plain.error]
    if rounding_variance > 0:
        up, down = leading_subspace(weight, moment, rank, power_iterations)
        starts.append(weight - quantize(torch.addmm(weight, up, down, alpha=-1)))
    first: list[Iterate] = []
    for error in starts:
        found, pair = alternate(
            weight, error, quantize, rank, moment, rounding_variance, power_iterations
        )
        first.append(found)
        scores.append(found.score)
        if found.score < scores[best]:
            best, best_pair = len(scores) - 1, pair
    found = min(first, key=lambda iterate: iterate.score)
    for _ in range(alternations - 1):
        found, pair = alternate(
            weight, found.error, quantize, rank, moment, rounding_variance, power_iterations
        )
        scores.append(found.score)
        if found.score < scores[best]:
            best, best_pair = len(scores) - 1, pair
    return LowRankFit(best_pair[0], best_pair[1], tuple(scores), best)


def released_iterates(
    weight: Tensor, quantize: Quantize, rank: int = 32, iterations: int = 10
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The alternation of the authors' released code: Q (C_out, C), L (C_out, r), R (r, C).

        L R = 0, then ``iterations`` times
            Q        <- quant(W - L R)
            U, S, V  <- svd(W - Q)
            L, R     <- U_r sqrt(S_r), sqrt(S_r) V_r

    Yields every iterate; that code keeps the last, better or not, and Q is the one *before*
    the last svd: it is not rounded again for the final L R. Rank 0: Q = quant(W), empty
    factors, once.

    The svd is exact, in float64; residual, factors and L R are float32. Any other
    exact float64 svd gives the same up to the last bit of the factors, and up to
    the sign that column i of L and row i of R share.

    Raises:
        ValueError: rank below 0 or above what the shape allows; iterations below 1.
    """
    limit = min(weight.shape)
    if not 0 <= rank <= limit:
        raise ValueError(f"rank: expected 0 to {limit}, got {rank}")
    if iterations < 1:
        raise ValueError(f"iterations: expected at least 1, got {iterations}")
    up, down = weight.new_zeros(len(weight), rank), weight.new_zeros(rank, weight.shape[1])
    if rank == 0:
        yield quantize(weight), up, down
        return
    quantized = quantize(weight)
    for done in range(iterations):
        if done:
            quantized = quantize(weight - up @ down)
        u, s, v = torch.linalg.svd((weight - quantized).double(), full_matrices=False)
        root = s[:rank].sqrt()
        up = (u[:, :rank] * root).float()  # (C_out, r)
        down = (root[:, None] * v[:rank]).float()  # (r, C)
        yield quantized, up, down
