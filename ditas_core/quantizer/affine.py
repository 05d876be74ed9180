"""Quantization of tensors: with ``formats``, the only place of the package that rounds.

    scale = (hi - lo) / steps            asymmetric: lo = min(x), hi = max(x)
    scale = 2 max|x| / (qmax - qmin)     symmetric
    q     = clamp(round(x / scale) + zero_point, qmin, qmax)
    x_hat = (q - zero_point) * scale

The range of an asymmetric quantizer is widened to hold 0 where the spec says so.
A group without any spread is represented exactly. Number formats have no zero point, and their
codes are the bit patterns of elements:

    x_hat = element(q) * scale
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Size, Tensor

from ..specs import FULL_PRECISION_BITS, QuantizerSpec
from .formats import format_params, from_patterns, round_to_element, to_patterns
from .grouping import group_view, ungroup
from .params import TINY, QParams


class Coded(NamedTuple):
    """A tensor as it is stored: int32 codes in its own shape, and their grouped parameters."""

    codes: Tensor
    params: QParams


def params_from_range(
    lo: Tensor, hi: Tensor, spec: QuantizerSpec, tensor_absmax: Tensor | None = None
) -> QParams:
    """Scale and zero point that cover [lo, hi] elementwise.

    tensor_absmax  what a format's tensor scale is made of; None: the largest magnitude of the range

    Raises:
        ValueError: the range holds NaN or infinity.
    """
    check_finite(lo, hi)
    return covering(lo, hi, spec, tensor_absmax)


def covering(
    lo: Tensor, hi: Tensor, spec: QuantizerSpec, tensor_absmax: Tensor | None = None
) -> QParams:
    """``params_from_range`` without a look at the numbers: NaN and infinity give NaN."""
    if spec.format is not None:
        absmax = torch.maximum(lo.abs(), hi.abs())
        whole = absmax.amax() if tensor_absmax is None else tensor_absmax
        return format_params(absmax, spec.format, whole)
    if spec.symmetric:
        scale = torch.maximum(lo.abs(), hi.abs()) / (spec.steps / 2)
        scale = torch.where(scale <= TINY, torch.ones_like(scale), scale)
        return QParams(scale, torch.zeros_like(scale))
    if spec.include_zero:
        lo, hi = lo.clamp(max=0), hi.clamp(min=0)
    span = hi - lo
    # beyond single precision the difference of the ends overflows, that of the parts does not
    scale = torch.where(torch.isfinite(span), span / spec.steps, hi / spec.steps - lo / spec.steps)
    constant = torch.where(lo == 0, torch.ones_like(lo), lo.abs())
    scale = torch.where(scale <= TINY, constant, scale)
    zero_point = -nearest_(lo / scale, spec)
    if spec.include_zero:
        zero_point = zero_point.clamp(spec.qmin, spec.qmax)
    return QParams(scale, zero_point)


def nearest_(x: Tensor, spec: QuantizerSpec) -> Tensor:
    """Nearest integer, in place: ties upwards, or to even where the spec says so.

    Ties to even would round the two ends of a range differently and lose a level
    when the result is quantized again.
    """
    return x.round_() if spec.ties_to_even else x.add_(0.5).floor_()


def choose_qparams(x: Tensor, spec: QuantizerSpec) -> QParams:
    """Scale and zero point of ``x`` at the spec's granularity.

    Shapes: see ``Granularity``; group granularities give one per group.
    """
    grouped, dims = group_view(x, spec)
    return params_from_range(grouped.amin(dims, keepdim=True), grouped.amax(dims, True), spec)


def to_codes(x: Tensor, params: QParams, spec: QuantizerSpec) -> Tensor:
    """Integer codes (as floats; bit patterns as integers) of an already grouped tensor, or with a
    scale per element."""
    if spec.format is not None:
        return to_patterns(x / params.step, spec.format.element)
    if spec.offset_form:
        offset = -params.zero_point * params.scale
        codes = nearest_((x - offset).div_(params.scale), spec)
    else:
        codes = nearest_(x / params.scale, spec).add_(params.zero_point)
    return codes.clamp_(spec.qmin, spec.qmax)


def from_codes(codes: Tensor, params: QParams, spec: QuantizerSpec) -> Tensor:
    """``(q - zero_point) * scale``, or elements times scale, on an already grouped tensor."""
    if spec.format is not None:
        return from_patterns(codes, spec.format.element) * params.step
    if spec.offset_form:
        return (codes * params.scale).sub_(params.zero_point * params.scale)
    return (codes - params.zero_point).mul_(params.scale)


def quantize(x: Tensor, spec: QuantizerSpec, params: QParams | None = None) -> Coded:
    """The nearest codes, with parameters that cover ``x`` or with given ones, as
    ``choose_qparams`` shapes them."""
    params = choose_qparams(x, spec) if params is None else params
    grouped, _ = group_view(x, spec)
    codes = to_codes(grouped, params, spec)
    return Coded(ungroup(codes, x.shape, spec).to(torch.int32), params)


def of_elements(params: QParams, shape: Size, spec: QuantizerSpec) -> QParams:
    """Every element's own scale, a tensor's multiplied in, and zero point, both of ``shape``."""
    grouped, _ = group_view(params.scale.new_empty(shape), spec)
    scale, zero_point = (
        ungroup(x.expand(grouped.shape), shape, spec) for x in (params.step, params.zero_point)
    )
    return QParams(scale, zero_point)


def dequantize(codes: Tensor, params: QParams, spec: QuantizerSpec) -> Tensor:
    """Values of codes that ``quantize`` gave, in the codes' shape."""
    grouped, _ = group_view(codes.to(params.scale.dtype), spec)
    return ungroup(from_codes(grouped, params, spec), codes.shape, spec)


