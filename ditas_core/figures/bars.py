"""Recipes against each other: metrics with intervals, and the ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .style import GREY, dress, ink, panel_titles, role, wrapped

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


def ablation_bars(
    rows: Sequence[tuple[str, Estimate]],
    metric: str,
    reference: float | None = None,
    *,
    title: str = "What every ingredient adds",
    dark: bool = False,
) -> go.Figure:
    """One row per variant in the order given, joined by a line that shows the gain of each.

    rows        (variant, (mean, low, high)); each adds one ingredient to the one above
    metric      axis title with its unit
    reference   a value to compare with, such as full precision
    """
    estimates = {wrapped(name, 22): estimate for name, estimate in rows}
    colours = {name: role(name, i).colour for i, name in enumerate(estimates)}
    means = [mean for mean, _, _ in estimates.values()]
    joined = go.Scatter(
        x=means,
        y=list(estimates),
        mode="lines",
        line={"color": GREY, "width": 1.5, "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
        name="gain",
    )
    figure = go.Figure([joined, *dots(estimates, colours, dark)])
    dress(figure, 104 + 44 * max(1, len(rows)), dark, title)
    if reference is not None:
        figure.add_vline(
            x=reference,
            line={"color": GREY, "dash": "dash", "width": 1.5},
            annotation={"text": "full precision", "font": {"size": 11}},
        )
    figure.update_yaxes(
        type="category", range=[len(rows) - 0.4, -0.8], showgrid=True, ticklabelstandoff=4
    )
    figure.update_xaxes(nticks=6)
    figure.update_layout(
        margin={"l": 20, "b": 34, "t": 62},
        title_subtitle={"text": metric, "font": {"size": 12}},
    )
    return figure
