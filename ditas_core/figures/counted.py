"""Both sides of one product as counted histograms: small and quick, for a live slider."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from .channels import log_axis
from .encoding import Array, numbers, short
from .grids import level_lines
from .style import AFTER, BEFORE, GREY, WEIGHTS, dress, faded, ink, legend_below

MOST_MARKS = 128
PEAK = 100.0
GAP = 0.24


class Counted(NamedTuple):
    """How many values lie in each of B equal bins from -limit to limit, and their levels.

    levels  what the values are rounded to, (L,), in the values' own unit; empty where
            they are left alone
    """

    counts: Array
    limit: float
    levels: Array


def level_grid(low: float, high: float, step: float) -> Array:
    """``low, low + step, ..., high``, (L,)."""
    return low + step * np.arange(round((high - low) / step) + 1)


def shares(counted: Counted) -> Array:
    """Percent of the values in each bin, (B,)."""
    return np.asarray(counted.counts, float) / max(1.0, float(np.sum(counted.counts))) * 100


def panels_of(
    activations: Counted, weights: Counted
) -> tuple[tuple[str, str, Counted, str, str, float], ...]:
    """Symbol, name, values, colour, axis suffix and top of the upper and the lower panel."""
    return (
        ("X / s", "activations", activations, AFTER, "", 1.0),
        ("W · s", "weights", weights, WEIGHTS, "2", (1 - GAP) / 2),
    )


def axis_foot(*before: Counted) -> float:
    """The foot of both log axes: half of a single value's share."""
    return min(float(share[share > 0].min()) for share in map(shares, before)) / 2


def counted_traces(
    activations: Counted,
    weights: Counted,
    activations_before: Counted,
    weights_before: Counted,
    alpha: float | None,
    dark: bool = False,
) -> list[dict[str, Any]]:
    """What moves in ``counted_histograms``."""
    foot = axis_foot(activations_before, weights_before)
    before = {"activations": activations_before, "weights": weights_before}
    traces: list[dict[str, Any]] = []
    for _, name, now, colour, suffix, _ in panels_of(activations, weights):
        bins = len(now.counts)
        axes = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
        place = {"x0": -1 + 1 / bins, "dx": 2 / bins, **axes}
        traces.append(
            {
                "type": "scatter",  # one path; as many bars take a browser ten times as long
                "mode": "lines",
                "y": numbers(np.maximum(shares(now), foot / 2), 3),
                "fill": "tozeroy",
                "fillcolor": faded(colour, 0.72),
                "line": {"color": colour, "width": 1, "shape": "hvh"},
                "hovertemplate": f"{name} around %{{x:.2f}} of the largest: %{{y:.2~g}} %"
                "<extra></extra>",
                "name": f"{name}",
                **place,
            }
        )
        if alpha is not None:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "y": numbers(np.maximum(shares(before[name]), foot / 2), 3),
                    "line": {"color": BEFORE, "width": 1.8, "shape": "hvh"},
                    "hovertemplate": f"{name} without smoothing, around %{{x:.2f}} of the "
                    "largest: %{y:.2~g} %<extra></extra>",
                    "name": "without smoothing",
                    "showlegend": name == "activations",
                    **place,
                }
            )
        places = now.levels / now.limit
        places = places[np.abs(places) <= 1.0]
        marks_x, marks_y, few = level_lines(places, (foot, PEAK), MOST_MARKS, 4, 0.07)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": marks_x,
                "y": marks_y,
                "line": {"color": faded(ink(dark), 0.5 if few else 0.6), "width": 1},
                "hoverinfo": "skip",
                "name": "levels (median scale)",
                "showlegend": name == "weights" and now.levels.size > 0,
                **axes,
            }
        )
    return traces


def counted_texts(
    activations: Counted, weights: Counted, alpha: float | None, dark: bool = False
) -> tuple[str, list[dict[str, Any]]]:
    """The title and the annotations over the panels, which move too."""
    notes: list[dict[str, Any]] = []
    for symbol, _, now, _, _, top in panels_of(activations, weights):
        left = f"{now.levels.size} levels" if now.levels.size else "left alone"
        notes.append(
            {
                "text": f"<b>{symbol}</b> · {left} · largest ±{short(now.limit)}",
                "x": 0,
                "xref": "paper",
                "xanchor": "left",
                "y": top,
                "yref": "paper",
                "yanchor": "bottom",
                "yshift": 5,
                "showarrow": False,
                "font": {"size": 13, "color": ink(dark)},
            }
        )
    at = "without smoothing" if alpha is None else f"at α = {alpha:.2f}"
    return f"What is rounded {at}", notes


def counted_histograms(
    activations: Counted,
    weights: Counted,
    activations_before: Counted,
    weights_before: Counted,
    alpha: float | None,
    *,
    height: int = 470,
    dark: bool = False,
) -> go.Figure:
    """X / s above W s, each in shares of its own largest value, with the levels of rounding.

    The axes stay while alpha moves. ``..._before`` are the same without smoothing, drawn as
    an outline; ``alpha`` None is no smoothing itself, and then nothing is outlined.
    """
    foot = axis_foot(activations_before, weights_before)
    sides = (activations, weights, activations_before, weights_before)
    title, notes = counted_texts(activations, weights, alpha, dark)
    figure = go.Figure({"data": counted_traces(*sides, alpha, dark)})
    dress(figure, height, dark, title)
    across = {"range": [-1.04, 1.04], "dtick": 0.5, "showgrid": False}
    up = {**log_axis((np.log10(foot), np.log10(PEAK))), "title": {"text": "% of values"}}
    figure.update_layout(
        margin={"t": 66, "b": 80, "l": 56, "r": 12},
        xaxis={**across, "anchor": "y"},
        xaxis2={
            **across,
            "anchor": "y2",
            "automargin": True,
            "title": {"text": "share of the largest value"},
        },
        yaxis={**up, "domain": [(1 + GAP) / 2, 1]},
        yaxis2={
            **up,
            "domain": [0, (1 - GAP) / 2],
            "anchor": "x2",
            "gridcolor": figure.layout.yaxis.gridcolor,
            "zeroline": False,
            "automargin": True,
        },
        annotations=notes,
    )
    figure.update_xaxes(linecolor=GREY, showline=True, zeroline=False)
    return legend_below(figure)
