"""What a group of quantized layers takes on disk, without building them.

The count of ``QuantizedLinear.bits_stored``: codes at their width; scales, smoothing
vectors and row scales in single precision; scales of a number format as it has them; zero
points, and branches that were rounded to it, in half. A weight that is left alone takes half
precision where that holds it exactly, which a smoothed or divided one no longer is, and single
otherwise.
Nothing else depends on the weights' values, so the count is an upper bound in a few
rare cases: a branch that was no better than none and was dropped, and scales, factors
or smoothed weights that half precision happens to hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial

import torch
from torch import Tensor

from ..specs import BitWidths, Convention, LayerRecipe, LowRankSpec
from .build import empty_layers

HALF, SINGLE = 16, 32


def group_bits_stored(
    shapes: Sequence[tuple[int, int]],
    bits: BitWidths,
    convention: Convention,
    low_rank: LowRankSpec,
    smoothed: bool,
    on_the_fly: bool = False,
    divided: Sequence[int] = (),
    in_half: Sequence[int] = (),
) -> int:
    """Bits of the layers that share one input, biases not counted.

    shapes      (C_out, C) of each layer
    bits        those of activations take nothing
    smoothed    whether s is not the identity
    on_the_fly  whether the layers hold s themselves (fc2)
    divided     indices of the layers whose rows are divided (V, where the output
                projection is smoothed)
    in_half     indices of the layers whose own weights half precision holds exactly;
                only read from 16 weight bits on

    Raises:
        ValueError: see ``empty_layers``.
    """
    layer = LayerRecipe(replace(bits, activation=8), 0.0 if smoothed else None, low_rank)
    half = frozenset() if smoothed else frozenset(in_half) - set(divided)
    return counted(tuple(shapes), layer, convention, on_the_fly, frozenset(divided), half)


@lru_cache(maxsize=1024)
def counted(
    shapes: tuple[tuple[int, int], ...],
    layer: LayerRecipe,
    convention: Convention,
    on_the_fly: bool,
    divided: frozenset[int],
    in_half: frozenset[int],
) -> int:
    rounded = layer.low_rank.keep != "last"  # the fit rounds all others to half precision
    form = layer.bits.weight_format
    multiplied = layer.alpha is not None and convention.smoothing_commutes  # down, by s

    def size(index: int, name: str, tensor: Tensor) -> int:
        half = {
            "codes": index in in_half,
            "zero_point": True,
            "up": rounded and index not in divided,
            "down": rounded and not multiplied,
            "scale": form is not None and form.scale == "float16",
        }
        if tensor.dtype == torch.uint8:
            return 8 * tensor.numel()
        return tensor.numel() * (HALF if half.get(name) else SINGLE)

    layers = empty_layers(shapes, layer, convention, on_the_fly, divided)
    return round(sum(made.bits_at(partial(size, index)) for index, made in enumerate(layers)))
