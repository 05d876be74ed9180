"""What the Injector shows: a rung's pictures, the proof, the curve, one layer before and after."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np
import plotly.graph_objects as go

from ....comparison import Preserved
from ....conversion import injected_factors
from ....figures import channel_maps, empty_figure, injection_curves
from ...page.pictures import picture_rows
from ...stored.ladder import Ladder, Rung
from ...stored.results import REFERENCE
from ...visitors.backend import INJECTED_CHANNELS, Backend, Choice, Model
from .job import GAIN, INJECTION_SEED, Live

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
OWN = tuple[str, float, float]
"""Recipe and settings, strength, mean dB: a result of the visitor's own."""


def small(value: float) -> str:
    """``1.9 × 10⁻⁵``; 0 stays 0."""
    if value == 0:
        return "0"
    digits, power = f"{value:.1e}".split("e")
    return f"{digits}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}10{str(int(power)).translate(RAISED)}"


def mean_db(values: Sequence[float]) -> str:
    """``24.2 dB``, with a true minus."""
    return f"{fmean(values):.1f} dB".replace("-", "−")


def of_samples(count: int) -> str:
    """What a mean is over."""
    return "1 sample" if count == 1 else f"mean of {count} samples"


def proof(same: Preserved, strength: float, labels: Sequence[str]) -> str:
    """The numbers that show that the function stayed."""
    pictures = f"{same.of:,} colours of the {len(labels)} pictures".replace(",", " ")
    visible = (
        f"of the {pictures} differ once rounded to 8 bits, whose step is {small(1 / 255)} of full "
        "scale"
    )
    latents = f"largest difference of the latents, which reach {same.latent_scale:.1f}"
    cards = (
        (small(same.pixels), "largest difference of any pixel, as a share of full scale"),
        (small(same.latents), latents),
        (str(same.visible), visible),
    )
    body = "".join(
        f'<div class="stat"><b>{number}</b><span>{html.escape(text)}</span></div>'
        for number, text in cards
    )
    return (
        f'<div class="stats" role="group" aria-label="proof that injecting ×{strength:g} '
        f'changes nothing in full precision">{body}</div>'
    )


def sheet(
    natural: np.ndarray, rung: Rung, labels: Sequence[str], bits: str, live: bool = False
) -> str:
    """As trained, injected, and its quantized recipes, from the same noise."""
    times = f"×{rung.strength:g}"
    rows = [
        ("as trained", REFERENCE, list(natural)),
        (
            f"injected {times}",
            f"{REFERENCE}; differs by {small(rung.same.pixels)} at most",
            list(rung.images[REFERENCE]),
        ),
    ]
    if live and rung.amplified is not None:
        note = f"of the two rows above, amplified {GAIN:g} times; grey is none"
        rows.append(("difference", note, list(rung.amplified)))
    rows += [
        (f"{name}", f"{bits}, injected {times}: {mean_db(values)}", list(rung.images[name]))
        for name, values in rung.sqnr.items()
    ]
    return picture_rows(rows, labels, f"the same noise, injected outliers {times}")


def rung_line(ladder: Ladder | None, strength: float) -> tuple[str, str]:
    """What is on view for this strength, and its kind of status."""
    if ladder is None:
        return "No shipped pictures for this checkpoint: compute them live below.", "warn"
    rung = ladder.nearest(strength)
    means = ", ".join(f"{name} {mean_db(values)}" for name, values in rung.sqnr.items())
    shown = f"×{rung.strength:g} is on view: {means}; {of_samples(len(ladder.labels))}"
    if rung.strength == strength:
        return shown + ".", "done"
    return (
        f"×{strength:g} is between two computed strengths. The nearest, {shown}. Press “Compute” "
        f"below for exactly ×{strength:g}.",
        "busy",
    )


def setting_line(ladder: Ladder) -> str:
    """What the shipped rungs were made with."""
    s = ladder.settings
    return (
        f"Shipped: {s['bits']}, {s['convention']} convention, {s['channels']} channels in every "
        f"layer input that can be rescaled exactly, {s['steps']} steps, guidance "
        f"{s['guidance']:g}, seed {s['seed']}."
    )


def curve(ladder: Ladder | None, strength: float, own: Sequence[OWN], dark: bool) -> go.Figure:
    """Latent SQNR over the strength."""
    if ladder is None:
        return empty_figure("No shipped curve for this checkpoint", 420, dark=dark)
    series = {name: np.array([rung.sqnr[name] for rung in ladder.rungs]) for name in ladder.recipes}
    strengths = [rung.strength for rung in ladder.rungs]
    return injection_curves(strengths, series, strength, own, dark=dark)


def foldable(backend: Backend, model: Model) -> list[str]:
    """Layers whose inputs are rescaled, once the model is measured."""
    if backend.atlas(Model(model.key)) is None:
        return []
    return list(backend.factors(Model(model.key)))


def layer_figure(backend: Backend, choice: Choice, layer: str, strength: float) -> go.Figure:
    """One layer's input as trained and injected, in units of the natural median channel."""
    atlas = backend.atlas(Model(choice.model.key))
    if atlas is None or layer not in atlas.groups:
        return empty_figure("Not measured yet: open Outliers", dark=choice.dark)
    base = backend.checkpoint(Model(choice.model.key))
    factors = injected_factors(base.transformer, strength, INJECTED_CHANNELS, INJECTION_SEED)
    group = atlas.groups[layer]
    after = group.divided(factors[layer]) if layer in factors else replace(group)
    figure = channel_maps(
        group.map().numpy(),
        after.map().numpy(),
        atlas.timesteps,
        f"as trained: loudest ×{group.strength:.1f}",
        f"injected ×{strength:g}: loudest ×{after.strength:.{after.strength < 10:d}f}",
        dark=choice.dark,
    )
    return figure


def live_title(live: Live) -> str:
    """What a live result is."""
    s = live.setting
    channels = "1 channel" if s.channels == 1 else f"{s.channels} channels"
    return (
        f"{live.model.key} · injected ×{live.model.strength:g} in {channels} · {s.bits} · "
        f"{s.convention} · {s.sampling.steps} steps · seed {s.seed}"
    )


def live_sheet(live: Live | None) -> str:
    """The live result as far as it is."""
    if live is None:
        return '<p class="empty">Nothing computed yet.</p>'
    title = html.escape(live_title(live))
    return (
        f'<h3 class="card-title">{title}</h3>'
        + proof(live.rung.same, live.rung.strength, live.labels)
        + sheet(live.natural, live.rung, live.labels, str(live.setting.bits), live=True)
    )


def own_points(lives: Sequence[Live]) -> list[OWN]:
    """The visitor's finished results for the curve."""
    return [
        (
            f"{name}, {live.setting.bits} {live.setting.convention}",
            live.rung.strength,
            fmean(values),
        )
        for live in lives
        for name, values in live.rung.sqnr.items()
    ]
