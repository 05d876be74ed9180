"""Layer-wise grid search of the smoothing strength, from one Calibration.

For every smoothing group: the loss of each alpha (and of the identity s = 1)

    loss(alpha) = sum over steps t of mean |Y_t - Q_a(X_t / s) Q_w(W s)^T|^2

on the calibration's stored tokens. q, k and v are searched as one. With a
low-rank branch its best fit is part of the candidate, so that alpha is chosen
for the layer that will really run. Nothing is sampled again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..calibration import Calibration, GroupStatistics
from ..checkpoints import Checkpoint, SmoothingGroup, get_linear
from ..lowrank import fit_low_rank, second_moment_root
from ..quantizer import fake_quantize, fake_quantize_in_range
from ..smoothing import ALPHA_GRID, smoothing_factor, weight_absmax
from ..specs import (
    METHODS,
    BitWidths,
    Convention,
    Granularity,
    LayerRecipe,
    LowRankSpec,
    Recipe,
    SpecError,
    check_choice,
    default_rank,
    get_convention,
)


@dataclass(frozen=True)
class SearchSpec:
    """What is searched.

    method  "plain": round, nothing else; "smoothing": one fixed alpha of 0.5;
            "search": the grid; "ditas": the grid and the low-rank branch
    low_rank  the branch of "ditas"; None = ``default_rank`` of the model's width
    """

    bits: BitWidths
    convention: str = "integer"
    method: str = "ditas"
    low_rank: LowRankSpec | None = None
    grid: tuple[float, ...] = ALPHA_GRID

    def __post_init__(self) -> None:
        get_convention(self.convention)
        check_choice("method", self.method, METHODS)
        if not self.grid or not all(0.0 <= alpha <= 1.0 for alpha in self.grid):
            raise SpecError(f"grid: expected alphas from 0 to 1, got {self.grid}")

    def branch(self, width: int) -> LowRankSpec:
        """The low-rank branch that the method really has on a model of this width."""
        if self.method != "ditas" or self.bits.weight >= 16:
            return LowRankSpec(rank=0)
        return self.low_rank or LowRankSpec(rank=default_rank(width))


@dataclass(frozen=True)
class CandidateDone:
    """One alpha (None = identity) of one group has been evaluated."""

    group: str
    alpha: float | None
    loss: float


@dataclass(frozen=True)
class LayerDone:
    """One group is finished: the whole curve, relative to the output's energy.

    losses    one per grid alpha; ``identity`` is the loss at s = 1
    energy    sum over steps of mean |Y_t|^2, the curve's natural unit
    """

    group: str
    title: str
    index: int
    total: int
    grid: tuple[float, ...]
    losses: tuple[float, ...]
    identity: float
    energy: float
    alpha: float | None

    @property
    def best(self) -> float:
        return min(self.identity, *self.losses)

    @property
    def gain_db(self) -> float:
        """How far the best candidate lies below the identity."""
        ratio = torch.tensor(self.identity / max(self.best, 1e-30))
        return float(10 * torch.log10(ratio.clamp(min=1e-30)))


SearchEvent = CandidateDone | LayerDone | Recipe


class GroupLoss:
    """Output error of one smoothing group for any alpha, on its stored tokens."""

    def __init__(
        self,
        weights: list[Tensor],
        statistics: GroupStatistics,
        bits: BitWidths,
        convention: Convention,
        low_rank: LowRankSpec,
    ) -> None:
        self.weights = weights
        self.statistics = statistics
        self.convention = convention
        self.low_rank = replace(low_rank, iterations=1)
        self.weight_spec, self.activation_spec = convention.quantizers(bits)
        self.tokens = statistics.tokens.float()  # (T, K, C)
        self.w_absmax = weight_absmax(weights)  # (C,)
        self.act_absmax = statistics.aggregated_absmax()  # (C,)
        self.reference = [F.linear(self.tokens, w) for w in weights]  # each (T, K, C_out)
        self.root: Tensor | None = None
        if low_rank.rank and low_rank.weighting == "covariance":
            self.root = second_moment_root(self.tokens, statistics.energy.mean(0))
        elif low_rank.rank and low_rank.weighting == "energy":
            self.root = statistics.energy.mean(0).clamp(min=1e-12).sqrt()

    @property
    def energy(self) -> float:
        return sum(float(y.square().mean((1, 2)).sum()) for y in self.reference)

    def round_activations(self, x: Tensor, s: Tensor) -> Tensor:
        """Fake-quantize tokens; a per-tensor range is the exact one of each step."""
        if self.activation_spec.granularity is not Granularity.PER_TENSOR:
            return fake_quantize(x, self.activation_spec)
        lo = (self.statistics.low / s).amin((1, 2))[:, None, None]  # (T, 1, 1)
        hi = (self.statistics.high / s).amax((1, 2))[:, None, None]  # (T, 1, 1)
        return fake_quantize_in_range(x, lo, hi, self.activation_spec)

    def __call__(self, alpha: float | None) -> float:
        s = smoothing_factor(self.act_absmax, self.w_absmax, alpha)  # (C,)
        smoothed = self.tokens / s  # (T, K, C)
        rounded = self.round_activations(smoothed, s)  # (T, K, C)
        variance = 0.0
        on_full = self.convention.branch_input == "full"
        if self.low_rank.rank and on_full:
            variance = float((rounded - smoothed).square().mean())
        loss = 0.0
        for weight, reference in zip(self.weights, self.reference, strict=True):
            scaled = weight * s  # (C_out, C)
            if self.low_rank.rank:
                output = self.with_branch(scaled, s, smoothed, rounded, variance, on_full)
            else:
                output = F.linear(rounded, fake_quantize(scaled, self.weight_spec))
            loss += float((output - reference).square().mean((1, 2)).sum())
        return loss

    def with_branch(
        self,
        weight: Tensor,
        s: Tensor,
        smoothed: Tensor,
        rounded: Tensor,
        variance: float,
        on_full: bool,
    ) -> Tensor:
        """Output of the layer with its best low-rank branch, (T, K, C_out)."""
        root = self.root
        if root is not None:
            root = root / s if root.ndim == 1 else root / s[:, None]
        fit = fit_low_rank(
            weight,
            lambda w: fake_quantize(w, self.weight_spec),
            min(self.low_rank.rank, *weight.shape),
            self.low_rank.iterations,
            root,
            variance,
            exact=False,
        )
        low = fit.up @ fit.down  # (C_out, C)
        quantized = fake_quantize(weight - low, self.weight_spec)
        return F.linear(rounded, quantized) + F.linear(smoothed if on_full else rounded, low)


@torch.no_grad()
def search_group(
    checkpoint: Checkpoint,
    group: SmoothingGroup,
    calibration: Calibration,
    spec: SearchSpec,
    index: int = 0,
    total: int = 1,
) -> Iterator[CandidateDone | LayerDone]:
    """The whole curve of one group: an event per candidate, then the layer's."""
    weights = [get_linear(checkpoint.transformer, path).weight for path in group.layers]
    loss = GroupLoss(
        weights,
        calibration.groups[group.name],
        spec.bits,
        get_convention(spec.convention),
        spec.branch(checkpoint.width),
    )
    identity = loss(None)
    yield CandidateDone(group.name, None, identity)
    grid = (0.5,) if spec.method == "smoothing" else spec.grid
    losses = []
    for alpha in grid:
        losses.append(loss(alpha))
        yield CandidateDone(group.name, alpha, losses[-1])
    best = min(range(len(grid)), key=losses.__getitem__)
    chosen = grid[best] if spec.method == "smoothing" or losses[best] < identity else None
    yield LayerDone(
        group.name,
        group.title,
        index,
        total,
        grid,
        tuple(losses),
        identity,
        loss.energy,
        chosen,
    )


