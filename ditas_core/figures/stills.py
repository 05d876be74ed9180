"""Pictures without a browser: a captioned contact sheet, and maps with their colour bar.

Drawn with Pillow in the colours of the interactive figures. DejaVu is used where the
machine has it; Pillow's own font knows no Greek and gets plain letters instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from plotly.colors import get_colorscale, sample_colorscale

from .encoding import LEVELS, Array, LogRange, pool_channels, pool_steps, shared_range, short
from .images import Pixels
from .style import LOUDNESS

PAPER, INK, QUIET = "#FFFFFF", "#20242C", "#5A6270"
PLAIN_LETTERS = str.maketrans({
    "α": "alpha", "×": "x", "÷": "/", "≤": "<=", "→": "->", "≈": "~", "Δ": "d",
    "“": '"', "”": '"', "\u202f": " ",
})  # fmt: skip
MARGIN, CELL, SPACE, SIDE = 28, 128, 8, 186
MAP_WIDTH, ROW_HEIGHT, FEWEST_PIXELS = 1100, 5, 230
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Lettering(NamedTuple):
    """A font, and whether it knows more than Latin letters."""

    font: Font
    whole: bool

    def text(self, text: str) -> str:
        return text if self.whole else text.translate(PLAIN_LETTERS)

    def width(self, text: str) -> float:
        return float(self.font.getlength(self.text(text)))


@lru_cache(maxsize=16)
def lettering(size: int, bold: bool = False) -> Lettering:
    """DejaVu Sans, or Pillow's own font."""
    try:
        name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
        return Lettering(ImageFont.truetype(name, size), True)
    except OSError:
        return Lettering(ImageFont.load_default(size), False)


