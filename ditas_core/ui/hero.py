"""The header: one sentence, three measured numbers."""

from __future__ import annotations

import html
from statistics import fmean

from .bench import Bench
from .results import PLAIN, RECIPE, Shipped

STORY = (
    "Image generators shout through a few channels, and rounding has to span the shout. "
    "DiTAS turns those channels down before rounding and turns the weights up in exchange. "
    "Watch it happen on a real model: the outliers, the search, the pictures."
)
HERO_PRESET = "W4A8"


def stat(number: str, text: str) -> str:
    return f'<div class="stat"><b>{number}</b><span>{html.escape(text)}</span></div>'


def stats(shipped: Shipped) -> str:
    """The layer that smoothing calms most, and what the recipe gains at two bit-widths."""
    preset = shipped.presets[HERO_PRESET]
    drops = []
    for name, group in shipped.atlas.groups.items():
        smoothed = group.smoothed(preset.recipe.layers[name].alpha)
        drops.append((group.strength, smoothed.strength, group.title))
    before, after, title = max(drops, key=lambda drop: drop[0] - drop[1])
    cards = [
        stat(
            f"{before:.1f}× <i>→</i> {after:.1f}×",
            f"loudest channel of {title} against its median one, before and after smoothing",
        )
    ]
    for bits in (HERO_PRESET, "W4A4"):
        if bits in shipped.presets:
            metrics = shipped.presets[bits].result.metrics
            plain = fmean(metrics[PLAIN]["latent SQNR, dB"])
            ours = fmean(metrics[RECIPE]["latent SQNR, dB"])
            cards.append(
                stat(
                    f"{plain:.1f} <i>→</i> {ours:.1f} dB",
                    f"{bits} latent SQNR, plain rounding and DiTAS recipe, same noise "
                    f"({len(shipped.presets[bits].result.labels)} samples)",
                )
            )
    return f'<div class="stats">{"".join(cards)}</div>'


def hero(bench: Bench) -> str:
    """The header's HTML."""
    numbers = stats(bench.shipped) if bench.shipped is not None else ""
    return f'<div id="hero"><h1>DiTAS explorer</h1><p class="story">{STORY}</p>{numbers}</div>'
