"""Recipe + Calibration -> a quantized copy of the transformer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..calibration import Calibration, GroupStatistics, check_together
from ..checkpoints import Checkpoint
from ..events import result_of
from ..layers import QuantizedLinear, build_layers
from ..methods import WeightFit, aggregated, check_parts, fit_weights, joined, rotation_of
from ..models import Absorber, SmoothingGroup, Transformer, get_linear, group_fed_by
from ..smoothing import multiply_columns, rotate, smoothing_factor, weight_absmax
from ..specs import Convention, LayerRecipe, Recipe, get_convention
from .fold import fold_producer_, get_affine
from .modulation import quantize_modulation


@dataclass(frozen=True)
class ConversionProgress:
    """One finished smoothing group."""

    group: str
    index: int
    total: int


@dataclass(frozen=True)
class PreparedGroup:
    """A group's smoothing factor, and its fits where they do not depend on it."""

    s: Tensor | None
    fits: list[WeightFit] | None


def prepare(
    transformer: nn.Module,
    group: SmoothingGroup,
    layer: LayerRecipe,
    convention: Convention,
    statistics: GroupStatistics | None,
) -> PreparedGroup:
    """Where rounding commutes with smoothing, the weights are fitted once, before it."""
    weights = [get_affine(transformer, path).weight for path in group.layers]
    fits = None
    if convention.smoothing_commutes:
        fits = fit_weights(joined(weights, convention), statistics, layer, convention)
    if layer.alpha is None or statistics is None:
        return PreparedGroup(None, fits)
    source = weights
    if fits is not None and convention.factor_from == "quantized":
        source = [fit.rounded for fit in fits]
    w_absmax = weight_absmax(source)  # (C,)
    act_absmax = aggregated(layer, statistics.absmax, w_absmax)
    return PreparedGroup(smoothing_factor(act_absmax, w_absmax, layer.alpha), fits)


@torch.no_grad()
def smoothing_factors(
    checkpoint: Checkpoint, recipe: Recipe, calibration: Calibration, names: Collection[str]
) -> dict[str, Tensor]:
    """s (C,) of those of the named groups that the recipe smooths, as conversion divides by it."""
    convention = get_convention(recipe.convention)
    found = {}
    for group in checkpoint.groups:
        if group.name in names and recipe.layers[group.name].alpha is not None:
            source = checkpoint.transformer
            there = get_linear(source, group.layers[0]).weight.device
            statistics = calibration.groups[group.name].to(there)
            s = prepare(source, group, recipe.layers[group.name], convention, statistics).s
            assert s is not None
            found[group.name] = s
    return found


def quantize_transformer(
    checkpoint: Checkpoint,
    recipe: Recipe,
    calibration: Calibration | None = None,
    progress: Callable[[ConversionProgress], object] | None = None,
) -> Transformer:
    """What ``iterate_conversion`` comes to; ``progress`` gets each step and may raise to stop."""
    return result_of(iterate_conversion(checkpoint, recipe, calibration), nn.Module, progress)


@torch.no_grad()
def iterate_conversion(
    checkpoint: Checkpoint, recipe: Recipe, calibration: Calibration | None = None
) -> Iterator[ConversionProgress | Transformer]:
    """Yields progress per group, then the quantized copy, in float32.

    All is computed where the transformer lies; statistics are moved there group by group. The
    checkpoint is not modified.

    Raises:
        SpecError: recipe, checkpoint and calibration do not belong together.
    """
    check_together(checkpoint, calibration if recipe.needs_calibration else None, recipe)
    for settings in recipe.layers.values():
        check_parts(settings)
    source = checkpoint.transformer
    result = copy.deepcopy(source)
    total = len(checkpoint.groups)
    for index, (group, s, layers) in enumerate(quantize_groups(checkpoint, recipe, calibration)):
        for path, layer in layers.items():
            parent, _, child = path.rpartition(".")
            result.get_submodule(parent)._modules[child] = layer
        if s is not None and group.absorber is Absorber.MODULATION:
            fold_producer_(result, group, s)
        yield ConversionProgress(group.name, index + 1, total)
    if source.dtype != torch.float32:
        result = result.float()
    yield quantize_modulation(result.eval(), recipe.modulation)


@torch.no_grad()
def quantize_groups(
    checkpoint: Checkpoint, recipe: Recipe, calibration: Calibration | None
) -> Iterator[tuple[SmoothingGroup, Tensor | None, dict[str, QuantizedLinear]]]:
    """Group by group: its smoothing factor and its finished layers by path.

    The factor of an output projection divides the rows of V, so it is settled first.
    """
    convention = get_convention(recipe.convention)
    source = checkpoint.transformer

    def inputs(group: SmoothingGroup) -> GroupStatistics | None:
        if calibration is None:
            return None
        return calibration.groups[group.name].to(get_linear(source, group.layers[0]).weight.device)

    def prepared(group: SmoothingGroup) -> PreparedGroup:
        return prepare(source, group, recipe.layers[group.name], convention, inputs(group))

    groups = checkpoint.groups
    kept: dict[str, PreparedGroup] = {}
    for group in groups:
        here = kept.pop(group.name, None) or prepared(group)
        divisors: dict[str, Tensor] = {}
        proj = group_fed_by(group, groups)
        if proj is not None:
            kept[proj.name] = prepared(proj)
            s = kept[proj.name].s
            if s is not None:
                divisors[proj.absorber_path] = s
        layers = quantize_group(
            source, group, recipe.layers[group.name], convention, inputs(group), here, divisors
        )
        yield group, here.s, dict(zip(group.layers, layers, strict=True))


def quantize_group(
    source: nn.Module,
    group: SmoothingGroup,
    layer: LayerRecipe,
    convention: Convention,
    statistics: GroupStatistics | None,
    prepared: PreparedGroup,
    divisors: dict[str, Tensor],
) -> list[QuantizedLinear]:
    """The group's layers, smoothed by s and rotated; the rows of those in ``divisors`` (V)
    divided by it.

    The branch is fitted before the rows are divided, so that it minimises the
    error of V itself.
    """
    s, fits = prepared.s, prepared.fits
    affines = [get_affine(source, path) for path in group.layers]
    rotation = rotation_of(layer, affines[0].weight.shape[1])
    rotation = None if rotation is None else rotation.to(affines[0].weight.device)
    if fits is None:
        weights = [a.weight if s is None else multiply_columns(a.weight, s) for a in affines]
        weights = [rotate(weight, rotation) for weight in weights]
        fits = fit_weights(joined(weights, convention), statistics, layer, convention, s)
    return build_layers(
        [(fit.target, fit.up, fit.down) for fit in fits],
        [affine.bias for affine in affines],
        layer.bits,
        convention,
        s,
        group.absorber is Absorber.ON_THE_FLY,
        [divisors.get(path) for path in group.layers],
        [fit.coded for fit in fits],
        rotation,
    )
