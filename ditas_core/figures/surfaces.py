"""|X| as a landscape over channels and tokens or timesteps, as the papers show it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from .encoding import Array, numbers, pool_channels, pool_steps, rounded
from .style import GREY, LOUDNESS, dress

SURFACE_ROWS, SURFACE_COLUMNS = 64, 128
LANDSCAPE = sample_colorscale(LOUDNESS, np.linspace(0.2, 1, 9).tolist())
"""Magma without its black end, which would vanish on a dark ground."""
CAMERA = {
    "eye": {"x": 1.8, "y": -2.0, "z": 1.15},
    "center": {"x": 0.02, "y": 0.0, "z": -0.18},
}


def surface(
    values: Array,
    rows: Sequence[int],
    title: str,
    z_max: float,
    row_title: str = "timestep",
    *,
    height: int = 400,
    dark: bool = False,
) -> go.Figure:
    """|X| over channels and ``rows`` (tokens or timesteps), (R, C), at most 64 x 128 drawn.

    ``z_max`` is the top of the z axis and of the colours: the same for what is compared.
    """
    pooled, every = pool_steps(np.abs(values), SURFACE_ROWS)
    pooled, width = pool_channels(pooled, SURFACE_COLUMNS)
    labels = [int(r) for r in rows[::every]]
    figure = go.Figure(
        go.Surface(
            z=rounded(pooled),
            x=np.arange(pooled.shape[1], dtype=np.int32) * width,
            y=np.asarray(labels, dtype=np.int32),
            cmin=0,
            cmax=z_max,
            colorscale=LANDSCAPE,
            showscale=False,
            lighting={"ambient": 0.78, "diffuse": 0.5, "specular": 0.08, "roughness": 0.9},
            hovertemplate=f"channel %{{x}}, {row_title} %{{y}}<br>largest |X| %{{z:.3~g}}"
            "<extra></extra>",
        )
    )
    dress(figure, height, dark, title)
    axis = {
        "gridcolor": GREY,
        "showbackground": False,
        "zeroline": False,
        "nticks": 5,
        "tickfont": {"size": 10},
        "showspikes": False,
    }
    figure.update_layout(
        scene={
            "xaxis": axis | {"title": {"text": "channel"}},
            "yaxis": axis | {"title": {"text": row_title}},
            "zaxis": axis | {"title": {"text": "|X|"}, "range": [0, z_max]},
            "aspectmode": "manual",
            "aspectratio": {"x": 1.5, "y": 1.0, "z": 0.75},
            "camera": CAMERA,
            "dragmode": "turntable",
        },
        margin={"l": 0, "r": 0, "b": 0},
    )
    return figure


def surface_pair(
    before: Array,
    after: Array,
    rows: Sequence[int],
    row_title: str = "timestep",
    *,
    height: int = 400,
    dark: bool = False,
) -> tuple[go.Figure, go.Figure]:
    """Before and after smoothing, (R, C) each, with one z scale, colour scale and camera.

    Two figures, so that a page can put them side by side or, on a phone, one below the other.
    """
    z_max = numbers(np.array([max(np.abs(before).max(), np.abs(after).max(), 1e-6) * 1.02]))[0]
    assert z_max is not None
    return (
        surface(before, rows, "Before smoothing", z_max, row_title, height=height, dark=dark),
        surface(
            after, rows, "After smoothing, same scale", z_max, row_title, height=height, dark=dark
        ),
    )
