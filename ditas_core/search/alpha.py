"""Layer-wise grid search of the smoothing strength, from one Calibration.

For every smoothing group: the loss of each alpha (and of the identity s = 1)

    loss(alpha) = sum over steps t of mean |Y_t - Q_a(X_t / s) Q_w(W s)^T|^2

on the calibration's stored tokens, or with other weights (``objective``). q, k and v are
searched as one. With a low-rank branch a quick fit of it is part of the candidate; the
identity and the best alphas are then fitted as conversion fits them, and the choice is
made among these, for the layer that will really run. Nothing is sampled again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from ..calibration import Calibration
from ..checkpoints import Checkpoint
from ..events import result_of
from ..methods import WeightFit, coded_fits, joined, released_fits
from ..models import SmoothingGroup, get_linear
from ..smoothing import ALPHA_GRID
from ..specs import (
    FULL_PRECISION_BITS,
    METHODS,
    NEAREST,
    OBJECTIVES,
    BitWidths,
    LayerRecipe,
    LowRankSpec,
    Method,
    SpecError,
    check_choice,
    check_number,
    get_convention,
)
from .loss import PRODUCTS, group_loss

FIXED_ALPHA = 0.5
"""The one alpha of methods that smooth without a grid, unless the grid is one other."""
BUDGETS = (1, 16)
"""Bits per weight that can be asked for."""
REFINED = 2
"""Best alphas that are looked at again, beside the identity, where fits were quick."""


@dataclass(frozen=True)
class SearchSpec:
    """What is searched.

    method  a name of ``METHODS``, whose parts every layer has
    low_rank  the branch of methods that have one; None = the convention's for the model's width
    products  dtype of the loss's matrix products; bfloat16 is for large models on
              processors that have it
    objective  what is minimised, a name of ``OBJECTIVES``: output as DiTAS has it; the others need
              a calibration with influence
    budget  bits per weight as stored, of methods that choose each layer's bits; None: as many as
            DiTAS takes at these bits
    """

    bits: BitWidths
    convention: str = "integer"
    method: str = "ditas"
    low_rank: LowRankSpec | None = None
    grid: tuple[float, ...] = ALPHA_GRID
    products: str = "float32"
    objective: str = "output"
    budget: float | None = None

    def __post_init__(self) -> None:
        get_convention(self.convention).check_bits(self.bits)
        check_choice("method", self.method, METHODS)
        get_convention(self.convention).check_rotation(self.parts.rotation)
        check_choice("products", self.products, PRODUCTS)
        check_choice("objective", self.objective, OBJECTIVES)
        if not self.grid or not all(0.0 <= alpha <= 1.0 for alpha in self.grid):
            raise SpecError(f"grid: expected alphas from 0 to 1, got {self.grid}")
        if self.budget is not None:
            check_number("budget", self.budget, *BUDGETS)
            if not self.parts.allocates:
                raise SpecError(
                    f"budget: expected a method that chooses each layer's bits, got {self.method}"
                )
        if self.parts.allocates and self.bits.weight_format is not None:
            raise SpecError(
                f"bits: expected a whole number of weight bits for {self.method}, got {self.bits}"
            )

    @property
    def parts(self) -> Method:
        return METHODS[self.method]

    @property
    def candidates(self) -> int:
        """What a group's search tries: the alphas and the identity; 0 where it chooses nothing."""
        return {"none": 0, "fixed": 2, "grid": len(self.grid) + 1}[self.parts.smoothing]

    @property
    def fixed_alpha(self) -> float:
        """Of a method that smooths without a grid."""
        return self.grid[0] if len(self.grid) == 1 else FIXED_ALPHA

    @property
    def needs_calibration(self) -> bool:
        """Whether a recipe cannot be had without."""
        parts = self.parts
        chosen = parts.smoothing != "none" or parts.branch != "none" or self.chooses_bits
        return chosen or parts.rounding.reads_inputs

    @property
    def chooses_bits(self) -> bool:
        """Whether each layer gets bits of its own, within ``budget``."""
        return self.parts.allocates and self.bits.weight_bits < FULL_PRECISION_BITS

    @property
    def reads_influence(self) -> bool:
        """Whether what it chooses depends on how far errors reach."""
        return self.objective != "output" and (self.candidates > 0 or self.chooses_bits)

    def branch(self, width: int) -> LowRankSpec:
        """The low-rank branch that the method really has on a model of this width."""
        if self.parts.branch == "none" or self.bits.weight_bits >= FULL_PRECISION_BITS:
            return LowRankSpec(rank=0)
        branch = self.low_rank or get_convention(self.convention).branch(width)
        return branch if self.parts.branch == "own" else replace(branch, keep="first")

    def layer(self, width: int, alpha: float | None = None) -> LayerRecipe:
        """A layer of the method with this alpha on a model of this width."""
        parts, rounding = self.parts, self.parts.rounding
        if self.bits.weight_bits >= FULL_PRECISION_BITS:
            rounding = NEAREST
        of_inputs = parts.rotation, parts.aggregation
        return LayerRecipe(self.bits, alpha, self.branch(width), rounding, *of_inputs)

    def judged(self, width: int, alpha: float | None = None) -> LayerRecipe:
        """``layer`` as the search compares it: without compensation of errors, which takes most
        of the time, where each layer's bits are still to be chosen."""
        found = self.layer(width, alpha)
        return replace(found, rounding=found.rounding.uncompensated) if self.chooses_bits else found


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
    energy    sum over steps of mean |Y_t|^2, weighed as the errors are: the curve's natural unit
    refined   where candidates' branches are fitted quickly: the losses of the identity
              (alpha None) and of the best alphas with the branch that conversion fits;
              the choice is made among these
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
    refined: tuple[tuple[float | None, float], ...] = ()

    @property
    def before(self) -> float:
        """The identity's loss, as the choice saw it."""
        return dict(self.refined).get(None, self.identity)

    @property
    def best(self) -> float:
        """The loss of the choice."""
        quick = ((None, self.identity), *zip(self.grid, self.losses, strict=True))
        return dict(self.refined or quick)[self.alpha]

    @property
    def best_on_grid(self) -> float:
        """The first alpha with the smallest loss: the choice without an identity candidate."""
        return self.grid[min(range(len(self.grid)), key=self.losses.__getitem__)]

    @property
    def gain_db(self) -> float:
        """How far the choice lies below the identity; above it (< 0) only where it was given."""
        ratio = torch.tensor(self.before / max(self.best, 1e-30))
        return float(10 * torch.log10(ratio.clamp(min=1e-30)))


