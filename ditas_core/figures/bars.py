"""Recipes against each other: metrics with intervals, and the ablation."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .style import dress, ink, panel_titles, role

Estimate = tuple[float, float, float]
"""Mean, lower and upper end of its interval."""
BAR, PANEL = 32, 54
"""Pixels of a bar, and of a panel's title and axis."""


def dots(rows: Mapping[str, Estimate], colours: Mapping[str, str], dark: bool) -> list[go.Scatter]:
    """One mark with its interval per recipe, lying on the row of its name.

    Marks, not bars: a bar's length would claim that 0 means something.
    """
    traces = []
    for name, (mean, low, high) in rows.items():
        interval = f" ({low:.3g} to {high:.3g})" if high > low else ""
        traces.append(
            go.Scatter(
                x=[mean],
                y=[name],
                mode="markers+text",
                marker={"size": 12, "color": colours[name], "symbol": role(name).symbol},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [high - mean],
                    "arrayminus": [mean - low],
                    "color": colours[name],
                    "thickness": 3,
                    "width": 6,
                },
                text=[f"{mean:.3g}"],
                textposition="top center",
                textfont={"size": 11, "color": ink(dark)},
                cliponaxis=False,
                showlegend=False,
                name=name,
                hovertemplate=f"{name}: {mean:.4g}{interval}<extra></extra>",
            )
        )
    return traces


def metric_bars(
    metrics: Mapping[str, Mapping[str, Estimate]],
    better: Mapping[str, str] | None = None,
    *,
    title: str = "Closeness to full precision, 95 % intervals",
    dark: bool = False,
) -> go.Figure:
    """One panel per metric, one row per recipe: the mean and its confidence interval.

    metrics   metric (with its unit) -> recipe -> (mean, low, high)
    better    metric -> "higher" or "lower", said in the panel's title
    """
    names = list(metrics)
    heights = [len(metrics[name]) * BAR for name in names]
    inner = sum(heights) + PANEL * len(names)
    hints = better or {}
    titles = [f"{n} – {hints[n]} is better" if n in hints else n for n in names]
    figure = make_subplots(
        rows=max(1, len(names)),
        cols=1,
        vertical_spacing=PANEL / inner if len(names) > 1 else 0,
        row_heights=heights or None,
        subplot_titles=titles or None,
    )
    for row, name in enumerate(names, start=1):
        recipes = metrics[name]
        colours = {recipe: role(recipe, i).colour for i, recipe in enumerate(recipes)}
        for trace in dots(recipes, colours, dark):
            figure.add_trace(trace, row=row, col=1)
        figure.update_yaxes(range=[len(recipes) - 0.4, -0.95], row=row, col=1)
    dress(figure, inner + 74, dark, title)
    figure.update_yaxes(type="category", showgrid=True, ticklabelstandoff=4)
    figure.update_xaxes(nticks=6)
    panel_titles(figure)
    top = figure.layout.margin.t + 22
    figure.update_layout(margin={"t": top, "b": 34, "l": 20})
    return figure
