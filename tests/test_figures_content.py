"""What the explorer's figures say: scales, marks, gaps, orders, payloads."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from ditas_core import figures as F
from ditas_core.figures.encoding import LogRange, pool_steps, shared_range
from ditas_core.figures.grids import levels_used
from ditas_core.figures.style import ROLES, TITLE_WIDTH

pytestmark = pytest.mark.numeric

RNG = np.random.default_rng(0)
LAYERS = [f"{block}.{kind}" for block in range(3) for kind in ("qkv", "proj", "fc1", "fc2")]
STEPS = tuple(range(950, -1, -50))
LOUD = 10 ** RNG.normal(0, 0.5, (20, 96))
GRID = np.round(np.linspace(0, 1, 21), 2)


def named(figure, name):
    (trace,) = (t for t in figure.data if t.name == name)
    return trace


def heading(figure):
    titles = [a.text for a in figure.layout.annotations if a.name == "title"]
    return titles[0] if titles else figure.layout.title.text


def every_figure(dark=False):
    surfaces = F.surface_pair(LOUD, LOUD / 2, STEPS, dark=dark)
    grid = np.linspace(-3, 3, 16)
    losses = 1 + (GRID[None] - 0.4) ** 2 - 0.1
    values = RNG.normal(size=500)
    steps = np.full(20, 0.1)
    estimate = {"plain": (1.0, 0.5, 1.5), "DiTAS": (2.0, 2.0, 2.0)}
    return [
        F.channel_maps(LOUD, LOUD / 2, STEPS, difference=True, dark=dark),
        F.channel_histogram(values, values / 3, grid, grid / 3, 7, dark=dark),
        F.channel_range(
            LOUD.min(1), LOUD.max(1), steps, STEPS, 7, (-steps, steps, steps), dark=dark
        ),
        F.factor_lines(LOUD[:, :9], LOUD[:, :9].max(0), STEPS, range(9), dark=dark),
        *surfaces,
        F.weight_mirror(LOUD[0], LOUD[1], LOUD[2], LOUD[3], dark=dark),
        F.error_bars({"activations": -20.0, "output": -9.0}, (-30, 0), dark=dark),
        F.alpha_curve(GRID, (GRID - 0.4) ** 2 - 1, 0.6, dark=dark),
        F.search_map(["0.qkv"], GRID, losses, np.ones(1), dark=dark),
        F.divergence_curves(STEPS, {"plain": LOUD[0, :20]}, dark=dark),
        F.metric_bars({"PSNR, dB": estimate}, {"PSNR, dB": "higher"}, dark=dark),
        F.sensitivity_map(LOUD[:12, :3], LAYERS, (3, 4, 8), [4] * 12, dark=dark),
        F.size_error_curve([1, 2], [-3, -9], ["a", "b"], 1, [("W4", 1.5, -5)], dark=dark),
        F.empty_figure("nothing", dark=dark),
        F.recipe_alphas(LAYERS, {"DiTAS": [0.35] * 11 + [None]}, dark=dark),
        F.recipe_errors(LAYERS, {"DiTAS": [0.001] * 12}, dark=dark),
    ]


@pytest.mark.parametrize("dark", [False, True])
def test_frame_is_transparent_sized_and_free_of_templates(dark):
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        figures = every_figure(dark)
    for figure in figures:
        document = json.loads(figure.to_json())
        layout = document["layout"]
        assert layout["paper_bgcolor"] == "rgba(0,0,0,0)" and not layout.get("template")
        assert layout["autosize"] and "width" not in layout
        assert len(heading(figure) or "") <= TITLE_WIDTH
        assert {t["type"] for t in document["data"]} <= {"heatmap", "scatter", "bar", "surface"}

    light, dark = (F.empty_figure("x", dark=d).layout.font.color for d in (False, True))
    assert light != dark


@pytest.mark.parametrize("difference", [False, True])
@pytest.mark.parametrize("shape", [(50, 1024), (50, 4608), (250, 1152)])
def test_channel_maps_stay_small(shape, difference):
    values = RNG.random(shape) + 0.1
    figure = F.channel_maps(values, values / 3, range(shape[0]), difference=difference)
    assert len(figure.to_json()) < 300_000
    assert all(np.size(t.z) * len(figure.data) <= 32_000 for t in figure.data)


def test_search_and_sensitivity_of_a_large_model_stay_small():
    layers = [f"{b}.{k}" for b in range(28) for k in ("qkv", "proj", "fc1", "fc2")]
    losses = RNG.random((112, 21)) + 0.5
    assert len(F.search_map(layers, GRID, losses, np.ones(112)).to_json()) < 60_000
    assert len(F.sensitivity_map(-losses[:, :7], layers, range(2, 9)).to_json()) < 60_000


def test_log_colours_are_monotone_and_span_the_bytes():
    scale = shared_range(np.array([0.1, 1.0]), np.array([10.0]))
    assert scale == LogRange(0.1, 10.0)
    assert scale.encode(np.array([0.0, 0.1, 1.0, 10.0, 99.0])).tolist() == [0, 0, 128, 255, 255]
    assert all(0.1 <= t <= 10 for t in scale.ticks())


def test_both_channel_panels_have_one_scale():
    figure = F.channel_maps(LOUD * 10, LOUD, STEPS)
    before, after = figure.data
    assert before.coloraxis == after.coloraxis == "coloraxis"
    # a value has one colour in both: the same numbers give the same bytes
    shown = np.concatenate([np.ravel(before.customdata), np.ravel(after.customdata)])
    codes = np.concatenate([np.ravel(before.z), np.ravel(after.z)]).astype(int)
    assert (np.diff(codes[np.argsort(shown, kind="stable")]) >= -1).all()
    assert codes.max() == 255 and figure.layout.xaxis.matches == "x2"
    assert figure.layout.yaxis2.matches == "y"


def test_channels_by_magnitude_start_with_the_loudest():
    figure = F.channel_maps(LOUD, LOUD / 2, STEPS, order=F.MAGNITUDE)
    order = np.argsort(-LOUD.max(0), kind="stable")
    assert list(figure.data[0].x) == [str(c) for c in order]
    np.testing.assert_allclose(figure.data[0].customdata, LOUD[:, order], rtol=0.006)
    assert list(F.channel_maps(LOUD, LOUD, STEPS).data[0].x) == list(range(96))
    with pytest.raises(ValueError, match="order: expected"):
        F.channel_maps(LOUD, LOUD, STEPS, order="random")


def test_difference_is_centred_on_no_change():
    after = LOUD.copy()
    after[:, :48] /= 4
    figure = F.channel_maps(LOUD, after, STEPS, difference=True)
    ratio = figure.data[2]
    axis = figure.layout.coloraxis2
    assert (np.asarray(ratio.z)[:, 48:] == 128).all() and (axis.cmin + axis.cmax) / 2 == 128
    assert (np.asarray(ratio.z)[:, :48] < 128).all()
    np.testing.assert_allclose(np.asarray(ratio.customdata)[:, :48], 0.25, rtol=1e-5)


def test_pooled_steps_keep_the_loudest():
    pooled, width = pool_steps(LOUD, 7)
    assert width == 3 and pooled.shape == (7, 96) and pooled.max() == LOUD.max()


def test_levels_within_a_channels_range_are_counted():
    levels = np.arange(-8, 8) * 0.5
    assert levels_used(np.array([0.1, 0.9]), levels) == 3
    assert levels_used(np.array([0.1]), levels) == 1
    figure = F.channel_histogram(np.array([0.1, 0.9]), np.array([-4, 3.5]), levels, levels, 1)
    titles = [a.text for a in figure.layout.annotations]
    assert "3 of 16" in titles[0] and "16 of 16" in titles[1]
    lines = [t for t in figure.data if t.name == "levels"]
    assert [x for x in lines[1].x if x is not None][::2] == levels.tolist()


def test_range_counts_grid_steps():
    low, high, step = np.full(20, -1.0), np.full(20, 3.0), np.full(20, 0.5)
    figure = F.channel_range(low, high, step, STEPS, 3)
    assert set(figure.data[2].y) == {8.0} and list(figure.data[2].x) == list(STEPS)


def test_the_aggregated_factor_is_drawn_last_and_bold():
    figure = F.factor_lines(LOUD[:, :9], LOUD[:, :9].max(0), STEPS, range(9))
    bold = named(figure, "aggregated over all steps")
    assert bold.line.width > 2 * figure.data[0].line.width
    np.testing.assert_allclose(bold.y, LOUD[:, :9].max(0), rtol=1e-3)
    assert sum(t.name is not None and t.name.startswith("t = ") for t in figure.data) == 20
    many = F.factor_lines(np.ones((250, 64)), np.ones(64), range(250), range(64))
    assert len(many.data) <= 62 and len(many.to_json()) < 300_000


def test_surfaces_share_scale_and_camera_and_keep_the_peak():
    values = RNG.random((250, 1152))
    values[100, 700] = 30
    before, after = F.surface_pair(values, values / 10, range(250))
    a, b = before.data[0], after.data[0]
    assert (a.cmin, a.cmax) == (b.cmin, b.cmax)
    assert before.layout.scene.zaxis.range == after.layout.scene.zaxis.range
    assert before.layout.scene.camera == after.layout.scene.camera
    assert np.shape(a.z)[0] <= 64 and np.shape(a.z)[1] <= 128 and np.max(a.z) == 30
    assert len(before.to_json()) < 100_000


def test_mirrored_panels_span_the_same_decades():
    x, w = LOUD[0] * 100, LOUD[1] * 0.01
    figure = F.weight_mirror(x, x / 9, w, w * 9)
    upper, lower = figure.layout.yaxis.range, figure.layout.yaxis2.range
    assert upper[1] - upper[0] == pytest.approx(lower[0] - lower[1])
    assert lower[0] > lower[1]  # upside down
    np.testing.assert_allclose(figure.data[0].y, np.sort(x)[::-1], rtol=1e-3)
    order = np.argsort(-x, kind="stable")
    np.testing.assert_allclose(figure.data[3].y, (w * 9)[order], rtol=1e-3)


def test_the_curves_optimum_is_its_minimum():
    losses = (GRID - 0.35) ** 2
    figure = F.alpha_curve(GRID, losses, 0.8)
    star, hand = figure.data[1:]
    assert star.x[0] == 0.35 and star.y[0] == pytest.approx(0)
    assert hand.x[0] == 0.8 and hand.y[0] == pytest.approx(0.2025, abs=1e-3)
    assert len(F.alpha_curve(GRID, losses, None).data) == 2


def test_error_bars_end_at_their_values():
    figure = F.error_bars(
        {"activations": -20.0, "output": -9.0}, (-30, 0), {"activations": -8.0, "output": -5.0}
    )
    bars = figure.data[0]
    assert [bars.base + x for x in bars.x] == [-20, -9]
    assert list(figure.data[1].x) == [-8, -5] and list(figure.layout.xaxis.range) == [-30, 0]
    low, high = F.error_span(-21.3, -9.0, float("nan"))
    assert low <= -24.3 and high >= -6.0 and low % 5 == high % 5 == 0


def test_search_map_marks_minima_and_leaves_missing_layers_blank():
    names = ["0.qkv", "0.fc1", "0.fc2"]
    losses = np.stack([0.5 + (GRID - 0.3) ** 2, np.full(21, np.nan), np.full(21, 2.0)])
    figure = F.search_map(names, GRID, losses, np.array([1.0, np.nan, 1.0]))
    z = np.array(figure.data[0].z, dtype=float)
    assert np.isnan(z[:, 1]).all() and np.isfinite(z[:, [0, 2]]).all()
    assert "NaN" not in figure.to_json()
    best, none = named(figure, "best α"), named(figure, "no α helps")
    assert list(best.x) == ["0.qkv"] and best.y[0] == 0.3
    assert GRID[z[:, 0].argmin()] == best.y[0]
    assert list(none.x) == ["0.fc2"]
    assert heading(figure) == "2 of 3 layers, smoothing helps 1"
    assert figure.data[0].zmin == -figure.data[0].zmax
    empty = F.search_map(names, GRID, np.full((3, 21), np.nan), np.full(3, np.nan))
    assert heading(empty) == "0 of 3 layers searched"


def test_recipes_have_one_look_everywhere():
    for name, key in (("plain rounding", "plain"), ("recipe", "ditas"), ("DiTAS W4A8", "ditas")):
        assert F.role(name) == ROLES[key]
    lines = F.divergence_curves((2, 1), {"search": [2, 1], "plain": [1, 0]}).data
    marks = F.metric_bars({"PSNR": {"search": (1, 0, 2), "plain": (2, 1, 3)}}).data
    for line, mark, key in zip(lines, marks, ("search", "plain"), strict=True):
        assert line.line.color == mark.marker.color == ROLES[key].colour
    looks = list(ROLES.values())
    assert len({look.colour for look in looks}) == len({look.dash for look in looks}) == 5


def test_chosen_bits_are_marked_and_gaps_stay_blank():
    errors = -6.0 * np.array([[3, 4, 8]] * 12, dtype=float)
    errors[2, 1] = np.nan
    chosen = [4, None, 3] + [8] * 9
    figure = F.sensitivity_map(errors, LAYERS, (3, 4, 8), chosen)
    assert figure.data[0].z[1][2] is None
    marks = named(figure, "chosen")
    assert list(marks.x) == [LAYERS[0], *LAYERS[2:]] and list(marks.y) == ["4", "3"] + ["8"] * 9


def test_size_curve_is_sorted_and_marks_the_chosen():
    figure = F.size_error_curve([3, 1, 2], [-30, -10, -20], ["c", "a", "b"], chosen=0)
    assert list(figure.data[0].x) == [1, 2, 3] and list(figure.data[0].text) == ["a", "b", "c"]
    assert (named(figure, "chosen").x[0], named(figure, "chosen").y[0]) == (3, -30)
