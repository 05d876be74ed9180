"""Pictures of a run: contact sheets, losses over time."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from ditas_core.writing import whole_file

from .runs import read_log

COLOURS = ("#2a6fb0", "#c4512d")
MARKS = [base * 10.0**power for power in range(-6, 6) for base in (1, 2, 5)]  # of an axis


def contact_sheet(
    images: torch.Tensor,
    names: list[str],
    per_class: int = 4,
    a_row: int = 2,
    cell: int | None = None,
) -> Image.Image:
    """uint8 (len(names) * per_class, 3, H, W) -> ``a_row`` classes a row, their names beneath.

    cell  pixels of a picture's side; None for its own size, or the multiple of it below 128
    """
    size = images.shape[-1]
    cell = cell or size * max(1, 128 // size)
    scale = min(1.0, cell / 100)
    gap, between, caption = 6, round(36 * scale), round(36 * scale)
    block = per_class * (cell + gap)
    rows = math.ceil(len(names) / a_row)
    width = a_row * block + (a_row - 1) * between + gap
    sheet = Image.new("RGB", (width, rows * (cell + caption) + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(max(10, round(18 * scale)))
    for index, name in enumerate(names):
        left = gap + (index % a_row) * (block + between)
        top = gap + (index // a_row) * (cell + caption)
        for column in range(per_class):
            pixels = images[index * per_class + column].permute(1, 2, 0).numpy()
            tile = Image.fromarray(pixels).resize((cell, cell), Image.Resampling.LANCZOS)
            sheet.paste(tile, (left + column * (cell + gap), top))
        while draw.textlength(name, font) > block + between - 2 and len(name) > 4:
            name = name[:-2].rstrip() + "…"
        middle = left + (block - gap) / 2
        draw.text((middle, top + cell + caption / 2 - 4 * scale), name, "#333333", font, "mm")
    return sheet


def loss_curve(run: Path) -> Image.Image:
    """The losses of the runs in ``run`` over their wall time, logarithmic."""
    titles = {"vae": "VAE loss", "dit": "DiT noise-prediction MSE"}
    panels = []
    for name, title in titles.items():
        if (run / name / "log.jsonl").is_file():
            rows = [row for row in read_log(run / name) if "loss" in row]
            points = [(row["seconds"] / 60, row["loss"]) for row in rows]
            panels.append(_panel({"": points}, title, "minutes"))
    width, height = panels[0].size
    chart = Image.new("RGB", (len(panels) * width, height), "white")
    for index, panel in enumerate(panels):
        chart.paste(panel, (index * width, 0))
    return chart


def outlier_curve(looks: list[dict[str, float]]) -> Image.Image:
    """Largest / median channel over the steps of a run: of its layers the median and the most."""
    lines = {
        label: [(row["step"], row[name]) for row in looks]
        for label, name in (("median of the layers", "median"), ("strongest layer", "largest"))
    }
    return _panel(lines, "Largest over median channel", "steps")


def _panel(
    lines: dict[str, list[tuple[float, float]]], title: str, unit: str, width: int = 640
) -> Image.Image:
    """Lines by their names, log-scaled; drawn at twice the size for smooth edges."""
    height = 420
    canvas = Image.new("RGB", (2 * width, 2 * height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(26)
    left, right, top, bottom = 130, 2 * width - 50, 90, 2 * height - 110
    points = [point for line in lines.values() for point in line]
    low = max(mark for mark in MARKS if mark <= min(y for _, y in points))
    high = min(mark for mark in MARKS if mark > max(y for _, y in points))
    span, end = math.log(high / low), max(x for x, _ in points) or 1.0
    stride = min(mark for mark in MARKS if mark > end / 6)

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * x / end, bottom - (bottom - top) * math.log(y / low) / span

    for value in (mark for mark in MARKS if low <= mark <= high):
        _, y = place(0, value)
        draw.line([(left, y), (right, y)], "#dddddd", 2)
        draw.text((left - 14, y), f"{value:g}", "#333333", font, anchor="rm")
    for tick in range(int(end / stride) + 1):
        x, _ = place(tick * stride, low)
        draw.text((x, bottom + 14), f"{tick * stride:,g}", "#333333", font, anchor="mt")
    for colour, (name, line) in zip(COLOURS, lines.items(), strict=False):
        draw.line([place(x, y) for x, y in line], colour, 4, joint="curve")
        x, y = place(*line[-1])
        draw.text((x, y - 24), name, colour, font, anchor="rm")
    draw.text((left, 36), title, "#111111", ImageFont.load_default(32), anchor="lm")
    draw.text(((left + right) / 2, 2 * height - 36), unit, "#333333", font, anchor="mm")
    return canvas.resize((width, height), Image.Resampling.LANCZOS)


def save_image(image: Image.Image, path: Path) -> None:
    """Replace the PNG or WebP ``path`` in one step."""
    with whole_file(path) as part:
        if path.suffix == ".webp":
            image.save(part, "WEBP", quality=80, method=6)
        else:
            image.save(part, "PNG", optimize=True)
