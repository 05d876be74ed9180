"""Smoothing factors by the formula; folding leaves the full-precision function alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from slow_reference import slow_smoothing_factor
from torch import Tensor, nn

from ditas_core.calibration import (
    StepTable,
    TokenDraw,
    calibrate,
    record_inputs,
)
from ditas_core.checkpoints import Checkpoint, fingerprint
from ditas_core.conversion import (
    inject_outliers,
    injected_factors,
    quantize_transformer,
    rescaled_transformer,
)
from ditas_core.models import Absorber, get_linear, smoothing_groups
from ditas_core.smoothing import (
    ALPHA_GRID,
    FLOOR,
    Affine,
    divide_rows,
    fold_modulation,
    smoothing_factor,
    temporal_aggregate,
    weight_absmax,
)
from ditas_core.specs import (
    BitWidths,
    CalibrationSpec,
    LayerRecipe,
    Recipe,
    SamplingSpec,
)

pytestmark = pytest.mark.numeric

TOLERANCE = 1e-5


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_factors(transformer: nn.Module, seed: int, decades: float = 1.0) -> dict[str, Tensor]:
    """s per foldable group, spread evenly over +-``decades`` powers of ten."""
    factors = {}
    for i, group in enumerate(smoothing_groups(transformer)):
        if group.absorber is not Absorber.ON_THE_FLY:
            channels = get_linear(transformer, group.layers[0]).in_features
            generator = torch.Generator().manual_seed(seed * 1000 + i)
            factors[group.name] = 10 ** (
                (torch.rand(channels, generator=generator) * 2 - 1) * decades
            )
    return factors


@torch.no_grad()
def output(checkpoint: Checkpoint, transformer: nn.Module, seed: int = 0) -> Tensor:
    """One forward pass over all noise levels and several classes, null class included."""
    latents = random(seed, 4, *checkpoint.latent_shape)
    times = torch.tensor([0, 20, 500, 999])
    labels = torch.tensor([0, 1, 2, 1000])
    return transformer(latents, timestep=times, class_labels=labels).sample


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).double().norm() / expected.double().norm())


@pytest.mark.parametrize("alpha", [None, 0.0, 0.05, 0.5, 0.95, 1.0])
def test_factor_equals_the_formula(alpha: float | None) -> None:
    act = random(0, 7).abs() * 10
    act[2] = 0
    weights = [random(1, 5, 7), random(2, 3, 7)]
    for weight in weights:
        weight[:, 4] = 0
    got = smoothing_factor(act, weight_absmax(weights), alpha)
    expected = slow_smoothing_factor(act.tolist(), [w.numpy() for w in weights], alpha)
    assert torch.allclose(got, torch.tensor(expected), rtol=1e-5)


@given(
    act=st.lists(st.floats(0, 1e5, width=32), min_size=1, max_size=8),
    alpha=st.sampled_from(ALPHA_GRID),
    w=st.floats(0, 1e5, width=32),
)
def test_factor_is_finite_and_clamped(act: list[float], alpha: float, w: float) -> None:
    s = smoothing_factor(torch.tensor(act), torch.full((len(act),), w), alpha)
    assert torch.isfinite(s).all() and bool((s >= FLOOR * (1 - 1e-6)).all())


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_factor_refuses_other_alphas(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        smoothing_factor(torch.ones(2), torch.ones(2), alpha)


def test_factor_refuses_other_shapes() -> None:
    for act, w in ((torch.ones(2), torch.ones(3)), (torch.ones(2, 2), torch.ones(2, 2))):
        with pytest.raises(ValueError, match="maxima"):
            smoothing_factor(act, w, 0.5)


def test_the_grid_is_the_papers() -> None:
    assert tuple(i / 20 for i in range(21)) == ALPHA_GRID


def test_temporal_aggregate_takes_the_maximum_over_all_but_channels() -> None:
    x = random(5, 3, 2, 4)
    expected = [max(float(x[t, h, c]) for t in range(3) for h in range(2)) for c in range(4)]
    assert temporal_aggregate(x).tolist() == expected


def test_weight_absmax_is_over_all_layers_of_the_group() -> None:
    weights = [torch.tensor([[1.0, -2.0]]), torch.tensor([[-3.0, 0.5], [0.0, 0.0]])]
    assert weight_absmax(weights).tolist() == [3.0, 2.0]


@pytest.mark.parametrize(("shift", "scale"), [(0, 1), (3, 4)])
def test_fold_modulation_divides_one_pair_and_no_other(shift: int, scale: int) -> None:
    c, d = 5, 3
    modulation = Affine(random(6, 6 * c, d), random(7, 6 * c))
    s, condition, x_hat = random(8, c).abs() + 0.1, random(9, d), random(10, c)
    folded = fold_modulation(modulation, s, shift, scale)

    def chunks(affine: Affine) -> list[Tensor]:
        return list((affine.weight @ condition + affine.bias).reshape(6, c))

    before, after = chunks(modulation), chunks(folded)
    old = x_hat * (1 + before[scale]) + before[shift]
    new = x_hat * (1 + after[scale]) + after[shift]
    assert torch.allclose(new, old / s, rtol=1e-5, atol=1e-6)
    for i in set(range(6)) - {shift, scale}:
        assert torch.equal(after[i], before[i])


def test_divide_rows_divides_the_output() -> None:
    linear, s, x = Affine(random(11, 4, 3), random(12, 4)), random(13, 4).abs() + 0.1, random(14, 3)
    divided = divide_rows(linear, s)
    expected = (linear.weight @ x + linear.bias) / s
    assert torch.allclose(divided.weight @ x + divided.bias, expected, rtol=1e-5, atol=1e-6)


@given(seed=st.integers(0, 10_000), decades=st.floats(0.1, 1.5))
def test_folding_keeps_the_function(
    random_checkpoint: Checkpoint, seed: int, decades: float
) -> None:
    transformer = random_checkpoint.transformer
    folded = rescaled_transformer(transformer, random_factors(transformer, seed, decades))
    expected = output(random_checkpoint, transformer, seed)
    got = output(random_checkpoint, folded, seed)
    assert relative_error(got, expected) <= TOLERANCE


@pytest.mark.parametrize("kind", ["qkv", "proj", "fc1"])
def test_folding_one_kind_really_scales_its_inputs(
    random_checkpoint: Checkpoint, kind: str
) -> None:
    transformer = random_checkpoint.transformer
    factors = random_factors(transformer, 3)
    factors = {name: s for name, s in factors.items() if name.endswith(kind)}
    folded = rescaled_transformer(transformer, factors)
    groups = random_checkpoint.groups
    with record_inputs(transformer, groups, TokenDraw(0, 1, 4)) as recorder:
        expected = output(random_checkpoint, transformer)
    before = recorder.finish()
    with record_inputs(folded, groups, TokenDraw(0, 1, 4)) as recorder:
        got = output(random_checkpoint, folded)
    after = recorder.finish()
    assert relative_error(got, expected) <= TOLERANCE
    for name in before:
        s = factors.get(name, torch.ones(()))
        assert relative_error(after[name].high * s, before[name].high) <= TOLERANCE


def test_folding_never_writes_to_the_source(random_checkpoint: Checkpoint) -> None:
    transformer = random_checkpoint.transformer
    before = fingerprint(transformer)
    factors = random_factors(transformer, 0)
    kept = {name: s.clone() for name, s in factors.items()}
    folded = rescaled_transformer(transformer, factors)
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.add_(1)
    assert fingerprint(transformer) == before
    assert all(torch.equal(factors[name], s) for name, s in kept.items())


def test_what_cannot_be_folded_is_refused(random_checkpoint: Checkpoint) -> None:
    with pytest.raises(ValueError, match="on the fly"):
        rescaled_transformer(random_checkpoint.transformer, {"0.fc2": torch.ones(128)})
    with pytest.raises(ValueError, match="groups"):
        rescaled_transformer(random_checkpoint.transformer, {"9.qkv": torch.ones(32)})


@pytest.mark.parametrize("checkpoint", ["random_checkpoint", "demo_checkpoint"])
@pytest.mark.parametrize("convention", ["integer", "paper", "released"])
def test_smoothing_a_whole_transformer_at_sixteen_bits_changes_nothing(
    checkpoint: str, convention: str, request: pytest.FixtureRequest
) -> None:
    """Factors folded, multiplied and divided on the fly as conversion does it, no rounding."""
    source: Checkpoint = request.getfixturevalue(checkpoint)
    spec = CalibrationSpec(SamplingSpec(steps=2), samples=2, tokens=2)
    calibration = calibrate(source, spec)
    layers = {g.name: LayerRecipe(BitWidths(16, 16), alpha=0.5) for g in source.groups}
    recipe = Recipe("smoothing", convention, source.fingerprint, layers, calibration.sha256)
    smoothed = quantize_transformer(source, recipe, calibration)
    expected = output(source, source.transformer)
    got = output(source, smoothed)
    assert 0 < relative_error(got, expected) <= TOLERANCE


def channel_absmax(checkpoint: Checkpoint, transformer: nn.Module) -> dict[str, Tensor]:
    with record_inputs(transformer, checkpoint.groups, TokenDraw(0, 1, 1)) as recorder:
        output(checkpoint, transformer)
    table = StepTable(1, 1)
    table.add(recorder.finish())
    return {name: table.statistics(name).aggregated_absmax() for name in table.groups}


@pytest.mark.parametrize("checkpoint", ["random_checkpoint", "demo_checkpoint"])
def test_injected_outliers_keep_the_function_and_stand_out(
    checkpoint: str, request: pytest.FixtureRequest
) -> None:
    source: Checkpoint = request.getfixturevalue(checkpoint)
    before = fingerprint(source.transformer)
    injected = inject_outliers(source.transformer, strength=50.0, channels=3, seed=1)
    expected = output(source, source.transformer)
    assert relative_error(output(source, injected), expected) <= TOLERANCE
    natural = channel_absmax(source, source.transformer)
    loud = channel_absmax(source, injected)
    factors = injected_factors(source.transformer, 50.0, 3, 1)
    growth = []
    for group in source.groups:
        s = factors.get(group.name, torch.ones(()))
        assert torch.allclose(loud[group.name] * s, natural[group.name], rtol=1e-3, atol=1e-5)
        if group.absorber is not Absorber.ON_THE_FLY:
            ratios = [float(m.max() / m.median()) for m in (natural[group.name], loud[group.name])]
            assert ratios[1] > 8, group.title
            growth.append(ratios[1] / ratios[0])
    assert min(growth) > 0.99
    assert sorted(growth)[len(growth) // 2] > 4
    assert fingerprint(source.transformer) == before


def test_injection_is_repeatable_and_bounded(random_checkpoint: Checkpoint) -> None:
    transformer = random_checkpoint.transformer
    first, second = (injected_factors(transformer, 20.0, 4, seed=9) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(int((s != 1).sum()) == 4 for s in first.values())
    for strength in (0.5, 1e5, float("nan")):
        with pytest.raises(ValueError, match="strength"):
            injected_factors(transformer, strength, 3, 0)
    for channels in (0, 33):
        with pytest.raises(ValueError, match="channels"):
            injected_factors(transformer, 10.0, channels, 0)
