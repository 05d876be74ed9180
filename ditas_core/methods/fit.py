"""One weight, rounded with its low-rank branch: what search scores and conversion stores.

    W ~ Q(target) + up down

``target`` is W - up down where the best iterate is kept. In the released code's
alternation, which ends with an SVD, it is W minus the branch of the iteration before, unless
other codes than the nearest are chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ..lowrank import (
    InputMoment,
    fit_branch,
    input_moment,
    leading_subspace,
    released_iterates,
)
from ..quantizer import Coded, dequantize, fake_quantize
from ..smoothing import rotate
from ..specs import (
    FULL_PRECISION_BITS,
    Convention,
    Granularity,
    LayerRecipe,
    LowRankSpec,
    QuantizerSpec,
)
from .parts import rotation_of, round_weight

POWER_ITERATIONS = 2
"""Of the branch that is kept: within 1 % of the optimum. The search makes do with fewer."""


@dataclass(frozen=True)
class WeightFit:
    """target (C_out, C), up (C_out, r), down (r, C); r is 0 without a branch.

    settled   the target is W - up down, so that the weight's error is Q(target) - target
    coded     the codes of the target where others than the nearest are chosen, or None
    """

    target: Tensor
    up: Tensor
    down: Tensor
    spec: QuantizerSpec
    settled: bool = True
    coded: Coded | None = None

    @cached_property
    def rounded(self) -> Tensor:
        """Q(target), (C_out, C)."""
        if self.coded is not None:
            return dequantize(*self.coded, self.spec)
        return fake_quantize(self.target, self.spec)

    def error(self, weight: Tensor) -> Tensor:
        """Q(target) + up down - W for the W that was fitted, (C_out, C)."""
        if self.settled:
            return self.rounded - self.target
        assert self.low is not None
        return self.rounded + self.low - weight

    @cached_property
    def low(self) -> Tensor | None:
        """up down, (C_out, C), or None without a branch."""
        return self.up @ self.down if self.up.shape[1] else None


class RecordedInputs(Protocol):
    """What a calibration kept of a layer's input: tokens (T, K, C), mean squares energy (T, C)."""

    @property
    def tokens(self) -> Tensor: ...

    @property
    def energy(self) -> Tensor: ...


def fit_weights(
    weights: list[Tensor],
    inputs: RecordedInputs | None,
    layer: LayerRecipe,
    convention: Convention,
    s: Tensor | None = None,
) -> list[WeightFit]:
    """The fit of each weight (C_out, C) as conversion stores it and search scores it.

    weights  already multiplied by ``s`` (C,), by which their inputs are then divided, and
             rotated as the layer's inputs are
    inputs   of the layer, neither divided nor rotated; read only by a weighted branch and by a
             compensation of the rounding error
    """
    moment, variance = InputMoment(), 0.0
    if inputs is not None and layer.low_rank.rank:
        moment = moment_of(layer.low_rank.weighting, inputs, s, layer)
        tokens = inputs.tokens.float()
        if s is not None:
            tokens = tokens / s
        rotation = rotation_of(layer, tokens.shape[-1])
        variance = passing_variance(rotate(tokens, rotation), layer, convention)
    spec, _ = convention.quantizers(layer.bits)
    fits = [fit_weight(weight, spec, layer.low_rank, moment, variance) for weight in weights]
    return coded_fits(fits, weights, inputs, layer, s)


def coded_fits(
    fits: list[WeightFit],
    weights: list[Tensor],
    inputs: RecordedInputs | None,
    layer: LayerRecipe,
    s: Tensor | None = None,
) -> list[WeightFit]:
    """The fits of ``weights`` with the codes that the layer's rounding chooses, of which they have
    none yet.

    The released code's branch makes up for the nearest codes of its target: other codes are chosen
    of what it leaves of the weight.
    """
    if not layer.rounding.acts:
        return fits
    fits = [settled(fit, weight) for fit, weight in zip(fits, weights, strict=True)]
    moment = InputMoment()
    if inputs is not None and layer.rounding.reads_inputs:
        moment = moment_of("covariance", inputs, s, layer)
    return [
        replace(fit, coded=round_weight(fit.target, fit.spec, layer.rounding, moment))
        for fit in fits
    ]


def settled(fit: WeightFit, weight: Tensor) -> WeightFit:
    """The fit of a weight (C_out, C) with W - up down as its target."""
    if fit.settled:
        return fit
    return replace(fit, target=weight - fit.up @ fit.down, settled=True)  # (C_out, C)


def moment_of(
    weighting: str, inputs: RecordedInputs, s: Tensor | None, layer: LayerRecipe
) -> InputMoment:
    """Of the inputs divided by s and rotated as the layer's are, all steps alike."""
    moment = input_moment(weighting, inputs.tokens, inputs.energy.mean(0))
    moment = moment if s is None else moment.divided(s)
    return moment.rotated(rotation_of(layer, inputs.energy.shape[-1]))


