"""One channel over time, smoothing factors over time, and what smoothing moves into W."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from .encoding import Array, LogRange, numbers, pool_channels, short
from .heatmaps import channel_order
from .style import (
    AFTER,
    BEFORE,
    TIME,
    bar_above,
    dress,
    faded,
    ink,
    legend_below,
    panel_titles,
    title_over_bar,
)

MOST_LINES = 60
MIRROR_COLUMNS = 256


def channel_range(
    low: Array,
    high: Array,
    step: Array,
    timesteps: Sequence[int],
    channel: int,
    after: tuple[Array, Array, Array] | None = None,
    *,
    height: int = 420,
    dark: bool = False,
) -> go.Figure:
    """Range of one channel over time as a band, and below it the share of one grid step.

    low, high   smallest and largest value of the channel at each step, (T,)
    step        distance of two neighbouring levels of the quantizer, (T,), same unit
    after       the same three of X / s
    """
    figure = make_subplots(
        rows=2,
        cols=1,
        shared_xaxes=True,
        row_heights=[0.6, 0.4],
        vertical_spacing=0.17,
        subplot_titles=("smallest to largest value", "steps of the grid within this range"),
    )
    states = [("before smoothing", BEFORE, (low, high, step))]
    states += [("after smoothing", AFTER, after)] if after is not None else []
    t = [int(v) for v in timesteps]
    for name, colour, (bottom, top, size) in states:
        shared = {"x": t, "mode": "lines", "name": name, "legendgroup": name}
        lowest = go.Scatter(
            y=numbers(bottom),
            line={"color": colour, "width": 1.4},
            showlegend=False,
            hovertemplate="t = %{x}: lowest %{y:.3~g}<extra>%{fullData.name}</extra>",
            **shared,
        )
        highest = go.Scatter(
            y=numbers(top),
            line={"color": colour, "width": 1.4},
            fill="tonexty",
            fillcolor=faded(colour, 0.28),
            customdata=numbers(size),
            hovertemplate="t = %{x}: highest %{y:.3~g}, one grid step is %{customdata:.2~g}"
            "<extra>%{fullData.name}</extra>",
            **shared,
        )
        within = go.Scatter(
            y=numbers((top - bottom) / np.maximum(size, 1e-12)),
            line={"color": colour, "width": 2.2},
            showlegend=False,
            hovertemplate="t = %{x}: %{y:.1~f} steps of the grid<extra>%{fullData.name}</extra>",
            **shared,
        )
        figure.add_traces([lowest, highest, within], rows=[1, 1, 2], cols=1)
    dress(figure, height, dark, f"Channel {channel} over the denoising steps")
    figure.update_yaxes(title="X", nticks=5, row=1, col=1)
    figure.update_yaxes(title="grid steps", type="log", nticks=4, row=2, col=1)
    figure.update_xaxes(autorange="reversed")  # as denoising runs
    figure.update_xaxes(title="timestep t (noise → image)", row=2, col=1)
    panel_titles(figure)
    figure.update_layout(margin_t=figure.layout.margin.t + 24)
    return legend_below(figure, 76)


def factor_lines(
    per_step: Array,
    aggregated: Array,
    timesteps: Sequence[int],
    channels: Sequence[int] | NDArray[np.int_],
    *,
    dark: bool = False,
) -> go.Figure:
    """Smoothing factors of the loudest channels: each step's own against the one that serves all.

    per_step     s_t as if every step were smoothed by its own maxima, (T, k)
    aggregated   s of the maxima over time, (k,)
    channels     their numbers, (k,), the order in which they are drawn
    """
    total = len(timesteps)
    every = max(1, -(-total // MOST_LINES))
    rows = list(range(0, total, every))
    colours = sample_colorscale(TIME, [i / max(1, total - 1) for i in rows])
    names = [str(int(c)) for c in channels]
    figure = go.Figure()
    for row, colour in zip(rows, colours, strict=True):
        figure.add_trace(
            go.Scatter(
                x=names,
                y=numbers(per_step[row]),
                mode="lines",
                line={"color": colour, "width": 1},
                opacity=0.75,
                name=f"t = {timesteps[row]}",
                showlegend=False,
                hovertemplate="channel %{x}: s = %{y:.3~g}<extra>%{fullData.name}</extra>",
            )
        )
    figure.add_trace(
        go.Scatter(
            x=names,
            y=numbers(aggregated),
            mode="lines+markers",
            line={"color": ink(dark), "width": 3.2},
            marker={"size": 5},
            name="aggregated over all steps",
            showlegend=False,
            hovertemplate="channel %{x}: s = %{y:.3~g}<extra>%{fullData.name}</extra>",
        )
    )
    first, last = int(timesteps[0]), int(timesteps[-1])
    figure.add_trace(
        go.Scatter(
            x=[None],
            y=[None],
            mode="markers",
            marker={
                "color": [0],
                "cmin": 0,
                "cmax": 1,
                "colorscale": TIME,
                "showscale": True,
                "colorbar": bar_above(
                    "each step on its own, t",
                    1.0,
                    tickvals=[0, 0.5, 1],
                    ticktext=[f"{first} (noise)", str(timesteps[total // 2]), f"{last} (image)"],
                ),
            },
            showlegend=False,
            hoverinfo="skip",
        )
    )
    title = f"One factor (bold) for all {total} steps"
    dress(figure, 400, dark)
    figure.update_xaxes(title="channel, loudest first", type="category", nticks=10, tickangle=0)
    figure.update_yaxes(title="smoothing factor s", **log_axis(decades(per_step, aggregated)))
    return title_over_bar(figure, figure.data[-1].marker.colorbar, title)


def decades(*arrays: Array) -> tuple[float, float]:
    """log10 range of positive values, at most five decades down from the largest."""
    values = np.concatenate([np.ravel(a) for a in arrays])
    high = float(np.log10(max(values.max(), 1e-9)))
    low = float(np.log10(max(values.min(), 1e-9)))
    return max(low, high - 5.0) - 0.08, high + 0.08


def log_axis(ends: tuple[float, float]) -> dict[str, Any]:
    """A log axis over log10 ``ends`` with round ticks written out."""
    ticks = LogRange(10.0 ** ends[0], 10.0 ** ends[1]).ticks(5)
    texts = [short(t) for t in ticks]
    return {"type": "log", "range": list(ends), "tickvals": ticks, "ticktext": texts}


def weight_mirror(
    act_before: Array,
    act_after: Array,
    weight_before: Array,
    weight_after: Array,
    *,
    height: int = 440,
    dark: bool = False,
) -> go.Figure:
    """What smoothing takes from the activations and gives to the weights, (C,) each.

    The upper panel holds the largest |X| of every input channel, loudest first; the lower
    one the largest |W| that reads it, upside down on as many decades.
    """
    order = channel_order(act_before, "magnitude")
    rows = np.stack([v[order] for v in (act_before, act_after, weight_before, weight_after)])
    pooled, width = pool_channels(rows, MIRROR_COLUMNS)
    ranges = [decades(pooled[0], pooled[1]), decades(pooled[2], pooled[3])]
    span = max(high - low for low, high in ranges)
    ranges = [(high - span, high) for _, high in ranges]
    first = [int(c) for c in order[::width]]
    x = list(range(0, len(order), width))
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.03)
    for index, values in enumerate(pooled):
        row, smoothed = index // 2 + 1, index % 2 == 1
        name = "after smoothing" if smoothed else "before smoothing"
        colour = AFTER if smoothed else BEFORE
        what = "|W|" if row == 2 else "|X|"
        figure.add_trace(
            go.Scatter(
                x=x,
                y=numbers(values),
                mode="lines",
                line={"color": colour, "width": 1.6, "shape": "hv"},
                name=name,
                legendgroup=name,
                showlegend=row == 1,
                customdata=first,
                hovertemplate=f"channel %{{customdata}}: largest {what} %{{y:.3~g}}"
                "<extra>%{fullData.name}</extra>",
            ),
            row=row,
            col=1,
        )
        if smoothed:  # what lies between the two curves is what was moved
            figure.data[-1].update(fill="tonexty", fillcolor=faded(AFTER, 0.2))
    dress(figure, height, dark, "What smoothing takes from X it gives to W")
    figure.update_yaxes(title="largest |X|", row=1, col=1, **log_axis(ranges[0]))
    figure.update_yaxes(title="largest |W|", row=2, col=1, **log_axis(ranges[1]))
    figure.update_yaxes(range=ranges[1][::-1], row=2, col=1)
    note = "" if width == 1 else f", {width} per column"
    figure.update_xaxes(showgrid=False, nticks=8)
    figure.update_xaxes(title=f"input channels, loudest first{note}", row=2, col=1)
    return legend_below(figure, 76)
