"""The Inception v3 of the FID, from the file of its weights.

The network is that of TensorFlow's graph ``inception-2015-12-05``, on which every published FID
is computed; its weights are known in PyTorch as ``pt_inception-2015-12-05-6726825d.pth`` (or
``weights-inception-2015-12-05-6726825d.pth``; the digits begin the file's sha256). It differs from
torchvision's: average pooling leaves the border out, the last block pools by its maximum, there are
1008 classes, and images are enlarged with corners at whole pixels. Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import FidelityError
from .features import FeatureNetwork

STANDARD = "6726825d"
"""What the sha256 of the standard weights begins with."""
INPUT_PX = 299
CLASSES = 1008


class Layer(NamedTuple):
    """A convolution of a block: its name there, outputs, kernel (height, width), stride."""

    name: str
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


Stage = tuple[Layer, ...]
"""Layers that read the same input and whose outputs are joined: mostly one."""
Branch = tuple[Stage, ...]


class Convolution(nn.Module):
    """Convolution, batch normalisation with epsilon 0.001, ReLU."""

    def __init__(self, inputs: int, layer: Layer, pads: bool = True) -> None:
        super().__init__()
        reach = [(size - 1) // 2 if pads and layer.stride == 1 else 0 for size in layer.kernel]
        self.conv = nn.Conv2d(
            inputs, layer.outputs, layer.kernel, layer.stride, (reach[0], reach[1]), bias=False
        )
        self.bn = nn.BatchNorm2d(layer.outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches side by side, joined over channels; ``pool`` is what stands before the last, or is
    the last where it has no layer: "average", "maximum", or "reduce" for a maximum with stride 2.
    """

    def __init__(self, inputs: int, branches: tuple[Branch, ...], pool: str) -> None:
        super().__init__()
        self.branches, self.pool = branches, pool
        self.outputs = 0
        for branch in branches:
            width = inputs
            for stage in branch:
                for layer in stage:
                    self.add_module(layer.name, Convolution(width, layer))
                width = sum(layer.outputs for layer in stage)
            self.outputs += width

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for branch in self.branches:
            y = self.pooled(x) if branch is self.branches[-1] else x
            for stage in branch:
                y = torch.cat([self.get_submodule(layer.name)(y) for layer in stage], 1)
            found.append(y)
        return torch.cat(found, 1)

    def pooled(self, x: Tensor) -> Tensor:
        if self.pool == "average":  # of what is there: zeros around the image do not count
            return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        return F.max_pool2d(x, 3, stride=2) if self.pool == "reduce" else F.max_pool2d(x, 3, 1, 1)


def one(*layers: Layer) -> Branch:
    return tuple((layer,) for layer in layers)


def block_a(inputs: int, pooled: int) -> Mixed:
    double = (Layer("branch3x3dbl_2", 96, (3, 3)), Layer("branch3x3dbl_3", 96, (3, 3)))
    branches = (
        one(Layer("branch1x1", 64)),
        one(Layer("branch5x5_1", 48), Layer("branch5x5_2", 64, (5, 5))),
        one(Layer("branch3x3dbl_1", 64), *double),
        one(Layer("branch_pool", pooled)),
    )
    return Mixed(inputs, branches, "average")


def block_b(inputs: int) -> Mixed:
    double = (Layer("branch3x3dbl_2", 96, (3, 3)), Layer("branch3x3dbl_3", 96, (3, 3), 2))
    branches = (
        one(Layer("branch3x3", 384, (3, 3), 2)),
        one(Layer("branch3x3dbl_1", 64), *double),
        (),
    )
    return Mixed(inputs, branches, "reduce")


def block_c(inputs: int, narrow: int) -> Mixed:
    row, column = (1, 7), (7, 1)
    branches = (
        one(Layer("branch1x1", 192)),
        one(
            Layer("branch7x7_1", narrow),
            Layer("branch7x7_2", narrow, row),
            Layer("branch7x7_3", 192, column),
        ),
        one(
            Layer("branch7x7dbl_1", narrow),
            Layer("branch7x7dbl_2", narrow, column),
            Layer("branch7x7dbl_3", narrow, row),
            Layer("branch7x7dbl_4", narrow, column),
            Layer("branch7x7dbl_5", 192, row),
        ),
        one(Layer("branch_pool", 192)),
    )
    return Mixed(inputs, branches, "average")


def block_d(inputs: int) -> Mixed:
    branches = (
        one(Layer("branch3x3_1", 192), Layer("branch3x3_2", 320, (3, 3), 2)),
        one(
            Layer("branch7x7x3_1", 192),
            Layer("branch7x7x3_2", 192, (1, 7)),
            Layer("branch7x7x3_3", 192, (7, 1)),
            Layer("branch7x7x3_4", 192, (3, 3), 2),
        ),
        (),
    )
    return Mixed(inputs, branches, "reduce")


