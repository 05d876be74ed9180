"""The quantizer against a slow reference and its own promises."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from slow_reference import groups_of, slow_fake_quantize, slow_scales
from torch import Tensor

from ditas_core.quantizer import (
    choose_qparams,
    dequantize,
    fake_quantize,
    fake_quantize_in_range,
    pack_nibbles,
    params_from_range,
    quantize,
    unpack_nibbles,
)
from ditas_core.specs import Granularity, QuantizerSpec

pytestmark = pytest.mark.numeric

GROUP = 8
SPECS = [
    QuantizerSpec(bits, symmetric, granularity, GROUP)
    for granularity, symmetric, bits in itertools.product(Granularity, (False, True), range(2, 9))
]
RELEASED = [
    QuantizerSpec(bits, False, granularity, GROUP, power_of_two_steps=True)
    for granularity, bits in itertools.product(Granularity, range(2, 9))
]


def name(spec: QuantizerSpec) -> str:
    sign = "symmetric" if spec.symmetric else "asymmetric"
    steps = "-2^b" if spec.power_of_two_steps else ""
    return f"{spec.granularity}-{sign}-{spec.bits}{steps}"


every_spec = pytest.mark.parametrize("spec", SPECS, ids=name)
every_spec_and_released = pytest.mark.parametrize("spec", SPECS + RELEASED, ids=name)


def random_tensor(seed: int, *shape: int) -> Tensor:
    """Normal, with one loud channel, a shifted one, a constant and a zero one."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    x[..., 0] *= 30
    if shape[-1] > 3:
        x[..., 1] += 5
        x[..., 2] = 0.7
        x[..., 3] = 0
    return x


def on_grid(spec: QuantizerSpec, shape: tuple[int, ...]) -> Tensor:
    """Values that use both ends of the codes in every group, scale 1/4."""
    generator = torch.Generator().manual_seed(spec.bits)
    flat = torch.zeros(int(np.prod(shape)))
    zero = 0 if spec.symmetric else int(torch.randint(0, spec.qmax + 1, (1,), generator=generator))
    for group in groups_of(shape, spec):
        codes = torch.randint(spec.qmin, spec.qmax + 1, (len(group),), generator=generator)
        codes[0], codes[-1] = spec.qmin, spec.qmax
        flat[group] = (codes - zero).float() / 4
    return flat.reshape(shape)


@every_spec
def test_exact_on_its_own_grid(spec: QuantizerSpec) -> None:
    x = on_grid(spec, (16, 24))
    assert torch.equal(fake_quantize(x, spec), x)


@every_spec_and_released
def test_equals_the_slow_reference(spec: QuantizerSpec) -> None:
    x = random_tensor(spec.bits, 16, 24)
    assert np.array_equal(fake_quantize(x, spec).numpy(), slow_fake_quantize(x.numpy(), spec))


@pytest.mark.parametrize("spec", RELEASED, ids=name)
def test_released_levels_clip_by_one_step(spec: QuantizerSpec) -> None:
    """The range is one step wider than the codes; the zero point's rounding adds half of one."""
    x = random_tensor(4, 16, 24)
    step = slow_scales(x.numpy(), spec)
    error = (fake_quantize(x, spec).double() - x.double()).abs().numpy()
    assert (error <= 1.5 * step * (1 + 1e-5)).all()
    assert (error > 0.5 * step * (1 + 1e-5)).any()


@every_spec_and_released
def test_codes_and_dequantize_say_the_same_and_never_write_to_the_source(
    spec: QuantizerSpec,
) -> None:
    x = random_tensor(6, 16, 24)
    before = x.clone()
    codes, params = quantize(x, spec)
    kept = codes.clone(), params.scale.clone(), params.zero_point.clone()
    assert codes.shape == x.shape and codes.dtype == torch.int32
    assert spec.qmin <= int(codes.min()) and int(codes.max()) <= spec.qmax
    out = fake_quantize(x, spec)
    assert torch.equal(dequantize(codes, params, spec), out)
    out.add_(1)
    assert torch.equal(x, before)
    assert all(map(torch.equal, (codes, *params), kept))


@every_spec_and_released
@pytest.mark.parametrize("value", [0.0, 0.7, -3.0, 1e-12, -1e12])
def test_constant_tensors(spec: QuantizerSpec, value: float) -> None:
    x = torch.full((8, 8), value)
    got = fake_quantize(x, spec)
    step = abs(value) / spec.steps if spec.power_of_two_steps else 0.0
    assert torch.allclose(got, x, rtol=1e-6, atol=step * (1 + 1e-5))


