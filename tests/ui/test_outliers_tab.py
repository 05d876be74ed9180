"""The outlier atlas behind its interface: jobs, figures, picks."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from gradio_client import Client

from ditas_core.calibration import Calibration
from ditas_core.evaluation.outliers import Measure
from ditas_core.figures import column_width
from ditas_core.specs import CalibrationSpec, SamplingSpec
from ditas_core.ui.page.bar import BarInputs
from ditas_core.ui.page.picking import Pick
from ditas_core.ui.stored.results import PLAIN, SMOOTHED
from ditas_core.ui.tabs.outliers import draw as show
from ditas_core.ui.tabs.outliers.layout import AtlasInputs, Scene, read_channel
from ditas_core.ui.visitors.backend import Backend, Model
from ditas_core.ui.visitors.measuring import measure
from ditas_core.ui.visitors.running import Progress
from ditas_core.ui.visitors.session import Session

from .conftest import DEMO, HUB, bar, bench_of, hooked

SHORT = CalibrationSpec(SamplingSpec(steps=6), samples=2)
ANOTHER = CalibrationSpec(SamplingSpec(steps=4), samples=1, seed=3)
LAYERS = 32
INSIDE = ("layer", "timestep", "follow", "by_hand")
BELOW = ("overview_line", "plot", "before", "after", "layer_line", "channel", "histogram", "range",
         "channel_line")  # fmt: skip
OPENED = (*INSIDE, "frame", *BELOW)
DRAWN = ("table", *INSIDE, "overview", *BELOW)
"""What the client gets, by name: rows of the layout have no place among them."""


def asked(**changes: Any) -> tuple[Any, ...]:
    """The tab's values and the bar's, in their order."""
    values = {
        "measure": "loudest ÷ median", "half": "both", "panels": show.PANELS[0], "layer": "0.fc1",
        "timestep": show.WHOLE_RUN, "view": show.MAPS, "ordered": False, "follow": True,
        "by_hand": 0.5, "channel": "7",
    }  # fmt: skip
    values |= {name: changes.pop(name) for name in set(values) & set(changes)}
    return (*values.values(), *bar(**{"recipe": SMOOTHED} | changes))


def read(backend: Backend, values: tuple[Any, ...], *, keep: bool) -> Scene | None:
    """What the tab makes of these values."""
    inputs = AtlasInputs(*values[:10], BarInputs(*values[10:]))
    return inputs.read(backend, Session("test"), keep)


@pytest.fixture(scope="module")
def backend(nothing_shipped) -> Backend:
    """What is shown was measured here."""
    return bench_of(DEMO, SHORT, HUB)


@pytest.fixture(scope="module")
def unmeasured(client) -> list[Any]:
    """What the client got before anything was measured."""
    return list(client.predict(*asked(layer=None, channel=None), api_name="/draw_outliers"))


@pytest.fixture(scope="module")
def measured(client, unmeasured) -> Any:
    """The job Measure, pressed once."""
    job = client.submit(*asked(layer=None, channel=None), api_name="/measure")
    job.result(timeout=300)
    return job


@pytest.fixture(scope="module")
def scene(measured, backend):
    """``scene(**changes)`` -> what the values ask for."""

    def ask(**changes: Any) -> Scene:
        found = read(backend, asked(**changes), keep=True)
        assert found is not None
        return found

    return ask


def rows_of(output: Any) -> list[list[Any]]:
    """Of a table, also where it comes as an update."""
    return (output.get("value") or output)["data"]


def figure_of(output: Any) -> dict[str, Any]:
    """The plotly figure of one of the client's outputs; an update holds it as its value."""
    plot = output.get("value", output) if "plot" not in output else output
    return json.loads(plot["plot"])


def told(client: Client, endpoint: str, **changes: Any) -> dict[str, Any]:
    """What an endpoint answers, by name."""
    names = OPENED if endpoint == "outlier_layer" else DRAWN
    answer = client.predict(*asked(**changes), api_name=f"/{endpoint}")
    return dict(zip(names, answer, strict=True))


def test_before_anything_is_measured_it_says_what_to_do(unmeasured):
    texts = [output for output in unmeasured if isinstance(output, str) and "status" in output]
    assert len(texts) == 3 and all("press “Measure”" in text for text in texts)
    assert all("warn" in text for text in texts)


