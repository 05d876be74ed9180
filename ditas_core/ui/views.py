"""The displayed forms of a comparison's result."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
import torch
from PIL import Image

from ..evaluation import interval
from ..figures import difference, divergence_curves, empty_figure, enlarge
from .results import PLAIN, RECIPE, REFERENCE, Result

SIZE, SMALL = 416, 224


def sample_names(result: Result | None) -> list[str]:
    """``1 · cat-face`` and so on."""
    labels = () if result is None else result.labels
    return [f"{i} · {label}" for i, label in enumerate(labels, start=1)]


def pair(result: Result | None, at: int, variant: str) -> tuple[Image.Image, Image.Image] | None:
    """For the slider: the reference and one variant."""
    if result is None:
        return None
    reference = enlarge(result.images[REFERENCE][at], SIZE)
    return reference, enlarge(result.images[variant][at], SIZE)


def ab_image(result: Result | None, at: int, name: str) -> Image.Image | None:
    return None if result is None else enlarge(result.images[name][at], SIZE)


def differences(result: Result | None, at: int, gain: float) -> list[tuple[Image.Image, str]]:
    """One amplified difference per variant."""
    if result is None:
        return []
    reference = result.images[REFERENCE][at]
    return [
        (
            enlarge(difference(reference, result.images[name][at], gain), SMALL, smooth=False),
            f"{name}, ×{gain:g}",
        )
        for name in result.variants
    ]


def gallery(result: Result | None) -> list[tuple[Image.Image, str]]:
    """All samples, one row each: reference, then the variants."""
    if result is None:
        return []
    return [
        (enlarge(pixels[at], SMALL), f"{at + 1} · {name}")
        for at in range(len(result.labels))
        for name, pixels in result.images.items()
    ]


def metrics_table(result: Result | None) -> list[list[Any]]:
    """Mean and 95 % interval of each metric."""
    if result is None:
        return []
    rows = []
    for metric in result.metrics[PLAIN]:
        row = [metric]
        for name in (PLAIN, RECIPE):
            found = interval(torch.tensor(result.metrics[name][metric]))
            digits = 3 if metric == "SSIM" else 1
            half = f" ± {found.half_width:.{digits}f}" if found.n > 1 else ""
            row.append(f"{found.mean:.{digits}f}{half}")
        rows.append(row)
    return [*rows, ["samples", *[str(len(result.labels))] * 2]]


def trend(result: Result | None) -> go.Figure:
    """Divergence over the denoising steps."""
    if result is None:
        return empty_figure("Press “Generate” to compare", 340)
    return divergence_curves(result.timesteps, result.divergence)