@pytest.mark.parametrize("size", [1, 3, 5, 7, 24, 100])
@pytest.mark.parametrize("symmetric", [False, True])
def test_odd_group_sizes(size: int, symmetric: bool) -> None:
    spec = QuantizerSpec(4, symmetric, Granularity.PER_GROUP, group_size=size)
    x = random_tensor(7, 5, 24)
    assert np.array_equal(fake_quantize(x, spec).numpy(), slow_fake_quantize(x.numpy(), spec))
    assert choose_qparams(x, spec).scale.shape == (5, -(-24 // size), 1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@every_spec
def test_not_a_number_is_rejected(spec: QuantizerSpec, bad: float) -> None:
    x = random_tensor(8, 16, 24)
    x[3, 5] = bad
    with pytest.raises(ValueError, match="finite"):
        fake_quantize(x, spec)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_range_beyond_single_precision_gives_no_nan(symmetric: bool) -> None:
    x = torch.tensor([[-3e38, 0.0, 3e38]])
    try:
        got = fake_quantize(x, QuantizerSpec(8, symmetric, Granularity.PER_TENSOR))
    except ValueError:
        return
    assert torch.isfinite(got).all()


@every_spec
def test_empty_tensors_are_rejected(spec: QuantizerSpec) -> None:
    with pytest.raises(ValueError, match="at least one element"):
        fake_quantize(torch.zeros(0, 4), spec)
    if spec.granularity is Granularity.PER_STRIDED_GROUP:
        with pytest.raises(ValueError, match=f"multiple of {GROUP}"):
            fake_quantize(torch.zeros(3, 5), spec)


@pytest.mark.parametrize(
    ("granularity", "shape"),
    [
        (Granularity.PER_TENSOR, (1, 1)),
        (Granularity.PER_TOKEN, (64, 1)),
        (Granularity.PER_CHANNEL, (64, 1)),
        (Granularity.PER_INPUT_CHANNEL, (1, 24)),
        (Granularity.PER_GROUP, (64, 3, 1)),
        (Granularity.PER_STRIDED_GROUP, (1, 192)),
    ],
)
def test_scale_shapes(granularity: Granularity, shape: tuple[int, ...]) -> None:
    spec = QuantizerSpec(4, False, granularity, GROUP)
    params = choose_qparams(random_tensor(9, 64, 24), spec)
    assert params.scale.shape == params.zero_point.shape == shape


@pytest.mark.parametrize("granularity", [Granularity.PER_TENSOR, Granularity.PER_TOKEN])
def test_activations_of_any_rank(granularity: Granularity) -> None:
    spec = QuantizerSpec(8, False, granularity)
    x = random_tensor(10, 2, 3, 4, 6)
    assert np.array_equal(fake_quantize(x, spec).numpy(), slow_fake_quantize(x.numpy(), spec))


def test_strided_groups_lie_inside_one_input_channel() -> None:
    """method.md, section 2: 32 weights, strided by C_out/32 rows, N/32 groups."""
    c_out, c_in = 96, 5
    spec = QuantizerSpec(4, False, Granularity.PER_STRIDED_GROUP, 32, power_of_two_steps=True)
    groups = groups_of((c_out, c_in), spec)
    assert len(groups) == c_out * c_in // 32
    for group in groups:
        rows, columns = [i // c_in for i in group], {i % c_in for i in group}
        assert len(group) == 32 and len(columns) == 1
        assert {b - a for a, b in itertools.pairwise(rows)} == {c_out // 32}
    weight = random_tensor(11, c_out, c_in)
    scale = choose_qparams(weight, spec).scale
    for c, start in itertools.product(range(c_in), range(c_out // 32)):
        members = weight[start :: c_out // 32, c]
        lo, hi = members.min().clamp(max=0), members.max().clamp(min=0)
        assert scale[0, start * c_in + c] == (hi - lo) / (1.0 if hi == lo else 16.0) + (hi == lo)


@pytest.mark.parametrize("bits", [4, 8])
def test_smoothing_passes_through_strided_and_input_channel_groups(bits: int) -> None:
    """Q(W s) = Q(W) s where a group lies in one input channel; exact for powers of two."""
    weight = random_tensor(12, 64, 6)
    s = torch.tensor([0.25, 2.0, 8.0, 1.0, 0.5, 16.0])
    for granularity in (Granularity.PER_INPUT_CHANNEL, Granularity.PER_STRIDED_GROUP):
        spec = QuantizerSpec(bits, False, granularity, 32)
        zero_free = weight.clone()
        zero_free[:, 3] = 0.3
        assert torch.equal(fake_quantize(zero_free * s, spec), fake_quantize(zero_free, spec) * s)


def test_sixteen_bits_leave_a_tensor_alone() -> None:
    x = random_tensor(13, 4, 6)
    spec = QuantizerSpec(16, False, Granularity.PER_TOKEN)
    assert torch.equal(fake_quantize(x, spec), x)
    lo, hi = torch.zeros(1), torch.ones(1)
    assert torch.equal(fake_quantize_in_range(x, lo, hi, spec), x)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [False, True])
def test_known_range_says_the_same_as_the_tensors_own(bits: int, symmetric: bool) -> None:
    spec = QuantizerSpec(bits, symmetric, Granularity.PER_TENSOR)
    x = random_tensor(14, 6, 8)
    got = fake_quantize_in_range(x[:2], x.min(), x.max(), spec)
    assert torch.equal(got, fake_quantize(x, spec)[:2])
    params = params_from_range(x.min(), x.max(), spec)
    assert torch.equal(params.scale.flatten(), choose_qparams(x, spec).scale.flatten())


def test_idempotent_where_both_ends_fall_on_ties() -> None:
    """-0.5 and 2.5 lie half way between codes; the middle value must survive a second pass."""
    spec = QuantizerSpec(2, False, Granularity.PER_TENSOR)
    once = fake_quantize(torch.tensor([-0.5, 1.0, 2.5]), spec)
    assert torch.equal(fake_quantize(once, spec), once)


# ranges below 1e-30 count as constant
finite = st.floats(-1e6, 1e6, width=32).map(lambda v: v if abs(v) > 1e-20 else 0.0)


@given(
    values=st.lists(finite, min_size=1, max_size=24),
    spec=st.sampled_from(SPECS),
    size=st.integers(1, 9),
)
def test_any_values_any_spec(values: list[float], spec: QuantizerSpec, size: int) -> None:
    """Half a step, no mutation, the reference's numbers, zero stays zero."""
    if spec.granularity is Granularity.PER_STRIDED_GROUP:
        size = 1
    spec = QuantizerSpec(spec.bits, spec.symmetric, spec.granularity, size)
    x = torch.tensor([values])
    before = x.clone()
    got = fake_quantize(x, spec)
    assert torch.equal(x, before)
    assert (got[x == 0] == 0).all()
    step = torch.from_numpy(slow_scales(x.numpy(), spec)).double()
    slack = 1e-6 * x.abs().double()
    assert ((got.double() - x.double()).abs() <= 0.5 * step * (1 + 1e-5) + slack).all()
    assert torch.equal(got, torch.from_numpy(slow_fake_quantize(x.numpy(), spec)))


@given(
    seed=st.integers(0, 10_000),
    spec=st.sampled_from(SPECS),
    rows=st.integers(1, 6),
    columns=st.integers(1, 12),
    log_size=st.integers(-20, 20),
)
def test_idempotent_at_any_size(
    seed: int, spec: QuantizerSpec, rows: int, columns: int, log_size: int
) -> None:
    spec = QuantizerSpec(spec.bits, spec.symmetric, spec.granularity, rows)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator) * 2.0**log_size
    once = fake_quantize(x, spec)
    assert torch.allclose(fake_quantize(once, spec), once, rtol=0, atol=2e-6 * float(x.abs().max()))


@given(rows=st.integers(1, 4), columns=st.integers(1, 9), seed=st.integers(0, 1000))
def test_nibbles_round_trip(rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 16, (rows, columns), generator=generator).to(torch.uint8)
    packed = pack_nibbles(codes)
    assert packed.shape == (rows, -(-columns // 2)) and packed.dtype == torch.uint8
    assert torch.equal(unpack_nibbles(packed, columns), codes)


@pytest.mark.parametrize(
    "codes",
    [
        torch.full((2, 2), 16, dtype=torch.uint8),
        torch.zeros(2, 2, dtype=torch.int16),
        torch.zeros(4, dtype=torch.uint8),
    ],
)
def test_what_is_no_nibble_is_refused(codes: Tensor) -> None:
    with pytest.raises(ValueError, match="codes"):
        pack_nibbles(codes)


def test_released_range_is_the_groups_own_even_far_from_zero() -> None:
    """The released code does not widen a one-sided range to hold zero."""
    x = torch.linspace(10, 11, 32)[:, None]
    for granularity in (Granularity.PER_STRIDED_GROUP, Granularity.PER_TENSOR):
        spec = QuantizerSpec(4, False, granularity, 32, True, include_zero=False)
        step = 1 / 16
        lowest = round(10 / step)
        expected = [
            (min(max(round(v / step) - lowest, 0), 15) + lowest) * step
            for v in x.flatten().tolist()
        ]
        assert fake_quantize(x, spec).flatten().tolist() == pytest.approx(expected)
