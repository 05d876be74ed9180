"""The alpha lab's error bars and curve, and the whole search as a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from .curves import relative_db
from .encoding import Array, numbers
from .heatmaps import by_layer
from .style import (
    BLUE,
    DIFFERENCE,
    GREY,
    ROLES,
    WEIGHTS,
    bar_above,
    dress,
    faded,
    ink,
    legend_below,
    title_over_bar,
)

ERROR_COLOURS = {"activations": BLUE, "weights": WEIGHTS, "output": "#CC79A7"}
CLIP_DB = 12.0
LOWEST = "lowest"


def error_traces(
    errors: Mapping[str, float],
    span: tuple[float, float],
    reference: Mapping[str, float] | None = None,
    dark: bool = False,
) -> list[dict[str, Any]]:
    """What moves in ``error_bars``."""
    names = list(errors)
    traces: list[dict[str, Any]] = [
        {
            "type": "bar",
            "y": names,
            "x": [round(v - span[0], 3) for v in errors.values()],
            "base": span[0],
            "orientation": "h",
            "marker": {"color": [faded(ERROR_COLOURS.get(n, GREY), 0.62) for n in names]},
            "customdata": numbers(np.array(list(errors.values()))),
            "hovertemplate": "%{y}: relative rounding error %{customdata:.1f} dB<extra></extra>",
            "showlegend": False,
        }
    ]
    if reference is not None:
        traces.append(
            {
                "type": "scatter",
                "x": [round(float(reference[n]), 3) for n in names],
                "y": names,
                "mode": "markers",
                "marker": {
                    "symbol": "line-ns-open",
                    "size": 26,
                    "color": ink(dark),
                    "line": {"width": 3},
                },
                "name": "without smoothing",
                "hovertemplate": "%{y} without smoothing: %{x:.1f} dB<extra></extra>",
            }
        )
    return traces


def error_ticks(errors: Mapping[str, float]) -> dict[str, Any]:
    """The bars' names with their values, at the axis, where nothing covers them."""
    texts = [f"{n}<br><b>{v:.1f} dB</b>".replace("-", "−") for n, v in errors.items()]
    return {"tickmode": "array", "tickvals": list(errors), "ticktext": texts}


def error_bars(
    errors: Mapping[str, float],
    span: tuple[float, float],
    reference: Mapping[str, float] | None = None,
    *,
    height: int = 250,
    dark: bool = False,
) -> go.Figure:
    """Relative rounding errors in dB, less is better.

    errors      by name: "activations", "weights", "output"; 10 log10(|error|^2 / |value|^2)
    span        the axis, which stays while alpha moves
    reference   the same without smoothing, marked on each bar
    """
    figure = go.Figure({"data": error_traces(errors, span, reference, dark)})
    dress(figure, height, dark, "Rounding error of X, W and their product")
    figure.update_xaxes(title="relative error, dB (left is better)", range=list(span))
    figure.update_yaxes(autorange="reversed", ticklabelstandoff=4, **error_ticks(errors))
    figure.update_layout(bargap=0.35)
    return legend_below(figure, 78) if reference is not None else figure


def best_place(db: Array, grid: Array, choice: float | str | None) -> int | None:
    """Which of the grid the search chose; None for none of it."""
    if choice is None:
        return None
    return int(np.nanargmin(db) if choice == LOWEST else np.abs(grid - float(choice)).argmin())


def curve_traces(
    alphas: Sequence[float],
    losses_db: Sequence[float],
    current: float | None,
    current_db: float | None = None,
    choice: float | str | None = LOWEST,
) -> list[dict[str, Any]]:
    """What moves in ``alpha_curve``."""
    grid, db = np.asarray(alphas, float), np.asarray(losses_db, float)
    best = best_place(db, grid, choice)
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "x": numbers(grid),
            "y": numbers(db),
            "mode": "lines+markers",
            "line": {"color": ROLES["search"].colour, "width": 2.4},
            "marker": {"size": 5},
            "showlegend": False,
            "name": "grid",
            "hovertemplate": "α = %{x:.2~f}: %{y:+.2f} dB<extra></extra>",
        }
    ]
    marks = []
    if best is not None:
        star = ("star", ROLES["ditas"].colour, 15, 0)
        marks.append(("the search's optimum", grid[best], db[best], *star))
    if current is not None:
        at = current_db if current_db is not None else float(np.interp(current, grid, db))
        circle = ("circle-open", ROLES["smoothing"].colour, 17, 3)
        marks.append(("α in hand", current, at, *circle))
    for name, x, y, symbol, colour, size, line in marks:
        traces.append(
            {
                "type": "scatter",
                "x": [round(float(x), 4)],
                "y": [round(float(y), 3)],
                "mode": "markers",
                "name": f"{name} ({x:.2f})",
                "marker": {
                    "symbol": symbol,
                    "size": size,
                    "color": colour,
                    "line": {"width": line},
                },
                "hovertemplate": f"{name}: α = %{{x:.2~f}}, %{{y:+.2f}} dB<extra></extra>",
            }
        )
    return traces


