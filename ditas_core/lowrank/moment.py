"""Second moment of a layer's input, used through products only.

    M = (1 - SHRINKAGE) X^T X / K + SHRINKAGE diag(energy)

of tokens X (K, C) and the exact mean squares ``energy`` (C,) of the channels:
the sampled part knows the directions, the exact diagonal keeps the channels that
few tokens say little about. M weighs a weight error E (C_out, C) by what it does
to the layer's output, E[|E x|^2] = tr(E M E^T).

With fewer tokens than channels M is kept as its factors: a product with n rows
then costs 4 n K C operations instead of 2 n C^2, and M itself is never formed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..smoothing import rotate
from ..specs import WEIGHTINGS

SHRINKAGE = 0.05


@dataclass(frozen=True, eq=False)
class InputMoment:
    """M as ``dense``, or else as ``factor^T factor + diag(diagonal)``; all None: identity.

    dense     (C, C) float32, symmetric
    factor    (K, C) float32, ``sqrt((1 - SHRINKAGE) / K) X``
    diagonal  (C,) float32, not negative

    Built by ``input_moment``.
    """

    dense: Tensor | None = None
    factor: Tensor | None = None
    diagonal: Tensor | None = None

    def apply(self, rows: Tensor) -> Tensor:
        """``rows @ M``, float32: (n, C) -> (n, C). The identity gives ``rows`` itself."""
        if self.dense is not None:
            return rows @ self.dense
        result = rows if self.diagonal is None else rows * self.diagonal
        if self.factor is not None:
            result = torch.addmm(result, rows @ self.factor.T, self.factor)  # (n, C)
        return result

    def cost(self, error: Tensor) -> float:
        """``tr(E M E^T)`` of E (C_out, C), float32.

        The largest tensor made on the way is (C_out, max(K, C)).
        """
        if self.dense is not None:
            return float((error @ self.dense).mul_(error).sum())
        squared = error.square()  # (C_out, C)
        total = float(squared.sum() if self.diagonal is None else (squared @ self.diagonal).sum())
        if self.factor is not None:
            total += float((error @ self.factor.T).square_().sum())  # over (C_out, K)
        return total

    def matrix(self) -> Tensor:
        """All of M, (C, C) float64, for what cannot do with products.

        Raises:
            ValueError: the identity, which has no size.
        """
        if self.dense is not None:
            return self.dense.double()
        if self.diagonal is None:
            raise ValueError("moment: expected one of inputs, got the identity")
        found = torch.diag(self.diagonal.double())
        return (
            found
            if self.factor is None
            else found.addmm_(self.factor.double().T, self.factor.double())
        )

    def divided(self, s: Tensor) -> InputMoment:
        """The moment of the input ``x / s``, s (C,) positive: ``diag(1/s) M diag(1/s)``.

        The identity stays itself: it does not describe an input, it says that the
        error of the weight, whichever scale it has, is not weighed.
        """
        return InputMoment(
            None if self.dense is None else self.dense / s / s[:, None],
            None if self.factor is None else self.factor / s,
            None if self.diagonal is None else self.diagonal / s.square(),
        )

    def rotated(self, rotation: Tensor | None) -> InputMoment:
        """The moment of the input ``x R``, ``R^T M R``, dense; of a block (B, B), see ``rotate``.

        The identity stays itself, as R^T R is.
        """
        if rotation is None or (self.dense is None and self.diagonal is None):
            return self
        whole = self.dense if self.dense is not None else self.matrix().float()  # (C, C)
        return InputMoment(rotate(rotate(whole, rotation).T, rotation))


def input_moment(
    weighting: str, tokens: Tensor | None = None, energy: Tensor | None = None
) -> InputMoment:
    """The moment that a weighting stands for; see the module.

    weighting  "none": the identity; "energy": ``diag(energy)``; "covariance": M
    tokens     (..., K, C), any float dtype, flattened to (all tokens, C)
    energy     (C,) mean square of each channel

    "none" reads neither, "energy" only ``energy``.

    Raises:
        ValueError: an unknown weighting, something missing, or shapes that do not fit.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting: expected one of {', '.join(WEIGHTINGS)}, got {weighting!r}")
    if weighting == "none":
        return InputMoment()
    if energy is None or energy.ndim != 1:
        raise ValueError(f"energy: expected (C,), got {energy if energy is None else energy.shape}")
    exact = energy.float()  # (C,)
    if weighting == "energy":
        return InputMoment(diagonal=exact)
    if tokens is None or tokens.numel() == 0 or tokens.shape[-1] != len(energy):
        got = None if tokens is None else tuple(tokens.shape)
        raise ValueError(f"tokens: expected (..., K, {len(energy)}), at least one, got {got}")
    x = tokens.reshape(-1, tokens.shape[-1]).float()  # (K, C)
    factor = x * ((1 - SHRINKAGE) / len(x)) ** 0.5
    diagonal = SHRINKAGE * exact
    if len(x) < x.shape[1]:
        return InputMoment(factor=factor, diagonal=diagonal)
    dense = factor.T @ factor  # (C, C)
    dense.diagonal().add_(diagonal)
    return InputMoment(dense=dense)