def block_e(inputs: int, pool: str) -> Mixed:
    def fork(name: str) -> Stage:
        return Layer(f"{name}a", 384, (1, 3)), Layer(f"{name}b", 384, (3, 1))

    branches: tuple[Branch, ...] = (
        one(Layer("branch1x1", 320)),
        ((Layer("branch3x3_1", 384),), fork("branch3x3_2")),
        (
            (Layer("branch3x3dbl_1", 448),),
            (Layer("branch3x3dbl_2", 384, (3, 3)),),
            fork("branch3x3dbl_3"),
        ),
        one(Layer("branch_pool", 192)),
    )
    return Mixed(inputs, branches, pool)


class FIDInception(nn.Module):
    """uint8 or float (B, 3, H, W) in [0, 255] -> (B, 2048), the input of its classifier."""

    def __init__(self) -> None:
        super().__init__()
        square = (3, 3)
        self.Conv2d_1a_3x3 = Convolution(3, Layer("", 32, square, 2))
        self.Conv2d_2a_3x3 = Convolution(32, Layer("", 32, square), pads=False)
        self.Conv2d_2b_3x3 = Convolution(32, Layer("", 64, square))
        self.Conv2d_3b_1x1 = Convolution(64, Layer("", 80))
        self.Conv2d_4a_3x3 = Convolution(80, Layer("", 192, square), pads=False)
        width = 192
        for name, block, *settings in (
            ("5b", block_a, 32),
            ("5c", block_a, 64),
            ("5d", block_a, 64),
            ("6a", block_b),
            ("6b", block_c, 128),
            ("6c", block_c, 160),
            ("6d", block_c, 160),
            ("6e", block_c, 192),
            ("7a", block_d),
            ("7b", block_e, "average"),
            ("7c", block_e, "maximum"),
        ):
            made: Mixed = block(width, *settings)
            self.add_module(f"Mixed_{name}", made)
            width = made.outputs
        self.fc = nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = (resized(images.float(), INPUT_PX) - 128) / 128  # (B, 3, 299, 299)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))  # (B, 64, 147, 147)
        x = F.max_pool2d(x, 3, stride=2)  # (B, 64, 73, 73)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))  # (B, 192, 71, 71)
        x = F.max_pool2d(x, 3, stride=2)  # (B, 192, 35, 35)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean((2, 3))  # (B, 2048, 8, 8) -> (B, 2048)


def resized(x: Tensor, size: int) -> Tensor:
    """Bilinear as TensorFlow 1 has it: output pixel i reads input position i * in / size.

    (B, C, H, W) -> (B, C, size, size); beyond the last pixel the last is repeated.
    """
    for axis in (2, 3):
        places = torch.arange(size, dtype=torch.float32) * (x.shape[axis] / size)  # (size,)
        low = places.long()
        high = (low + 1).clamp(max=x.shape[axis] - 1)
        share = (places - low).reshape([-1 if axis == other else 1 for other in range(4)])
        first = x.index_select(axis, low)
        x = first + (x.index_select(axis, high) - first) * share
    return x


def fid_inception(path: Path) -> FeatureNetwork:
    """The network with the weights in ``path``, a PyTorch state dict.

    Raises:
        FidelityError: a file that is none, or holds another network.
    """
    wanted = f"the state dict of the FID's Inception (pt_inception-2015-12-05-{STANDARD}.pth)"
    if not path.is_file():
        raise FidelityError(f"{path}: expected {wanted}, found no file")
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise FidelityError(f"{path.name}: expected {wanted}, got a file that is none") from error
    with torch.device("meta"):
        network = FIDInception()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    counters = {name for name in shapes if name.endswith("num_batches_tracked")}
    found = {
        name: tuple(value.shape) if isinstance(value, Tensor) else None
        for name, value in (state.items() if isinstance(state, dict) else ())
    }
    for name in sorted(shapes.keys() - counters | found.keys() - counters, key=str):
        if found.get(name) != shapes.get(name):
            raise FidelityError(
                f"{path.name}: expected {wanted}, whose {name} is of shape {shapes.get(name)}, "
                f"got {found.get(name)}"
            )
    values = {name: value.float() for name, value in state.items() if name not in counters}
    values |= {name: torch.tensor(0) for name in counters}
    network.load_state_dict(values, assign=True)
    network.eval().requires_grad_(False)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    name = "FID Inception" if digest.startswith(STANDARD) else "FID Inception, other weights"

    @torch.no_grad()
    def extract(images: Tensor) -> Tensor:
        found: Tensor = network(images)
        return found

    return FeatureNetwork(name, network.fc.in_features, extract, digest)
