"""A linear layer whose product runs on quantized operands.

    y = Q_a(x / s) Q_w^T + (x / s) R^T L^T + b

with (x / s) rotated before anything else is done to it where the recipe says so.

Integer codes, scales and the branch are buffers, so a ``state_dict`` holds the
whole layer; what a backend makes of them to compute with is derived and not stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..quantizer import (
    PACKED_BITS,
    QParams,
    dequantize,
    fake_quantize,
    from_codes,
    scale_values,
    unpack_nibbles,
)
from ..smoothing import rotate
from ..specs import BACKENDS, FULL_PRECISION_BITS, Granularity, QuantizerSpec, check_choice
from .integer import (
    Operand,
    bytes_are_exact,
    integer_linear,
    make_operand,
    runs_as_integers,
    signed_codes,
)

OPERAND = ("operand_codes", "operand_sums", "operand_rest", "operand_scale")


class QuantizedLinear(nn.Module):
    """Quantized linear layer.

    codes        uint8 (C_out, C_in), of at most 4 bits two to a byte, (C_out, ceil(C_in / 2));
                 or the float weight where it is left alone
    scale, zero_point   as the granularity has them; of strided groups a table
                 (P, C_in) in which row r of the layer uses row (row_start + r) mod P. Of a number
                 format E8M0 and E4M3 scales are uint8 patterns, and there is no zero point
    tensor_scale (1,), of NVFP4
    up, down     low-rank branch, (C_out, r) and (r, C_in); r may be 0
    smoothing    (C_in,) divisor applied on the fly, or None where it was folded
    rotation     (B, B), which every block of B inputs is then multiplied by, or None; recipe and
                 shape say which, so that it is stored nowhere
    row_scale    (C_out, 1) factor of the dequantized rows where their scale cannot
                 take it, or None
    shared       how many layers hold the same table and ``down`` (fused qkv): their
                 size counts once

    Where the quantizers allow it (``runs_as_integers``), the codes are multiplied: by the
    backend "integer" as bytes, by "simulated" in floating point, to the same result. Elsewhere
    both multiply rounded operands in floating point. Derived are the fields of ``Operand`` of
    the one kind and ``weight`` (C_out, C_in) of the other.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    tensor_scale: Tensor | None
    bias: Tensor
    up: Tensor
    down: Tensor
    smoothing: Tensor | None
    row_scale: Tensor | None
    rotation: Tensor | None
    weight: Tensor | None
    operand_codes: Tensor | None
    operand_sums: Tensor
    operand_rest: Tensor
    operand_scale: Tensor

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
        rotation: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.weight_spec = weight_spec
        self.activation_spec = activation_spec
        self.branch_on_full = branch_on_full
        self.row_start = row_start
        self.shared = shared
        self.backend = "simulated"
        self.register_buffer("codes", codes)
        self.register_buffer("scale", params.scale)
        self.register_buffer("zero_point", None if weight_spec.format else params.zero_point)
        self.register_buffer("tensor_scale", params.tensor_scale)
        self.register_buffer("bias", bias)
        self.register_buffer("up", branch[0])
        self.register_buffer("down", branch[1])
        self.register_buffer("smoothing", smoothing)
        self.register_buffer("row_scale", row_scale)
        self.register_buffer("rotation", rotation, persistent=False)
        for name in ("weight", *OPERAND):
            self.register_buffer(name, None, persistent=False)
        self.derive_()
        self.register_load_state_dict_post_hook(derive_anew_)

    @property
    def in_features(self) -> int:
        return self.down.shape[1]

    @property
    def out_features(self) -> int:
        return self.bias.shape[0]

    @property
    def weights(self) -> int:
        return self.out_features * self.in_features

    @property
    def multiplies_codes(self) -> bool:
        return self.branch_on_full and runs_as_integers(
            self.weight_spec, self.activation_spec, self.in_features
        )

    def unpacked(self) -> Tensor:
        """The codes, uint8 (C_out, C_in)."""
        if self.weight_spec.bits > PACKED_BITS:
            return self.codes
        return unpack_nibbles(self.codes, self.in_features)

    @property
    def params(self) -> QParams:
        """Scale and zero point as numbers."""
        form = self.weight_spec.format
        if form is None:
            return QParams(self.scale, self.zero_point)
        scale = scale_values(self.scale, form)
        return QParams(scale, torch.zeros_like(scale), self.tensor_scale)

    def derive_(self) -> None:
        """Make what the backend computes with of the codes as they are now."""
        for name in ("weight", *OPERAND):
            setattr(self, name, None)
        if not self.multiplies_codes:
            self.weight = self.dequantized()
        elif not self.codes.is_meta:
            made = make_operand(self.unpacked(), self.params, self.weight_spec)
            if self.backend == "simulated" or not (self.codes.is_cuda or bytes_are_exact()):
                self.operand_codes = made.codes.to(self.bias.dtype)
            elif not self.codes.is_cuda:  # which unpacks them as it goes, and holds them once
                self.operand_codes = made.codes
            self.operand_sums, self.operand_rest, self.operand_scale = made[1:4]

    @property
    def operand(self) -> Operand:
        """The weight as ``integer_linear`` takes it."""
        codes = self.operand_codes
        if codes is None:
            codes = signed_codes(self.unpacked(), self.weight_spec.bits)
        group = self.weight_spec.group_size or self.in_features
        return Operand(codes, self.operand_sums, self.operand_rest, self.operand_scale, group)

    def dequantized(self) -> Tensor:
        """The float weight that the codes stand for, without the branch, (C_out, C_in)."""
        spec = self.weight_spec
        if spec.bits >= FULL_PRECISION_BITS:
            return self.codes
        if self.codes.is_meta:
            return torch.empty(
                self.out_features, self.in_features, dtype=self.bias.dtype, device="meta"
            )
        codes = self.unpacked().float() + spec.qmin
        if spec.granularity is Granularity.PER_STRIDED_GROUP:
            rows = torch.arange(len(codes), device=codes.device) + self.row_start
            index = rows % len(self.scale)
            weight = from_codes(codes, QParams(self.scale[index], self.zero_point[index]), spec)
        else:
            weight = dequantize(codes, self.params, spec)
        return weight if self.row_scale is None else weight * self.row_scale

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Moves to a device, never to another precision: codes and scales are single-precision
        arithmetic, also in a network that runs in half precision around them."""

        def moved(tensor: Tensor) -> Tensor:
            found: Tensor = fn(tensor)
            return found if found.dtype == tensor.dtype else tensor.to(found.device)

        was = self.codes.is_cuda
        result = super()._apply(moved, recurse)
        if self.multiplies_codes and self.codes.is_cuda != was:
            self.derive_()
        return result

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C_in) -> (..., C_out) in x's precision, scaled in single precision."""
        return self.computed(x.to(self.bias.dtype)).to(x.dtype)

    def computed(self, x: Tensor) -> Tensor:
        if self.smoothing is not None:
            x = x / self.smoothing
        x = rotate(x, self.rotation)  # (..., C_in)
        source = x
        if self.weight is None:
            result = integer_linear(x, self.operand, self.activation_spec).add_(self.bias)
        else:
            rounded = fake_quantize(x, self.activation_spec, checked=False)  # (..., C_in)
            source = x if self.branch_on_full else rounded
            result = F.linear(rounded, self.weight, self.bias)  # (..., C_out)
        if self.up.shape[1] == 0:
            return result
        return result + F.linear(F.linear(source, self.down), self.up)  # (..., C_out)

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
        for name in ("smoothing", "row_scale", "tensor_scale"):
            vector = getattr(self, name)
            own += 0 if vector is None else size(name, vector)
        return self.weights * self.weight_spec.bits + own + table / self.shared


