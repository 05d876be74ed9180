"""Where it breaks: layers one by one, the first quantized step, runs that part ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from .encoding import numbers
from .heatmaps import by_layer
from .style import GREY, ROLES, SPARE, dress, ink, kind_colour, legend_below, wrapped

IDENTICAL_DB = 199.9
"""From here on two runs are the same: metrics stop at 200 dB."""


def error_percent(sqnr_db: ArrayLike) -> NDArray[np.float64]:
    """100 |x - y|^2 / |x|^2 from 10 log10(|x|^2 / |x - y|^2); 0 where nothing differs."""
    values = np.asarray(sqnr_db, dtype=np.float64)
    return np.where(values >= IDENTICAL_DB, 0.0, 100 * 10 ** (-values / 10))


def layer_bars(
    layers: Sequence[str],
    sqnr_db: Mapping[str, float],
    title: str = "Error of every layer alone",
    *,
    dark: bool = False,
) -> go.Figure:
    """What quantizing each layer alone does, one bar per layer; blank where not yet known.

    layers    ``block.kind`` names, all of them
    sqnr_db   of the final latents against full precision, by layer
    """
    figure = go.Figure()
    known = {name: float(error_percent(db)) for name, db in sqnr_db.items()}
    worst = max(known, key=known.__getitem__) if known else ""
    for kind in dict.fromkeys(name.rsplit(".", 1)[-1] for name in layers):
        mine = [name for name in layers if name.rsplit(".", 1)[-1] == kind and name in known]
        figure.add_trace(
            go.Bar(
                x=mine,
                y=numbers(np.array([known[name] for name in mine])),
                customdata=numbers(np.array([sqnr_db[name] for name in mine])),
                name=kind,
                marker={"color": kind_colour(kind)},
                hovertemplate="only %{x}: error %{y:.3~g} % of the latents, "
                "SQNR %{customdata:.1f} dB<extra></extra>",
            )
        )
    dress(figure, 340, dark, wrapped(title))
    by_layer(figure, layers, 0.6, showgrid=False)
    top = max([*known.values(), 0.0])
    figure.update_yaxes(
        title="error, % of the latents", nticks=6, range=[0, 1.16 * top] if top else [0, 1]
    )
    if worst and len(known) > 1:
        figure.add_annotation(
            x=worst,
            y=known[worst],
            text=worst,
            showarrow=False,
            yanchor="bottom",
            font={"size": 12, "color": ink(dark)},
        )
    figure.update_layout(barmode="overlay", bargap=0.15)
    return legend_below(figure, 84)


def step_curve(
    first_steps: Sequence[int],
    sqnr_db: Sequence[float],
    steps: int,
    title: str = "Closeness by first quantized step",
    *,
    dark: bool = False,
) -> go.Figure:
    """SQNR of the final latents by the step from which on the model is quantized.

    first_steps   from 1 (the whole run) to ``steps`` (the last one only), (N,)
    sqnr_db       against full precision, (N,)
    """
    look = ROLES["ditas"]
    order = np.argsort(np.asarray(first_steps), kind="stable")
    figure = go.Figure(
        go.Scatter(
            x=[int(first_steps[i]) for i in order],
            y=numbers(np.array([float(sqnr_db[i]) for i in order])),
            mode="lines+markers+text",
            text=[f"{sqnr_db[i]:.1f}" for i in order],
            textposition="top center",
            textfont={"size": 11, "color": ink(dark)},
            cliponaxis=False,
            line={"color": look.colour, "width": 2.6},
            marker={"size": 9, "symbol": look.symbol},
            showlegend=False,
            hovertemplate=f"quantized from step %{{x}} of {steps} on: %{{y:.1f}} dB<extra></extra>",
        )
    )
    dress(figure, 340, dark, wrapped(title))
    figure.update_xaxes(title=f"first quantized step of {steps}", range=[0, steps + 1], nticks=8)
    figure.update_yaxes(title="latent SQNR, dB (higher is closer)", nticks=6)
    figure.update_layout(margin_t=56)
    return figure


def parting_curves(
    timesteps: Sequence[int],
    series: Mapping[str, Sequence[float]],
    first_step: int = 0,
    title: str = "Where the run parts from full precision",
    *,
    dark: bool = False,
) -> go.Figure:
    """Latent SQNR in dB after every step; steps that are still identical stay blank.

    series       experiment -> (T,) dB, the newest first: it is drawn thick
    first_step   the newest one is quantized from this step on, marked; 0 = from the first
    """
    figure = go.Figure()
    steps = list(range(1, len(timesteps) + 1))
    looks = (ROLES["ditas"], *SPARE)
    for index, (name, values) in enumerate(series.items()):
        look = looks[index % len(looks)]
        shown = np.asarray(values, dtype=np.float64)
        shown = np.where(shown >= IDENTICAL_DB, np.nan, shown)
        figure.add_trace(
            go.Scatter(
                x=steps,
                y=numbers(shown),
                mode="lines+markers",
                name=name,
                customdata=list(timesteps),
                opacity=1.0 if index == 0 else 0.75,
                line={"color": look.colour, "width": 3.2 if index == 0 else 1.8, "dash": look.dash},
                marker={"size": 7 if index == 0 else 5, "symbol": look.symbol},
                hovertemplate="step %{x} (t = %{customdata})<br>%{y:.1f} dB"
                "<extra>%{fullData.name}</extra>",
            )
        )
    dress(figure, 340, dark, wrapped(title))
    if first_step > 0:
        figure.add_vline(
            x=first_step + 1,
            line={"color": GREY, "dash": "dash", "width": 1.5},
            annotation={
                "text": f"quantized from step {first_step + 1} on",
                "font": {"size": 11, "color": ink(dark)},
                "xanchor": "right" if first_step > len(steps) / 2 else "left",
                "yanchor": "bottom",
            },
            annotation_position="top",
        )
        figure.update_layout(margin_t=60)
    figure.update_xaxes(title="denoising step", nticks=8, range=[0, len(steps) + 1])
    figure.update_yaxes(title="latent SQNR, dB (higher is closer)", nticks=6)
    return legend_below(figure, 66 + 20 * max(1, len(series)))
