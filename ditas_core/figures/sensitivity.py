"""Which layers may have fewer bits: error per layer and bit-width, and size against error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from .encoding import Array, numbers
from .heatmaps import by_layer
from .style import (
    ERROR,
    ROLES,
    SKY,
    bar_above,
    dress,
    legend_below,
    title_over_bar,
)


def sensitivity_map(
    errors_db: Array,
    layers: Sequence[str],
    bits: Sequence[int],
    chosen: Sequence[int | None] | None = None,
    *,
    dark: bool = False,
) -> go.Figure:
    """Relative error of every layer at every bit-width with the chosen one marked.

    errors_db   10 log10(|error|^2 / |output|^2), (L, B); NaN where not measured: blank
    bits        the bit-widths, (B,), ascending or not
    chosen      the bit-width of every layer, (L,); None where there is none
    """
    finite = errors_db[np.isfinite(errors_db)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (-1.0, 0.0)
    names = [str(b) for b in bits]
    ascending = [str(b) for b in sorted(bits)]
    figure = go.Figure(
        go.Heatmap(
            z=[numbers(column, 3) for column in errors_db.T],
            x=list(layers),
            y=names,
            zmin=low,
            zmax=max(high, low + 1e-3),
            colorscale=ERROR,
            hoverongaps=False,
            xgap=1,
            ygap=1,
            hovertemplate="layer %{x} in %{y} bits: error %{z:.1f} dB<extra></extra>",
            colorbar=bar_above("relative error, dB (brighter is worse)", 1.0, nticks=6),
        )
    )
    marked = [(layer, b) for layer, b in zip(layers, chosen or (), strict=False) if b is not None]
    figure.add_trace(
        go.Scatter(
            x=[layer for layer, _ in marked],
            y=[str(b) for _, b in marked],
            mode="markers",
            marker={
                "size": 8,
                "symbol": "circle",
                "color": "#FFFFFF",
                "line": {"color": "#111318", "width": 1.8},
            },
            showlegend=False,
            name="chosen",
            hovertemplate="layer %{x}: %{y} bits chosen<extra></extra>",
        )
    )
    title = "Error of every layer by bit-width"
    if marked:
        title = f"Chosen bits (white dots): {np.mean([b for _, b in marked]):.2f} on average"
    dress(figure, 300, dark)
    by_layer(figure, layers, showgrid=False)
    figure.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=ascending,
        range=[-0.5, len(ascending) - 0.5],
        title="bits",
        showgrid=False,
    )
    return title_over_bar(figure, figure.data[0].colorbar, title)


def size_error_curve(
    sizes: Sequence[float],
    errors_db: Sequence[float],
    labels: Sequence[str],
    chosen: int | None = None,
    uniform: Sequence[tuple[str, float, float]] = (),
    *,
    dark: bool = False,
) -> go.Figure:
    """Error against size of the allocations found, with uniform bit-widths to compare.

    sizes       megabytes, (N,)
    errors_db   relative error, (N,)
    labels      what one reads in the hover text, (N,)
    chosen      index of the allocation in use
    uniform     (label, size, error) of models of one bit-width throughout
    """
    order = np.argsort(np.asarray(sizes, float), kind="stable")
    figure = go.Figure(
        go.Scatter(
            x=numbers(np.asarray(sizes, float)[order]),
            y=numbers(np.asarray(errors_db, float)[order]),
            text=[labels[i] for i in order],
            mode="lines+markers",
            line={"color": SKY, "width": 2.4},
            marker={"size": 6},
            name="mixed bits",
            hovertemplate="%{text}<br>%{x:.3~g} MB, error %{y:.1f} dB<extra></extra>",
        )
    )
    if uniform:
        look = ROLES["plain"]
        figure.add_trace(
            go.Scatter(
                x=[size for _, size, _ in uniform],
                y=[error for _, _, error in uniform],
                text=[label for label, _, _ in uniform],
                mode="markers+text",
                textposition="top right",
                textfont={"size": 11},
                marker={"size": 10, "symbol": look.symbol, "color": look.colour},
                name="the same bits everywhere",
                cliponaxis=False,
                hovertemplate="%{text}<br>%{x:.3~g} MB, error %{y:.1f} dB<extra></extra>",
            )
        )
    if chosen is not None:
        look = ROLES["ditas"]
        figure.add_trace(
            go.Scatter(
                x=[sizes[chosen]],
                y=[errors_db[chosen]],
                text=[labels[chosen]],
                mode="markers",
                marker={"size": 15, "symbol": "star", "color": look.colour},
                name="chosen",
                hovertemplate="chosen: %{text}<br>%{x:.3~g} MB, error %{y:.1f} dB<extra></extra>",
            )
        )
    dress(figure, 360, dark, "Smaller or closer: error against size")
    figure.update_xaxes(title="size of the weights, MB", nticks=7)
    figure.update_yaxes(title="relative error, dB (lower is better)", nticks=6)
    return legend_below(figure, 78)
