"""A linear layer whose product runs on quantized operands (simulated backend).

    y = Q_a(x / s) Q_w^T + (x / s) R^T L^T + b

Integer codes, scales and the branch are buffers, so a ``state_dict`` holds the
whole layer; the dequantized weight is derived and not stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..quantizer import QParams, dequantize, fake_quantize, from_codes
from ..specs import FULL_PRECISION_BITS, Granularity, QuantizerSpec


class QuantizedLinear(nn.Module):
    """Fake-quantized linear layer.

    codes        uint8 (C_out, C_in), or the float weight where it is left alone
    scale, zero_point   as the granularity has them; of strided groups a table
                 (P, C_in) in which row r of the layer uses row (row_start + r) mod P
    up, down     low-rank branch, (C_out, r) and (r, C_in); r may be 0
    smoothing    (C_in,) divisor applied on the fly, or None where it was folded
    row_scale    (C_out, 1) factor of the dequantized rows where their scale cannot
                 take it, or None
    shared       how many layers hold the same table and ``down`` (fused qkv): their
                 size counts once
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    bias: Tensor
    up: Tensor
    down: Tensor
    smoothing: Tensor | None
    row_scale: Tensor | None
    weight: Tensor

    def __init__(
        self,
        weight_spec: QuantizerSpec,
        activation_spec: QuantizerSpec,
        codes: Tensor,
        params: QParams,
        bias: Tensor,
        branch: tuple[Tensor, Tensor],
        smoothing: Tensor | None = None,
        row_scale: Tensor | None = None,
        branch_on_full: bool = True,
        row_start: int = 0,
        shared: int = 1,
    ) -> None:
        super().__init__()
        self.weight_spec = weight_spec
        self.activation_spec = activation_spec
        self.branch_on_full = branch_on_full
        self.row_start = row_start
        self.shared = shared
        self.register_buffer("codes", codes)
        self.register_buffer("scale", params.scale)
        self.register_buffer("zero_point", params.zero_point)
        self.register_buffer("bias", bias)
        self.register_buffer("up", branch[0])
        self.register_buffer("down", branch[1])
        self.register_buffer("smoothing", smoothing)
        self.register_buffer("row_scale", row_scale)
        self.register_buffer("weight", self.dequantized(), persistent=False)
        self.register_load_state_dict_post_hook(refresh_weight_)

    def dequantized(self) -> Tensor:
        """The float weight that the codes stand for, without the branch, (C_out, C_in)."""
        spec = self.weight_spec
        if spec.bits >= FULL_PRECISION_BITS:
            return self.codes
        if self.codes.is_meta:
            return torch.empty_like(self.codes, dtype=self.bias.dtype)
        codes = self.codes.float() + spec.qmin
        if spec.granularity is Granularity.PER_STRIDED_GROUP:
            index = (torch.arange(len(codes)) + self.row_start) % len(self.scale)
            weight = from_codes(codes, QParams(self.scale[index], self.zero_point[index]), spec)
        else:
            weight = dequantize(codes, QParams(self.scale, self.zero_point), spec)
        return weight if self.row_scale is None else weight * self.row_scale

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Moves to a device, never to another precision: codes and scales are single-precision
        arithmetic, also in a network that runs in half precision around them."""

        def moved(tensor: Tensor) -> Tensor:
            found: Tensor = fn(tensor)
            return found if found.dtype == tensor.dtype else tensor.to(found.device)

        return super()._apply(moved, recurse)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C_in) -> (..., C_out) in x's precision, computed in single precision."""
        return self.computed(x.to(self.bias.dtype)).to(x.dtype)

    def computed(self, x: Tensor) -> Tensor:
        if self.smoothing is not None:
            x = x / self.smoothing
        rounded = fake_quantize(x, self.activation_spec)  # (..., C_in)
        if self.up.shape[1] == 0:
            return F.linear(rounded, self.weight, self.bias)
        source = x if self.branch_on_full else rounded
        branch = F.linear(F.linear(source, self.down), self.up)  # (..., C_out)
        return F.linear(rounded, self.weight, self.bias) + branch

    @property
    def bits_stored(self) -> float:
        """Honest size: codes at their width, the rest as it is stored (half precision
        where that is exact, single where not)."""
        return self.bits_at(lambda _, tensor: stored_bits(tensor))

    def bits_at(self, size: Callable[[str, Tensor], int]) -> float:
        """Size with codes at their width and the other buffers, by name, at ``size`` bits."""
        if self.weight_spec.bits >= FULL_PRECISION_BITS:
            return float(size("codes", self.codes))
        zero_point = () if self.weight_spec.symmetric else ("zero_point",)
        table = sum(size(name, getattr(self, name)) for name in ("scale", *zero_point, "down"))
        own = size("up", self.up)
        for name in ("smoothing", "row_scale"):
            vector = getattr(self, name)
            own += 0 if vector is None else size(name, vector)
        return self.codes.numel() * self.weight_spec.bits + own + table / self.shared


def effective_bits(transformer: nn.Module) -> float:
    """Stored bits per weight of the quantized layers: codes, scales and branch."""
    layers = [m for m in transformer.modules() if isinstance(m, QuantizedLinear)]
    return sum(m.bits_stored for m in layers) / max(1, sum(m.codes.numel() for m in layers))


def stored_bits(tensor: Tensor) -> int:
    """Bits of a float tensor on disk: 16 per element if half precision holds it, else 32."""
    exact = bool((tensor.half().to(tensor.dtype) == tensor).all())
    return tensor.numel() * (16 if exact else 32)


def refresh_weight_(layer: nn.Module, _incompatible: object) -> None:
    """The derived weight follows the codes that were just loaded."""
    assert isinstance(layer, QuantizedLinear)
    layer.weight = layer.dequantized()
