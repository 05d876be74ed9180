"""One group under the microscope: what one alpha does to its inputs, weights and output.

With D = X^ - X_s (the inputs' rounding error), V = A' - W s (the weight's) and E the
output's error, see ``GroupLoss``, in dB = 10 log10 of energies:

    activation_db         |D|^2 / |X_s|^2
    weight_db             |V|^2 / |W s|^2
    output_activation_db  |D (W s)^T|^2 / |Y|^2, only the inputs rounded
    output_weight_db      |X_s V^T|^2 / |Y|^2, only the weights rounded
    output_db             |E|^2 / |Y|^2, both: what the search minimises

All are negative where rounding is harmless; lower is better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..calibration import Calibration
from ..checkpoints import Checkpoint
from ..models import SmoothingGroup
from ..quantizer import choose_qparams, levels, params_from_range
from ..smoothing import smoothing_factor
from ..specs import FULL_PRECISION_BITS, Granularity, QuantizerSpec, get_convention
from .alpha import SearchSpec
from .loss import RoundedWeight, group_loss, stacked

BINS = 128
FLOOR_DB = -200.0


@dataclass(frozen=True, eq=False)
class Histogram:
    """How many values lie in each of BINS equal bins from -limit to limit, (BINS,) int64.

    ``limit`` is the largest magnitude, in the smoothed tensor's own unit.
    """

    counts: Tensor
    limit: float


@dataclass(frozen=True)
class Grid:
    """The values ``low, low + step, ..., high`` that rounding leaves, or ``levels``.

    Where tokens, channels, groups or steps have each their own: that of the median scale.

    levels  of a number format, all of them, ascending; ``step`` is then that around zero
    """

    step: float
    low: float
    high: float
    levels: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class LabView:
    """One alpha (None = identity) of one group; dB as the module says.

    weights  of what is rounded: W s, less its branch where there is one
    grids    None where the tensor is left alone
    """

    alpha: float | None
    activations: Histogram
    weights: Histogram
    activation_grid: Grid | None
    weight_grid: Grid | None
    activation_db: float
    weight_db: float
    output_activation_db: float
    output_weight_db: float
    output_db: float


class AlphaLab:
    """Call with alpha (None = identity) -> LabView. Holds what all alphas share.

    The output's error is the search's own number, at the spec's bits, convention and branch.
    """

    @torch.no_grad()
    def __init__(
        self,
        checkpoint: Checkpoint,
        group: SmoothingGroup,
        calibration: Calibration,
        spec: SearchSpec,
    ) -> None:
        convention, layer = get_convention(spec.convention), spec.layer(checkpoint.width)
        self.loss = group_loss(
            checkpoint, group, calibration, layer, convention, spec.products, None, spec.objective
        )
        self.loss.settle()
        self.frozen_target: Tensor | None = None
        self.frozen_params: tuple[Tensor, Tensor] | None = None
        if self.loss.fits is not None:
            targets = [fit.target for fit in self.loss.fits]
            self.frozen_target = stacked(targets)  # (C_out, C)
            self.frozen_params = scales_of(targets, self.loss.weight_spec)

    @torch.no_grad()
    def __call__(self, alpha: float | None) -> LabView:
        loss = self.loss
        s = smoothing_factor(loss.act_absmax, loss.w_absmax, alpha)  # (C,)
        smoothed = loss.smoothed(s)  # (M, C)
        moved = loss.round_activations(smoothed, s) - smoothed  # (M, C)
        scaled = stacked(loss.scaled(s))  # (C_out, C)
        target, stored, params = self.weight_side(smoothed, s)
        by_weight = loss.known if loss.frozen else loss.multiply(smoothed, stored.error)
        error = by_weight
        if loss.rounds_activations:
            error = loss.multiply(moved, stored.weight).add_(by_weight)  # (M, C_out)
        by_activation = loss.multiply(moved, scaled)  # (M, C_out)
        return LabView(
            alpha,
            histogram(smoothed),
            histogram(target),
            self.activation_grid(smoothed, s),
            None if params is None else median_grid(*params, loss.weight_spec),
            decibels(energy(moved), energy(smoothed)),
            decibels(energy(stored.error), energy(scaled)),
            decibels(loss.mean_square(by_activation), loss.energy),
            decibels(loss.mean_square(by_weight), loss.energy),
            decibels(loss.mean_square(error), loss.energy),
        )

    def weight_side(
        self, smoothed: Tensor, s: Tensor
    ) -> tuple[Tensor, RoundedWeight, tuple[Tensor, Tensor] | None]:
        """What is rounded (C_out, C), A and V, and scales with zero points; all of W s."""
        loss = self.loss
        if loss.frozen is not None and self.frozen_target is not None:
            stored = RoundedWeight(loss.frozen.weight * s, loss.frozen.error * s)
            params = self.frozen_params
            if params is not None:  # one input channel per scale: the last dimension is C
                scale = params[0].reshape(-1, len(s)) * s
                params = scale.flatten(), params[1]
            return self.frozen_target * s, stored, params
        scaled = loss.scaled(s)
        fits = loss.quick_fits(smoothed, s, scaled)
        targets = [fit.target for fit in fits]
        params = scales_of(targets, loss.weight_spec)
        return stacked(targets), loss.rounded_weight(fits, scaled), params

    def activation_grid(self, smoothed: Tensor, s: Tensor) -> Grid | None:
        """Of the median token, or of the median step where each step has one range."""
        spec = self.loss.activation_spec
        if not self.loss.rounds_activations:
            return None
        if spec.granularity is Granularity.PER_TENSOR:
            params = params_from_range(*self.loss.activation_range(smoothed, s), spec)
        else:
            params = choose_qparams(smoothed, spec)
        return median_grid(params.step.flatten(), params.zero_point.flatten(), spec)


def scales_of(targets: list[Tensor], spec: QuantizerSpec) -> tuple[Tensor, Tensor] | None:
    """All scales and zero points of what is rounded, (G,) both; None where it is left alone."""
    if spec.bits >= FULL_PRECISION_BITS:
        return None
    params = [choose_qparams(target, spec) for target in targets]
    scale = torch.cat([p.step.flatten() for p in params])
    return scale, torch.cat([p.zero_point.flatten() for p in params])


def median_grid(scale: Tensor, zero_point: Tensor, spec: QuantizerSpec) -> Grid:
    """The grid of the (lower) median scale, (G,) both."""
    index = int(scale.median(0).indices)
    step, zero = float(scale[index]), float(zero_point[index])
    if spec.format is not None:
        element = spec.format.element
        found = tuple((levels(element, scale.device) * scale[index]).tolist())
        return Grid(step * element.step, found[0], found[-1], found)
    return Grid(step, (spec.qmin - zero) * step, (spec.qmax - zero) * step)


def histogram(x: Tensor) -> Histogram:
    """Of all values of ``x``."""
    limit = float(x.abs().max())
    limit = limit if limit > 0 else 1.0
    return Histogram(torch.histc(x, BINS, -limit, limit).long().cpu(), limit)


def energy(x: Tensor) -> float:
    """|x|^2 over all elements."""
    return float(torch.linalg.vector_norm(x)) ** 2


def decibels(error: float, signal: float) -> float:
    """``10 log10(error / signal)``, at least -200; no error is -200."""
    if error <= 0:
        return FLOOR_DB
    return max(FLOOR_DB, 10 * math.log10(error / max(signal, 1e-300)))
