"""The output error of one smoothing group, for any smoothing strength.

With X_s = X / s, its rounded X^ and the weight A that stands for W s,

    E = X^ A^T - X_s (W s)^T = D A^T + X_s V^T,    D = X^ - X_s,  V = A - W s

    loss(alpha) = sum over steps t of mean over tokens and outputs of E_t^2

or, with another objective, a weighted sum (``objective``).

What candidates share is computed once: where rounding commutes with smoothing
(one input channel per scale) the weight is rounded before the loop and X_s V^T is
the same for every s; otherwise the reference X W^T is. Where the layer rotates its inputs, X_s
and W s stand for both after it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..calibration import Calibration, GroupStatistics
from ..checkpoints import Checkpoint
from ..lowrank import input_moment
from ..methods import (
    WeightFit,
    aggregated,
    fit_weight,
    fit_weights,
    joined,
    passing_variance,
    prefers_weight_start,
    quick_fit,
    rotation_of,
)
from ..models import SmoothingGroup, get_linear
from ..quantizer import fake_quantize, fake_quantize_in_range
from ..smoothing import rotate, smoothing_factor, weight_absmax
from ..specs import (
    FULL_PRECISION_BITS,
    Convention,
    LayerRecipe,
    LowRankSpec,
)
from .objective import influence_of, weights_of

SEARCH_ITERATIONS = 1
"""Power iterations of a candidate's branch: it is compared, not kept."""
PRODUCTS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class RoundedWeight(NamedTuple):
    """What is computed with in the place of W s, (C_out, C) each; A and V of the module's loss.

    weight  A, which the rounded activations are multiplied by: the dequantized weight Q, or
            Q + L R where the convention's branch sees rounded activations, too
    error   V = Q + L R - W s
    """

    weight: Tensor
    error: Tensor


