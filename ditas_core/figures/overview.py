"""The whole model at a glance: outlier strength of every layer and timestep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from .encoding import MAX_CELLS, MAX_ROWS, Array, pool_steps, shared_range, short
from .heatmaps import Panel, block_ticks, loudness_axis, ratio_panel, stacked, step_labels

QUANTITIES = {
    "ratio": ("loudest channel ÷ median channel", "×"),
    "kurtosis": ("excess kurtosis over the channels", ""),
    "absmax": ("largest |X|", ""),
}
"""Colour bar title and unit of every measure of ``evaluation.strength``."""


def frames(column: int, row: int, rows: int = 1, panel: str = "") -> list[dict[str, Any]]:
    """A frame around a cell or ``rows`` of them, white within dark to show on every colour.

    ``panel`` is the number behind the names of its axes; the first one has none.
    """
    place = {
        "type": "rect",
        "x0": column - 0.5,
        "x1": column + 0.5,
        "y0": row - 0.5,
        "y1": row + rows - 0.5,
        "xref": f"x{panel}",
        "yref": f"y{panel}",
        "name": "selected",
    }
    lines = (("#111318", 5), ("#FFFFFF", 2))
    return [{**place, "line": {"color": colour, "width": width}} for colour, width in lines]


def steps_per_row(steps: int, layers: int, panels: int) -> int:
    """How many denoising steps share one row of ``overview_pair``."""
    return math.ceil(steps / min(MAX_ROWS, MAX_CELLS // (panels * max(1, layers))))


def selection(
    layers: Sequence[str],
    timesteps: Sequence[int],
    selected: tuple[str, int | None],
    difference: bool = False,
) -> list[dict[str, Any]]:
    """Plotly shapes that frame a layer, or its cell of one timestep, in ``overview_pair``.

    Raises:
        ValueError: a layer or timestep that is not in the maps.
    """
    count = 2 + difference
    width = steps_per_row(len(timesteps), len(layers), count)
    column, row, rows = list(layers).index(selected[0]), 0, math.ceil(len(timesteps) / width)
    if selected[1] is not None:
        row, rows = list(timesteps).index(selected[1]) // width, 1
    panels = ("", *map(str, range(2, count + 1)))
    return [shape for panel in panels for shape in frames(column, row, rows, panel)]


def overview_pair(
    before: Array,
    after: Array,
    layers: Sequence[str],
    timesteps: Sequence[int],
    measure: str = "ratio",
    selected: tuple[str, int | None] | None = None,
    *,
    title_after: str = "after smoothing",
    difference: bool = False,
    dark: bool = False,
) -> go.Figure:
    """Strength of every step and layer before and after smoothing, (T, L) each, on one scale with
    linked axes.

    ``measure`` names what the maps hold: ratio (× the median channel), kurtosis (no unit) or
    absmax (units of the activations). Values of 0.1 and less share the darkest colour of the
    kurtosis, which may be negative.
    A selected layer without a timestep is framed over all of them. ``difference`` adds a
    third panel, after over before on a diverging scale around "same".

    Raises:
        KeyError: an unknown measure.
        ValueError: a layer or timestep that is not in the maps.
    """
    quantity, unit = QUANTITIES[measure]
    count = 2 + difference
    limit = min(MAX_ROWS, MAX_CELLS // (count * max(1, len(layers))))
    (before, width), (after, _) = pool_steps(before, limit), pool_steps(after, limit)
    coloured = [v.clip(0.1) if measure == "kurtosis" else v for v in (before, after)]
    scale = shared_range(*coloured)
    cell = "layer %{x} · t = %{y}"
    hover = f"{cell}<br>{quantity}: %{{customdata:.3~g}}{unit}<extra>%{{fullData.name}}</extra>"
    panels = [
        Panel(scale.encode(codes), values, title, hover)
        for codes, values, title in zip(
            coloured, (before, after), ("before smoothing", title_after), strict=True
        )
    ]
    if difference:
        panel, axis = ratio_panel(coloured[0], coloured[1], cell)
        panels.append(panel)
    where = divmod(int(before.argmax()), before.shape[1])
    title = (
        f"Strongest: {layers[where[1]]} at t = {timesteps[where[0] * width]}, "
        f"{short(float(before.max()))}{unit}"
    )
    labels = step_labels(timesteps, width)
    x_title = "block, its parts side by side"
    figure = stacked(panels, list(layers), labels, x_title, 220 + 160 * count, dark, title)
    figure.update_xaxes(**block_ticks(layers))
    figure.update_layout(coloraxis=loudness_axis(figure, scale, quantity, unit))
    if difference:
        axis["colorbar"] |= {"len": 0.3, "y": 0.0, "yanchor": "bottom"}
        figure.update_layout(coloraxis2=axis, margin_r=58)
    if selected is not None:
        figure.update_layout(shapes=selection(layers, timesteps, selected, difference))
    return figure
