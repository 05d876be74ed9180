"""Quality against bits: a mark per contender, the front that nobody is above of."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Protocol

import plotly.graph_objects as go

from .encoding import short
from .style import BLUE, GREY, ORANGE, dress, faded, legend_below
from .vector import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, round_ticks

SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "pentagon", "x")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6A5ACD", "#999933")
"""Safe for colour-blind readers, on white and on near-black."""


class Standing(Protocol):
    """One contender's mark.

    kind      contenders of one kind look alike
    quality, low, high   mean and ends of its 95 % interval
    on_front  nobody of as many bits or fewer comes closer
    tied      not told apart from the closest
    chosen    marked by the reader
    """

    @property
    def label(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def bits(self) -> float: ...
    @property
    def quality(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def on_front(self) -> bool: ...
    @property
    def tied(self) -> bool: ...
    @property
    def chosen(self) -> bool: ...


def looks(standings: Sequence[Standing]) -> dict[str, tuple[str, str]]:
    """Colour and symbol of each kind, in the order in which kinds appear."""
    kinds = dict.fromkeys(each.kind for each in standings)
    turns = len(COLOURS)
    return {
        kind: (COLOURS[i % turns], SYMBOLS[(i + i // turns) % len(SYMBOLS)])
        for i, kind in enumerate(kinds)
    }


def front_of(standings: Sequence[Standing]) -> list[Standing]:
    return sorted((each for each in standings if each.on_front), key=lambda each: each.bits)


def contest_front(
    standings: Sequence[Standing],
    *,
    quality: str = "latent SQNR, dB (higher is closer)",
    budget: float | None = None,
    dark: bool = False,
) -> go.Figure:
    """Every contender with its interval; ``customdata`` of a mark is its label."""
    figure = go.Figure()
    front = front_of(standings)
    figure.add_trace(
        go.Scatter(
            x=[each.bits for each in front],
            y=[each.quality for each in front],
            mode="lines",
            line={"color": GREY, "width": 2, "shape": "hv", "dash": "dot"},
            name="front",
            hoverinfo="skip",
        )
    )
    for kind, (colour, symbol) in looks(standings).items():
        own = [each for each in standings if each.kind == kind]
        figure.add_trace(
            go.Scatter(
                x=[each.bits for each in own],
                y=[each.quality for each in own],
                customdata=[each.label for each in own],
                text=[note(each) for each in own],
                mode="markers",
                marker={
                    "symbol": symbol,
                    "color": colour,
                    "size": [15 if each.chosen else 10 for each in own],
                    "line": {
                        "color": ORANGE if any(each.chosen for each in own) else colour,
                        "width": [3 if each.chosen else 0 for each in own],
                    },
                },
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [each.high - each.quality for each in own],
                    "arrayminus": [each.quality - each.low for each in own],
                    "color": faded(colour, 0.45),
                    "thickness": 1.5,
                    "width": 0,
                },
                name=kind,
                hovertemplate="%{text}<extra></extra>",
            )
        )
    dress(figure, 470, dark, "Closer for as many bits: the front")
    if budget is not None:
        figure.add_vline(
            x=budget, line={"color": BLUE, "width": 1, "dash": "dash"},
            annotation={"text": "budget", "font": {"size": 11}},
        )  # fmt: skip
    figure.update_xaxes(title="effective bits per weight: codes, scales, branches", nticks=8)
    figure.update_yaxes(title=quality, nticks=8)
    figure.update_layout(hovermode="closest")
    return legend_below(figure, 150)


def note(each: Standing) -> str:
    """What a mark says."""
    spread = f" ± {(each.high - each.low) / 2:.1f}" if each.high > each.low else ""
    words = [f"{each.label}<br>{each.quality:.1f}{spread} dB, {each.bits:.2f} bits"]
    if each.on_front:
        words.append("on the front")
    if each.tied:
        words.append("not told apart from the closest")
    return "<br>".join(words)


def contest_drawing(standings: Sequence[Standing], title: str) -> str:
    """The same as a file of its own, SVG: marks with intervals, the front's contenders named.

    Raises:
        ValueError: nobody took part.
    """
    if not standings:
        raise ValueError("standings: expected at least one")
    bits = [each.bits for each in standings]
    ends = [end for each in standings for end in (each.low, each.high)]
    room, tall = 0.05 * (max(bits) - min(bits) or 1), 0.08 * (max(ends) - min(ends) or 1)
    across = Axis(min(bits) - room, max(bits) + room, LEFT, WIDTH - RIGHT)
    up = Axis(min(ends) - tall, max(ends) + tall, HEIGHT - BOTTOM, TOP)
    parts = []
    for tick in round_ticks(up.low, up.high):
        y = up.place(tick)
        parts.append(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="#80869147"/>')
        parts.append(text_at(LEFT - 6, y + 4, short(tick), "end"))
    for tick in round_ticks(across.low, across.high):
        parts.append(text_at(across.place(tick), HEIGHT - BOTTOM + 16, short(tick), "middle"))
    front = front_of(standings)
    steps = [f"M{across.place(front[0].bits)} {up.place(front[0].quality)}"] if front else []
    steps += [f"H{across.place(each.bits)}V{up.place(each.quality)}" for each in front[1:]]
    parts.append(f'<path d="{"".join(steps)}" fill="none" stroke="{GREY}" stroke-dasharray="2 3"/>')
    colours = {kind: colour for kind, (colour, _) in looks(standings).items()}
    for each in standings:
        x, y, colour = across.place(each.bits), up.place(each.quality), colours[each.kind]
        parts.append(
            f'<path d="M{x} {up.place(each.low)}V{up.place(each.high)}" stroke="{colour}" '
            f'opacity="0.4"/><circle cx="{x}" cy="{y}" r="{4.5 if each.on_front else 3}" '
            f'fill="{colour}"><title>{html.escape(note(each).replace("<br>", ", "))}</title>'
            "</circle>"
        )
        if each.on_front:
            side = "end" if x > WIDTH * 0.7 else "start"
            parts.append(text_at(x + (-7 if side == "end" else 7), y - 6, each.label, side, 9))
    parts.append(text_at((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "effective bits per weight"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<g transform="rotate(-90 12 {middle})">{text_at(12, middle, "latent SQNR, dB")}</g>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="840" '
        f'role="img" aria-label="{html.escape(title)}" font-family="system-ui, sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="#FFFFFF"/>{"".join(parts)}</svg>\n'
    )


def text_at(x: float, y: float, text: str, anchor: str = "middle", size: int = 11) -> str:
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" fill="#3B414D">'
        f"{html.escape(text)}</text>"
    )
