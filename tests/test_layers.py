"""The quantized linear layer against its formula; its state is the whole layer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from closeness import assert_close
from safetensors.torch import load_file, save_file
from torch import Tensor

from ditas_core.layers import QuantizedLinear, build_layers
from ditas_core.quantizer import fake_quantize
from ditas_core.specs import (
    CONVENTIONS,
    BitWidths,
    Convention,
    Granularity,
    QuantizerSpec,
    get_convention,
)

pytestmark = pytest.mark.numeric

SHAPE = (64, 24)
RANK = 3


def random(seed: int, *shape: int) -> Tensor:
    """Multiples of 1/256: W - L R is exact in any order, so no code depends on a kernel."""
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 256).round() / 256


def build(
    convention: str,
    bits: BitWidths,
    branch: bool,
    smoothing: bool,
    seed: int = 0,
    unit: float = 1.0,
) -> QuantizedLinear:
    up, down = random(seed + 2, SHAPE[0], RANK), random(seed + 3, RANK, SHAPE[1])
    up, down = up.half().float(), down.half().float()  # as the branch is stored
    if not branch:
        up, down = up[:, :0], down[:0]
    return one_layer(
        random(seed, *SHAPE) * unit - up @ down,
        (up, down),
        random(seed + 1, SHAPE[0]),
        get_convention(convention),
        bits,
        random(seed + 4, SHAPE[1]).abs() + 0.1 if smoothing else None,
    )


def one_layer(
    target: Tensor,
    branch: tuple[Tensor, Tensor],
    bias: Tensor,
    convention: Convention,
    bits: BitWidths,
    smoothing: Tensor | None = None,
) -> QuantizedLinear:
    """``smoothing`` is on the fly and nowhere else: the target is what is rounded."""
    (layer,) = build_layers([(target, *branch)], [bias], bits, convention)
    layer.smoothing = None if smoothing is None else smoothing.clone()
    return layer


FORWARD = [
    (bits, branch, smoothing)
    for bits in ("W2A4", "W4A8", "W8A8", "W8A16", "W16A8", "W16A16")
    for branch in (False, True)
    for smoothing in (False, True)
    if not (branch and bits.startswith("W16"))  # a weight left alone has no branch
]


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(("bits", "branch", "smoothing"), FORWARD)
def test_forward_is_the_formula(bits: str, convention: str, branch: bool, smoothing: bool) -> None:
    widths = BitWidths.parse(bits)
    layer = build(convention, widths, branch, smoothing)
    weight_spec, activation_spec = get_convention(convention).quantizers(widths)
    weight, x = random(0, *SHAPE), random(9, 2, 5, SHAPE[1])
    # the branch is stored in half precision
    up, down = random(2, SHAPE[0], RANK).half().float(), random(3, RANK, SHAPE[1]).half().float()
    s = random(4, SHAPE[1]).abs() + 0.1 if smoothing else torch.ones(SHAPE[1])
    low = up @ down if branch else torch.zeros(SHAPE)
    rounded = fake_quantize(x / s, activation_spec)
    source = x / s if convention.startswith("integer") else rounded
    expected = rounded @ fake_quantize(weight - low, weight_spec).T + source @ low.T + random(1, 64)
    assert_close(layer(x), expected, terms=2 * SHAPE[1] + 2 * RANK)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_per_token_layers_treat_every_token_alone(convention: str) -> None:
    layer = build(convention, BitWidths(4, 4), True, True)
    x = random(9, 6, SHAPE[1])
    x[0] *= 100
    alone = torch.cat([layer(row[None]) for row in x])
    if convention == "integer":
        assert_close(alone, layer(x), terms=SHAPE[1] + RANK)
    else:
        assert float((alone - layer(x))[1:].abs().max()) > 1, "the loud token sets the others' step"


@pytest.mark.parametrize("bits", ["W2A8", "W4A8", "W8A8", "W16A8"])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_state_through_a_file_holds_the_whole_layer(
    bits: str, convention: str, tmp_path: Path
) -> None:
    widths = BitWidths.parse(bits)
    source = build(convention, widths, widths.weight < 16, True)
    other = build(convention, widths, widths.weight < 16, True, seed=100)
    x = random(9, 5, SHAPE[1])
    assert not torch.allclose(source(x), other(x))
    save_file(source.state_dict(), tmp_path / "layer.safetensors")
    other.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    assert torch.equal(other(x), source(x))


def test_nothing_is_shared_with_the_arguments() -> None:
    weight, bias, s = random(0, *SHAPE), random(1, SHAPE[0]), random(2, SHAPE[1]).abs()
    branch = random(3, SHAPE[0], RANK), random(4, RANK, SHAPE[1])
    arguments = (weight, bias, s, *branch)
    kept = [t.clone() for t in arguments]
    for bits in (BitWidths(4, 8), BitWidths(16, 8)):
        layer, _ = build_layers(
            [(weight, *branch)] * 2, [bias] * 2, bits, get_convention("integer"), s, True
        )
        for buffer in layer.buffers():
            buffer.add_(1)
    assert all(map(torch.equal, arguments, kept))


def test_stored_size_counts_codes_scales_and_branch() -> None:
    """Floats as they are stored: single precision unless half holds them exactly."""
    thirds = partial(build, unit=1 / 3)  # which half precision does not hold
    c_out, c_in = SHAPE
    plain = thirds("integer", BitWidths(4, 8), False, False).bits_stored
    assert plain == c_out * c_in * 4 + c_out * (32 + 16)  # scale, zero point
    whole = thirds("integer", BitWidths(4, 8), True, True).bits_stored
    assert whole == plain + 16 * RANK * (c_out + c_in) + 32 * c_in
    alone = thirds("integer", BitWidths(16, 8), False, False)
    assert alone.bits_stored == c_out * c_in * 32
    alone.codes = alone.codes.half().float()
    assert alone.bits_stored == c_out * c_in * 16
    convention = replace(
        get_convention("integer"), weight=QuantizerSpec(8, True, Granularity.PER_CHANNEL)
    )
    symmetric = one_layer(
        random(0, *SHAPE) / 3,
        (torch.zeros(c_out, 0), torch.zeros(0, c_in)),
        random(1, c_out),
        convention,
        BitWidths(4, 8),
    )
    assert symmetric.bits_stored == c_out * c_in * 4 + c_out * 32  # no zero point
    released = thirds("released", BitWidths(4, 8), False, False).bits_stored
    assert released == c_out * c_in * 4 + c_out * c_in // 32 * (32 + 16)