def fitting(text: str, letters: Lettering, width: float) -> str:
    """The text, cut with an ellipsis where it is too wide."""
    if letters.width(text) <= width:
        return text
    while text and letters.width(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def lines_of(text: str, letters: Lettering, width: float) -> list[str]:
    """Broken between words; a word that is too wide is cut."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and letters.width(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(fitting(word, letters, width))
    return lines


def write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    letters: Lettering,
    colour: str = INK,
    anchor: str = "la",
) -> None:
    draw.text(place, letters.text(text), font=letters.font, fill=colour, anchor=anchor)


def contact_sheet(
    images: Mapping[str, Pixels],
    labels: Sequence[str],
    captions: Mapping[str, str],
    title: str,
    footer: str = "",
) -> Image.Image:
    """One row per variant and one column per sample, with captions.

    images    variant -> (N, H, W, 3) bytes
    labels    one per sample, above its column
    captions  variant -> what stands below its name; lines are kept

    Raises:
        ValueError: no images, or another number of them than labels.
    """
    if not images or any(len(pixels) != len(labels) for pixels in images.values()):
        raise ValueError(f"images: expected {len(labels)} per variant")
    head, name, small = lettering(22, True), lettering(16, True), lettering(13)
    top, foot = MARGIN + 64, 46 if footer else 16
    width = max(2 * MARGIN + SIDE + len(labels) * (CELL + SPACE) - SPACE, 760)
    height = top + len(images) * (CELL + SPACE) - SPACE + foot + MARGIN // 2
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    write(draw, (MARGIN, MARGIN - 6), fitting(title, head, width - 2 * MARGIN), head)
    for column, label in enumerate(labels):
        middle = MARGIN + SIDE + column * (CELL + SPACE) + CELL / 2
        write(draw, (middle, top - 8), fitting(label, small, CELL), small, QUIET, "ms")
    for row, (variant, pixels) in enumerate(images.items()):
        y = top + row * (CELL + SPACE)
        texts = [(line, name, INK) for line in lines_of(variant, name, SIDE - 14)[:3]]
        texts += [
            (line, small, QUIET)
            for part in captions.get(variant, "").split("\n")
            for line in lines_of(part, small, SIDE - 14)[:3]
        ]
        line_y = y + (CELL - 20 * len(texts)) / 2
        for text, letters, colour in texts:
            write(draw, (MARGIN, line_y), text, letters, colour)
            line_y += 20
        for column, image in enumerate(pixels):
            cell = Image.fromarray(image).resize((CELL, CELL), Image.Resampling.BICUBIC)
            sheet.paste(cell, (MARGIN + SIDE + column * (CELL + SPACE), y))
    if footer:
        text = fitting(footer, small, width - 2 * MARGIN)
        write(draw, (MARGIN, height - MARGIN // 2 - 22), text, small, QUIET)
    return sheet


@lru_cache(maxsize=4)
def colour_table(scale: str = LOUDNESS) -> NDArray[np.uint8]:
    """256 colours of a plotly scale, (256, 3)."""
    places = [i / LEVELS for i in range(LEVELS + 1)]
    samples = sample_colorscale(get_colorscale(scale), places)
    rows = [text[text.index("(") + 1 : -1].split(",")[:3] for text in samples]
    return np.array([[round(float(v)) for v in row] for row in rows], dtype=np.uint8)


def map_cells(values: Array, scale: LogRange, columns: int = 512, rows: int = 64) -> Pixels:
    """(T, C) -> (T', C', 3) colours, a pixel per cell; of more cells the loudest show."""
    pooled, _ = pool_channels(values, columns)
    pooled, _ = pool_steps(pooled, rows)
    cells: Pixels = colour_table()[scale.encode(pooled)]
    return cells


def map_image(values: Array, scale: LogRange, size: tuple[int, int]) -> Image.Image:
    """(T, X) -> colours, enlarged without blur; of more cells than pixels the loudest show."""
    colours = map_cells(values, scale, *size)
    return Image.fromarray(colours).resize(size, Image.Resampling.NEAREST)


def colour_bar(
    draw: ImageDraw.ImageDraw,
    sheet: Image.Image,
    scale: LogRange,
    box: tuple[int, int, int, int],
    unit: str,
) -> None:
    """A vertical bar, the largest value on top, with round numbers."""
    x, y, width, height = box
    strip = colour_table()[::-1][:, None].repeat(width, 1)
    sheet.paste(Image.fromarray(strip).resize((width, height)), (x, y))
    small = lettering(13)
    ticks = scale.ticks()
    for tick, at in zip(ticks, scale.positions(np.array(ticks)), strict=True):
        tick_y = y + height * (1 - float(at) / LEVELS)
        draw.line([(x + width, tick_y), (x + width + 5, tick_y)], fill=QUIET)
        write(draw, (x + width + 9, tick_y), f"{short(tick)}{unit}", small, QUIET, "lm")


def map_still(
    panels: Sequence[tuple[str, Array]],
    timesteps: Sequence[int],
    title: str,
    *,
    quantity: str = "largest |X| ÷ median channel",
    unit: str = "×",
    x_title: str = "input channel",
    footer: str = "",
) -> Image.Image:
    """Maps below each other on one log colour scale, (T, X) each, with axes and a colour bar.

    Raises:
        ValueError: no panels, or rows that are not the timesteps.
    """
    if not panels or any(len(values) != len(timesteps) for _, values in panels):
        raise ValueError(f"panels: expected {len(timesteps)} rows each")
    head, name, small = lettering(22, True), lettering(15, True), lettering(13)
    scale = shared_range(*(values for _, values in panels), floor_quantile=0.02)
    inner = max(FEWEST_PIXELS, min(len(timesteps) * ROW_HEIGHT, 400))
    left, top, between = MARGIN + 56, MARGIN + 50, 34
    width = left + MAP_WIDTH + 110 + MARGIN
    foot = 54 + (26 if footer else 0)
    height = top + len(panels) * (inner + between) - between + foot + 24
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    write(draw, (MARGIN, MARGIN - 6), fitting(title, head, width - 2 * MARGIN), head)
    for index, (text, values) in enumerate(panels):
        y = top + 22 + index * (inner + between)
        write(draw, (left, y - 8), text, name, INK, "ls")
        sheet.paste(map_image(values, scale, (MAP_WIDTH, inner)), (left, y))
        rows = len(timesteps)
        for row in range(0, rows, max(1, rows // 6)):
            tick_y = y + (row + 0.5) * inner / rows
            draw.line([(left - 5, tick_y), (left, tick_y)], fill=QUIET)
            write(draw, (left - 8, tick_y), str(timesteps[row]), small, QUIET, "rm")
        write(draw, (left - 8, y - 8), "t", small, QUIET, "rs")
    bottom = y + inner
    channels = panels[0][1].shape[1]
    every = max(1, 2 ** int(np.ceil(np.log2(max(1, channels / 12)))))
    for channel in range(0, channels, every):
        x = left + (channel + 0.5) * MAP_WIDTH / channels
        draw.line([(x, bottom), (x, bottom + 5)], fill=QUIET)
        write(draw, (x, bottom + 8), str(channel), small, QUIET, "ma")
    write(draw, (left + MAP_WIDTH / 2, bottom + 28), x_title, small, INK, "ma")
    bar = (left + MAP_WIDTH + 24, top + 22, 18, bottom - top - 22)
    colour_bar(draw, sheet, scale, bar, unit)
    write(draw, (width - MARGIN, top + 14), quantity, small, INK, "rs")
    if footer:
        text = fitting(footer, small, width - 2 * MARGIN)
        write(draw, (MARGIN, height - MARGIN // 2 - 18), text, small, QUIET)
    return sheet
