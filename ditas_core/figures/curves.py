"""Loss over alpha while the search runs; divergence over the denoising steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from .encoding import numbers
from .style import GREY, dress, kind_colour, legend_below, role


def relative_db(losses: ArrayLike, identity: float) -> NDArray[np.float64]:
    """10 log10(loss / loss without smoothing): below 0 is better than leaving the layer alone."""
    values = np.maximum(np.asarray(losses, dtype=np.float64), 1e-30)
    return 10 * np.log10(values / max(identity, 1e-30))


def loss_curves(
    curves: Sequence[tuple[str, Sequence[float], Sequence[float], float]],
    total: int | None = None,
    *,
    dark: bool = False,
) -> go.Figure:
    """One line per layer from ``(name, grid, losses, identity)``; its minimum is marked.

    A name is ``block.kind``; lines are coloured by kind. Of a search that is still to
    reach ``total`` layers, the newest line is drawn thick.
    """
    figure = go.Figure()
    seen: set[str] = set()
    lowest = 0.0
    for index, (name, grid, losses, identity) in enumerate(curves):
        kind = name.rsplit(".", 1)[-1]
        colour = kind_colour(kind)
        db = relative_db(losses, identity)
        best = int(db.argmin())
        lowest = min(lowest, float(db[best]))
        last = total is not None and index == len(curves) - 1 and len(curves) < total
        sizes = [0] * len(db)
        sizes[best] = 9
        figure.add_trace(
            go.Scatter(
                x=list(grid),
                y=[round(float(v), 3) for v in db],
                mode="lines+markers",
                name=kind,
                legendgroup=kind,
                showlegend=kind not in seen,
                line={"color": colour, "width": 4 if last else 1.4},
                marker={"size": sizes, "color": colour, "opacity": 1},
                opacity=1.0 if last else 0.6,
                hovertemplate=f"{name}<br>α = %{{x}}: %{{y:+.2f}} dB<extra></extra>",
            )
        )
        seen.add(kind)
    dress(figure, 420, dark)
    figure.add_hline(
        y=0,
        line={"color": GREY, "dash": "dash", "width": 1.5},
        annotation={"text": "no smoothing", "font": {"size": 11}},
    )
    figure.update_xaxes(title="migration strength α", range=[-0.02, 1.02], dtick=0.2)
    figure.update_yaxes(
        title="output error against no smoothing, dB", range=[lowest * 1.12 - 0.6, 6.5]
    )
    figure.update_layout(margin_t=16)
    return legend_below(figure, 76)


def divergence_curves(
    timesteps: Sequence[int],
    series: Mapping[str, Sequence[float]],
    *,
    dark: bool = False,
) -> go.Figure:
    """Latent SQNR in dB after every denoising step, one line per quantized model.

    timesteps   of the run, (T,)
    series      recipe -> (T,) dB against full precision; coloured by the recipe's ``role``
    """
    figure = go.Figure()
    steps = list(range(1, len(timesteps) + 1))
    few = len(steps) <= 60
    for index, (name, values) in enumerate(series.items()):
        look = role(name, index)
        figure.add_trace(
            go.Scatter(
                x=steps,
                y=numbers(np.asarray(values, dtype=np.float64)),
                mode="lines+markers" if few else "lines",
                name=name,
                customdata=list(timesteps),
                line={"color": look.colour, "width": 2.6, "dash": look.dash},
                marker={"size": 6, "symbol": look.symbol},
                hovertemplate="step %{x} (t = %{customdata})<br>%{y:.1f} dB<extra>%{fullData.name}"
                "</extra>",
            )
        )
    dress(figure, 340, dark)
    figure.update_layout(margin_t=16)
    figure.update_xaxes(title="denoising step", nticks=8)
    figure.update_yaxes(title="latent SQNR, dB (higher is closer)", nticks=6)
    return legend_below(figure, 84)
