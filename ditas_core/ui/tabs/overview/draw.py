"""The first screen: pictures, three measured numbers, the checkpoint's card."""

from __future__ import annotations

import html
from statistics import fmean

from ...page.glossary import explained
from ...page.heat import heat
from ...page.pictures import picture_rows
from ...stored.catalogue import licence_name
from ...stored.results import DITAS, PLAIN, REFERENCE, Result, Shipped
from ...visitors.backend import Backend, Choice, Model
from ...visitors.session import Session

SHOWN = 6
SQNR = "latent SQNR, dB"
STORY = (
    "A diffusion transformer draws by multiplying huge tables of numbers. Storing them in 4 bits "
    "makes the model small, but a few [[channel|channels]] [[outlier|shout]], and [[rounding]] "
    "has to span the shout. DiTAS turns those channels down before rounding and turns the "
    "[[weight|weights]] up in exchange. Watch it happen on a real model."
)


def stat(number: str, text: str) -> str:
    return f'<div class="stat"><b>{number}</b><span>{text}</span></div>'


def calmed(shipped: Shipped, bits: str) -> tuple[str, float, float]:
    """The layer from whose loudest channel the recipe takes most: its name, before, after."""
    recipe = shipped.presets[bits].recipe
    drops = []
    for name, group in shipped.atlas.groups.items():
        after = group.smoothed(recipe.layers[name].alpha).strength
        drops.append((group.strength - after, name, group.strength, after))
    _, name, before, after = max(drops)
    return name, before, after


def mean_of(result: Result, variant: str) -> float:
    return fmean(result.metrics[variant][SQNR])


def stats(shipped: Shipped, bits: str) -> str:
    """Outlier before and after; plain rounding and DiTAS at these bits and at the fewest."""
    name, before, after = calmed(shipped, bits)
    title = html.escape(shipped.atlas.groups[name].title)
    cards = [
        stat(
            f"{before:.1f}× <i>→</i> {after:.1f}×",
            f"loudest channel of {title} against its median one, before and after smoothing",
        )
    ]
    last = list(shipped.presets)[-1]
    for each in dict.fromkeys((bits, last)):
        result = shipped.presets[each].result
        text = explained(
            f"{each}: [[SQNR|closeness to full precision]] of the [[latent|latents]] with plain "
            f"rounding and with DiTAS, mean of {len(result.labels)} samples from the same noise"
        )
        plain, ours = mean_of(result, PLAIN), mean_of(result, DITAS)
        cards.append(stat(f"{plain:.1f} <i>→</i> {ours:.1f} dB", text))
    return f'<div class="stats">{"".join(cards)}</div>'


def hero() -> str:
    """Title and story; never changes while the page is open."""
    return (
        f'<header id="hero"><h1>DiTAS explorer</h1><p class="story">{explained(STORY)}</p>'
        '<p class="device"><a href="device/" target="_blank" rel="noopener">Draw on your device</a>'
        " with the 4-bit model, in your own browser.</p></header>"
    )


def numbers(backend: Backend, choice: Choice) -> str:
    """The three numbers of the shipped results at these bits, if there are any."""
    shipped = backend.shipped
    if (
        shipped is None
        or str(choice.bits) not in shipped.presets
        or not is_shipped(backend, choice)
    ):
        return ""
    return stats(shipped, str(choice.bits))


def is_shipped(backend: Backend, choice: Choice) -> bool:
    """Whether the shipped results are about this choice."""
    return (
        backend.shipped is not None
        and choice.model == backend.default
        and choice.convention == backend.shipped.convention
        and str(choice.bits) in backend.shipped.presets
    )


def samples(backend: Backend, choice: Choice) -> str:
    """Full precision, plain rounding and DiTAS from the same noise."""
    if backend.shipped is None or not is_shipped(backend, choice):
        text = "No shipped pictures at these settings: the Compare tab draws them."
        return f'<p class="empty">{text}</p>'
    result = backend.shipped.presets[str(choice.bits)].result
    rows = [(REFERENCE, "32 bits", list(result.images[REFERENCE][:SHOWN]))]
    for variant in (PLAIN, DITAS):
        note = f"{choice.bits}, {mean_of(result, variant):.1f} dB"
        rows.append((variant, note, list(result.images[variant][:SHOWN])))
    return picture_rows(rows, result.labels[:SHOWN], "the same noise, three ways to compute")


def worst_layer(backend: Backend, session: Session, choice: Choice) -> str:
    """The layer that smoothing calms most, or the loudest one, before and after."""
    atlas = backend.atlas(choice.model)
    if atlas is None:
        return '<p class="empty">Not measured yet: open Outliers and press “Measure”.</p>'
    alphas, _ = backend.alphas(session, choice)
    worst = max(atlas.ranking(alphas), key=lambda rank: rank.strength - rank.smoothed)
    group = atlas.groups[worst.layer]
    after = "" if worst.alpha is None else f", α = {worst.alpha:.2f}"
    return heat(
        [
            (f"{group.title}, before smoothing: up to {worst.strength:.1f}×", group.map().numpy()),
            (
                f"after smoothing{after}: up to {worst.smoothed:.1f}×",
                group.smoothed(worst.alpha).map().numpy(),
            ),
        ],
        atlas.timesteps,
        quantity="largest |X| ÷ median channel",
        unit="×",
    )


def card(backend: Backend, choice: Choice) -> str:
    """The chosen checkpoint: size, licence, source."""
    entry = backend.entries[choice.model.key]
    rows = {"source": entry.repo if not entry.local else f"on this machine: {entry.key}"}
    if entry.revision:
        rows["revision"] = entry.revision
    if backend.is_loaded(choice.model):
        checkpoint = backend.checkpoint(Model(choice.model.key))
        parameters = list(checkpoint.transformer.parameters())
        weights, size = sum(p.numel() for p in parameters), sum(p.nbytes for p in parameters)
        rows |= {
            "licence": licence_name(checkpoint.licence),
            "size": f"{weights / 1e6:.1f} M parameters, {size / 1e6:.0f} MB in "
            f"{16 if entry.half else 32} bits",
            "pictures": f"{checkpoint.image_size} px, {len(checkpoint.class_names)} classes",
            "blocks": f"{len({g.block for g in checkpoint.groups})}, width {checkpoint.width}",
            "fingerprint": backend.fingerprint(choice.model)[:12],
        }
        if checkpoint.notes:
            rows["note"] = "; ".join(checkpoint.notes)
    else:
        size = f"{entry.gigabytes:g} GB to download, once" if entry.gigabytes else "not known yet"
        rows |= {"licence": licence_name(entry.licence) or "see its page", "size": size}
    body = "".join(
        f"<dt>{html.escape(k)}</dt><dd>{html.escape(str(v))}</dd>" for k, v in rows.items()
    )
    return f'<h3 class="card-title">{html.escape(entry.key)}</h3><dl class="card">{body}</dl>'
