"""What a group of quantized layers takes on disk, without building them.

The count of ``QuantizedLinear.bits_stored``: codes at their width; scales, smoothing
vectors and row scales in single precision; zero points, and branches that were
rounded to it, in half. A weight that is left alone takes half precision where that
holds it exactly, which a smoothed or divided one no longer is, and single otherwise.
Nothing else depends on the weights' values, so the count is an upper bound in a few
rare cases: a branch that was no better than none and was dropped, and scales, factors
or smoothed weights that half precision happens to hold.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..specs import FULL_PRECISION_BITS, Convention, Granularity, LowRankSpec
from .build import ROW_SCALED

HALF, SINGLE = 16, 32


def group_bits_stored(
    shapes: Sequence[tuple[int, int]],
    weight_bits: int,
    convention: Convention,
    low_rank: LowRankSpec,
    smoothed: bool,
    on_the_fly: bool = False,
    divided: Sequence[int] = (),
    in_half: Sequence[int] = (),
) -> int:
    """Bits of the layers that share one input, biases not counted.

    shapes      (C_out, C) of each layer
    smoothed    whether s is not the identity
    on_the_fly  whether the layers hold s themselves (fc2)
    divided     indices of the layers whose rows are divided (V, where the output
                projection is smoothed)
    in_half     indices of the layers whose own weights half precision holds exactly;
                only read from 16 weight bits on

    Raises:
        ValueError: no layer, or several inputs.
    """
    inputs = {c for _, c in shapes}
    if len(inputs) != 1:
        raise ValueError(f"shapes: expected layers that share one input, got {list(shapes)}")
    (c,) = inputs
    if weight_bits >= FULL_PRECISION_BITS:
        untouched = () if smoothed else set(in_half) - set(divided)
        return sum(
            c_out * c * (HALF if index in untouched else SINGLE)
            for index, (c_out, _) in enumerate(shapes)
        )
    weights = sum(c_out for c_out, _ in shapes) * c
    together = [list(shapes)] if convention.fused_qkv else [[shape] for shape in shapes]
    halved = low_rank.keep == "best"  # the fit rounds such a branch to half precision
    smoothed_after = smoothed and convention.smoothing_commutes  # down is multiplied by s
    down_bits = HALF if halved and not smoothed_after else SINGLE
    total, index = weights * weight_bits, 0
    for part in together:
        outputs = sum(c_out for c_out, _ in part)
        rank = min(low_rank.rank, outputs, c)
        total += scales(outputs, c, convention) * scale_bits(convention) + rank * c * down_bits
        for c_out, _ in part:
            apart = index in divided
            total += c_out * rank * (HALF if halved and not apart else SINGLE)
            if smoothed and on_the_fly:
                total += c * SINGLE
            if apart and convention.weight.granularity not in ROW_SCALED:
                total += c_out * SINGLE
            index += 1
    return total


def scale_bits(convention: Convention) -> int:
    """Bits of one scale and its zero point."""
    return SINGLE + (0 if convention.weight.symmetric else HALF)


def scales(outputs: int, inputs: int, convention: Convention) -> int:
    """How many scales a weight (outputs, inputs) has."""
    size = convention.weight.group_size
    match convention.weight.granularity:
        case Granularity.PER_CHANNEL:
            return outputs
        case Granularity.PER_INPUT_CHANNEL:
            return inputs
        case Granularity.PER_GROUP:
            return outputs * -(-inputs // size)
        case Granularity.PER_STRIDED_GROUP:
            return outputs * inputs // size
        case other:
            raise ValueError(f"granularity: expected one of a weight, got {other}")