def plain_recipe(checkpoint: Checkpoint, bits: BitWidths, convention: str) -> Recipe:
    """Plain rounding: no smoothing, no branch."""
    layers = {group.name: LayerRecipe(bits) for group in checkpoint.groups}
    return Recipe("plain", convention, checkpoint.fingerprint, layers)


def search(
    checkpoint: Checkpoint,
    calibration: Calibration,
    spec: SearchSpec,
    calibration_file: str = "",
) -> Iterator[SearchEvent]:
    """Search every group in execution order; the last event is the Recipe.

    Closing the generator stops within one candidate. The calibration must be the checkpoint's.
    """
    if calibration.checkpoint != checkpoint.fingerprint:
        raise SpecError(
            f"calibration: made for checkpoint {calibration.checkpoint[:12]}, "
            f"{checkpoint.name} is {checkpoint.fingerprint[:12]}"
        )
    if spec.method == "plain":
        yield plain_recipe(checkpoint, spec.bits, spec.convention)
        return
    layers: dict[str, LayerRecipe] = {}
    groups = checkpoint.groups
    for index, group in enumerate(groups):
        for event in search_group(checkpoint, group, calibration, spec, index, len(groups)):
            yield event
            if isinstance(event, LayerDone):
                layers[group.name] = LayerRecipe(
                    spec.bits, event.alpha, spec.branch(checkpoint.width)
                )
    yield Recipe(
        spec.method,
        spec.convention,
        checkpoint.fingerprint,
        layers,
        calibration.sha256,
        calibration_file,
    )
