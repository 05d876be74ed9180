"""Line charts as SVG text: no script, no request, sharp at any size, the page's own ink.

For pages that have no server. Drawn 420 units wide, so that texts stay readable on a phone.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .encoding import short

WIDTH, HEIGHT = 420, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 12, 42
DASHES = {
    "solid": "", "dot": "2 3", "dash": "6 4", "longdash": "10 4", "dashdot": "7 3 2 3",
    "longdashdot": "10 3 2 3",
}  # fmt: skip
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0, 20.0)


@dataclass(frozen=True)
class Line:
    """One curve. ``quiet`` ones are thin and stay behind; ``marks`` are drawn on the curve.

    marks  points (x, y) that get a dot
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    dash: str = "solid"
    quiet: bool = False
    marks: tuple[tuple[float, float], ...] = ()


def round_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from ``low`` to ``high``, at most so many."""
    span = max(high - low, 1e-9)
    power = 10 ** math.floor(math.log10(span / most))
    step = next(power * s for s in STEPS if span / (power * s) <= most - 1)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


@dataclass(frozen=True)
class Axis:
    """From values to units of the drawing; ``log`` axes show their own ticks."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(value)
        return round(self.start + (self.end - self.start) * (at - low) / ((high - low) or 1), 1)


def axes_of(lines: Sequence[Line], log_x: bool) -> tuple[Axis, Axis]:
    xs = np.concatenate([np.asarray(line.x, dtype=float) for line in lines])
    ys = np.concatenate([np.asarray(line.y, dtype=float) for line in lines])
    if not np.isfinite(xs).all() or not np.isfinite(ys).all():
        raise ValueError("lines: expected finite numbers")
    low, high = float(ys.min()), float(ys.max())
    room = 0.06 * (high - low or 1.0)
    across = Axis(float(xs.min()), float(xs.max()), LEFT, WIDTH - RIGHT, log_x)
    return across, Axis(low - room, high + room, HEIGHT - BOTTOM, TOP)


def curve(line: Line, across: Axis, up: Axis) -> str:
    """A polyline and its dots."""
    points = " ".join(
        f"{across.place(float(x))},{up.place(float(y))}"
        for x, y in zip(line.x, line.y, strict=True)
    )
    dash = f' stroke-dasharray="{DASHES[line.dash]}"' if DASHES[line.dash] else ""
    weight = 'stroke-width="1" opacity="0.45"' if line.quiet else 'stroke-width="2.4"'
    dots = "".join(
        f'<circle cx="{across.place(x)}" cy="{up.place(y)}" r="{2.2 if line.quiet else 4}" '
        f'fill="{line.colour}"/>'
        for x, y in line.marks
    )
    return f'<polyline points="{points}" fill="none" stroke="{line.colour}" {weight}{dash}/>{dots}'


def line_chart(
    lines: Sequence[Line],
    x_title: str,
    y_title: str,
    description: str,
    *,
    log_x: bool = False,
    zero: str = "",
) -> str:
    """An ``<svg>`` with axes; ``description`` is what it says to those who do not see it.

    log_x  ticks stand at the x values of the first line
    zero   what the level 0 means; drawn as a line of its own

    Raises:
        ValueError: no lines, or numbers that are not finite.
    """
    if not lines:
        raise ValueError("lines: expected at least one")
    across, up = axes_of(lines, log_x)
    parts = []
    for tick in round_ticks(up.low, up.high):
        y = up.place(tick)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{short(tick)}</text>'
        )
    ticks = list(lines[0].x) if log_x else round_ticks(across.low, across.high)
    for tick in ticks:
        x = across.place(float(tick))
        parts.append(
            f'<text x="{x}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">'
            f"{short(float(tick))}</text>"
        )
    if zero and up.low < 0 < up.high:
        y = up.place(0)
        parts.append(
            f'<line class="zero" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
            f'<text x="{WIDTH - RIGHT}" y="{y - 5}" text-anchor="end">{html.escape(zero)}</text>'
        )
    parts += [curve(line, across, up) for line in sorted(lines, key=lambda each: not each.quiet)]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{html.escape(x_title)}</text>"
        f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">'
        f"{html.escape(y_title)}</text>"
    )
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(description)}">{"".join(parts)}</svg>'
    )


def chart_key(lines: Sequence[Line]) -> str:
    """The names of the lines that are not quiet, with how they are drawn."""
    items = "".join(
        f'<li><svg viewBox="0 0 30 10" aria-hidden="true"><line x1="1" x2="29" y1="5" y2="5" '
        f'stroke="{line.colour}" stroke-width="2.6" stroke-dasharray="{DASHES[line.dash]}"/></svg>'
        f"{html.escape(line.name)}</li>"
        for line in lines
        if not line.quiet
    )
    return f'<ul class="key">{items}</ul>'
