"""The Frechet distance of two Gaussians, and moments that are joined batch by batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import FidelityError


@dataclass(frozen=True)
class Gaussian:
    """mean float64 (D,), covariance float64 (D, D), of ``count`` vectors (0: not known)."""

    mean: Tensor
    covariance: Tensor
    count: int = 0


@dataclass(frozen=True)
class Moments:
    """Of ``count`` vectors: their mean (D,) and scatter sum (x - mean)(x - mean)^T, (D, D)."""

    count: int
    mean: Tensor
    scatter: Tensor

    @staticmethod
    def of(features: Tensor) -> Moments:
        """features (N, D), N > 0; computed in float64."""
        x = features.double()
        mean = x.mean(0)  # (D,)
        x = x - mean
        return Moments(len(x), mean, x.T @ x)  # (D, D)

    def joined(self, other: Moments) -> Moments:
        """Of both sets together, without cancellation (Chan, Golub & LeVeque, 1983)."""
        count = self.count + other.count
        away = other.mean - self.mean  # (D,)
        mean = self.mean + away * (other.count / count)
        between = torch.outer(away, away) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def gaussian(self) -> Gaussian:
        """With the unbiased covariance, as numpy.cov has it.

        Raises:
            FidelityError: fewer than two vectors.
        """
        if self.count < 2:
            raise FidelityError(f"images: expected at least 2 for a covariance, got {self.count}")
        return Gaussian(self.mean, self.scatter / (self.count - 1), self.count)


def symmetric_sqrt(matrix: Tensor) -> Tensor:
    """Square root of a symmetric positive semi-definite matrix, by its eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2), symmetric in its arguments.

    Heusel et al. 2017 (the FID, where the features are Inception's), with the symmetric
    product so that every root is real, also of singular covariances.

    Raises:
        FidelityError: Gaussians of different dimensions.
    """
    if first.mean.shape != second.mean.shape:
        raise FidelityError(
            f"features: expected as many in both sets, got {len(first.mean)} and {len(second.mean)}"
        )
    root = symmetric_sqrt(first.covariance)
    cross = torch.linalg.eigvalsh(root @ second.covariance @ root).clamp(min=0).sqrt().sum()
    spread = first.covariance.trace() + second.covariance.trace() - 2 * cross
    return float((first.mean - second.mean).square().sum() + spread)
