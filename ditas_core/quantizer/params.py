"""What codes are turned into numbers with."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

TINY = 1e-30


class QParams(NamedTuple):
    """Scale and zero point, broadcastable against the grouped tensor; of NVFP4 also the tensor's
    scale, which multiplies the others."""

    scale: Tensor
    zero_point: Tensor
    tensor_scale: Tensor | None = None

    @property
    def step(self) -> Tensor:
        """What codes less their zero point, or elements, are multiplied by."""
        return self.scale if self.tensor_scale is None else self.scale * self.tensor_scale