def activation_codes(x: Tensor, spec: QuantizerSpec) -> tuple[Tensor, QParams]:
    """Codes (as floats) and parameters of ``x``, both grouped.

    Nothing waits for the device: where x is not finite, the parameters are NaN, and so is
    what is made of them.
    """
    grouped, dims = group_view(x, spec)
    params = covering(grouped.amin(dims, keepdim=True), grouped.amax(dims, True), spec)
    return to_codes(grouped, params, spec), params


def fake_quantize(x: Tensor, spec: QuantizerSpec, checked: bool = True) -> Tensor:
    """Quantize and dequantize; ``x`` itself when the spec has 16 bits.

    The source tensor is never written to.

    checked  False, for what runs at every step: NaN and infinity become NaN

    Raises:
        ValueError: NaN or infinity, where that is checked.
    """
    if spec.bits >= FULL_PRECISION_BITS:
        return x
    if spec.format is not None:
        grouped, dims = group_view(x, spec)
        params = covering(grouped.amin(dims, keepdim=True), grouped.amax(dims, True), spec)
        rounded = round_to_element(grouped / params.step, spec.format.element).mul_(params.step)
    else:
        codes, params = activation_codes(x, spec)
        rounded = from_codes(codes, params, spec)
    if checked:
        check_finite(params.scale)
    return ungroup(rounded, x.shape, spec)


def check_finite(*ends: Tensor) -> None:
    """Raise ValueError where a range, or the scale that comes of it, holds NaN or infinity."""
    if not all(bool(torch.isfinite(end).all()) for end in ends):
        raise ValueError("range: expected finite values, got NaN or infinity")


def fake_quantize_in_range(x: Tensor, lo: Tensor, hi: Tensor, spec: QuantizerSpec) -> Tensor:
    """Quantize and dequantize ``x`` in a range known from elsewhere.

    Used where ``x`` is a part of a tensor whose exact range was recorded:
    ``lo`` and ``hi`` broadcast against ``x``. Of a format in blocks it is the tensor scale's.
    """
    if spec.bits >= FULL_PRECISION_BITS:
        return x
    if spec.format is not None and spec.format.tensor_scale:
        check_finite(lo, hi)
        grouped, dims = group_view(x, spec)
        whole = torch.maximum(lo.abs(), hi.abs())[..., None]
        params = format_params(grouped.abs().amax(dims, keepdim=True), spec.format, whole)
        return ungroup(from_codes(to_codes(grouped, params, spec), params, spec), x.shape, spec)
    params = params_from_range(lo, hi, spec)
    return from_codes(to_codes(x, params, spec), params, spec)
