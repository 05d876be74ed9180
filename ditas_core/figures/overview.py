"""The whole model at a glance: outlier strength of every layer and timestep."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from .encoding import MAX_CELLS, Array, pool_steps, shared_range, short
from .heatmaps import Panel, block_ticks, loudness_axis, stacked, step_labels

QUANTITIES = {
    "ratio": ("loudest channel ÷ median channel", "×"),
    "kurtosis": ("excess kurtosis over the channels", ""),
    "absmax": ("largest |X|", ""),
}
"""Colour bar title and unit of every measure of ``evaluation.strength``."""


def mark_cell(figure: go.Figure, column: int, row: int) -> go.Figure:
    """A frame around one cell, white within dark, so that it shows on every colour."""
    for colour, width in (("#111318", 5), ("#FFFFFF", 2)):
        figure.add_shape(
            type="rect",
            x0=column - 0.5,
            x1=column + 0.5,
            y0=row - 0.5,
            y1=row + 0.5,
            xref="x",
            yref="y",
            line={"color": colour, "width": width},
            name="selected",
        )
    return figure


def overview_map(
    strength: Array,
    layers: Sequence[str],
    timesteps: Sequence[int],
    measure: str = "ratio",
    selected: tuple[str, int] | None = None,
    *,
    height: int = 400,
    dark: bool = False,
) -> go.Figure:
    """Strength of every step and layer, (T, L), with the selected (layer, timestep) framed.

    ``measure`` names what ``strength`` holds: ratio (× the median channel), kurtosis (no
    unit) or absmax (units of the activations). Values of 0.1 and less share the darkest
    colour of the kurtosis, which may be negative.

    Raises:
        KeyError: an unknown measure.
        ValueError: a layer or timestep that is not in the map.
    """
    quantity, unit = QUANTITIES[measure]
    column = row = 0
    if selected is not None:
        column, row = list(layers).index(selected[0]), list(timesteps).index(selected[1])
    pooled, width = pool_steps(strength, MAX_CELLS // max(1, len(layers)))
    coloured = pooled.clip(0.1) if measure == "kurtosis" else pooled
    scale = shared_range(coloured)
    where = divmod(int(pooled.argmax()), pooled.shape[1])
    peak = f"{layers[where[1]]} at t = {timesteps[where[0] * width]}"
    hover = f"layer %{{x}} · t = %{{y}}<br>{quantity}: %{{customdata:.3~g}}{unit}<extra></extra>"
    title = f"Strongest in {peak}: {short(float(pooled.max()))}{unit}"
    figure = stacked(
        [Panel(scale.encode(coloured), pooled, "", hover)],
        list(layers),
        step_labels(timesteps, width),
        "block, its parts side by side",
        height,
        dark,
        title,
    )
    figure.update_xaxes(**block_ticks(layers))
    figure.update_layout(coloraxis=loudness_axis(figure, scale, quantity, unit, False))
    if selected is not None:
        mark_cell(figure, column, row // width)
    return figure
