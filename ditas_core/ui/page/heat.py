"""Heatmaps as plain pictures with their words around them: there with the page, no script."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np

from ...figures import LEVELS, Array, LogRange, colour_table, map_cells, shared_range, short
from .pictures import data_uri

ROW_TICKS, COLUMN_TICKS, BAR_STOPS = 4, 5, 16


def marks(names: Sequence[object], most: int) -> str:
    """At most so many of the names, evenly spaced, the first and the last among them."""
    last, count = len(names) - 1, min(most, len(names))
    places = [round(i * last / max(1, count - 1)) for i in range(count)]
    return "".join(f"<span>{html.escape(str(names[place]))}</span>" for place in places)


def colour_bar(scale: LogRange, unit: str, quantity: str) -> str:
    """A bar from quiet to loud with its round numbers."""
    table = colour_table()
    stops = ", ".join(
        "rgb({}, {}, {})".format(*table[round(i * LEVELS / BAR_STOPS)])
        for i in range(BAR_STOPS + 1)
    )
    ticks = scale.ticks(7)
    words = "".join(
        f'<span style="left: {at / LEVELS:.1%}">{short(tick)}{unit}</span>'
        for tick, at in zip(ticks, scale.positions(np.array(ticks)), strict=True)
    )
    return (
        f'<div class="heat-bar"><span class="heat-quantity">{html.escape(quantity)}</span>'
        f'<div class="heat-scale" style="background: linear-gradient(90deg, {stops})"></div>'
        f'<div class="heat-ticks">{words}</div></div>'
    )


def heat(
    panels: Sequence[tuple[str, Array]],
    timesteps: Sequence[int],
    *,
    quantity: str,
    unit: str = "",
    across: str = "input channel",
    columns: Sequence[object] = (),
) -> str:
    """(T, C) each, below each other on one log colour scale; pooled to what a screen shows.

    columns  names of layers where the columns are layers, described by ``across``

    Raises:
        ValueError: rows that are not the timesteps.
    """
    if any(len(values) != len(timesteps) for _, values in panels):
        raise ValueError(f"panels: expected {len(timesteps)} rows each")
    scale = shared_range(*(values for _, values in panels), floor_quantile=0.02)
    parts = [colour_bar(scale, unit, quantity)]
    things = "layers" if columns else "channels"
    for title, values in panels:
        alt = (
            f"{title}: {values.shape[0]} denoising steps by {values.shape[1]} {things}, "
            f"{quantity}, from {short(float(values.min()))}{unit} "
            f"to {short(float(values.max()))}{unit}"
        )
        parts.append(
            f'<figure class="heat-panel"><figcaption>{html.escape(title)}</figcaption>'
            f'<div class="heat-rows" aria-hidden="true">{marks(timesteps, ROW_TICKS)}</div>'
            f'<img src="{data_uri(map_cells(values, scale))}" alt="{html.escape(alt)}"></figure>'
        )
    names = marks(columns or range(panels[0][1].shape[1]), COLUMN_TICKS)
    parts.append(
        f'<div class="heat-columns" aria-hidden="true">{names}</div>'
        f'<p class="heat-axes">across: {html.escape(across)} · down: timestep t, noise first</p>'
    )
    return f'<div class="heat">{"".join(parts)}</div>'
