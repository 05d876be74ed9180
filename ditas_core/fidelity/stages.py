"""How far two pictures are apart in the features of an image classifier.

    d(x, y) = mean over stages l of mean over places |f_l(x) / |f_l(x)| - f_l(y) / |f_l(y)||^2

f_l are the channels that stage l leaves at a place. That is the unweighted form of LPIPS (Zhang,
Isola, Efros, Shechtman & Wang, CVPR 2018), of EfficientNet-Lite0 with its ImageNet weights
instead of AlexNet: from 0 (equal) to 4; not to be compared with LPIPS's own numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .features import EFFICIENTNET_PX, IMAGENET_MEAN, IMAGENET_STD, load_network

STAGES = (0, 2, 4, 10, 15)
"""The last block of each resolution: 112, 56, 28, 14 and 7 places a side."""
FLOOR = 1e-10

Stages = Callable[[Tensor], Sequence[Tensor]]
"""Pictures in [0, 1], (N, 3, H, W) -> features of each stage, (N, C, h, w)."""


def load_stages() -> Stages:
    """EfficientNet-Lite0's.

    Raises:
        ModuleNotFoundError: the extra ``[fidelity]`` is not installed.
    """
    network = load_network()
    blocks = [network._blocks[index] for index in STAGES]
    mean, std = (torch.tensor(each)[:, None, None] for each in (IMAGENET_MEAN, IMAGENET_STD))

    def stages(images: Tensor) -> Sequence[Tensor]:
        pixels = F.interpolate(
            images.float(), size=(EFFICIENTNET_PX, EFFICIENTNET_PX), mode="bilinear"
        )
        return outputs_of(network.extract_features, blocks, (pixels - mean) / std)

    return stages


def outputs_of(run: Callable[[Tensor], object], blocks: list[nn.Module], x: Tensor) -> list[Tensor]:
    """What each block gives while ``run(x)`` runs."""
    found: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for place, block in enumerate(blocks):

            def hook(_module: Any, _args: Any, output: Tensor, place: int = place) -> None:
                found[place] = output

            stack.callback(block.register_forward_hook(hook).remove)
        run(x)
    return [found[place] for place in range(len(blocks))]


@torch.no_grad()
def feature_distance(stages: Stages, reference: Tensor, other: Tensor, batch: int = 16) -> Tensor:
    """d of each pair of pictures in [0, 1], (N, 3, H, W) both -> (N,).

    Raises:
        ValueError: other numbers or sizes of pictures.
    """
    if reference.shape != other.shape:
        raise ValueError(
            f"images: expected equal shapes, got {tuple(reference.shape)} and {tuple(other.shape)}"
        )
    parts = []
    for x, y in zip(reference.split(batch), other.split(batch), strict=True):
        pairs = zip(stages(x), stages(y), strict=True)
        apart = [
            (F.normalize(a, dim=1, eps=FLOOR) - F.normalize(b, dim=1, eps=FLOOR))
            .square()
            .sum(1)
            .mean((1, 2))
            for a, b in pairs
        ]  # (n,) each
        parts.append(torch.stack(apart).mean(0))
    return torch.cat(parts)
