"""One input channel of a layer over the run, and the grid that its values are rounded to.

Where tokens have a scale each, the grid is that of the token with the widest range, so
that it spans all of them; where each step has one range, that of the (widest) step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..calibration import CONDITIONAL, UNCONDITIONAL, GroupStatistics
from ..quantizer import QParams, choose_qparams, from_codes, levels, params_from_range
from ..specs import FULL_PRECISION_BITS, Element, Granularity, QuantizerSpec
from .strength import Half


@dataclass(frozen=True, eq=False)
class ChannelRecord:
    """One channel of X / s. Without rounding (16 bits) there are no levels and no steps.

    tokens     its values in the stored tokens, of all steps or of one, (K,)
    levels     what its quantizer can represent, for the widest of these tokens, (L,)
    low, high  smallest and largest value of each step, (T,)
    step       distance of two neighbouring levels at each step, (T,); of a number format, whose
               levels are uneven, the mean one within the range; NaN where there are none
    """

    tokens: Tensor
    levels: Tensor
    low: Tensor
    high: Tensor
    step: Tensor


def activation_params(
    statistics: GroupStatistics, s: Tensor, spec: QuantizerSpec, channel: int
) -> tuple[Tensor, Tensor]:
    """Scales and zero points of the layer's inputs X / s, (T, n): n = tokens, or 1 per step.

    channel  whose block is meant, where a token has several
    """
    steps = len(statistics.tokens)
    if spec.granularity is Granularity.PER_TENSOR:
        low = (statistics.low / s).amin((1, 2))  # (T,)
        params = params_from_range(low, (statistics.high / s).amax((1, 2)), spec)
    else:
        params = choose_qparams(statistics.tokens.float() / s, spec)  # (T, K, 1)
    if spec.granularity is Granularity.PER_GROUP:  # (T, K, G, 1)
        block = channel // spec.group_size
        return params.step[:, :, block, 0], params.zero_point[:, :, block, 0]
    return params.step.reshape(steps, -1), params.zero_point.reshape(steps, -1)


def widest_levels(scale: Tensor, zero_point: Tensor, spec: QuantizerSpec) -> Tensor:
    """Every value that the quantizer with the largest scale can represent, (L,)."""
    index = int(scale.flatten().argmax())
    if spec.format is not None:
        return levels(spec.format.element, scale.device) * scale.flatten()[index]
    params = QParams(scale.flatten()[index], zero_point.flatten()[index])
    codes = torch.arange(spec.qmin, spec.qmax + 1, device=scale.device).float()
    return from_codes(codes, params, spec)


def channel_record(
    statistics: GroupStatistics,
    channel: int,
    s: Tensor,
    spec: QuantizerSpec,
    half: Half | str = Half.BOTH,
    row: int | None = None,
) -> ChannelRecord:
    """The record of X / s, s (C,); tokens and levels of step ``row`` only where it is given.

    ``half`` restricts the range: tokens are kept of both halves together.

    Raises:
        IndexError: no such channel or step.
    """
    half = Half(half)
    low = statistics.low[:, :, channel] / s[channel]  # (T, 2)
    high = statistics.high[:, :, channel] / s[channel]
    if half is not Half.BOTH:
        only = CONDITIONAL if half is Half.CONDITIONAL else UNCONDITIONAL
        low, high = low[:, [only]], high[:, [only]]
    tokens = statistics.tokens[:, :, channel].float() / s[channel]  # (T, K)
    found, step = torch.empty(0), torch.full((len(tokens),), torch.nan)
    if spec.bits < FULL_PRECISION_BITS:
        scale, zero_point = activation_params(statistics, s, spec, channel)
        step = scale.amax(1)
        if spec.format is not None:
            step = mean_step(low.amin(1), high.amax(1), step, spec.format.element)
        rows = slice(None) if row is None else [row]
        found = widest_levels(scale[rows], zero_point[rows], spec)
    shown = tokens if row is None else tokens[row]
    return ChannelRecord(shown.flatten(), found, low.amin(1), high.amax(1), step)


def mean_step(low: Tensor, high: Tensor, scale: Tensor, element: Element) -> Tensor:
    """Mean distance of the levels from low to high, (T,) each: their length over the number of
    intervals in it, the first and the last in part."""
    known = levels(element, scale.device)
    first, last = (place(end / scale, known) for end in (low, high))
    return torch.where(last > first, (high - low) / (last - first), scale * element.step)


def place(x: Tensor, known: Tensor) -> Tensor:
    """Where x lies among ascending levels (L,): 2.5 is halfway from the third to the fourth; beyond
    the ends at them."""
    above = torch.searchsorted(known, x).clamp(1, len(known) - 1)
    part = (x - known[above - 1]) / (known[above] - known[above - 1])
    return above - 1 + part.clamp(0, 1)


def furthest_factor(per_step: Tensor, aggregated: Tensor) -> tuple[int, int]:
    """Step and channel whose own factor differs most from the one for all: (T, C), (C,)."""
    distance = (per_step.log() - aggregated.log()).abs()
    step, channel = divmod(int(distance.argmax()), distance.shape[1])
    return step, channel
