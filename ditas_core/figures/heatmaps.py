"""Layer and channel maps: stacked panels with linked axes on one colour scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from .encoding import (
    LEVELS,
    MAX_CELLS,
    MAX_COLUMNS,
    MAX_ROWS,
    Array,
    LogRange,
    pool_channels,
    pool_steps,
    rounded,
    shared_range,
    short,
)
from .style import (
    BAR_FOOT,
    BAR_TOP,
    DIFFERENCE,
    LOUDNESS,
    above,
    bar_above,
    dress,
    panel_titles,
    title_above,
)

NATURAL, MAGNITUDE = "natural", "magnitude"
TITLE, FOOT, GAP = 24, 50, 34
"""Pixels of a title, below the panels and between them."""


class Panel(NamedTuple):
    """One heatmap of a stack: bytes for colour, numbers for the hover text, (T, X) each."""

    codes: NDArray[np.uint8]
    shown: Array
    title: str
    hover: str
    axis: str = "coloraxis"


def loudness_axis(
    figure: go.Figure, scale: LogRange, title: str, unit: str = "×", titled: bool = True
) -> dict[str, Any]:
    """A log colour axis in bytes, above the panels and the first one's title."""
    ticks = scale.ticks()
    places = [float(v) for v in scale.positions(np.array(ticks))]
    texts = [f"{short(t)}{unit}" for t in ticks]
    place = above(figure, BAR_FOOT + (TITLE - 8) * titled)
    bar = bar_above(title, place, tickvals=places, ticktext=texts)
    return {"colorscale": LOUDNESS, "cmin": 0, "cmax": LEVELS, "colorbar": bar}


def stacked(
    panels: Sequence[Panel],
    x: Sequence[str] | NDArray[np.int_],
    y: Sequence[str],
    x_title: str,
    height: int,
    dark: bool,
    title: str = "",
) -> go.Figure:
    """Panels below each other; zooming one zooms all."""
    bar_top = BAR_TOP + (TITLE - 8) * bool(panels[0].title)
    top = bar_top + 4 + TITLE * bool(title)
    inner = height - top - FOOT
    gap = GAP / inner if len(panels) > 1 else 0.0
    figure = make_subplots(
        rows=len(panels),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=gap,
        subplot_titles=[panel.title for panel in panels],
    )
    for row, panel in enumerate(panels, start=1):
        figure.add_trace(
            go.Heatmap(
                z=panel.codes,
                x=x,
                y=y,
                customdata=rounded(panel.shown),
                coloraxis=panel.axis,
                hovertemplate=panel.hover,
                name=panel.title,
            ),
            row=row,
            col=1,
        )
    dress(figure, height, dark)
    # the steps are not evenly spaced numbers but samples of one run: a category each
    figure.update_yaxes(
        type="category", autorange="reversed", nticks=6, showgrid=False, title="timestep t"
    )
    figure.update_xaxes(showgrid=False)
    figure.update_xaxes(title=x_title, row=len(panels), col=1)
    figure.update_yaxes(matches="y")
    panel_titles(figure)
    if title:
        title_above(figure, title, bar_top)
    figure.update_layout(margin={"l": 56, "r": 12, "t": top, "b": FOOT})
    return figure


def step_labels(timesteps: Sequence[int], width: int) -> list[str]:
    """The first timestep of every pooled row."""
    return [str(t) for t in timesteps[::width]]


def block_ticks(layers: Sequence[str], most: int = 14) -> dict[str, Any]:
    """Axis settings for ``block.kind`` names: one short label per block, thinned for a phone."""
    firsts: dict[str, str] = {}
    for name in layers:
        firsts.setdefault(name.split(".", 1)[0], name)
    if len(firsts) == len(layers):
        return {"nticks": most}
    every = math.ceil(len(firsts) / most)
    blocks = list(firsts)[::every]
    return {"tickvals": [firsts[b] for b in blocks], "ticktext": blocks, "tickangle": 0}


def by_layer(figure: go.Figure, layers: Sequence[str], edge: float = 0.5, **rest: Any) -> None:
    """``block.kind`` names in execution order along the foot, with ``edge`` beside the outer ones:
    marks would make room for themselves."""
    figure.update_xaxes(
        type="category",
        categoryorder="array",
        categoryarray=list(layers),
        range=[-edge, len(layers) - 1 + edge],
        title="block, its parts side by side",
        **block_ticks(layers),
        **rest,
    )


def channel_order(act_absmax: Array, order: str) -> NDArray[np.int_]:
    """Indices that put channels in their natural order or the loudest first, (C,).

    Raises:
        ValueError: an unknown order.
    """
    if order == NATURAL:
        return np.arange(len(act_absmax))
    if order == MAGNITUDE:
        return np.argsort(-np.asarray(act_absmax), kind="stable")
    raise ValueError(f"order: expected {NATURAL} or {MAGNITUDE}, got {order}")