@dataclass(frozen=True)
class Fitting:
    """``done`` of ``of`` slow fits of one group are finished."""

    group: str
    done: int
    of: int


def search_group(
    checkpoint: Checkpoint, group: SmoothingGroup, calibration: Calibration, spec: SearchSpec
) -> LayerDone:
    """What ``iterate_group_search`` comes to."""
    return result_of(iterate_group_search(checkpoint, group, calibration, spec), LayerDone)


@torch.no_grad()
def iterate_group_search(
    checkpoint: Checkpoint,
    group: SmoothingGroup,
    calibration: Calibration,
    spec: SearchSpec,
    index: int = 0,
    total: int = 1,
) -> Iterator[CandidateDone | Fitting | LayerDone]:
    """The whole curve of one group: an event per candidate and slow fit, then the layer's."""
    convention, layer = get_convention(spec.convention), spec.judged(checkpoint.width)
    branch = layer.low_rank
    fits: list[WeightFit] | None = None
    if branch.keep == "last" and convention.smoothing_commutes and branch.rank:
        fits = []
        weights = [get_linear(checkpoint.transformer, path).weight for path in group.layers]
        whole = joined([weight.float() for weight in weights], convention)
        rounds = len(whole) * branch.iterations
        for weight in whole:
            latest: list[WeightFit] = []
            steps = released_fits(weight, convention.quantizers(spec.bits)[0], branch)
            for done, fit in enumerate(steps, len(fits) * branch.iterations + 1):
                latest[:] = [fit]
                yield Fitting(group.name, done, rounds)
            fits += latest
        inputs = calibration.groups[group.name].to(whole[0].device)
        fits = coded_fits(fits, whole, inputs, layer)
    loss = group_loss(
        checkpoint, group, calibration, layer, convention, spec.products, fits, spec.objective
    )
    identity = loss(None)
    yield CandidateDone(group.name, None, identity)
    fixed = spec.parts.smoothing == "fixed"
    grid = (spec.fixed_alpha,) if fixed else spec.grid
    losses = []
    for alpha in grid:
        losses.append(loss(alpha))
        yield CandidateDone(group.name, alpha, losses[-1])
    order = sorted(range(len(grid)), key=losses.__getitem__)
    chosen = grid[order[0]] if fixed or losses[order[0]] < identity else None
    refined: list[tuple[float | None, float]] = []
    if loss.approximates:
        for candidate in (None, *(grid[i] for i in order[:REFINED])):
            refined.append((candidate, loss.as_converted(candidate)))
            yield Fitting(group.name, len(refined), 1 + min(REFINED, len(grid)))
        chosen = grid[0] if fixed else min(refined, key=lambda pair: pair[1])[0]
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
        tuple(refined),
    )