class GroupLoss:
    """Call with alpha (None = identity) -> loss on the stored tokens.

    weights     of the layers that share the input, each (C_out, C)
    layer       whose bits and parts they have, whatever its alpha; candidates are compared with
                the nearest codes
    products    dtype of the matrix products: float32 or bfloat16
    power_iterations  of a candidate's branch, see ``leading_subspace``
    fits        where rounding commutes with smoothing: of the weights, if known already
    influence   S_t of the objective influence, (T,); None: errors of all steps are alike
    """

    def __init__(
        self,
        weights: list[Tensor],
        statistics: GroupStatistics,
        layer: LayerRecipe,
        convention: Convention,
        products: torch.dtype = torch.float32,
        power_iterations: int = SEARCH_ITERATIONS,
        fits: list[WeightFit] | None = None,
        influence: Tensor | None = None,
    ) -> None:
        self.convention = convention
        self.statistics = statistics
        self.products = products
        self.power_iterations = power_iterations
        self.weight_starts: list[bool] | None = None
        self.thorough = False
        self.weight_spec, self.activation_spec = convention.quantizers(layer.bits)
        self.rounds_activations = self.activation_spec.bits < FULL_PRECISION_BITS
        self.layer = layer
        self.weights = joined([w.float() for w in weights], convention)
        self.weight = stacked(self.weights)  # (C_out, C)
        self.steps, self.kept, channels = statistics.tokens.shape
        self.tokens = statistics.tokens.float().reshape(-1, channels)  # (M, C)
        self.rotation = rotation_of(layer, channels)
        self.moment = input_moment("none")
        if layer.low_rank.rank:
            self.moment = input_moment(
                layer.low_rank.weighting, self.tokens, statistics.energy.float().mean(0)
            )
        reference = self.multiply(self.tokens, self.weight)  # (M, C_out)
        self.step_weights: Tensor | None = None  # (T,)
        if influence is not None:
            self.step_weights = weights_of(influence, self.mean_squares(reference))
        self.energy = self.mean_square(reference)
        self.frozen: RoundedWeight | None = None
        self.fits: list[WeightFit] | None = None
        self.known = reference  # (M, C_out)
        source = self.weights
        if convention.smoothing_commutes:
            if fits is None:
                fits = fit_weights(self.weights, statistics, self.layer, convention)
            self.fits = fits
            self.frozen = self.rounded_weight(fits, self.weights)
            self.known = self.multiply(self.tokens, self.frozen.error)  # (M, C_out)
            if convention.factor_from == "quantized":
                source = [fit.rounded for fit in fits]
        self.w_absmax = weight_absmax(source)  # (C,)
        self.act_absmax = aggregated(layer, statistics.absmax, self.w_absmax)  # (C,)

    @property
    def approximates(self) -> bool:
        """Whether candidates are fitted quickly, so that the best need a closer look."""
        rounds_weights = self.weight_spec.bits < FULL_PRECISION_BITS
        slow = self.layer.low_rank.rank > 0 or self.layer.rounding.acts
        return self.frozen is None and slow and rounds_weights

    def __call__(self, alpha: float | None) -> float:
        s = smoothing_factor(self.act_absmax, self.w_absmax, alpha)  # (C,)
        smoothed = self.smoothed(s)  # (M, C)
        rounded = self.round_activations(smoothed, s)  # (M, C)
        if self.frozen is not None:
            if not self.rounds_activations:
                return self.mean_square(self.known)
            moved = (rounded - smoothed).mul_(s)  # (M, C), in the channels' own units
            return self.of_frozen(moved, self.frozen)
        scaled = self.scaled(s)
        if self.thorough:
            fits = fit_weights(scaled, self.statistics, self.layer, self.convention, s)
        else:
            fits = self.quick_fits(smoothed, s, scaled)
        return self.of_smoothed(smoothed, rounded, fits, scaled)

    def smoothed(self, s: Tensor) -> Tensor:
        """The tokens as the layer rounds them: divided by s, and rotated, (M, C)."""
        return rotate(self.tokens / s, self.rotation)

    def scaled(self, s: Tensor) -> list[Tensor]:
        """The weights that belong to ``smoothed``, each (C_out, C)."""
        return [rotate(weight * s, self.rotation) for weight in self.weights]

    def as_converted(self, alpha: float | None) -> float:
        """The loss with the weights fitted as conversion fits them, not quickly.

        That of a call where calls do not fit quickly.
        """
        self.thorough = self.approximates
        try:
            return self(alpha)
        finally:
            self.thorough = False

    def quick_fits(self, smoothed: Tensor, s: Tensor, scaled: list[Tensor]) -> list[WeightFit]:
        """Each smoothed weight with a branch of at most one alternation, or without.

        Which of the two starts is better is found out for the first candidate only.
        """
        spec, branch = self.weight_spec, self.layer.low_rank
        if branch.rank == 0 or spec.bits >= FULL_PRECISION_BITS:
            return [fit_weight(w, spec, LowRankSpec(), self.moment) for w in scaled]
        moment, iterations = self.moment.divided(s), self.power_iterations
        moment = moment.rotated(self.rotation)
        if self.weight_starts is None:
            variance = passing_variance(smoothed, self.layer, self.convention)
            self.weight_starts = [
                prefers_weight_start(w, spec, branch, moment, variance, iterations) for w in scaled
            ]
        return [
            quick_fit(w, spec, branch, moment, start, iterations)
            for w, start in zip(scaled, self.weight_starts, strict=True)
        ]

    def settle(self) -> None:
        """Choose the branch's start at the identity, as the search does, before other calls."""
        if self.frozen is None and self.weight_starts is None:
            identity = torch.ones_like(self.act_absmax)
            self.quick_fits(self.smoothed(identity), identity, self.scaled(identity))

    def round_activations(self, x: Tensor, s: Tensor) -> Tensor:
        """Fake-quantize tokens (M, C), see ``smoothed``."""
        if not self.activation_spec.tensor_scale:
            return fake_quantize(x, self.activation_spec)
        by_step = x.reshape(self.steps, self.kept, -1)  # (T, K, C)
        lo, hi = self.activation_range(x, s)
        return fake_quantize_in_range(by_step, lo, hi, self.activation_spec).reshape(x.shape)

    def activation_range(self, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Minimum and maximum of each step's inputs as the layer rounds them, (T, 1, 1) both.

        Exact where they are only divided; of rotated ones, which the extremes of single channels
        say nothing about, those of the tokens x (M, C) that were kept: a little narrower.
        """
        if self.rotation is not None:
            by_step = x.reshape(self.steps, -1)  # (T, K C)
            return by_step.amin(1)[:, None, None], by_step.amax(1)[:, None, None]
        lo = (self.statistics.low / s).amin((1, 2))[:, None, None]
        hi = (self.statistics.high / s).amax((1, 2))[:, None, None]
        return lo, hi

    def rounded_weight(self, fits: list[WeightFit], weights: list[Tensor]) -> RoundedWeight:
        """A and V of the fits of ``weights``, each (C_out, C), one above the other."""
        errors = [fit.error(weight) for fit, weight in zip(fits, weights, strict=True)]
        on_full = self.convention.branch_input == "full"
        parts = [
            fit.rounded if on_full or fit.low is None else fit.rounded + fit.low for fit in fits
        ]
        return RoundedWeight(stacked(parts), stacked(errors))

    def of_frozen(self, moved: Tensor, frozen: RoundedWeight) -> float:
        """Loss where A and X V^T are the same for every s; D in the channels' own units."""
        if self.products == torch.float32:
            return self.mean_square(torch.addmm(self.known, moved, frozen.weight.T))
        return self.mean_square(self.multiply(moved, frozen.weight).add_(self.known))

    def of_smoothed(
        self,
        smoothed: Tensor,
        rounded: Tensor,
        fits: list[WeightFit],
        scaled: list[Tensor],
    ) -> float:
        """Loss where the rounded weight depends on s."""
        if self.products == torch.float32 and (self.rounds_activations or not has_branch(fits)):
            return self.mean_square(self.error_in_one(smoothed, rounded, fits))
        frozen = self.rounded_weight(fits, scaled)
        moved = rounded - smoothed  # (M, C)
        error = self.multiply(smoothed, frozen.error)  # (M, C_out)
        if self.rounds_activations:
            error.add_(self.multiply(moved, frozen.weight))
        return self.mean_square(error)

    def error_in_one(self, smoothed: Tensor, rounded: Tensor, fits: list[WeightFit]) -> Tensor:
        """E = X^ Q^T + X_b (L R)^T - Y, (M, C_out): one wide product instead of the two of D and V,
        and X_b the input that the convention's branch sees."""
        weight = stacked([fit.rounded for fit in fits])  # (C_out, C)
        error = torch.addmm(self.known, rounded, weight.T, beta=-1)  # (M, C_out)
        source = smoothed if self.convention.branch_input == "full" else rounded
        first = 0
        for fit in fits:
            rows = slice(first, first + len(fit.up))
            if fit.up.shape[1]:
                error[:, rows].addmm_(source @ fit.down.T, fit.up.T)
            first = rows.stop
        return error

    def multiply(self, x: Tensor, weight: Tensor) -> Tensor:
        """x W^T in the products' dtype, (M, C_out) float32."""
        return (x.to(self.products) @ weight.to(self.products).T).float()

    def mean_square(self, error: Tensor) -> float:
        """Sum over steps of the mean square of (M, C_out), times the step's weight."""
        if self.step_weights is not None:
            return float(self.mean_squares(error) @ self.step_weights)
        total = torch.linalg.vector_norm(error.reshape(self.steps, -1), dim=1).double().square()
        return float(total.sum()) / (self.kept * len(self.weight))

    def mean_squares(self, error: Tensor) -> Tensor:
        """Of each step of (M, C_out), (T,) float64."""
        total = torch.linalg.vector_norm(error.reshape(self.steps, -1), dim=1).double().square()
        return total / (self.kept * len(self.weight))


def group_loss(
    checkpoint: Checkpoint,
    group: SmoothingGroup,
    calibration: Calibration,
    layer: LayerRecipe,
    convention: Convention,
    products: str = "float32",
    fits: list[WeightFit] | None = None,
    objective: str = "output",
) -> GroupLoss:
    """The loss of a checkpoint's group on what the calibration kept of its input, computed where
    the weights lie; with the layer's bits, branch and rounding, whatever its alpha.

    ``products`` names a dtype of PRODUCTS; ``fits`` as in ``GroupLoss``.
    """
    weights = [get_linear(checkpoint.transformer, path).weight for path in group.layers]
    return GroupLoss(
        weights,
        calibration.groups[group.name].to(weights[0].device),
        layer,
        convention,
        PRODUCTS[products],
        fits=fits,
        influence=influence_of(objective, calibration),
    )


def has_branch(fits: list[WeightFit]) -> bool:
    return any(fit.up.shape[1] for fit in fits)


def stacked(parts: list[Tensor]) -> Tensor:
    """Rows one above the other, without a copy where there is one part."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)
