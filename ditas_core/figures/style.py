"""One visual language for all figures: which colour, scale and frame means what.

Quantities have one scale each, recipes one colour each (from poor to good: warm to cool,
told apart by dash and symbol too). All are safe for colour-blind readers and show on
white and on near-black; the ground stays transparent.
"""

from __future__ import annotations

import textwrap
from typing import Any, NamedTuple

import plotly.graph_objects as go

from ..models import KINDS

LOUDNESS = "Magma"
"""|X|, |W| and outlier strength."""
ERROR = "Cividis"
"""Relative error in dB: brighter is worse."""
DIFFERENCE = [
    [0.0, "#08519C"],
    [0.25, "#6BAED6"],
    [0.5, "#F2F0EB"],
    [0.75, "#F4A35D"],
    [1.0, "#A63603"],
]
"""Signed, 0 in the middle: blue is less (better), orange more (worse)."""
TIME = ["#FDE725", "#9FDA3A", "#4AC16D", "#1FA187", "#277F8E", "#3F6FA8", "#6A5ACD"]
"""Denoising time: yellow at the first step (noise) to violet at the last (image)."""

BLUE, ORANGE, SKY, VERMILION, GREY = "#0072B2", "#E69F00", "#56B4E9", "#D55E00", "#8A8F98"
BEFORE, AFTER, WEIGHTS = VERMILION, BLUE, "#009E73"
"""The two states of one layer, also of its histograms and ranges."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
GRID = "rgba(128, 134, 145, 0.28)"
BAR_FOOT, BAR_TOP = 18, 64
"""Pixels above the plot area: room for the ticks of a colour bar, and where its title ends."""
TITLE_WIDTH = 46
"""Characters of a title that fit on a phone."""


def kind_colour(kind: str) -> str:
    """Of a kind of layers."""
    return KINDS[kind].colour if kind in KINDS else GREY


class Role(NamedTuple):
    """How a recipe is drawn."""

    colour: str
    dash: str
    symbol: str


ROLES = {
    "full precision": Role(GREY, "dash", "square"),
    "plain": Role(VERMILION, "dot", "diamond"),
    "smoothing": Role(ORANGE, "dashdot", "triangle-up"),
    "search": Role(SKY, "longdash", "cross"),
    "ditas": Role(BLUE, "solid", "circle"),
}
WORDS = {
    "full precision": ("full precision", "fp32", "fp16", "reference"),
    "ditas": ("ditas", "recipe", "low-rank", "lowrank", "branch"),
    "search": ("search", "grid"),
    "smoothing": ("smooth", "aggregation"),
    "plain": ("plain", "rounding", "rtn", "identity"),
}
SPARE = (
    Role("#009E73", "longdashdot", "star"),
    Role("#CC79A7", "dash", "pentagon"),
    Role("#999933", "dot", "hexagon"),
)


def role(name: str, index: int = 0) -> Role:
    """The fixed look of a recipe by its name; a name of none of them gets a spare one."""
    lowered = name.lower()
    for key, words in WORDS.items():
        if any(word in lowered for word in words):
            return ROLES[key]
    return SPARE[index % len(SPARE)]


def ink(dark: bool) -> str:
    """Text colour; at least 7 : 1 on the ground it is meant for."""
    return "#D7DCE5" if dark else "#3B414D"


def faded(colour: str, opacity: float) -> str:
    """#RRGGBB -> rgba(...)."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity:g})"


def wrapped(text: str, width: int = TITLE_WIDTH) -> str:
    """Lines short enough for a phone, joined by <br>."""
    return "<br>".join(textwrap.wrap(text, width))


def dress(figure: go.Figure, height: int, dark: bool = False, title: str = "") -> go.Figure:
    """Transparent ground, system font, compact margins, a one-line title; no template."""
    figure.update_layout(
        template=None,
        height=height,
        autosize=True,
        margin={"l": 56, "r": 16, "t": 40 if title else 34, "b": 44},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "size": 12, "color": ink(dark)},
        hoverlabel={
            "font": {"family": FONT, "size": 12, "color": ink(dark)},
            "bgcolor": "#1D222C" if dark else "#FFFFFF",
            "bordercolor": GREY,
        },
        dragmode="zoom",
    )
    if title:
        figure.update_layout(
            title={
                "text": title,
                "font": {"size": 14},
                "x": 0,
                "xref": "container",
                "xanchor": "left",
                "y": 1,
                "yref": "container",
                "yanchor": "top",
                "pad": {"l": 8, "t": 8},
            }
        )
    axis = {"gridcolor": GRID, "zeroline": False, "automargin": True}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure


def legend_below(figure: go.Figure, room: int = 0) -> go.Figure:
    """A horizontal legend at the foot, where it wraps without covering anything."""
    figure.update_layout(
        showlegend=True,
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
            "font": {"size": 12},
            "bgcolor": "rgba(0,0,0,0)",
        },
    )
    if room:
        figure.update_layout(margin_b=room)
    return figure


def bar_above(title: str, y: float, **rest: Any) -> dict[str, Any]:
    """A flat colour bar whose foot stands at ``y`` in units of the plot area (1 is its top)."""
    # relative to the container plotly.js 3.3 would draw the title across the bar
    return {
        "orientation": "h",
        "x": 0.5,
        "xanchor": "center",
        "yref": "paper",
        "y": y,
        "yanchor": "bottom",
        "ypad": 0,
        "len": 0.86,
        "thickness": 10,
        "title": {"text": title, "side": "top", "font": {"size": 12}},
        "outlinewidth": 0,
        **rest,
    }


def above(figure: go.Figure, pixels: float) -> float:
    """The place ``pixels`` above the plot area, for ``bar_above``; margins must be set."""
    margin = figure.layout.margin
    return float(1 + pixels / (figure.layout.height - margin.t - margin.b))


def title_above(figure: go.Figure, title: str, pixels: float) -> go.Figure:
    """A title whose foot stands ``pixels`` above the plot area, for figures with a colour bar.

    An annotation: plotly.js 3.3 pushes a layout title out of the frame beside such a bar.
    """
    figure.add_annotation(
        text=title,
        name="title",
        showarrow=False,
        font={"size": 14},
        xref="paper",
        x=0,
        xanchor="left",
        xshift=-44,
        yref="paper",
        y=1,
        yanchor="bottom",
        yshift=pixels,
    )
    return figure


def title_over_bar(figure: go.Figure, bar: Any, title: str) -> go.Figure:
    """Room above the plot area for a colour bar of the figure's, and a title over it."""
    figure.update_layout(margin_t=BAR_TOP + 28)
    bar.y = above(figure, BAR_FOOT)
    return title_above(figure, title, BAR_TOP)


def panel_titles(figure: go.Figure) -> go.Figure:
    """Subplot titles at the left edge of their panel, a little larger than the ticks."""
    figure.update_annotations(font={"size": 13}, x=0, xanchor="left")
    return figure
