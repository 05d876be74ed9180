"""Recipe + Calibration -> a quantized copy of the transformer."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from ..calibration import Calibration, GroupStatistics
from ..checkpoints import Absorber, Checkpoint, SmoothingGroup
from ..layers import QuantizedLinear
from ..lowrank import fit_low_rank, second_moment_root
from ..quantizer import fake_quantize
from ..smoothing import Affine, divide_rows, multiply_columns, smoothing_factor, weight_absmax
from ..specs import (
    FULL_PRECISION_BITS,
    Convention,
    LayerRecipe,
    QuantizerSpec,
    Recipe,
    get_convention,
)
from .fold import fold_producer_, get_affine


class RecipeError(ValueError):
    """A recipe that does not fit the checkpoint or the calibration."""


@dataclass(frozen=True)
class ConversionProgress:
    """One finished smoothing group."""

    group: str
    index: int
    total: int


def check_recipe(recipe: Recipe, checkpoint: Checkpoint, calibration: Calibration | None) -> None:
    """Raise RecipeError unless the three belong together."""
    names = {group.name for group in checkpoint.groups}
    if set(recipe.layers) != names:
        raise RecipeError(
            f"recipe: expected the {len(names)} groups of {checkpoint.name}, "
            f"got {len(recipe.layers)} others"
        )
    if recipe.checkpoint != checkpoint.fingerprint:
        raise RecipeError(
            f"recipe: made for another checkpoint ({recipe.checkpoint[:12]}), "
            f"{checkpoint.name} is {checkpoint.fingerprint[:12]}"
        )
    if not recipe.needs_calibration:
        return
    if calibration is None:
        raise RecipeError("recipe: needs the calibration it was searched with, got none")
    if recipe.calibration != calibration.sha256:
        raise RecipeError(
            f"calibration: the recipe was searched with {recipe.calibration[:12]}, "
            f"got {calibration.sha256[:12]}"
        )


def group_factor(
    transformer: nn.Module,
    group: SmoothingGroup,
    alpha: float | None,
    statistics: GroupStatistics | None,
) -> Tensor | None:
    """The group's smoothing factor, (C,), or None for the identity."""
    if alpha is None or statistics is None:
        return None
    weights = [get_affine(transformer, path).weight for path in group.layers]
    return smoothing_factor(statistics.aggregated_absmax(), weight_absmax(weights), alpha)


def rounding_variance(smoothed: Tensor, spec: QuantizerSpec) -> float:
    """Mean square of the activations' own rounding error on stored tokens."""
    return float((fake_quantize(smoothed, spec) - smoothed).square().mean())


def fit_branch(
    weight: Tensor,
    layer: LayerRecipe,
    quantizers: tuple[QuantizerSpec, QuantizerSpec],
    branch_on_full: bool,
    statistics: GroupStatistics | None,
    s: Tensor | None,
) -> tuple[Tensor, Tensor] | None:
    """The low-rank branch of one (smoothed) weight, or None where it has none."""
    low_rank = layer.low_rank
    if low_rank.rank == 0 or layer.bits.weight >= FULL_PRECISION_BITS:
        return None
    weight_spec, activation_spec = quantizers
    root, variance = None, 0.0
    if low_rank.weighting != "none" and statistics is not None:
        tokens = statistics.tokens.float()  # (T, K, C)
        energy = statistics.energy.mean(0)  # (C,)
        if s is not None:
            tokens, energy = tokens / s, energy / s.square()
        root = (
            second_moment_root(tokens, energy)
            if low_rank.weighting == "covariance"
            else energy.clamp(min=1e-12).sqrt()
        )
        if branch_on_full:
            variance = rounding_variance(tokens, activation_spec)
    fit = fit_low_rank(
        weight,
        lambda w: fake_quantize(w, weight_spec),
        min(low_rank.rank, *weight.shape),
        low_rank.iterations,
        root,
        variance,
    )
    return None if fit.best == 0 else (fit.up, fit.down)


@torch.no_grad()
def quantize_transformer(
    checkpoint: Checkpoint, recipe: Recipe, calibration: Calibration | None = None
) -> Iterator[ConversionProgress | DiTTransformer2DModel]:
    """Yields progress per group, then the quantized copy; the checkpoint is not modified.

    Raises:
        RecipeError: recipe, checkpoint and calibration do not belong together.
    """
    check_recipe(recipe, checkpoint, calibration)
    convention = get_convention(recipe.convention)
    source = checkpoint.transformer
    result = copy.deepcopy(source)
    by_block = {(group.block, group.kind): group for group in checkpoint.groups}
    for index, group in enumerate(checkpoint.groups):
        statistics = None if calibration is None else calibration.groups[group.name]
        layer = recipe.layers[group.name]
        s = group_factor(source, group, layer.alpha, statistics)
        divided_by = None
        if group.kind == "qkv":
            proj = by_block[group.block, "proj"]
            proj_statistics = None if calibration is None else calibration.groups[proj.name]
            divided_by = group_factor(source, proj, recipe.layers[proj.name].alpha, proj_statistics)
        for path in group.layers:
            rows = divided_by if path.endswith("to_v") else None
            quantized = quantize_layer(
                get_affine(source, path), group, layer, convention, statistics, s, rows
            )
            parent, _, child = path.rpartition(".")
            result.get_submodule(parent)._modules[child] = quantized
        if s is not None and group.absorber is Absorber.MODULATION:
            fold_producer_(result, group, s)
        yield ConversionProgress(group.name, index + 1, len(checkpoint.groups))
    yield result.eval()


def quantize_layer(
    affine: Affine,
    group: SmoothingGroup,
    layer: LayerRecipe,
    convention: Convention,
    statistics: GroupStatistics | None,
    s: Tensor | None,
    divided_by: Tensor | None,
) -> QuantizedLinear:
    """One layer, smoothed by s, its outputs divided by ``divided_by`` (V rows).

    The branch is fitted before the rows are divided, so that it minimises the
    error of V itself; codes per output channel are the same either way.
    """
    weight = affine.weight if s is None else multiply_columns(affine.weight, s)
    quantizers = convention.quantizers(layer.bits)
    on_full = convention.branch_input == "full"
    branch = fit_branch(weight, layer, quantizers, on_full, statistics, s)
    bias = affine.bias
    if divided_by is not None:
        weight, bias = divide_rows(Affine(weight, bias), divided_by)
        if branch is not None:
            branch = (branch[0] / divided_by[:, None], branch[1])
    return QuantizedLinear.from_float(
        weight,
        bias,
        *quantizers,
        branch=branch,
        smoothing=s if group.absorber is Absorber.ON_THE_FLY else None,
        branch_on_full=on_full,
    )
