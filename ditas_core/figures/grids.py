"""Histograms with the quantization grid drawn on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .channels import log_axis
from .encoding import Array, numbers
from .style import AFTER, BEFORE, dress, faded, ink, panel_titles

FULL_LINES = 40
"""Up to so many levels are drawn as lines through the panel; more only as marks at its foot."""
MOST_LEVELS = 600
BINS = 72


class Gridded(NamedTuple):
    """Values and the levels they are rounded to: (K,) and (L,), in the same unit."""

    values: Array
    levels: Array
    title: str
    colour: str


def levels_used(values: Array, levels: Array) -> int:
    """How many levels lie within the range of the values, the ends rounded to the nearest."""
    if not values.size or not levels.size:
        return 0
    ordered = np.sort(levels)
    ends = [int(np.abs(ordered - end).argmin()) for end in (values.min(), values.max())]
    return ends[1] - ends[0] + 1


def visible_span(values: Array, levels: Array) -> tuple[float, float]:
    """The data's range with at least one level on each side of it, a little padded."""
    low, high = float(values.min()), float(values.max())
    ordered = np.sort(levels)
    below, above = ordered[ordered <= low], ordered[ordered >= high]
    low = float(below[-1]) if below.size else low
    high = float(above[0]) if above.size else high
    pad = max(high - low, 1e-9) * 0.04
    return low - pad, high + pad


def level_lines(
    places: Array, ends: tuple[float, float], most: int, digits: int, height: float
) -> tuple[list[float | None], list[float | None], bool]:
    """Levels as one broken line, and whether they are few: then from the foot of a log axis to its
    top, otherwise marks of this share of its height, ``most`` of them."""
    few = places.size <= FULL_LINES
    if places.size > most:  # closer than pixels: the ends of every bundle would be a bar
        places = places[:: int(np.ceil(places.size / most))]
    foot, peak = ends
    top = peak if few else foot * (peak / foot) ** height
    x = [v for place in numbers(places, digits) for v in (place, place, None)]
    return x, [foot, top, None] * places.size, few


def add_levels(
    figure: go.Figure,
    row: int,
    levels: Array,
    span: tuple[float, float],
    ends: tuple[float, float],
    dark: bool,
) -> None:
    """The levels inside ``span``: lines through the panel, or marks at its foot."""
    inside = levels[(levels >= span[0]) & (levels <= span[1])]
    x, y, few = level_lines(inside, ends, MOST_LEVELS, 6, 0.09)
    figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="lines",
            line={"color": faded(ink(dark), 0.55 if few else 0.4), "width": 1},
            hovertemplate="level %{x:.4~g}<extra></extra>",
            name="levels",
            showlegend=False,
        ),
        row=row,
        col=1,
    )


def gridded_histograms(
    panels: Sequence[Gridded], x_titles: Sequence[str], title: str, height: int, dark: bool
) -> go.Figure:
    """One histogram per row, each over its own range, with its levels."""
    titles = []
    for panel in panels:
        used = levels_used(panel.values, panel.levels)
        titles.append(f"{panel.title}: {used} of {panel.levels.size} levels")
    figure = make_subplots(rows=len(panels), cols=1, vertical_spacing=0.27, subplot_titles=titles)
    for row, panel in enumerate(panels, start=1):
        span = visible_span(panel.values, panel.levels)
        counts, edges = np.histogram(panel.values, bins=BINS)
        share = counts / max(1, counts.sum()) * 100
        width = float(edges[1] - edges[0])
        figure.add_trace(
            go.Bar(
                x=numbers((edges[:-1] + edges[1:]) / 2, 5),
                y=numbers(share, 4),
                width=width,
                marker={"color": faded(panel.colour, 0.72), "line": {"width": 0}},
                hovertemplate=f"around %{{x:.3~g}}: %{{y:.2~f}} % of the values"
                f"<extra>{panel.title}</extra>",
                name=panel.title,
                showlegend=False,
            ),
            row=row,
            col=1,
        )
        # log: the few large values are what the range is spent on
        seen = share[share > 0]
        foot, peak = (float(seen.min()) / 2, float(seen.max()) * 1.3) if seen.size else (0.1, 100.0)
        add_levels(figure, row, panel.levels, span, (foot, peak), dark)
        figure.update_xaxes(
            range=list(span), title=x_titles[row - 1], nticks=7, showgrid=False, row=row, col=1
        )
        ends = (float(np.log10(foot)), float(np.log10(peak)))
        figure.update_yaxes(title="% of values", row=row, col=1, **log_axis(ends))
    dress(figure, height, dark, title)
    panel_titles(figure)
    figure.update_layout(bargap=0, margin_t=figure.layout.margin.t + 24)
    return figure


def channel_histogram(
    before: Array,
    after: Array,
    levels_before: Array,
    levels_after: Array,
    channel: int,
    *,
    dark: bool = False,
) -> go.Figure:
    """Tokens of one channel before and after smoothing, with the levels they are rounded to.

    before, after                 the channel's values X and X / s, (K,)
    levels_before, levels_after   what the activation quantizer can represent, (L,), in the
                                  units of X and of X / s
    Each panel spans its own values, so what counts is how many levels lie within.
    """
    panels = [
        Gridded(before, levels_before, "before smoothing", BEFORE),
        Gridded(after, levels_after, "after smoothing", AFTER),
    ]
    title = f"Channel {channel} and the levels it is rounded to"
    return gridded_histograms(panels, ("X", "X / s"), title, 420, dark)
