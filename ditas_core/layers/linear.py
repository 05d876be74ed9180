"""A linear layer whose product runs on quantized operands (simulated backend).

    y = Q_a(x / s) Q_w^T + (x / s) R^T L^T + b

Integer codes, scales and the branch are buffers, so a ``state_dict`` holds the
whole layer; the dequantized weight is derived and not stored.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..quantizer import QParams, dequantize, fake_quantize, quantize
from ..specs import FULL_PRECISION_BITS, QuantizerSpec


class QuantizedLinear(nn.Module):
    """Fake-quantized linear layer; build it with ``from_float``.

    codes        uint8 (C_out, C_in), or the float weight where it is left alone
    up, down     low-rank branch, (C_out, r) and (r, C_in); r may be 0
    smoothing    (C_in,) divisor applied on the fly, or None where it was folded
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    bias: Tensor
    up: Tensor
    down: Tensor
    smoothing: Tensor | None
    weight: Tensor

    def __init__(
        self,
        weight_spec: QuantizerSpec,
        activation_spec: QuantizerSpec,
        codes: Tensor,
        params: QParams,
        bias: Tensor,
        up: Tensor,
        down: Tensor,
        smoothing: Tensor | None,
        branch_on_full: bool,
    ) -> None:
        super().__init__()
        self.weight_spec = weight_spec
        self.activation_spec = activation_spec
        self.branch_on_full = branch_on_full
        self.register_buffer("codes", codes)
        self.register_buffer("scale", params.scale)
        self.register_buffer("zero_point", params.zero_point)
        self.register_buffer("bias", bias)
        self.register_buffer("up", up)
        self.register_buffer("down", down)
        self.register_buffer("smoothing", smoothing)
        self.register_buffer("weight", self.dequantized(), persistent=False)
        self.register_load_state_dict_post_hook(refresh_weight_)

    @classmethod
    def from_float(
        cls,
        weight: Tensor,
        bias: Tensor,
        weight_spec: QuantizerSpec,
        activation_spec: QuantizerSpec,
        branch: tuple[Tensor, Tensor] | None = None,
        smoothing: Tensor | None = None,
        branch_on_full: bool = True,
    ) -> QuantizedLinear:
        """A finished layer from a (smoothed) float weight (C_out, C_in) and its branch.

        The branch is rounded to half precision first, as it is stored; the codes
        then belong to the branch that really runs.
        """
        c_out, c_in = weight.shape
        up, down = branch if branch is not None else (torch.zeros(c_out, 0), torch.zeros(0, c_in))
        up = up.half().float().contiguous()
        down = down.half().float().contiguous()
        if weight_spec.bits >= FULL_PRECISION_BITS:
            codes, params = weight.clone(), QParams(torch.ones(1), torch.zeros(1))
        else:
            integers, params = quantize(weight - up @ down, weight_spec)
            codes = (integers - weight_spec.qmin).to(torch.uint8)
        return cls(
            weight_spec,
            activation_spec,
            codes,
            params,
            bias.clone(),
            up.clone(),
            down.clone(),
            None if smoothing is None else smoothing.clone(),
            branch_on_full,
        )

    def dequantized(self) -> Tensor:
        """The float weight that the codes stand for, without the branch."""
        if self.weight_spec.bits >= FULL_PRECISION_BITS:
            return self.codes
        params = QParams(self.scale, self.zero_point)
        return dequantize(self.codes.float() + self.weight_spec.qmin, params, self.weight_spec)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C_in) -> (..., C_out)."""
        if self.smoothing is not None:
            x = x / self.smoothing
        rounded = fake_quantize(x, self.activation_spec)  # (..., C_in)
        if self.up.shape[1] == 0:
            return F.linear(rounded, self.weight, self.bias)
        source = x if self.branch_on_full else rounded
        branch = F.linear(F.linear(source, self.down), self.up)  # (..., C_out)
        return F.linear(rounded, self.weight, self.bias) + branch

    @property
    def bits_stored(self) -> int:
        """Honest size: codes at their width, fp16 scales, zero points and branch."""
        spec = self.weight_spec
        if spec.bits >= FULL_PRECISION_BITS:
            return self.codes.numel() * 16
        side = self.scale.numel() * (16 if spec.symmetric else 32)
        extra = self.up.numel() + self.down.numel()
        extra += 0 if self.smoothing is None else self.smoothing.numel()
        return self.codes.numel() * spec.bits + side + extra * 16


def refresh_weight_(layer: nn.Module, _incompatible: object) -> None:
    """The derived weight follows the codes that were just loaded."""
    assert isinstance(layer, QuantizedLinear)
    layer.weight = layer.dequantized()