def passing_variance(tokens: Tensor, layer: LayerRecipe, convention: Convention) -> float:
    """Mean square of the rounding error of (smoothed) tokens (..., C) that a weighted branch
    does not see: 0 where the branch multiplies the rounded tokens."""
    if convention.branch_input != "full" or layer.low_rank.weighting == "none":
        return 0.0
    _, spec = convention.quantizers(layer.bits)
    return float((fake_quantize(tokens, spec) - tokens).square().mean())


def fit_weight(
    weight: Tensor,
    spec: QuantizerSpec,
    low_rank: LowRankSpec,
    moment: InputMoment,
    rounding_variance: float = 0.0,
    power_iterations: int = POWER_ITERATIONS,
) -> WeightFit:
    """Fit the branch of one weight (C_out, C), or none where rank or bits leave none.

    The branch is rounded to half precision, as it is stored, before the target is taken; the
    released code's stays in single precision. The first one, of the weight itself whatever rounding
    does, is SVDQuant's (Li et al., ICLR 2025), who take it in the norm "none".
    """
    c_out, c = weight.shape
    rank = min(low_rank.rank, c_out, c)
    if rank == 0 or spec.bits >= FULL_PRECISION_BITS:
        return WeightFit(weight, weight.new_zeros(c_out, 0), weight.new_zeros(0, c), spec)
    if low_rank.keep == "last":
        *_, fit_of_last = released_fits(weight, spec, low_rank)
        return fit_of_last
    if low_rank.keep == "first":
        up, down = leading_subspace(weight, moment, rank, power_iterations)
        return beside_branch(weight, up, down, spec)
    fit = fit_branch(
        weight,
        lambda target: fake_quantize(target, spec),
        rank,
        low_rank.iterations,
        moment,
        rounding_variance,
        power_iterations,
    )
    if fit.best == 0:
        return WeightFit(weight, weight.new_zeros(c_out, 0), weight.new_zeros(0, c), spec)
    return beside_branch(weight, fit.up, fit.down, spec)


def beside_branch(weight: Tensor, up: Tensor, down: Tensor, spec: QuantizerSpec) -> WeightFit:
    """What is left of a weight (C_out, C) beside a branch in half precision."""
    up, down = up.half().float().contiguous(), down.half().float().contiguous()
    return WeightFit(weight - up @ down, up, down, spec)


def released_fits(
    weight: Tensor, spec: QuantizerSpec, low_rank: LowRankSpec
) -> Iterator[WeightFit]:
    """The released alternation, one fit per iteration: a slow one can be stopped in between."""
    rank = min(low_rank.rank, *weight.shape)
    target = weight
    for _, up, down in released_iterates(
        weight, lambda x: fake_quantize(x, spec), rank, low_rank.iterations
    ):
        yield WeightFit(target, up, down, spec, settled=False)
        target = weight - up @ down  # (C_out, C), what the next iteration rounds


def prefers_weight_start(
    weight: Tensor,
    spec: QuantizerSpec,
    low_rank: LowRankSpec,
    moment: InputMoment,
    rounding_variance: float,
    power_iterations: int,
) -> bool:
    """Whether the start from the best rank of W beats L R = 0 after one alternation."""
    if rounding_variance <= 0 or low_rank.keep == "first":
        return False
    scores = fit_branch(
        weight,
        lambda target: fake_quantize(target, spec),
        min(low_rank.rank, *weight.shape),
        1,
        moment,
        rounding_variance,
        power_iterations,
    ).scores
    return scores[2] < scores[1]


def quick_fit(
    weight: Tensor,
    spec: QuantizerSpec,
    low_rank: LowRankSpec,
    moment: InputMoment,
    weight_start: bool,
    power_iterations: int,
) -> WeightFit:
    """One alternation from a known start, or none where the first branch is kept, not scored: for
    comparing candidates."""
    rank = min(low_rank.rank, *weight.shape)
    target = weight
    if weight_start or low_rank.keep == "first":
        up, down = leading_subspace(weight, moment, rank, power_iterations)
        target = torch.addmm(weight, up, down, alpha=-1)  # (C_out, C)
        if low_rank.keep == "first":
            return WeightFit(target, up, down, spec)
    error = weight - fake_quantize(target, spec)
    up, down = leading_subspace(error, moment, rank, power_iterations)
    return WeightFit(torch.addmm(weight, up, down, alpha=-1), up, down, spec)


def joined(weights: list[Tensor], convention: Convention) -> list[Tensor]:
    """The weights that are quantized together: one per layer, or all of a group as one.

    Raises:
        ValueError: strided groups that would span several input channels.
    """
    size, rows = convention.weight.group_size, sum(len(weight) for weight in weights)
    if convention.weight.granularity is Granularity.PER_STRIDED_GROUP and rows % size:
        raise ValueError(
            f"{convention.name}: expected layers with output channels in multiples of {size}, "
            f"got {rows}"
        )
    return [torch.cat(weights)] if convention.fused_qkv else weights
