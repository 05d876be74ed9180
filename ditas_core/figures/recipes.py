"""Recipes side by side: every layer's alpha and predicted error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from .heatmaps import by_layer
from .style import GREY, ROLES, SPARE, Role, dress, legend_below, role

IDENTITY_AT = -0.12
"""Where a layer without smoothing stands below the alphas."""


def distinct_roles(names: Sequence[str]) -> dict[str, Role]:
    """Each recipe's own look where it is still free, else one that nobody here has."""
    taken: list[Role] = []
    for index, name in enumerate(names):
        look = role(name, index)
        if look in taken:
            rest = [*SPARE, *ROLES.values()]
            look = next((spare for spare in rest if spare not in taken), look)
        taken.append(look)
    return dict(zip(names, taken, strict=True))


def recipe_alphas(
    layers: Sequence[str],
    recipes: Mapping[str, Sequence[float | None]],
    *,
    dark: bool = False,
) -> go.Figure:
    """One mark per layer and recipe; None is the identity, on a line of its own below 0."""
    figure = go.Figure()
    looks = distinct_roles(list(recipes))
    for name, alphas in recipes.items():
        look = looks[name]
        figure.add_trace(
            go.Scatter(
                x=list(layers),
                y=[IDENTITY_AT if alpha is None else round(alpha, 4) for alpha in alphas],
                text=["no smoothing" if alpha is None else f"α = {alpha:.2f}" for alpha in alphas],
                mode="markers",
                name=name,
                marker={
                    "symbol": f"{look.symbol}-open",
                    "size": 9,
                    "color": look.colour,
                    "line": {"width": 2},
                },
                hovertemplate="layer %{x}: %{text}<extra>%{fullData.name}</extra>",
            )
        )
    dress(figure, 340, dark, "α of every layer")
    by_layer(figure, layers, 0.7)
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1]
    figure.update_yaxes(
        title="α",
        range=[IDENTITY_AT - 0.07, 1.06],
        tickvals=[IDENTITY_AT, *ticks],
        ticktext=["identity", *(f"{tick:g}" for tick in ticks)],
    )
    return legend_below(figure, legend_room(recipes))


def recipe_errors(
    layers: Sequence[str],
    errors: Mapping[str, Sequence[float | None]],
    marked: str | None = None,
    *,
    height: int = 340,
    dark: bool = False,
) -> go.Figure:
    """Predicted relative output error of every layer in percent, on a log scale.

    errors   recipe -> one per layer, from 0; None is not known (a gap). No error at all
             is drawn hollow at the foot.
    marked   the layer in hand, with a line through it
    """
    figure = go.Figure()
    looks = distinct_roles(list(errors))
    positive = [e for values in errors.values() for e in values if e is not None and e > 0]
    foot = 100 * min(positive, default=1e-3) / 1.5
    for name, values in errors.items():
        look = looks[name]
        percent = [None if e is None else 100 * e for e in values]
        known = sum(p is not None for p in percent)
        figure.add_trace(
            go.Scatter(
                x=list(layers),
                y=[None if p is None else float(f"{max(p, foot):.4g}") for p in percent],
                customdata=[None if p is None else float(f"{p:.4g}") for p in percent],
                mode="lines+markers" if known > 1 else "markers",
                name=name,
                cliponaxis=known > 1,
                line={"color": look.colour, "width": 1.6, "dash": look.dash},
                marker={
                    "symbol": [f"{look.symbol}-open" if p == 0 else look.symbol for p in percent],
                    "size": 7 if known > 1 else 14,
                    "color": look.colour,
                    "line": {"color": look.colour, "width": 1},
                },
                hovertemplate="layer %{x}: %{customdata:.3~g} % of the output's energy"
                "<extra>%{fullData.name}</extra>",
            )
        )
    dress(figure, height, dark, "Predicted error of every layer")
    by_layer(figure, layers, 0.7)
    highest = 100 * max(positive, default=1e-2)
    figure.update_yaxes(
        title="error, % of output energy",
        type="log",
        range=[math.log10(foot) - 0.08, math.log10(highest) + 0.12],
        tickformat="~g",
        dtick="D2",
    )
    if marked in layers:
        figure.add_vline(
            x=list(layers).index(str(marked)), line={"color": GREY, "dash": "dot", "width": 1.5}
        )
    return legend_below(figure, legend_room(errors))


def legend_room(names: Mapping[str, object]) -> int:
    """Pixels for axis and legend: on a phone about two recipes share a line."""
    return 62 + 20 * int(np.ceil(len(names) / 2))
