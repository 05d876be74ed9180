"""Number formats: every value against torch's and ml_dtypes' own types, scales against plain
Python, layers against rounding."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ditas_core.layers import build_layers, group_bits_stored
from ditas_core.lowrank import InputMoment
from ditas_core.methods import fit_weight
from ditas_core.quantizer import (
    choose_qparams,
    fake_quantize,
    fake_quantize_in_range,
    from_patterns,
    levels,
    quantize,
    round_to_element,
    scale_patterns,
    scale_values,
    to_patterns,
)
from ditas_core.specs import (
    FORMATS,
    BitWidths,
    Element,
    Granularity,
    LowRankSpec,
    NumberFormat,
    QuantizerSpec,
    SpecError,
    get_convention,
)

INTEGER = get_convention("integer")
ELEMENTS = {form.element.name: form.element for form in FORMATS.values()}
PEERS = {
    "E4M3": ml_dtypes.float8_e4m3fn,
    "E5M2": ml_dtypes.float8_e5m2,
    "E2M3": ml_dtypes.float6_e2m3fn,
    "E3M2": ml_dtypes.float6_e3m2fn,
    "E2M1": ml_dtypes.float4_e2m1fn,
    "INT4": ml_dtypes.int4,
    "INT8": np.int8,
}
FLOATS = [ELEMENTS[name] for name in ("E4M3", "E5M2", "E2M3", "E3M2", "E2M1")]
BLOCKS = [form for form in FORMATS.values() if form.block]
finite = st.floats(-(2.0**100), 2.0**100, width=32)


def spec_of(name: str, side: int = 0) -> QuantizerSpec:
    bits = BitWidths(name, 8) if side == 0 else BitWidths(8, name)
    return INTEGER.quantizers(bits)[side]


def named(things: list[Element]) -> list[str]:
    return [thing.name for thing in things]


def awkward(element: Element) -> Tensor:
    """Float32 values of every kind: levels, ties, their neighbours, subnormals, extremes."""
    known = levels(element).double()
    ties = (known[1:] + known[:-1]) / 2
    ends = torch.tensor(
        [0.0, -0.0, 1e-45, -1e-38, 3e38, element.largest * 1.5, -element.largest * 2]
    )
    exact = torch.cat([known, ties]).float()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(-(2**31), 2**31, (200_000,), generator=generator).int()
    near = torch.randn(100_000, generator=generator) * element.largest / 2
    bits = drawn.view(torch.float32)
    up, down = torch.tensor(torch.inf), torch.tensor(-torch.inf)
    return torch.cat(
        [exact, exact.nextafter(up), exact.nextafter(down), ends, bits[torch.isfinite(bits)], near]
    )


def check_against(found: Tensor, peer: np.ndarray, element: Element) -> None:
    """Equal to the bit, sign of zero included; the largest where the peer overflows."""
    beyond = ~np.isfinite(peer)
    assert np.array_equal(np.abs(found.numpy()[beyond]), np.full(beyond.sum(), element.largest))
    assert np.array_equal(found.numpy()[~beyond].view(np.int32), peer[~beyond].view(np.int32))


@pytest.mark.parametrize("element", FLOATS, ids=named(FLOATS))
def test_rounding_is_ml_dtypes_own(element: Element) -> None:
    x = awkward(element)
    with np.errstate(over="ignore", invalid="ignore"):
        peer = x.numpy().astype(PEERS[element.name]).astype(np.float32)
    check_against(round_to_element(x, element), peer, element)


@pytest.mark.parametrize(
    ("name", "dtype"), [("E4M3", torch.float8_e4m3fn), ("E5M2", torch.float8_e5m2)]
)
def test_rounding_is_torchs_own(name: str, dtype: torch.dtype) -> None:
    element = ELEMENTS[name]
    x = awkward(element)
    check_against(round_to_element(x, element), x.to(dtype).float().numpy(), element)


@pytest.mark.parametrize("element", FLOATS, ids=named(FLOATS))
def test_every_bit_pattern_is_ml_dtypes_own(element: Element) -> None:
    codes = np.arange(2**element.bits, dtype=np.uint8)
    peer = codes.view(PEERS[element.name]).astype(np.float32)
    mine = from_patterns(torch.from_numpy(codes), element).numpy()
    known = np.isfinite(peer)
    assert np.array_equal(mine[known].view(np.int32), peer[known].view(np.int32))
    assert np.isnan(mine[~known]).all()
    assert np.array_equal(np.unique(mine[known]), levels(element).numpy())
    assert element.largest == mine[known].max()
    back = to_patterns(torch.from_numpy(mine[known]), element)
    assert back.tolist() == codes[known].tolist()


@pytest.mark.parametrize("name", ["INT4", "INT8", "INT8/64"])
def test_whole_numbers_are_twos_complement(name: str) -> None:
    element = ELEMENTS[name]
    most = round(element.largest / element.step)
    whole = torch.arange(-most, most + 1)
    assert torch.equal(levels(element), whole * element.step)
    peer = whole.numpy().astype(PEERS[name.removesuffix("/64")]).view(np.uint8)
    codes = to_patterns(levels(element), element).numpy()
    assert np.array_equal(codes, peer & (2**element.bits - 1))
    assert torch.equal(from_patterns(torch.from_numpy(codes), element), levels(element))
    ties = (whole[:-1] + 0.5) * element.step
    assert torch.equal(round_to_element(ties, element), ((whole[:-1] + 0.5).round()) * element.step)


def test_nf4_is_the_papers_table_and_ties_go_down() -> None:
    """Appendix E of QLoRA: quantiles of a normal distribution, between which is the mean of two."""
    element = ELEMENTS["NF4"]
    normal = torch.distributions.Normal(0.0, 1.0)
    offset = 0.9677083
    above = normal.icdf(torch.linspace(offset, 0.5, 9, dtype=torch.float64)[:-1])
    below = -normal.icdf(torch.linspace(offset, 0.5, 8, dtype=torch.float64)[:-1])
    table = torch.cat([above, below, torch.zeros(1)]).sort().values
    torch.testing.assert_close(levels(element).double(), table / table.max(), atol=2e-6, rtol=0)
    known = levels(element)
    ties = (known[1:] + known[:-1]) / 2
    assert torch.equal(round_to_element(ties, element), known[:-1])
    assert torch.equal(round_to_element(ties.nextafter(torch.tensor(9.0)), element), known[1:])
    assert to_patterns(known, element).tolist() == list(range(16))


@pytest.mark.parametrize("element", ELEMENTS.values(), ids=ELEMENTS)
@given(value=finite)
def test_rounding_finds_the_nearest(element: Element, value: float) -> None:
    """In exact arithmetic: no level is nearer, and rounding again changes nothing."""
    x = torch.tensor([value])
    found = round_to_element(x, element)
    exact = Fraction(float(x))
    distance = abs(Fraction(float(found)) - exact)
    assert distance == min(abs(Fraction(v) - exact) for v in levels(element).tolist())
    assert torch.equal(round_to_element(found, element), found)
    assert torch.equal(from_patterns(to_patterns(x, element), element), found)


def test_nan_stays_and_infinity_saturates() -> None:
    for element in ELEMENTS.values():
        found = round_to_element(torch.tensor([torch.nan, torch.inf, -torch.inf]), element)
        assert bool(found[0].isnan()) and found[1:].tolist() == [element.largest, -element.largest]


def test_e8m0_scales_are_their_bit_patterns() -> None:
    form = FORMATS["mxfp4"]
    codes = torch.arange(255)
    peer = codes.numpy().astype(np.uint8).view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    assert np.array_equal(scale_values(codes, form).numpy(), peer)
    assert torch.equal(scale_patterns(torch.from_numpy(peer), form).long(), codes)
    assert bool(scale_values(torch.tensor([255]), form).isnan().all())


def test_e4m3_scales_are_their_bit_patterns() -> None:
    form, codes = FORMATS["nvfp4"], torch.arange(1, 127)
    peer = codes.to(torch.uint8).view(torch.float8_e4m3fn).float()
    assert torch.equal(scale_values(codes, form), peer)
    assert torch.equal(scale_patterns(peer, form).long(), codes)
    refused = scale_values(torch.tensor([0, 127, 128, 200]), form)
    assert bool(refused.isnan().all()), "no scale is 0, negative or no number"


def slow_scale(absmax: float, form: NumberFormat, tensor: float) -> tuple[float, float]:
    """A block's scale in plain Python, and the tensor's."""
    element = form.element
    if absmax == 0:
        return 1.0, np.float32(tensor) / np.float32(element.largest * 448)
    if form.scale == "e8m0":
        exponent = math.floor(math.log2(absmax)) - math.floor(math.log2(element.largest))
        return 2.0 ** max(exponent, -127), 1.0
    scale = np.float32(absmax) / np.float32(element.largest)
    if form.scale == "e4m3":
        shared = np.float32(tensor) / np.float32(element.largest * 448)
        block = np.float32(scale / shared).astype(ml_dtypes.float8_e4m3fn)
        return max(float(block), 2.0**-9), float(shared)
    return float(np.float16(scale) if form.scale == "float16" else scale), 1.0


@pytest.mark.parametrize("form", BLOCKS, ids=[form.name for form in BLOCKS])
def test_blocks_are_rounded_as_a_slow_reference_does(form: NumberFormat) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(5, 3 * form.block - 4, generator=generator)  # the last block is not full
    x[0] *= torch.logspace(-20, 4, x.shape[1])
    x[1, : form.block] = 0
    x[2, :3] = torch.tensor([6.0, 7.9, 448.0])
    spec, found = spec_of(form.name), torch.empty_like(x)
    for row in range(len(x)):
        for start in range(0, x.shape[1], form.block):
            part = x[row, start : start + form.block]
            scale, shared = slow_scale(float(part.abs().max()), form, float(x.abs().max()))
            step = torch.tensor(scale) * torch.tensor(shared)
            nearest = round_to_element(part / step, form.element)
            found[row, start : start + form.block] = nearest * step
    assert torch.equal(fake_quantize(x, spec), found)
    codes, params = quantize(x, spec)
    stored = scale_patterns(params.scale, form)
    assert torch.equal(scale_values(stored, form), params.scale)
    assert int(codes.max()) < 2**form.bits and int(codes.min()) >= 0


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_the_largest_value_of_a_scale_is_the_formats(form: NumberFormat) -> None:
    """Where the scale is not rounded, the largest value of a row or block stays what it is."""
    x = torch.randn(6, 64, generator=torch.Generator().manual_seed(6))
    absmax = x.abs().amax(1, keepdim=True)
    rounded = fake_quantize(x, spec_of(form.name))
    if form.scale == "float32":
        step = choose_qparams(x, spec_of(form.name)).step.reshape(6, 1)
        torch.testing.assert_close(step, absmax / form.element.largest)
        torch.testing.assert_close(rounded.abs().amax(1, keepdim=True), absmax)
    error = (rounded - x).abs() / x.abs().amax()
    assert float(error.max()) < 0.3 and float((rounded - x).norm() / x.norm()) < 0.2


@pytest.mark.parametrize("name", FORMATS)
@given(power=st.integers(-20, 20))
def test_a_power_of_two_passes_through(name: str, power: int) -> None:
    """Every format is relative: scaling the input scales the result."""
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(2))
    if name == "int8-b32" or name == "int4-b32":
        power = max(-3, min(power, 3))  # half precision's own range
    spec = spec_of(name)
    assert torch.equal(fake_quantize(x * 2.0**power, spec), fake_quantize(x, spec) * 2.0**power)


@pytest.mark.parametrize("name", [n for n, f in FORMATS.items() if f.scale == "e8m0"])
def test_mx_rounding_again_changes_nothing(name: str) -> None:
    x = torch.randn(8, 96, generator=torch.Generator().manual_seed(3))
    once = fake_quantize(x, spec_of(name))
    assert torch.equal(fake_quantize(once, spec_of(name)), once)


def test_mxfp4_by_hand() -> None:
    """Largest 7: the scale is 2^(2 - 2), 7 saturates at 6, 2.5 is a tie to 2, 5 one to 4."""
    x = torch.zeros(1, 32)
    x[0, :6] = torch.tensor([7.0, 2.5, 5.0, -0.25, 0.75, 3.4])
    assert fake_quantize(x, spec_of("mxfp4"))[0, :6].tolist() == [6, 2, 4, 0, 1, 3]


def test_a_small_block_of_nvfp4_does_not_vanish() -> None:
    x = torch.cat([torch.full((1, 16), 1000.0), torch.full((1, 16), 1e-3)], dim=1)
    assert float(fake_quantize(x, spec_of("nvfp4"))[0, -1]) == pytest.approx(1e-3, rel=0.3)


def test_not_finite_inputs_are_refused_or_pass_as_nan() -> None:
    for name in FORMATS:
        x = torch.ones(2, 64)
        x[0, 0] = torch.inf
        with pytest.raises(ValueError, match="finite"):
            fake_quantize(x, spec_of(name))
        assert bool(fake_quantize(x, spec_of(name), checked=False)[0, :16].isnan().all())


def test_a_recorded_range_is_the_tensors() -> None:
    """A part of a tensor whose range is known is rounded as it is within the whole."""
    x = torch.randn(2, 6, 64, generator=torch.Generator().manual_seed(4))
    x[0, 5, 3] = 60.0
    spec = spec_of("nvfp4", 1)
    whole = torch.stack([fake_quantize(step, spec) for step in x])
    low, high = x.amin((1, 2), keepdim=True), x.amax((1, 2), keepdim=True)
    assert torch.equal(fake_quantize_in_range(x, low, high, spec), whole)
    assert torch.equal(fake_quantize_in_range(x[:, :4], low, high, spec), whole[:, :4])
    tensor = get_convention("integer-tensor").quantizers(BitWidths(8, "fp8"))[1]
    whole = torch.stack([fake_quantize(step, tensor) for step in x])
    assert torch.equal(fake_quantize_in_range(x, low, high, tensor), whole)


def test_granularity_is_the_formats_block_or_the_conventions() -> None:
    weight, activation = get_convention("integer-g64").quantizers(BitWidths("fp4", "mxfp8"))
    assert (weight.granularity, weight.group_size) == (Granularity.PER_GROUP, 64)
    assert (activation.granularity, activation.group_size) == (Granularity.PER_GROUP, 32)
    assert choose_qparams(torch.randn(3, 64), spec_of("fp8", 1)).scale.shape == (3, 1)
    assert choose_qparams(torch.randn(3, 64), spec_of("nvfp4", 1)).scale.shape == (3, 4, 1)


def weights(c_out: int = 24, c: int = 128) -> tuple[Tensor, Tensor, Tensor]:
    weight = torch.randn(c_out, c, generator=torch.Generator().manual_seed(5))
    return weight, weight.new_zeros(c_out, 0), weight.new_zeros(0, c)


@pytest.mark.parametrize("activation", [16, 8, "fp8", "nvfp4"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_layer_computes_with_the_rounded_weight(name: str, activation: int | str) -> None:
    fit, bias = weights(), torch.randn(24)
    bits, x = BitWidths(name, activation), torch.randn(2, 7, 128)
    layer = build_layers([fit], [bias], bits, INTEGER)[0]
    spec, of_inputs = INTEGER.quantizers(bits)
    assert torch.equal(layer.dequantized(), fake_quantize(fit[0], spec))
    expected = fake_quantize(x, of_inputs) @ fake_quantize(fit[0], spec).T + bias
    torch.testing.assert_close(layer(x), expected)
    again = build_layers([weights()], [bias], bits, INTEGER)[0]
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(x), layer(x))


@pytest.mark.parametrize("name", FORMATS)
def test_divided_rows_keep_their_codes(name: str) -> None:
    fit, bias, divisor = weights(), torch.zeros(24), torch.rand(24) + 0.5
    layer = build_layers([fit], [bias], BitWidths(name, 16), INTEGER, divisors=[divisor])[0]
    rounded = fake_quantize(fit[0], spec_of(name))
    torch.testing.assert_close(layer.dequantized(), rounded / divisor[:, None])


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        *[("mxfp8", 8.25), ("mxfp8-e5m2", 8.25), ("mxfp6", 6.25), ("mxfp6-e3m2", 6.25)],
        *[("mxfp4", 4.25), ("mxint8", 8.25), ("nf4", 4.5), ("int4-b32", 4.5), ("int8-b32", 8.5)],
        *[("nvfp4", 4.5 + 32 / (24 * 128)), ("fp8", 8 + 32 / 128), ("fp4", 4 + 32 / 128)],
    ],
)
def test_effective_bits_count_scales(name: str, bits: float) -> None:
    layer = build_layers([weights()], [torch.zeros(24)], BitWidths(name, 16), INTEGER)[0]
    assert layer.bits_stored / layer.weights == bits
    predicted = group_bits_stored([(24, 128)], BitWidths(name, 16), INTEGER, LowRankSpec(), False)
    assert predicted == layer.bits_stored
    form = FORMATS[name]
    if form.block:
        assert math.floor(bits * 4) / 4 == form.bits_with_scale


@pytest.mark.parametrize("name", [4, "nvfp4", "mxfp4"])
@pytest.mark.parametrize("keep", ["best", "first"])
def test_the_predicted_size_of_a_fitted_branch_is_the_stored_one(
    name: int | str, keep: str
) -> None:
    """Both are rounded to half precision when they are fitted."""
    branch, bits = LowRankSpec(8, weighting="none", keep=keep), BitWidths(name, 16)
    fit = fit_weight(weights()[0], INTEGER.quantizers(bits)[0], branch, InputMoment())
    assert fit.up.shape == (24, 8)
    parts = fit.target, fit.up, fit.down
    (layer,) = build_layers([parts], [torch.zeros(24)], bits, INTEGER)
    assert (
        group_bits_stored([(24, 128)], BitWidths(name, 16), INTEGER, branch, False)
        == layer.bits_stored
    )


@pytest.mark.parametrize("weight", [4, 16, *FORMATS])
@pytest.mark.parametrize("activation", [8, 16, *(n for n, f in FORMATS.items() if n != "nf4")])
def test_widths_parse_what_they_print(weight: int | str, activation: int | str) -> None:
    bits = BitWidths(weight, activation)
    assert BitWidths.parse(str(bits)) == BitWidths.parse(str(bits).upper()) == bits


@pytest.mark.parametrize(
    "text", ["W:nvfp4", "W:nvfp4A8", "W:4 A8", "W: nvfp4 A8", "nvfp4 A8", "W:nvfp4, A8", "W4 A8"]
)
def test_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match="bits: expected"):
        BitWidths.parse(text)


def test_formats_are_refused_where_they_do_not_fit() -> None:
    with pytest.raises(SpecError, match="format: expected one of fp8"):
        BitWidths.parse("W:fp9 A8")
    with pytest.raises(SpecError, match="weights only"):
        BitWidths(4, "nf4")
    for convention in ("paper", "released"):
        with pytest.raises(SpecError, match=f"convention {convention}"):
            get_convention(convention).check_bits(BitWidths("nvfp4", 8))
    for backend in ("integer", "onnx"):
        for bits in (BitWidths("nvfp4", 8), BitWidths(4, "fp8")):
            with pytest.raises(SpecError, match="expected simulated with W"):
                INTEGER.check_backend(backend, [BitWidths(4, 8), bits])
    INTEGER.check_backend("simulated", [BitWidths("nvfp4", "fp8")])
