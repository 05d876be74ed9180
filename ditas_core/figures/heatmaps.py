"""Before and after smoothing as two stacked panels with linked axes and one colour scale."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from .style import LOUDNESS, dress

Array = NDArray[np.floating]
MAX_COLUMNS = 512
CODES_PER_DECADE = 1000
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


def pool_channels(values: Array, limit: int = MAX_COLUMNS) -> tuple[Array, int]:
    """Maximum over neighbouring channels until at most ``limit`` columns are left.

    (T, C) -> (T, ceil(C / width)) and width: a screen has no more columns, and a
    thinned heatmap would lose exactly the outliers.
    """
    steps, channels = values.shape
    width = max(1, math.ceil(channels / limit))
    padding = -channels % width
    padded = np.pad(values, ((0, 0), (0, padding)), constant_values=0)
    return padded.reshape(steps, -1, width).max(-1), width


def shared_range(before: Array, after: Array, floor_quantile: float) -> tuple[float, float]:
    """One range for both panels: a low quantile to the largest value of the two."""
    both = np.concatenate([before.ravel(), after.ravel()])
    low = float(np.quantile(both, floor_quantile))
    high = float(both.max())
    low = max(low, high * 1e-6, 1e-6)
    return low, max(high, low * 1.01)


def encode(values: Array) -> NDArray[np.int16]:
    """Thousandths of a decade as int16: a quarter of the bytes of float64, error 0.1 %."""
    return np.round(np.log10(np.maximum(values, 1e-6)) * CODES_PER_DECADE).astype(np.int16)


def rounded(values: Array) -> NDArray[np.float32]:
    """float32 with three significant digits, for the hover text."""
    magnitude = 10 ** (np.floor(np.log10(np.maximum(values, 1e-6))) - 2)
    return (np.round(values / magnitude) * magnitude).astype(np.float32)


def colour_axis(low: float, high: float, title: str) -> dict[str, object]:
    """A log colour axis in the units of ``encode``, its bar lying below the panels."""
    ticks = [t for t in TICKS if low <= t <= high] or [low, high]
    if len(ticks) > 7:
        ticks = [t for t in ticks if f"{t:g}".lstrip("0.").startswith("1")]
    return {
        "colorscale": LOUDNESS,
        "cmin": math.log10(low) * CODES_PER_DECADE,
        "cmax": math.log10(high) * CODES_PER_DECADE,
        "colorbar": {
            "orientation": "h",
            "x": 0.5,
            "xanchor": "center",
            "yref": "container",
            "y": 0.99,
            "yanchor": "top",
            "ypad": 0,
            "len": 0.7,
            "thickness": 10,
            "title": {"text": title, "side": "top", "font": {"size": 12}},
            "tickvals": [math.log10(t) * CODES_PER_DECADE for t in ticks],
            "ticktext": [f"{t:g}×" for t in ticks],
            "outlinewidth": 0,
        },
    }


def paired_heatmaps(
    before: Array,
    after: Array,
    x: Sequence[str] | NDArray[np.int_],
    timesteps: Sequence[int],
    titles: tuple[str, str],
    hover: str,
    colour_title: str,
    x_title: str,
    height: int,
    floor_quantile: float,
) -> go.Figure:
    """Two (T, X) panels, the second below the first."""
    low, high = shared_range(before, after, floor_quantile)
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.1, subplot_titles=titles
    )
    for row, values in enumerate((before, after), start=1):
        figure.add_trace(
            go.Heatmap(
                z=encode(values),
                x=x,
                y=[str(t) for t in timesteps],
                customdata=rounded(values),
                coloraxis="coloraxis",
                hovertemplate=hover,
                name=titles[row - 1],
            ),
            row=row,
            col=1,
        )
    dress(figure, height)
    # the steps are not evenly spaced numbers but samples of one run: a category each
    figure.update_yaxes(
        type="category", autorange="reversed", nticks=6, showgrid=False, title="timestep t"
    )
    figure.update_xaxes(showgrid=False)
    figure.update_xaxes(title=x_title, row=2, col=1)
    figure.update_yaxes(matches="y")
    figure.update_annotations(font={"size": 13})
    figure.update_layout(
        coloraxis=colour_axis(low, high, colour_title),
        margin={"l": 56, "r": 12, "t": 86, "b": 40},
    )
    return figure


def overview_maps(
    before: Array,
    after: Array,
    layers: Sequence[str],
    timesteps: Sequence[int],
    title_after: str = "after smoothing",
) -> go.Figure:
    """Outlier strength (max / median over channels) of every layer and step, (T, L) each."""
    return paired_heatmaps(
        before,
        after,
        list(layers),
        timesteps,
        ("before smoothing", title_after),
        "layer %{x} · t = %{y}<br>loudest channel %{customdata:.3~g}× the median"
        "<extra>%{fullData.name}</extra>",
        "loudest channel ÷ median channel",
        "",
        520,
        0.0,
    )


def channel_maps(
    before: Array,
    after: Array,
    timesteps: Sequence[int],
    title_before: str = "before smoothing",
    title_after: str = "after smoothing",
) -> go.Figure:
    """|X| per step and channel of one layer, in units of its median channel, (T, C) each."""
    pooled_before, width = pool_channels(before)
    pooled_after, _ = pool_channels(after)
    starts = np.arange(pooled_before.shape[1]) * width
    note = "" if width == 1 else f" (loudest of {width} each)"
    return paired_heatmaps(
        pooled_before,
        pooled_after,
        starts,
        timesteps,
        (title_before, title_after),
        "channel %{x} · t = %{y}<br>%{customdata:.3~g}× the median channel"
        "<extra>%{fullData.name}</extra>",
        "largest |X| ÷ median channel",
        f"input channel{note}",
        500,
        0.02,
    )


def empty_figure(message: str, height: int = 300) -> go.Figure:
    """A frame that says what would be here."""
    figure = dress(go.Figure(), height)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.add_annotation(
        text=message,
        showarrow=False,
        font={"size": 14},
        x=0.5,
        y=0.5,
        xref="paper",
        yref="paper",
    )
    return figure
