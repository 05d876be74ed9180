"""Number formats: which values there are, the nearest of them, and the scales of blocks.

    x_hat = round(x / scale) * scale        round: to the element's grid

The scale of elements that share one, of largest magnitude m:

    float32   m / largest
    float16   m / largest, rounded to half precision
    e8m0      2^(floor(log2 m) - emax), from 2^-127 on (OCP MX v1.0, section 6.3)
    e4m3      E4M3(m / largest / t), with t = M / (largest * 448) of the tensor's largest M (NVFP4)

All rounding is to the nearest, ties to even, beyond the largest magnitude to that; of NF4 ties to
the lower value, as in QLoRA's code. Elements that are all zero have the scale 1.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from ..specs import E4M3, Element, NumberFormat
from .params import TINY, QParams

E8M0_BIAS = 127
EXPONENT_BITS = 0x7F800000
"""Of float32."""
LARGEST_HALF, SMALLEST_HALF = 65504.0, 2.0**-24


@cache
def magnitudes(element: Element) -> tuple[float, ...]:
    """All magnitudes by their code, sign bit 0."""
    found = []
    for code in range(2 ** (element.bits - 1)):
        exponent, mantissa = divmod(code, 2**element.mantissa)
        whole = mantissa + (2**element.mantissa if exponent else 0)
        value = element.step * math.ldexp(whole, max(exponent - 1, 0))
        if value <= element.largest:
            found.append(value)
    return tuple(found)


def levels(element: Element, device: torch.device | str = "cpu") -> Tensor:
    """Every value once, ascending, float32 (L,)."""
    if element.table:
        return torch.tensor(element.table, device=device)
    above = torch.tensor(magnitudes(element), device=device)
    return torch.cat([-above[1:].flip(0), above])


def round_to_element(x: Tensor, element: Element) -> Tensor:
    """The nearest value of the element's grid, float32, of a float32 tensor; NaN stays NaN."""
    x = x.float()
    if element.table:
        rounded = levels(element, x.device)[table_codes(x, element)]
        return torch.where(torch.isnan(x), x, rounded)
    if element.exponent:
        ends = 2.0 ** (1 - element.bias), 2.0**element.largest_exponent
        power = (x.view(torch.int32) & EXPONENT_BITS).view(torch.float32)  # 2^floor(log2 |x|)
        quantum = power.clamp(*ends).mul_(2.0**-element.mantissa)
        rounded = (x / quantum).round_().mul_(quantum)
    else:
        rounded = (x / element.step).round_().mul_(element.step)
    return rounded.clamp_(-element.largest, element.largest)


def table_codes(x: Tensor, element: Element) -> Tensor:
    """Index of the nearest value of a table, ties to the lower."""
    values = levels(element, x.device)
    return torch.bucketize(x, (values[1:] + values[:-1]) / 2)


def to_patterns(x: Tensor, element: Element) -> Tensor:
    """Bit patterns (int64) of the elements nearest to a finite x: of a table its index, of whole
    numbers two's complement, otherwise sign, exponent and mantissa."""
    if element.table:
        return table_codes(x, element)
    rounded = round_to_element(x, element)
    if not element.exponent:
        return (rounded / element.step).long() & (2**element.bits - 1)
    above = torch.tensor(magnitudes(element), device=x.device)
    sign = torch.signbit(rounded).long() << (element.bits - 1)
    return torch.searchsorted(above, rounded.abs()) | sign


def from_patterns(patterns: Tensor, element: Element) -> Tensor:
    """Values of bit patterns, float32; NaN where a pattern stands for no finite number."""
    return pattern_values(element).to(patterns.device)[patterns.long()]


@cache
def pattern_values(element: Element) -> Tensor:
    """The value of every bit pattern, float32 (2^bits,); on the CPU, whatever device is usual."""
    if element.table:
        return levels(element)
    half = 2 ** (element.bits - 1)
    values = torch.full((2 * half,), torch.nan, device="cpu")
    above = torch.tensor(magnitudes(element), device="cpu")
    if element.exponent:
        values[: len(above)] = above
        values[half : half + len(above)] = -above
    else:
        values[: len(above)] = above
        values[half:] = torch.arange(-half, 0, device="cpu") * element.step
    return values


def format_params(absmax: Tensor, form: NumberFormat, tensor_absmax: Tensor | None) -> QParams:
    """Scales of elements by the largest magnitude ``absmax`` of those that share one.

    tensor_absmax  that of the whole tensor, broadcastable; read where the format has a tensor
                   scale

    NaN and infinity give NaN.
    """
    element, shared = form.element, None
    if form.scale == "e8m0":
        exponent = torch.frexp(absmax).exponent - (1 + element.largest_exponent)
        scale = torch.ldexp(torch.ones_like(absmax), exponent.clamp_(min=-E8M0_BIAS))
    elif form.tensor_scale:
        assert tensor_absmax is not None
        shared = tensor_absmax / (element.largest * E4M3.largest)
        shared = torch.where(shared <= TINY, torch.ones_like(shared), shared)
        scale = round_to_element(absmax / element.largest / shared, E4M3)
        scale = scale.clamp_(min=E4M3.step)  # or all of a small block would vanish
    elif form.scale == "float16":
        scale = (absmax / element.largest).clamp_(SMALLEST_HALF, LARGEST_HALF).half().float()
    else:
        scale = absmax / element.largest
        scale = torch.where(scale <= TINY, 1.0, scale)
    scale = torch.where(absmax == 0, 1.0, scale)
    scale = torch.where(torch.isfinite(absmax), scale, torch.nan)
    return QParams(scale, torch.zeros_like(scale), shared)


def scale_patterns(scale: Tensor, form: NumberFormat) -> Tensor:
    """Scales as they are stored: E8M0 and E4M3 as uint8, the others as they are."""
    if form.scale == "e8m0":
        return (torch.frexp(scale).exponent + (E8M0_BIAS - 1)).to(torch.uint8)
    if form.scale == "e4m3":
        return to_patterns(scale, E4M3).to(torch.uint8)
    return scale


def scale_values(stored: Tensor, form: NumberFormat) -> Tensor:
    """Inverse of ``scale_patterns``, float32; NaN where a pattern is no scale above 0."""
    if form.scale == "e8m0":
        exponent = stored.int() - E8M0_BIAS
        scale = torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), exponent)
        return torch.where(stored == 255, torch.nan, scale)
    if form.scale == "e4m3":
        scale = from_patterns(stored, E4M3)
        return torch.where(scale > 0, scale, torch.nan)
    return stored
