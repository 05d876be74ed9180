"""What the first tab shows beside the dial: what was drawn here, the worst layer, the card."""

from __future__ import annotations

import html

from ....checkpoints import injected_note
from ...page.glossary import explained
from ...page.heat import heat
from ...page.pictures import data_uri
from ...stored.catalogue import licence_name
from ...stored.dial import spoken
from ...stored.results import DITAS, PLAIN, REFERENCE
from ...visitors.backend import Backend, Choice, Model
from ...visitors.session import Session
from .dial import TITLES
from .job import Drawn

SENTENCE = "Turn the dial: an image model in fewer bits, by plain [[rounding]] and by DiTAS."


def hero() -> str:
    """Title and one sentence; never changes while the page is open."""
    return (
        f'<header id="hero"><h1>DiTAS explorer</h1><p class="story">{explained(SENTENCE)}</p>'
        "</header>"
    )


def drawn_view(drawn: Drawn | None) -> str:
    """Three places, filled as the pictures come."""
    figures = []
    for way in (REFERENCE, PLAIN, DITAS):
        if drawn is None or way not in drawn.images:
            figures.append(
                f'<figure><div class="blank" aria-hidden="true"></div><figcaption><b>'
                f"{html.escape(TITLES[way])}</b></figcaption></figure>"
            )
            continue
        alt = html.escape(f"{drawn.job.name}, drawn here, {TITLES[way]}")
        near = f" {drawn.sqnr[way]:.1f} dB," if way in drawn.sqnr else ""
        figures.append(
            f'<figure><img src="{data_uri(drawn.images[way])}" alt="{alt}">'
            f"<figcaption><b>{html.escape(TITLES[way])}</b> "
            f"<span>{near} {drawn.seconds[way]:.1f} s</span></figcaption></figure>"
        )
    return f'<div class="dial-pictures">{"".join(figures)}</div>'


def drawn_line(drawn: Drawn) -> str:
    """What was drawn, and how fast it was here."""
    job = drawn.job
    speeds = ", ".join(f"{TITLES[way].lower()} {ms:.0f} ms" for way, ms in drawn.ms.items())
    twin = f"{injected_note(job.model.strength)}, " if job.model.injected else ""
    return (
        f"{job.name}, noise {job.noise}, {twin}{spoken(job.stop)}, {job.sampling.steps} steps. "
        f"Timed here, a step: {speeds.replace('ditas', 'DiTAS')}; rounded ones {drawn.engine}."
    )


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