def test_measure_streams_its_steps_and_fills_the_tab(measured, backend):
    lines = [output[0] for output in measured.outputs()]
    assert any("Denoising step" in line and "of 6, 2 samples" in line for line in lines)
    assert "Measured: 6 steps of 2 samples" in lines[-1] and "done" in lines[-1]
    atlas = backend.atlas(backend.default)
    rows = rows_of(measured.outputs()[-1][-len(DRAWN)])
    ranks = atlas.ranking(dict.fromkeys(atlas.groups, 0.5))
    assert [row[0] for row in rows] == [rank.layer for rank in ranks] and len(rows) == LAYERS
    assert rows[0][1] == round(ranks[0].strength, 2) > rows[0][2] == round(ranks[0].smoothed, 2)


def test_the_run_is_kept_for_everybody_and_one_that_is_closed_is_not(measured, backend):
    first, last = measure(backend, backend.default, SHORT)
    assert isinstance(first, Progress) and isinstance(last, Calibration)
    assert last is backend.measured(backend.default, SHORT)
    events = measure(backend, backend.default, ANOTHER)
    fractions = [next(events).fraction, next(events).fraction]
    assert fractions[0] == 0 < fractions[1] < 1
    events.close()
    assert backend.measured(backend.default, ANOTHER) is None
    assert not hooked(backend.checkpoint(backend.default).transformer)


@pytest.mark.parametrize("word", show.MEASURES)
@pytest.mark.parametrize("half", show.HALVES)
def test_measure_and_half_rank_and_colour_alike(client, backend, measured, word, half):
    outputs = told(client, "draw_outliers", measure=word, half=half)
    ranks = backend.atlas(backend.default).ranking({}, show.MEASURES[word], half)
    rows = rows_of(outputs["table"])
    assert [row[0] for row in rows] == [rank.layer for rank in ranks]
    assert [row[3] for row in rows] == [rank.channel for rank in ranks]
    overview = figure_of(outputs["overview"])
    assert [trace["type"] for trace in overview["data"]] == ["heatmap", "heatmap"]
    line = outputs["overview_line"]
    assert (f"{half} half only" in line) == (half != "both")
    assert ranks[0].layer in line and f"channel {ranks[0].channel} " in line
    assert word in outputs["layer_line"]


def test_the_recipe_of_the_bar_is_what_after_means(client, measured):
    smoothed = told(client, "draw_outliers", by_hand=0.7)
    plain = told(client, "draw_outliers", by_hand=0.7, recipe=PLAIN)
    assert "α = 0.50" in smoothed["layer_line"]
    assert "α = identity (plain rounding)" in plain["layer_line"]
    assert smoothed["by_hand"] == 0.5
    codes = [figure_of(each["overview"])["data"] for each in (smoothed, plain)]
    assert codes[0][0]["customdata"] == codes[1][0]["customdata"]
    assert codes[0][1]["customdata"] != codes[1][1]["customdata"]
    assert codes[1][0]["customdata"] == codes[1][1]["customdata"]
    change = figure_of(told(client, "draw_outliers", panels=show.PANELS[1])["overview"])
    assert len(change["data"]) == 3 and len(json.dumps(change)) < 300_000


def test_a_layer_opens_with_its_own_loudest_channel(client, backend, measured):
    outputs = told(client, "outlier_layer", layer="3.fc2", channel="7")
    group = backend.atlas(backend.default).groups["3.fc2"]
    assert outputs["layer"]["value"] == "3.fc2"
    assert outputs["channel"]["value"] == str(int(group.act_absmax.argmax()))
    assert "block 3 · fc2" in outputs["layer_line"]
    assert "framed: 3.fc2" in outputs["overview_line"]
    got = client.predict(*asked(channel="9"), api_name="/outlier_channel")
    assert got[0]["value"] == "9"


def test_opening_a_layer_moves_the_frame_and_draws_the_overview_no_second_time(
    client, backend, measured
):
    frames = []
    for timestep in (show.WHOLE_RUN, str(backend.atlas(backend.default).timesteps[2])):
        opened = told(client, "outlier_layer", layer="2.proj", timestep=timestep)
        move = json.loads(opened["frame"])["atlas-overview"]
        assert set(move) == {"patch", "at"}
        frames.append(move["patch"]["shapes"])
    column = list(backend.atlas(backend.default).groups).index("2.proj")
    for shapes, (top, bottom) in zip(frames, ((-0.5, 5.5), (1.5, 2.5)), strict=True):
        assert {(s["x0"], s["x1"]) for s in shapes} == {(column - 0.5, column + 0.5)}
        assert {(s["y0"], s["y1"]) for s in shapes} == {(top, bottom)}
        assert {s["xref"] for s in shapes} == {"x", "x2"}
    drawn = told(client, "draw_outliers", layer="2.proj", timestep=timestep)
    shapes = figure_of(drawn["overview"])["layout"]["shapes"]
    assert all(s.items() >= frame.items() for s, frame in zip(shapes, frames[1], strict=True))


