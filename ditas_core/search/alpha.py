"""Layer-wise grid search of the smoothing strength, from one Calibration.

For every smoothing group: the loss of each alpha (and of the identity s = 1)

    loss(alpha) = sum over steps t of mean |Y_t - Q_a(X_t / s) Q_w(W s)^T|^2

on the calibration's stored tokens. q, k and v are searched as one. With a
low-rank branch its best fit is part of the candidate, so that alpha is chosen
for the layer that will really run. Nothing is sampled again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from ..calibration import Calibration
from ..checkpoints import Checkpoint, SmoothingGroup, get_linear
from ..smoothing import ALPHA_GRID
from ..specs import (
    METHODS,
    RELEASED_BRANCH,
    BitWidths,
    LayerRecipe,
    LowRankSpec,
    Recipe,
    SpecError,
    check_choice,
    default_rank,
    get_convention,
)
from .loss import GroupLoss

PRODUCTS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class SearchSpec:
    """What is searched.

    method  "plain": round, nothing else; "smoothing": one fixed alpha of 0.5;
            "search": the grid; "ditas": the grid and the low-rank branch
    low_rank  the branch of "ditas"; None = the released code's own in its convention,
              otherwise ``default_rank`` of the model's width
    products  dtype of the loss's matrix products; bfloat16 is for large models on
              processors that have it
    """

    bits: BitWidths
    convention: str = "integer"
    method: str = "ditas"
    low_rank: LowRankSpec | None = None
    grid: tuple[float, ...] = ALPHA_GRID
    products: str = "float32"

    def __post_init__(self) -> None:
        get_convention(self.convention)
        check_choice("method", self.method, METHODS)
        check_choice("products", self.products, PRODUCTS)
        if not self.grid or not all(0.0 <= alpha <= 1.0 for alpha in self.grid):
            raise SpecError(f"grid: expected alphas from 0 to 1, got {self.grid}")

    def branch(self, width: int) -> LowRankSpec:
        """The low-rank branch that the method really has on a model of this width."""
        if self.method != "ditas" or self.bits.weight >= 16:
            return LowRankSpec(rank=0)
        if self.low_rank is not None:
            return self.low_rank
        if self.convention.startswith("released"):
            return RELEASED_BRANCH
        return LowRankSpec(rank=default_rank(width))


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
    def best_on_grid(self) -> float:
        """The first alpha with the smallest loss: the choice without an identity candidate."""
        return self.grid[min(range(len(self.grid)), key=self.losses.__getitem__)]

    @property
    def gain_db(self) -> float:
        """How far the best candidate lies below the identity."""
        ratio = torch.tensor(self.identity / max(self.best, 1e-30))
        return float(10 * torch.log10(ratio.clamp(min=1e-30)))


SearchEvent = CandidateDone | LayerDone | Recipe


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
        PRODUCTS[spec.products],
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
    finished: Mapping[str, LayerDone] | None = None,
) -> Iterator[SearchEvent]:
    """Search every group in execution order; the last event is the Recipe.

    Closing the generator stops within one candidate. The calibration must be the
    checkpoint's. Groups that are ``finished`` (from an interrupted run of the same
    search, see ``SearchJournal``) are repeated as events and not searched again.
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
        known = (finished or {}).get(group.name)
        events: Iterator[CandidateDone | LayerDone] = (
            iter([known])
            if known is not None
            else search_group(checkpoint, group, calibration, spec, index, len(groups))
        )
        for event in events:
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
