"""Function-preserving rescaling of a transformer's channels, and injected outliers.

One algebra, two uses: dividing the producer by s and multiplying the consumer
by s smooths the channels; with s = 1/k for chosen channels it makes them k times
larger. Either way the full-precision output stays what it was.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..models import Absorber, SmoothingGroup, Transformer, get_linear, smoothing_groups
from ..smoothing import Affine, divide_rows, fold_modulation, multiply_columns


def get_affine(transformer: nn.Module, path: str) -> Affine:
    """Detached weight and bias of the linear layer at ``path``, in float32; no bias is zeros."""
    linear = get_linear(transformer, path)
    weight = linear.weight.detach().float()
    bias = weight.new_zeros(len(weight)) if linear.bias is None else linear.bias.detach().float()
    return Affine(weight, bias)


def set_affine_(transformer: nn.Module, path: str, value: Affine) -> None:
    """Replace weight and bias of the linear layer at ``path`` by new parameters."""
    linear = get_linear(transformer, path)
    linear.weight = nn.Parameter(value.weight, requires_grad=False)
    if linear.bias is not None:  # none stays zero, whatever it is scaled by
        linear.bias = nn.Parameter(value.bias, requires_grad=False)


def fold_producer_(transformer: nn.Module, group: SmoothingGroup, s: Tensor) -> None:
    """Divide the group's input channels by s where they are produced.

    Raises:
        ValueError: the group's division cannot be absorbed (fc2, most of PixArt's).
    """
    if group.absorber is Absorber.MODULATION:
        affine = get_affine(transformer, group.absorber_path)
        folded = fold_modulation(affine, s, group.shift_chunk, group.scale_chunk)
    elif group.absorber is Absorber.VALUE_ROWS:
        folded = divide_rows(get_affine(transformer, group.absorber_path), s)
    else:
        raise ValueError(f"{group.name}: expected a foldable group, got one divided on the fly")
    set_affine_(transformer, group.absorber_path, folded)


def rescaled_transformer(transformer: Transformer, factors: Mapping[str, Tensor]) -> Transformer:
    """A copy in which the named groups' inputs are divided by s and their columns multiplied.

    ``factors`` maps group names to s (C,). The source is not modified; the copy, in
    float32, computes the same function in exact arithmetic.
    """
    groups = {group.name: group for group in smoothing_groups(transformer)}
    unknown = set(factors) - set(groups)
    if unknown:
        raise ValueError(f"groups: expected some of {sorted(groups)}, got {sorted(unknown)}")
    result = copy.deepcopy(transformer).float()
    for name, s in factors.items():
        group = groups[name]
        fold_producer_(result, group, s)
        for path in group.layers:
            affine = get_affine(result, path)
            set_affine_(result, path, Affine(multiply_columns(affine.weight, s), affine.bias))
    return result


def injected_factors(
    transformer: Transformer, strength: float, channels: int, seed: int
) -> dict[str, Tensor]:
    """s per foldable group that makes ``channels`` random channels ``strength`` times larger.

    The same channels are chosen in every block, as natural outliers stay put.
    """
    if not 1.0 <= strength <= 1e4:
        raise ValueError(f"strength: expected 1 to 10000, got {strength}")
    width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
    if not 1 <= channels <= width:
        raise ValueError(f"channels: expected 1 to {width}, got {channels}")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(width, generator=generator)[:channels]
    s = torch.ones(width, device=transformer.device)
    s[chosen] = 1.0 / strength
    return {
        group.name: s
        for group in smoothing_groups(transformer)
        if group.absorber is not Absorber.ON_THE_FLY
    }


def inject_outliers(
    transformer: Transformer, strength: float, channels: int = 3, seed: int = 0
) -> Transformer:
    """A copy with *injected* channel outliers that computes the same function.

    Chosen channels grow ``strength`` times in the inputs of every foldable group, which are
    qkv, proj and fc1 of a DiT, proj and proj2 of a PixArt: adaLN shift/scale rows and V
    rows times k, the consumers' columns divided by k.
    Anything shown or reported of such a model must be labelled as injected.
    """
    return rescaled_transformer(
        transformer, injected_factors(transformer, strength, channels, seed)
    )