def test_alpha_by_hand_is_said_and_used(scene):
    by_hand, recipe = scene(follow=False, by_hand=0.9), scene()
    assert "α = 0.90 (by hand)" in show.layer_text(by_hand.atlas, by_hand.look)
    group = by_hand.atlas.groups["0.fc1"]
    (figure,) = show.layer_figures(by_hand.atlas, by_hand.look, None)
    expected = group.smoothed(0.9).map().numpy()
    np.testing.assert_allclose(figure.data[1].customdata, expected, rtol=0.01)
    before, after = show.records(by_hand.atlas, by_hand.look, by_hand.calibration, 7)
    s = float(group.factor(0.9)[7])
    torch.testing.assert_close(after.high * s, before.high, rtol=1e-4, atol=1e-6)
    assert (
        show.records(recipe.atlas, recipe.look, recipe.calibration, 7)[1].high[0] != after.high[0]
    )


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        (show.MAPS, ["heatmap"] * 2),
        (show.CHANGE, ["heatmap"] * 3),
        (show.SURFACE, ["surface"]),
        (show.WEIGHTS, ["scatter"] * 4),
    ],
)
def test_every_view_of_a_layer(scene, name, kinds, dark):
    asked_for = scene(view=name, dark=dark)
    figures = show.layer_figures(asked_for.atlas, asked_for.look, asked_for.calibration)
    assert len(figures) == (2 if name == show.SURFACE else 1)
    for figure in figures:
        assert [trace.type for trace in figure.data] == kinds
        assert len(figure.to_json()) < 300_000
    assert show.EXPLAINED[name] in show.layer_text(asked_for.atlas, asked_for.look)


def test_factors_show_what_aggregation_gives_away(scene):
    found = scene(view=show.FACTORS)
    (figure,) = show.layer_figures(found.atlas, found.look, None)
    group = found.atlas.groups["0.fc1"]
    lines = [trace for trace in figure.data if trace.mode and "lines" in trace.mode]
    assert len(lines) == SHORT.sampling.steps + 1
    channels = [int(name) for name in lines[-1].x]
    np.testing.assert_allclose(lines[-1].y, group.factor(0.5)[channels], rtol=1e-3)
    np.testing.assert_allclose(lines[0].y, group.step_factors(0.5)[0, channels], rtol=1e-3)
    text = show.layer_text(found.atlas, found.look)
    assert "Furthest apart: channel" in text and "would ask for" in text
    plain = scene(view=show.FACTORS, recipe=PLAIN)
    assert "all of them are 1" in show.layer_text(plain.atlas, plain.look)


def test_the_landscape_of_one_step_is_of_its_tokens(scene):
    whole = scene(view=show.SURFACE)
    step = str(whole.atlas.timesteps[2])
    one = scene(view=show.SURFACE, timestep=step)
    for found, rows in ((whole, SHORT.sampling.steps), (one, SHORT.tokens)):
        before, after = show.layer_figures(found.atlas, found.look, found.calibration)
        assert np.shape(before.data[0].z)[0] == rows
        assert before.layout.scene.zaxis.range == after.layout.scene.zaxis.range
    assert before.layout.scene.yaxis.title.text == "token"


def test_a_click_finds_the_channel_in_every_view(scene):
    loudness = scene().atlas.groups["0.fc2"].map().amax(0)
    order = loudness.argsort(descending=True, stable=True)
    at = 100
    assert show.picked_channel(scene().atlas, scene().look, Pick(at, "875", 0)) == at
    wide = scene(layer="0.fc2", view=show.CHANGE)
    big = replace(wide.atlas, timesteps=tuple(range(50)))  # so many rows make columns of several
    found = show.picked_channel(big, wide.look, Pick(at, "875", 0))
    column = loudness[at : at + column_width(50, len(loudness), 3)]
    assert len(column) > 1 and at <= found < at + len(column)
    assert loudness[found] == column.max()
    ordered = scene(layer="0.fc2", ordered=True)
    assert show.picked_channel(ordered.atlas, ordered.look, Pick("205", "875", 1)) == 205
    weights = scene(layer="0.fc2", view=show.WEIGHTS)
    assert show.picked_channel(weights.atlas, weights.look, Pick(3, 0.2, 1)) == int(order[3])
    for bad in (Pick(-1, "0", 0), Pick(10**6, "0", 0), Pick("abc", "0", 0), Pick(1e300, "0", 0)):
        with pytest.raises(gr.Error):
            show.picked_channel(weights.atlas, weights.look, bad)