def ratio_panel(before: Array, after: Array, cell: str) -> tuple[Panel, dict[str, Any]]:
    """log2(after / before) as bytes around 128, and its diverging colour axis."""
    ratio = np.maximum(after, 1e-6) / np.maximum(before, 1e-6)
    logs = np.log2(ratio)
    # a few dead channels must not set the scale of all the others
    span = max(1.0, math.ceil(float(np.quantile(np.abs(logs), 0.995))))
    codes = np.round(np.clip(logs / span, -1, 1) * 127 + 128).astype(np.uint8)
    hover = f"{cell}<br>multiplied by %{{customdata:.3~g}}<extra>after ÷ before</extra>"
    marks = [m for m in (-span, -span / 2, 0.0, span / 2, span)]
    texts = [f"÷{short(2**-m)}" if m < 0 else f"×{short(2**m)}" if m else "same" for m in marks]
    bar = {
        "orientation": "v",
        "x": 1.01,
        "thickness": 8,
        "outlinewidth": 0,
        "tickvals": [m / span * 127 + 128 for m in marks],
        "ticktext": texts,
        "tickfont": {"size": 11},
    }
    axis = {"colorscale": DIFFERENCE, "cmin": 1, "cmax": 255, "colorbar": bar}
    return Panel(codes, ratio, "what smoothing changed", hover, "coloraxis2"), axis


def column_limit(rows: int, panels: int) -> int:
    """Most columns of so many panels with so many rows."""
    return min(MAX_COLUMNS, MAX_CELLS // (panels * rows))


def column_width(steps: int, channels: int, panels: int = 2) -> int:
    """How many channels share one column of ``channel_maps``."""
    rows = math.ceil(steps / math.ceil(steps / MAX_ROWS))
    return math.ceil(channels / column_limit(rows, panels))


def channel_maps(
    before: Array,
    after: Array,
    timesteps: Sequence[int],
    title_before: str = "before smoothing",
    title_after: str = "after smoothing",
    *,
    order: str = NATURAL,
    difference: bool = False,
    quantity: str = "largest |X| ÷ median channel",
    unit: str = "×",
    dark: bool = False,
) -> go.Figure:
    """|X| per step and channel of one layer before and after smoothing, (T, C) each.

    Both panels share one log colour scale and their axes. ``order`` is "natural" or
    "magnitude" (loudest before smoothing first); ``difference`` adds a third panel,
    after over before on a diverging scale around "same". Of more channels or steps
    than a screen shows the loudest of neighbours is drawn. ``quantity`` and ``unit``
    name what the arrays hold.

    Raises:
        ValueError: an unknown order.
    """
    places = channel_order(before.max(0), order)
    before, every = pool_steps(before[:, places])
    after, _ = pool_steps(after[:, places])
    limit = column_limit(len(before), 2 + difference)
    (before, width), (after, _) = pool_channels(before, limit), pool_channels(after, limit)
    scale = shared_range(before, after, floor_quantile=0.02)
    cell = "channel %{x} · t = %{y}"
    hover = f"{cell}<br>{quantity}: %{{customdata:.3~g}}{unit}<extra>%{{fullData.name}}</extra>"
    panels = [
        Panel(scale.encode(values), values, title, hover)
        for values, title in ((before, title_before), (after, title_after))
    ]
    height = 500
    if difference:
        panel, axis = ratio_panel(before, after, cell)
        panels.append(panel)
        height = 680
    starts = places[::width]
    x = starts if order == NATURAL else [str(c) for c in starts]
    notes = [] if order == NATURAL else ["loudest first"]
    notes += [] if width == 1 else [f"{width} per column"]
    notes += [] if every == 1 else [f"{every} steps per row"]
    x_title = "input channel" + (f" ({', '.join(notes)})" if notes else "")
    figure = stacked(panels, x, step_labels(timesteps, every), x_title, height, dark)
    figure.update_layout(coloraxis=loudness_axis(figure, scale, quantity, unit))
    if order == MAGNITUDE:
        figure.update_xaxes(type="category", nticks=7, tickangle=0)
    if difference:
        axis["colorbar"] |= {"len": 0.3, "y": 0.0, "yanchor": "bottom"}
        figure.update_layout(coloraxis2=axis, margin_r=58)
    return figure


def empty_figure(message: str, height: int = 300, *, dark: bool = False) -> go.Figure:
    """A frame that says what would be here."""
    figure = dress(go.Figure(), height, dark)
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
