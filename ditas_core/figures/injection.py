"""Closeness to full precision over the strength of injected outliers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from .encoding import Array, numbers
from .style import GREY, dress, faded, ink, legend_below, role


def injection_curves(
    strengths: Sequence[float],
    series: Mapping[str, Array],
    current: float,
    own: Sequence[tuple[str, float, float]] = (),
    *,
    title: str = "Plain rounding falls, DiTAS holds on",
    dark: bool = False,
) -> go.Figure:
    """Latent SQNR over the strength: one line per recipe, its mean, in the range of its samples.

    strengths  of the rungs, (R,), at least 1
    series     recipe -> dB of every rung and sample, (R, N)
    current    the strength in hand, drawn as a line across
    own        results of somebody's own, each (recipe and settings, strength, mean dB)
    """
    figure = go.Figure()
    x = numbers(np.asarray(strengths, dtype=np.float64))
    for index, (name, values) in enumerate(series.items()):
        look, db = role(name, index), np.asarray(values, dtype=np.float64)
        figure.add_trace(
            go.Scatter(
                x=[*x, *x[::-1]],
                y=[*numbers(db.max(1)), *numbers(db.min(1)[::-1])],
                fill="toself",
                fillcolor=faded(look.colour, 0.16),
                line={"width": 0},
                mode="lines",
                hoverinfo="skip",
                showlegend=False,
                name=f"{name}, range",
            )
        )
        figure.add_trace(
            go.Scatter(
                x=x,
                y=numbers(db.mean(1)),
                mode="lines+markers",
                name=name,
                line={"color": look.colour, "width": 3, "dash": look.dash},
                marker={"size": 9, "symbol": look.symbol},
                hovertemplate=f"×%{{x}}: %{{y:.1f}} dB, mean of {db.shape[1]}<extra>{name}</extra>",
            )
        )
    for index, (name, strength, mean) in enumerate(own):
        figure.add_trace(
            go.Scatter(
                x=[round(float(strength), 3)],
                y=[round(float(mean), 3)],
                mode="markers",
                name=f"yours: {name}",
                marker={
                    "size": 15,
                    "symbol": "star",
                    "color": role(name, index).colour,
                    "line": {"width": 1.5, "color": ink(dark)},
                },
                hovertemplate=f"×%{{x}}: %{{y:.1f}} dB<extra>yours: {name}</extra>",
            )
        )
    dress(figure, 420, dark, title)
    figure.add_vline(
        x=float(current),
        line={"color": GREY, "width": 2, "dash": "dash"},
        annotation={
            "text": f"×{current:g}",
            "font": {"size": 13, "color": ink(dark)},
            # on a logarithmic axis an annotation's place is the exponent, unlike the line's
            "x": float(np.log10(current)),
            "xanchor": "left" if current < 60 else "right",
            "yanchor": "bottom",
            "y": 1,
        },
    )
    ticks = [t for t in (1, 3, 10, 30, 100, 300, 1000) if t <= 1.01 * max(strengths)]
    figure.update_xaxes(
        type="log",
        title="strength of the injected outliers",
        tickvals=ticks,
        ticktext=[f"×{t}" for t in ticks],
        tickangle=0,
        range=[-0.04, float(np.log10(max(strengths))) + 0.04],
    )
    figure.update_yaxes(title="latent SQNR, dB (higher is closer)", nticks=7)
    return legend_below(figure, 92 if not own else 124)
