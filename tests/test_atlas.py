"""One channel with the grid it is rounded to; the overview before and after; columns of a map."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ditas_core.evaluation.channel import channel_record, furthest_factor
from ditas_core.evaluation.outliers import Half, outlier_atlas
from ditas_core.figures import channel_maps, column_width, overview_pair
from ditas_core.quantizer import fake_quantize, fake_quantize_in_range
from ditas_core.specs import BitWidths, get_convention

pytestmark = pytest.mark.numeric

LAYER, CHANNEL = "0.fc2", 5


@pytest.fixture()
def statistics(random_calibration):
    return random_calibration.groups[LAYER]


@pytest.fixture()
def factor(random_checkpoint, random_calibration):
    return outlier_atlas(random_checkpoint, random_calibration).groups[LAYER].factor(0.5)


def activation_spec(convention: str, bits: int = 6):
    return get_convention(convention).quantizers(BitWidths(4, bits))[1]


def distance(values: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Of each value to the nearest level."""
    return (values[:, None] - levels).abs().amin(1)


@pytest.mark.parametrize("convention", ["paper", "released"])
def test_levels_are_where_a_steps_own_range_rounds_to(statistics, factor, convention):
    spec, row = activation_spec(convention), 1
    found = channel_record(statistics, CHANNEL, factor, spec, row=row)
    low, high = (statistics.low / factor)[row].amin(), (statistics.high / factor)[row].amax()
    tokens = statistics.tokens[row].float() / factor  # (K, C)
    rounded = fake_quantize_in_range(tokens, low, high, spec)[:, CHANNEL]
    assert len(found.levels) == 2**spec.bits
    assert float(distance(rounded, found.levels).max()) < 1e-5
    torch.testing.assert_close(found.tokens, tokens[:, CHANNEL])
    assert found.levels.diff().mean() == pytest.approx(float(found.step[row]), rel=1e-4)


def test_levels_are_those_of_the_widest_token(statistics, factor):
    spec = activation_spec("integer")
    found = channel_record(statistics, CHANNEL, factor, spec)
    tokens = (statistics.tokens.float() / factor).flatten(0, 1)  # (T K, C)
    span = tokens.amax(1).clamp(min=0) - tokens.amin(1).clamp(max=0)
    widest = fake_quantize(tokens[[int(span.argmax())]], spec)[0]  # (C,)
    assert float(distance(widest, found.levels).max()) < 1e-5
    assert float(found.step.max()) == pytest.approx(float(span.max()) / spec.steps, rel=1e-4)
    # no value lies further outside than rounding moves the ends of its grid
    assert float(distance(tokens[:, CHANNEL], found.levels).max()) <= float(found.step.max())


def test_ranges_are_exact_and_of_one_half_on_request(statistics, factor):
    spec = activation_spec("integer")
    both, conditional, unconditional = (
        channel_record(statistics, CHANNEL, factor, spec, half)
        for half in (Half.BOTH, Half.CONDITIONAL, Half.UNCONDITIONAL)
    )
    s = factor[CHANNEL]
    torch.testing.assert_close(conditional.low, statistics.low[:, 0, CHANNEL] / s)
    torch.testing.assert_close(unconditional.high, statistics.high[:, 1, CHANNEL] / s)
    torch.testing.assert_close(both.low, torch.minimum(conditional.low, unconditional.low))
    assert not torch.equal(conditional.high, unconditional.high)
    assert torch.equal(both.tokens, conditional.tokens), "tokens are kept of both together"


def test_sixteen_bits_have_no_grid(statistics, factor):
    found = channel_record(statistics, CHANNEL, factor, activation_spec("integer", 16))
    assert len(found.levels) == 0 and bool(found.step.isnan().all())
    assert len(found.tokens) == statistics.tokens.shape[0] * statistics.tokens.shape[1]
    with pytest.raises(IndexError):
        channel_record(statistics, 10**6, factor, activation_spec("integer"))


def test_the_furthest_factor_counts_in_both_directions():
    aggregated = torch.tensor([4.0, 4.0, 4.0])
    per_step = torch.tensor([[4.0, 3.0, 4.0], [4.0, 4.0, 20.0]])
    assert furthest_factor(per_step, aggregated) == (1, 2)
    per_step[0, 1] = 0.5
    assert furthest_factor(per_step, aggregated) == (0, 1)


LAYERS, STEPS = [f"{b}.{k}" for b in range(2) for k in ("qkv", "proj", "fc1", "fc2")], (900, 500, 1)
RANDOM = np.random.default_rng(3)
BEFORE = RANDOM.uniform(1, 30, (3, 8)).astype(np.float32)


@pytest.mark.parametrize("measure", ["ratio", "kurtosis", "absmax"])
@pytest.mark.parametrize("difference", [False, True])
def test_overviews_share_one_scale_and_mark_the_same_cell(measure, difference):
    after = BEFORE / 3
    figure = overview_pair(
        BEFORE, after, LAYERS, STEPS, measure, ("1.proj", 500), difference=difference, dark=True
    )
    first, second, *third = figure.data
    assert first.coloraxis == second.coloraxis == "coloraxis" and len(third) == difference
    assert int(np.max(first.z)) == 255 > int(np.max(second.z))
    np.testing.assert_allclose(first.customdata, BEFORE, rtol=0.01)
    boxes = {(s.xref, s.x0, s.x1, s.y0, s.y1) for s in figure.layout.shapes}
    assert boxes == {(f"x{n}", 4.5, 5.5, 0.5, 1.5) for n in ("", "2", "3")[: 2 + difference]}
    if difference:
        np.testing.assert_allclose(third[0].customdata, 1 / 3, rtol=0.02)
        assert third[0].coloraxis == "coloraxis2"


def test_a_layer_without_a_timestep_is_framed_over_all():
    figure = overview_pair(BEFORE, BEFORE, LAYERS, STEPS, selected=("0.fc1", None))
    assert {(s.y0, s.y1) for s in figure.layout.shapes} == {(-0.5, 2.5)}
    where = np.unravel_index(BEFORE.argmax(), BEFORE.shape)
    titles = " ".join(a.text for a in figure.layout.annotations)
    assert f"Strongest: {LAYERS[where[1]]} at t = {STEPS[where[0]]}" in titles
    with pytest.raises(ValueError, match="is not in"):
        overview_pair(BEFORE, BEFORE, LAYERS, STEPS, selected=("9.fc1", None))


def test_overviews_of_a_large_model_stay_small():
    values = RANDOM.uniform(1, 30, (250, 112))
    layers = [f"{i // 4}.{i % 4}" for i in range(112)]
    figure = overview_pair(values, values / 2, layers, range(250), difference=True)
    assert len(figure.to_json()) < 300_000


@pytest.mark.parametrize(
    ("steps", "channels", "panels"),
    [(50, 256, 2), (50, 1024, 2), (50, 1024, 3), (8, 4608, 2), (250, 4608, 3), (100, 1152, 3)],
)
def test_the_width_of_a_column_is_that_of_the_map(steps, channels, panels):
    values = RANDOM.uniform(1, 30, (steps, channels)).astype(np.float32)
    figure = channel_maps(values, values, range(steps), difference=panels == 3)
    x = np.asarray(figure.data[0].x)
    assert set(np.diff(x)) == {column_width(steps, channels, panels)}
