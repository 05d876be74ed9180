"""One visual language for all figures: magma for loudness, Okabe-Ito blue and orange for lines."""

from __future__ import annotations

import plotly.graph_objects as go

LOUDNESS = "Magma"
BLUE, ORANGE, SKY, VERMILION, GREY = "#0072B2", "#E69F00", "#56B4E9", "#D55E00", "#8A8F98"
KIND_COLOURS = {"qkv": BLUE, "proj": SKY, "fc1": ORANGE, "fc2": VERMILION}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
GRID = "rgba(128, 134, 145, 0.22)"


def dress(figure: go.Figure, height: int) -> go.Figure:
    """Transparent ground, system font, compact margins; no template in the payload."""
    figure.update_layout(
        template=None,
        height=height,
        margin={"l": 56, "r": 16, "t": 34, "b": 44},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "size": 12, "color": "#555B66"},
        hoverlabel={"font": {"family": FONT, "size": 12}},
        dragmode="zoom",
    )
    figure.update_xaxes(gridcolor=GRID, zeroline=False, automargin=True)
    figure.update_yaxes(gridcolor=GRID, zeroline=False, automargin=True)
    return figure
