"""What each ingredient gives: a row per recipe, from the plainest down."""

from __future__ import annotations

import html
from collections.abc import Sequence

from .contest import COLOURS, Standing, text_at
from .encoding import short
from .vector import Axis, round_ticks

WIDTH, ROW, TOP, BOTTOM, LEFT, RIGHT = 640, 30, 14, 44, 150, 90


def ablation_drawing(rows: Sequence[Standing], title: str) -> str:
    """SVG: latent SQNR of every row with its 95 % interval, in the order given, and its bits.

    Raises:
        ValueError: no row.
    """
    if not rows:
        raise ValueError("rows: expected at least one")
    height = TOP + ROW * len(rows) + BOTTOM
    low, high = min(each.low for each in rows), max(each.high for each in rows)
    room = 0.05 * (high - low or 1)
    across = Axis(low - room, high + room, LEFT, WIDTH - RIGHT)
    parts = []
    for tick in round_ticks(across.low, across.high):
        x = across.place(tick)
        parts.append(f'<path d="M{x} {TOP}V{height - BOTTOM}" stroke="#80869147"/>')
        parts.append(text_at(x, height - BOTTOM + 16, short(tick)))
    for index, each in enumerate(rows):
        y, colour = TOP + ROW * (index + 0.5), COLOURS[0 if each.chosen else 1]
        parts.append(
            f'<path d="M{across.place(each.low)} {y}H{across.place(each.high)}" '
            f'stroke="{colour}" stroke-width="2" opacity="0.5"/>'
            f'<circle cx="{across.place(each.quality)}" cy="{y}" r="4.5" fill="{colour}"/>'
        )
        parts.append(text_at(LEFT - 10, y + 4, each.label, "end"))
        parts.append(text_at(WIDTH - RIGHT + 8, y + 4, f"{each.bits:.2f} bits", "start"))
    parts.append(text_at((LEFT + WIDTH - RIGHT) / 2, height - 8, "latent SQNR, dB"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'role="img" aria-label="{html.escape(title)}" font-family="system-ui, sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="#FFFFFF"/>{"".join(parts)}</svg>\n'
    )
