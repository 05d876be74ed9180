"""The models that a site offers: full precision, and every bit-width rounded plainly and as DiTAS.

Each becomes one ONNX graph with a second output: how loud the channels of one layer's input are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..calibration import Calibration
from ..checkpoints import Checkpoint
from ..conversion import quantize_transformer
from ..evaluation import outlier_atlas
from ..models import SmoothingGroup
from ..onnx_runtime import Traced, rewritten, watched
from ..search import SearchSpec, plain_recipe, search
from ..specs import BitWidths, Recipe

METHODS = {"plain": "plain rounding", "ditas": "DiTAS"}
FULL = "full"
EIGHT = 8


@dataclass(frozen=True)
class Offer:
    """One model of a site.

    key     "W4A8-ditas"; "full" of the one that is not quantized
    recipe  None of that one
    """

    key: str
    bits: str
    method: str
    recipe: Recipe | None


def offers_of(
    checkpoint: Checkpoint,
    calibration: Calibration,
    bits: Sequence[BitWidths],
    convention: str,
    grid: tuple[float, ...],
) -> Iterator[Offer]:
    """Full precision first, then both methods at every bit-width; a search each, over the grid.

    The modulation's weights are in 8 bits beside weights of 8, else in 4.
    """
    yield Offer(FULL, "", "", None)
    for each in bits:
        modulation = "w8" if each.weight_bits >= EIGHT else "w4"
        plain = plain_recipe(checkpoint, each, convention)
        yield Offer(f"{each}-plain", str(each), "plain", replace(plain, modulation=modulation))
        spec = SearchSpec(each, convention, "ditas", grid=grid)
        ours = search(checkpoint, calibration, spec)
        yield Offer(f"{each}-ditas", str(each), "ditas", replace(ours, modulation=modulation))


def loud_group(
    checkpoint: Checkpoint, calibration: Calibration, offers: Sequence[Offer]
) -> SmoothingGroup:
    """The group whose outliers smoothing calms most, as DiTAS does it at the first bits."""
    recipes = [offer.recipe for offer in offers if offer.recipe and offer.method == "ditas"]
    alphas = {name: layer.alpha for name, layer in recipes[0].layers.items()} if recipes else {}
    ranking = outlier_atlas(checkpoint, calibration).ranking(alphas)
    chosen = max(ranking, key=lambda rank: rank.strength - rank.smoothed)
    return next(group for group in checkpoint.groups if group.name == chosen.layer)


def transformer_of(checkpoint: Checkpoint, calibration: Calibration, offer: Offer) -> Any:
    """The transformer of an offer, a module."""
    if offer.recipe is None:
        return checkpoint.transformer
    needed = calibration if offer.recipe.needs_calibration else None
    return quantize_transformer(checkpoint, offer.recipe, needed)


def graph_of(graph: Traced, transformer: Any, group: SmoothingGroup) -> tuple[Any, Any]:
    """What ``rewritten`` gives, and the model with the output of channel maxima."""
    found = rewritten(graph, transformer, half=True)
    return found, watched(found, transformer, group.layers[0])
