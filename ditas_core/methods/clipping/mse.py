"""Clipping search: the range whose codes leave the least mean square error of the weight.

    minimise over p, q in GRID   sum over the elements of a scale of (w - Q(w; p lo, q hi))^2

lo and hi are the least and largest weight of a scale's elements; what lies outside the range gets
its end's code. A few large weights then cost less than the coarser steps that covering them gives
all others: on the demo's layers half a dB of the output at 4 bits, 1 dB at 3. GPTQ's own code
searches so (Frantar et al., ICLR 2023) and narrows both ends alike; here each is then narrowed
alone. The demo's pictures move away all the same: see docs/measurements.md.

GRID is 1, 1 - step, ... down to ``least``. No scale leaves more than its whole range, the first
candidate. Three sweeps, each as many roundings of the weight as GRID is long.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...quantizer import QParams, from_codes, group_view, params_from_range, to_codes
from ...specs import Granularity, QuantizerSpec, check_number, check_whole

SWEEPS = ((True, True), (True, False), (False, True))
"""Whether a sweep narrows the lower end, and the upper."""


@dataclass(frozen=True)
class Settings:
    """
    candidates  of each sweep
    least       the narrowest of them, as a share of the range
    """

    candidates: int
    least: float

    def __post_init__(self) -> None:
        check_whole("candidates", self.candidates, 2, 200)
        check_number("least", self.least, 0.01, 1)

    def grid(self) -> list[float]:
        """From 1 down."""
        step = (1 - self.least) / (self.candidates - 1)
        return [1 - step * index for index in range(self.candidates)]


def roundings(settings: Settings) -> int:
    """Of the weight, in all sweeps."""
    return settings.candidates + (len(SWEEPS) - 1) * (settings.candidates - 1)


def ranges(target: Tensor, spec: QuantizerSpec, settings: Settings) -> QParams:
    """Parameters of a weight (C_out, C), shaped as ``choose_qparams`` shapes them."""
    grouped, dims = group_view(target, spec)
    lo, hi = grouped.amin(dims, keepdim=True), grouped.amax(dims, keepdim=True)
    # narrowed towards 0, or towards the end next to it where the range does not hold it
    fixed = lo.clamp(min=0) + hi.clamp(max=0)
    low, high = torch.ones_like(lo), torch.ones_like(hi)
    whole = target.abs().amax()  # candidates share a tensor's scale, or none could be compared
    best, grid = torch.full_like(lo, torch.inf), settings.grid()
    rest = target.shape[-1] % spec.group_size if spec.granularity is Granularity.PER_GROUP else 0
    for lower, upper in SWEEPS:
        start_low, start_high = low.clone(), high.clone()
        for share in grid if lower and upper else grid[1:]:
            p = start_low * share if lower else start_low
            q = start_high * share if upper else start_high
            ends = fixed + p * (lo - fixed), fixed + q * (hi - fixed)
            params = params_from_range(*ends, spec, whole)
            left = from_codes(to_codes(grouped, params, spec), params, spec).sub_(grouped)
            if rest:  # what fills the last group up counts once
                left[..., -1, rest:] = 0
            error = left.square_().sum(dims, keepdim=True)
            better = error < best
            low, high = torch.where(better, p, low), torch.where(better, q, high)
            best = torch.where(better, error, best)
    return params_from_range(fixed + low * (lo - fixed), fixed + high * (hi - fixed), spec, whole)