def run_as_(transformer: nn.Module, backend: str) -> None:
    """Have every quantized layer compute on ``backend``, in place; 16-bit ones stay as they are.

    Raises:
        SpecError: neither simulated nor integer: the layers themselves know no other.
    """
    check_choice("backend", backend, BACKENDS[:2])
    for layer in transformer.modules():
        if isinstance(layer, QuantizedLinear) and layer.backend != backend:
            layer.backend = backend
            layer.derive_()


def multiply_numbers_(transformer: nn.Module) -> None:
    """Have every layer multiply what its codes stand for, in floating point, in place.

    The same function but for the order of sums, which now and then moves a rounded activation by
    a step; where groups of inputs have scales it is faster than products of codes.
    """
    for layer in transformer.modules():
        if isinstance(layer, QuantizedLinear) and layer.weight is None:
            for name in OPERAND:
                setattr(layer, name, None)
            layer.weight = layer.dequantized()


def effective_bits(transformer: nn.Module) -> float:
    """Stored bits per weight of the quantized layers: codes, scales and branch."""
    layers = [m for m in transformer.modules() if isinstance(m, QuantizedLinear)]
    return sum(m.bits_stored for m in layers) / max(1, sum(m.weights for m in layers))


def stored_bits(tensor: Tensor) -> int:
    """Bits on disk: 8 per byte; of a float 16 if half precision holds the tensor, else 32."""
    if tensor.dtype == torch.uint8:
        return 8 * tensor.numel()
    exact = bool((tensor.half().to(tensor.dtype) == tensor).all())
    return tensor.numel() * (16 if exact else 32)


def derive_anew_(layer: nn.Module, _incompatible: object) -> None:
    """What is derived follows the codes that were just loaded."""
    assert isinstance(layer, QuantizedLinear)
    layer.derive_()