def alpha_curve(
    alphas: Sequence[float],
    losses_db: Sequence[float],
    current: float | None,
    current_db: float | None = None,
    *,
    choice: float | str | None = LOWEST,
    height: int = 320,
    dark: bool = False,
) -> go.Figure:
    """The layer's loss over alpha with its optimum and the alpha in hand.

    losses_db    output error against no smoothing in dB at every alpha of the grid, (A,)
    current      the alpha in hand, None without smoothing (0 dB); anywhere in [0, 1]
    current_db   its own loss; the curve between its neighbours without it
    choice       what the search chose, of the grid or None for no smoothing, which may differ
                 from the LOWEST point: it compares the best few more closely
    """
    figure = go.Figure({"data": curve_traces(alphas, losses_db, current, current_db, choice)})
    grid, db = np.asarray(alphas, float), np.asarray(losses_db, float)
    best = best_place(db, grid, choice)
    title = "The search leaves this layer unsmoothed"
    if best is not None:
        title = f"Best at α = {grid[best]:.2f}: {db[best]:+.1f} dB".replace("-", "−")
    dress(figure, height, dark, title)
    held = current is None
    text = "★ no smoothing" if choice is None else "no smoothing"
    figure.add_hline(
        y=0,
        line={
            "color": ROLES["smoothing"].colour if held else GREY,
            "dash": "solid" if held else "dash",
            "width": 3 if held else 1.5,
        },
        annotation={
            "text": f"{text} (in hand)" if held else text,
            "font": {"size": 11},
            "yanchor": "bottom",
        },
    )
    figure.update_xaxes(title="migration strength α", range=[-0.03, 1.03], dtick=0.2)
    figure.update_yaxes(title="output error, dB", nticks=6)
    return legend_below(figure, 78)


def search_map(
    layers: Sequence[str],
    alphas: Sequence[float],
    losses: Array,
    identity: Array,
    *,
    chosen: Mapping[str, float | None] | None = None,
    height: int = 420,
    dark: bool = False,
) -> go.Figure:
    """Every layer's loss over alpha against no smoothing, growing while the search runs.

    losses     (L, A), NaN where a layer is not done yet: its column stays blank
    identity   the loss of every layer without smoothing, (L,)
    chosen     what the search chose where that is known, None for no smoothing; it may differ
               from the lowest loss, as the best few are compared more closely

    Blue is better than leaving the layer alone, orange worse, both up to 12 dB; a white
    dot marks each layer's best alpha, a hollow one at the foot that none is better.
    """
    db = np.stack([relative_db(row, float(one)) for row, one in zip(losses, identity, strict=True)])
    done = np.isfinite(db).any(1)
    blank = np.where(np.isfinite(db), db, np.inf)
    best = blank.argmin(1)
    lowest = blank.min(1)
    helped = done & (lowest < 0)
    grid = np.asarray(alphas, float)
    marks = grid[best]
    for row, layer in enumerate(layers):
        if chosen is not None and layer in chosen:
            alpha = chosen[layer]
            helped[row] = alpha is not None
            marks[row] = marks[row] if alpha is None else alpha
    step = float(grid[1] - grid[0]) if len(grid) > 1 else 0.1
    figure = go.Figure(
        go.Heatmap(
            z=[numbers(row, 3) for row in db.T],
            x=list(layers),
            y=numbers(grid),
            zmin=-CLIP_DB,
            zmax=CLIP_DB,
            colorscale=DIFFERENCE,
            hoverongaps=False,
            hovertemplate="layer %{x}, α = %{y:.2~f}<br>%{z:+.1f} dB against no smoothing"
            "<extra></extra>",
            colorbar=bar_above(
                "output error against no smoothing, dB",
                1.0,
                tickvals=[-12, -6, 0, 6, 12],
                ticktext=["≤ −12", "−6", "0", "+6", "≥ +12"],
            ),
        )
    )
    for name, which, places, fill in (
        ("best α", helped, marks, "#FFFFFF"),
        ("no α helps", done & ~helped, np.full(len(layers), grid[0] - step), "rgba(0,0,0,0)"),
    ):
        figure.add_trace(
            go.Scatter(
                x=[layer for layer, on in zip(layers, which, strict=True) if on],
                y=numbers(places[which]),
                mode="markers",
                marker={
                    "size": 7,
                    "color": fill,
                    "line": {"color": "#111318" if which is helped else ink(dark), "width": 1.6},
                },
                name=name,
                showlegend=False,
                hovertemplate=f"layer %{{x}}: {name} %{{y:.2~f}}<extra></extra>"
                if name == "best α"
                else f"layer %{{x}}: {name}<extra></extra>",
            )
        )
    total, count = len(layers), int(done.sum())
    title = f"{count} of {total} layers searched"
    if count:
        title = f"{count} of {total} layers, smoothing helps {int(helped.sum())}"
    dress(figure, height, dark)
    by_layer(figure, layers, showgrid=False)
    figure.update_yaxes(
        title="migration strength α", range=[grid[0] - 1.6 * step, grid[-1] + step / 2], dtick=0.2
    )
    return title_over_bar(figure, figure.data[0].colorbar, title)


def error_span(*values: float, room: float = 3.0) -> tuple[float, float]:
    """An axis for ``error_bars`` that fits all of the values, in whole 5 dB."""
    finite = [v for v in values if np.isfinite(v)] or [-40.0, 0.0]
    low = np.floor((min(finite) - room) / 5) * 5
    return float(low), float(np.ceil((max(finite) + room) / 5) * 5)
