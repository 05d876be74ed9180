"""Improved precision and recall of a generative model, in blocks of distances."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .errors import FidelityError

BLOCK = 2048
"""Rows and columns of the distances that are in memory at once."""
Tell = Callable[[str, int, int], object]


def squared_distances(rows: Tensor, columns: Tensor) -> Tensor:
    """|x - y|^2 in float64, (n, D) and (m, D) -> (n, m)."""
    norms = rows.square().sum(1)[:, None] + columns.square().sum(1)  # (n, m)
    return (norms - 2 * rows @ columns.T).clamp(min=0)


def blocks(features: Tensor, centre: Tensor, size: int) -> list[tuple[int, Callable[[], Tensor]]]:
    """First row of each block, and what gives it in float64, moved to ``centre``."""
    return [
        (first, lambda rows=features[first : first + size]: rows.double() - centre)  # type: ignore[misc]
        for first in range(0, len(features), size)
    ]


def squared_radii(features: Tensor, centre: Tensor, k: int, block: int) -> Tensor:
    """Squared distance of each vector to its k-th nearest other one, (N, D) -> float64 (N,)."""
    radii = []
    for first, rows in blocks(features, centre, block):
        x = rows()
        nearest = torch.full((len(x), k + 1), torch.inf, dtype=torch.float64)
        for other, columns in blocks(features, centre, block):
            found = squared_distances(x, columns())
            if first == other:
                found.fill_diagonal_(0)  # each is its own nearest, whatever rounding says
            nearest = torch.cat([nearest, found], 1).topk(k + 1, largest=False).values
        radii.append(nearest.amax(1))
    return torch.cat(radii)


def precision_recall(
    reference: Tensor, samples: Tensor, k: int = 3, block: int = BLOCK, tell: Tell | None = None
) -> tuple[float, float]:
    """Share of ``samples`` within the reference's manifold, and of ``reference`` within theirs.

    A set's manifold is the union of the balls around its vectors that reach to the k-th nearest
    other one, their edge included: precision = mean over samples y of [exists x: |x - y| <=
    r_k(x)], recall the same with the sets exchanged (Kynkäänniemi et al. 2019, equations 1 to 3).

    reference  features (N, D)
    samples    features (M, D)
    block      N x D and M x D apart, 2 block D + 3 block^2 numbers in float64 are held
    tell       called with what is done, how much of it, and of how much

    Raises:
        FidelityError: k or fewer vectors in a set, or other dimensions.
    """
    if min(len(reference), len(samples)) <= k or reference.shape[1] != samples.shape[1]:
        raise FidelityError(
            f"features: expected more than {k} vectors of one dimension in both sets, got "
            f"{tuple(reference.shape)} and {tuple(samples.shape)}"
        )
    centre = reference.double().mean(0)  # products of what lies around zero lose fewest digits
    ball, other_ball = (squared_radii(x, centre, k, block) for x in (reference, samples))
    precise = torch.zeros(len(samples), dtype=torch.bool)
    recalled = torch.zeros(len(reference), dtype=torch.bool)
    for first, rows in blocks(reference, centre, block):
        if tell is not None:
            tell("precision and recall", first, len(reference))
        x = rows()
        mine = slice(first, first + len(x))
        for other, columns in blocks(samples, centre, block):
            y = columns()
            theirs = slice(other, other + len(y))
            found = squared_distances(x, y)  # (n, m)
            precise[theirs] |= (found <= ball[mine, None]).any(0)
            recalled[mine] |= (found <= other_ball[theirs]).any(1)
    return float(precise.double().mean()), float(recalled.double().mean())
