"""Recipes of whole models: every group searched in turn, or nothing to search.

A method that chooses each layer's bits does so afterwards, see ``layer_bits``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace

from ..calibration import Calibration, check_channels, check_together
from ..checkpoints import Checkpoint
from ..events import result_of
from ..specs import BitWidths, Recipe, SpecError
from .alpha import CandidateDone, Fitting, LayerDone, SearchSpec, iterate_group_search
from .layer_bits import BitsProgress, iterate_layer_bits
from .objective import check_objective

Searching = CandidateDone | Fitting | LayerDone | BitsProgress
SearchEvent = Searching | Recipe


def plain_recipe(checkpoint: Checkpoint, bits: BitWidths, convention: str) -> Recipe:
    """Plain rounding: no smoothing, no branch."""
    return unsearched_recipe(checkpoint, SearchSpec(bits, convention, "plain"))


def unsearched_recipe(
    checkpoint: Checkpoint, spec: SearchSpec, calibration: Calibration | None = None
) -> Recipe:
    """Of a method that smooths nothing, so that there is nothing to search but, for one that
    chooses them, the bits of layers: they are the spec's everywhere.

    Raises:
        SpecError: the method needs a calibration and there is none.
    """
    if calibration is None and spec.needs_calibration:
        raise SpecError(f"calibration: expected one for the method {spec.method}, got none")
    layer = spec.layer(checkpoint.width)
    layers = {group.name: layer for group in checkpoint.groups}
    recipe = Recipe(spec.method, spec.convention, checkpoint.fingerprint, layers)
    if calibration is None or not recipe.needs_calibration:
        return recipe
    return replace(recipe, calibration=calibration.sha256)


def partial_recipe(
    checkpoint: Checkpoint,
    calibration: Calibration,
    spec: SearchSpec,
    layers: Sequence[LayerDone],
    name: str = "partial",
) -> Recipe:
    """The recipe of a search as far as it has come: ``layers`` in any order.

    Groups that are found have their alpha, all others the identity; bits and branch are
    the spec's everywhere. With all groups it is the recipe of the whole search, but for the bits of
    a method that chooses them.

    Raises:
        SpecError: a layer that the checkpoint does not have.
    """
    alphas = {layer.group: layer.alpha for layer in layers}
    names = [group.name for group in checkpoint.groups]
    unknown = sorted(set(alphas) - set(names))
    if unknown:
        raise SpecError(f"layers: expected some of {checkpoint.name}'s groups, got {unknown[0]!r}")
    chosen = {group: spec.layer(checkpoint.width, alphas.get(group)) for group in names}
    recipe = Recipe(name, spec.convention, checkpoint.fingerprint, chosen, calibration.sha256)
    return replace(recipe, objective=spec.objective)


def search(
    checkpoint: Checkpoint,
    calibration: Calibration,
    spec: SearchSpec,
    calibration_file: str = "",
    finished: Mapping[str, LayerDone] | None = None,
    progress: Callable[[Searching], object] | None = None,
) -> Recipe:
    """What ``iterate_search`` comes to; ``progress`` gets each step and may raise to stop."""
    events = iterate_search(checkpoint, calibration, spec, calibration_file, finished)
    return result_of(events, Recipe, progress)


def iterate_search(
    checkpoint: Checkpoint,
    calibration: Calibration,
    spec: SearchSpec,
    calibration_file: str = "",
    finished: Mapping[str, LayerDone] | None = None,
) -> Iterator[SearchEvent]:
    """Search every group in execution order; the last event is the Recipe.

    Closing the generator stops within one candidate. The calibration must be the
    checkpoint's. Groups that are ``finished`` (from an interrupted run of the same
    search, see ``SearchJournal``) are repeated as events, at their place in this search,
    and not searched again.
    """
    check_together(checkpoint, calibration)
    if spec.needs_calibration:
        check_channels(checkpoint, calibration)
    if spec.candidates:
        layers = yield from iterate_groups(checkpoint, calibration, spec, finished or {})
        recipe = partial_recipe(checkpoint, calibration, spec, layers, spec.method)
    else:
        recipe = unsearched_recipe(checkpoint, spec, calibration)
    recipe = replace(recipe, calibration_file=calibration_file if recipe.calibration else "")
    if spec.chooses_bits:
        yield from iterate_layer_bits(checkpoint, calibration, spec, recipe)
    else:
        yield recipe


def iterate_groups(
    checkpoint: Checkpoint,
    calibration: Calibration,
    spec: SearchSpec,
    finished: Mapping[str, LayerDone],
) -> Generator[CandidateDone | Fitting | LayerDone, None, list[LayerDone]]:
    """The search of every group; returns what was found of each."""
    check_objective(spec.objective, calibration)
    layers: list[LayerDone] = []
    groups = checkpoint.groups
    for index, group in enumerate(groups):
        known = finished.get(group.name)
        events: Iterator[CandidateDone | Fitting | LayerDone] = (
            iter([replace(known, index=index, total=len(groups))])
            if known is not None
            else iterate_group_search(checkpoint, group, calibration, spec, index, len(groups))
        )
        for event in events:
            yield event
            if isinstance(event, LayerDone):
                layers.append(event)
    return layers