def test_a_channel_has_its_values_levels_and_range(scene):
    found = scene(preset="W4A4", channel="11")
    histogram, over_time, text, kind = show.channel_figures(
        found.atlas, found.look, found.calibration, found.channel
    )
    assert kind == "done" and "channel 11: divided by s = " in text
    assert f"n = {6 * SHORT.tokens} stored values" in text and "W4A4, integer" in text
    assert "of 16 levels" in " ".join(a.text for a in histogram.layout.annotations)
    bars = [trace for trace in histogram.data if trace.type == "bar"]
    assert len(bars) == 2 and sum(bars[0].y) == pytest.approx(100, abs=0.1)
    statistics = found.calibration.groups["0.fc1"]
    np.testing.assert_allclose(
        over_time.data[0].y, statistics.low[:, :, 11].amin(1).numpy(), rtol=1e-3
    )
    one = scene(preset="W4A4", channel="11", timestep=str(found.atlas.timesteps[0]))
    text = show.channel_figures(one.atlas, one.look, one.calibration, 11)[2]
    assert f"n = {SHORT.tokens} stored values" in text and f"t = {one.atlas.timesteps[0]}" in text


@pytest.mark.parametrize(("name", "count"), [("fp8", 253), ("mxfp4", 15), ("nvfp4", 15)])
def test_a_channel_has_a_formats_uneven_levels(scene, name, count):
    found = scene(preset="custom", activation=name, channel="11", convention="integer")
    histogram, over_time, text, kind = show.channel_figures(
        found.atlas, found.look, found.calibration, found.channel
    )
    assert kind == "done" and f"W4 A:{name}" in text
    assert f"of {count} levels" in " ".join(a.text for a in histogram.layout.annotations)
    whose = "each token has its own" if name == "fp8" else "each token's block of"
    assert whose in text
    drawn = next(trace for trace in histogram.data if trace.name == "levels")
    places = [x for x in drawn.x if x is not None]
    known = show.records(found.atlas, found.look, found.calibration, 11)[0].levels.numpy()
    assert places and np.diff(known).max() >= 4 * np.diff(known).min()
    assert max(abs(known - x).min() for x in places) < 1e-4 * known.max()
    within = np.array(over_time.data[2].y, dtype=float)
    assert np.isfinite(within).all() and within.max() <= count


def test_without_rounding_there_is_no_grid(scene):
    found = scene(preset="custom", activation=16)
    histogram, _, text, _ = show.channel_figures(found.atlas, found.look, found.calibration, 7)
    assert "no grid" in text
    assert "0 of 0 levels" in " ".join(a.text for a in histogram.layout.annotations)


def test_without_a_run_single_values_are_not_made_up(scene):
    found = scene()
    histogram, over_time, text, kind = show.channel_figures(found.atlas, found.look, None, 7)
    assert kind == "warn" and show.NO_VALUES in text
    assert len(histogram.data) == len(over_time.data) == 0


def test_another_checkpoint_replaces_what_it_lacks(backend, measured):
    strange = asked(layer="99.fc1", channel="123456", timestep="31337")
    found = read(backend, strange, keep=False)
    ranks = found.atlas.ranking(found.alphas)
    calmed = max(ranks, key=lambda rank: rank.strength - rank.smoothed)
    assert (found.look.layer, found.channel) == (calmed.layer, calmed.channel)
    assert found.look.timestep is None
    with pytest.raises(gr.Error, match="expected a number"):
        read(backend, asked(follow=False, by_hand=1.5), keep=True)
    nothing = read(backend, asked(checkpoint=HUB), keep=False)
    assert nothing is None


def test_injected_outliers_are_labelled_and_loud(scene, backend):
    quiet, loud = scene(), scene(inject=True, strength=100)
    assert loud.look.choice.model == Model(DEMO.name, 100.0)
    assert "Injected outliers (function-preserving)" in show.layer_text(loud.atlas, loud.look)
    strengths = [s.atlas.groups["0.fc1"].strength_as(Measure.RATIO) for s in (quiet, loud)]
    assert strengths[1] > 5 * strengths[0]
    assert loud.calibration is not None, "rescaled, not measured again"


@pytest.mark.parametrize(
    ("value", "number"),
    [("0", 0), ("255", 255), ("256", None), ("-1", None), ("²", None), ("1.0", None), (7, None),
     ("", None), (None, None), ("9" * 5000, None), (["1"], None), (True, None)],
)  # fmt: skip
def test_channel_numbers(value, number):
    assert read_channel(value, 256) == number
