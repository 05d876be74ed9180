"""The dial as it stands in the page: pictures, the slider, one line in words."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ....checkpoints import injected_note
from ...page.glossary import explained
from ...serving.sheets import TWIN
from ...stored.dial import (
    FULL,
    HOLDS_DB,
    Cell,
    Dial,
    Stop,
    details,
    key_of,
    sheet_name,
    spoken,
    verdict,
)
from ...stored.results import DITAS, PLAIN, REFERENCE

THUMB = 44
FOLDER = "dial/"
"""Where the sheets are fetched from, beside the page; see ``serving/sheets``."""
NATURAL, INJECTED = "natural", "injected"
"""The two models that a dial can be about, as the page's address calls them."""
TITLES = {REFERENCE: "Full precision", PLAIN: "Plain rounding", DITAS: "DiTAS"}


def thumbnail(pixels: np.ndarray) -> str:
    """A small picture inside an address."""
    memory = io.BytesIO()
    Image.fromarray(pixels).resize((THUMB, THUMB)).save(memory, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(memory.getvalue()).decode()


def noted(dial: Dial, cell: Cell | None) -> list[dict[str, str]]:
    """What stands under the three pictures, and whether they hold."""
    trained = {"note": f"{dial.megabytes:.1f} MB", "state": "holds"}
    if cell is None:
        return [trained] * len(TITLES)
    notes = [trained]
    for way in (PLAIN, DITAS):
        state = "holds" if cell.holds(way) else "broken"
        notes.append({"note": f"{cell.megabytes[way]:.1f} MB, {state}", "state": state})
    return notes


def said(dial: Dial, stop: Stop) -> str:
    """What the slider says it is at."""
    cell = dial.cells.get(stop)
    if cell is None:
        return f"{spoken(stop)}, full precision"
    states = (f"{way} {'holds' if cell.holds(way) else 'broken'}" for way in (PLAIN, DITAS))
    return f"{spoken(stop)}: {', '.join(states)}"


def told(dial: Dial) -> dict[str, Any]:
    """All that the browser needs to show any stop of any class."""
    together = {cell.stop: 1 + at for at, cell in enumerate(dial.together)}
    apart = {cell.stop: 1 + at for at, cell in enumerate(dial.apart)}
    version, folder = f"?{dial.fingerprint[:12]}", FOLDER
    if dial.strength > 1:
        folder += f"{TWIN}/"
    stops = {}
    for stop in dial.stops:
        cell = dial.cells.get(stop)
        stops[key_of(stop)] = {
            "column": together.get(stop, apart.get(stop, 0)),
            "apart": stop in apart and stop not in together,
            "verdict": verdict(dial, stop),
            "details": details(dial, stop),
            "spoken": said(dial, stop),
            "notes": noted(dial, cell),
        }
    sizes = dial.sizes
    classes = range(len(dial.labels))
    return {
        "labels": list(dial.labels),
        "side": int(dial.reference.shape[1]),
        "sheets": [folder + sheet_name(at) + version for at in classes],
        "more": [folder + sheet_name(at, True) + version for at in classes] if dial.apart else [],
        "stops": stops,
        "together": [key_of((FULL, FULL)), *(key_of(cell.stop) for cell in dial.together)],
        "weights": sizes[0],
        "activations": sizes[1],
        "first": key_of(dial.telling.stop),
        "titles": list(TITLES.values()),
    }


def slider(name: str, label: str, count: int, at: int, spoken: str) -> str:
    return (
        f'<label for="{name}">{label}</label>'
        f'<input type="range" id="{name}" min="0" max="{count - 1}" step="1" value="{at}" '
        f'aria-valuetext="{html.escape(spoken)}">'
    )


def marks(dial: Dial, at: int) -> str:
    """Below the slider: the bits, and how far either way holds; all of it is said in words too."""
    columns = [f"<b>{FULL}</b><i class='holds'></i><i class='holds'></i>"]
    for cell in dial.together:
        states = ("holds" if cell.holds(way) else "broken" for way in (PLAIN, DITAS))
        columns.append(
            f"<b>{cell.stop[0]}</b>" + "".join(f"<i class='{state}'></i>" for state in states)
        )
    body = "".join(f"<span>{column}</span>" for column in columns)
    return f'<div class="dial-marks" data-of="{at}" aria-hidden="true">{body}</div>'


def models_row(dials: Sequence[Dial]) -> str:
    """A button per model, where there is a choice."""
    if len(dials) < 2:
        return ""
    buttons = "".join(
        f'<button type="button" data-model="{at}" aria-pressed="{str(at == 0).lower()}">'
        f"{'Outliers as trained' if dial.strength <= 1 else f'Outliers ×{dial.strength:g}'}"
        "</button>"
        for at, dial in enumerate(dials)
    )
    return f'<div class="dial-models" role="group" aria-label="Which model">{buttons}</div>'


def apart_panel(dial: Dial, data: dict[str, Any]) -> str:
    """Two sliders, for who opens it."""
    if not dial.apart:
        return ""
    rows = []
    for name, label in (("weights", "Weight bits"), ("activations", "Activation bits")):
        sizes = data[name]
        ticks = "".join(f"<span><b>{bits}</b></span>" for bits in sizes)
        row = slider(f"dial-{name}", label, len(sizes), 0, f"{sizes[0]} bits")
        rows.append(f'<div>{row}<div class="dial-marks" aria-hidden="true">{ticks}</div></div>')
    return (
        '<details id="dial-apart"><summary>Weights and activations apart</summary>'
        f'<div class="dial-two">{"".join(rows)}</div></details>'
    )


def emoji_row(dial: Dial) -> str:
    """A button per class."""
    buttons = [
        f'<button type="button" data-class="{at}" aria-pressed="{str(at == 0).lower()}">'
        f'<img src="{thumbnail(dial.reference[at])}" alt="{html.escape(label)}" '
        f'title="{html.escape(label)}" width="{THUMB}" height="{THUMB}"></button>'
        for at, label in enumerate(dial.labels)
    ]
    return f'<div class="dial-emoji" role="group" aria-label="Which emoji">{"".join(buttons)}</div>'


def rule(dials: Sequence[Dial]) -> str:
    """What the words mean."""
    dial = dials[0]
    conventions = "; ".join(
        each.convention + (f" with {injected_note(each.strength)}" if each.strength > 1 else "")
        for each in dials
    )
    text = (
        f"Closeness is the [[SQNR]] of the [[latent|latents]], mean of {len(dial.labels)} emoji "
        f"with its 95 % interval; from {HOLDS_DB:g} dB on (an error of at most a third of the "
        f"power) it holds. Megabytes are the whole transformer as stored, where "
        "codes of up to 4 bits take half a byte and others a whole one; convention "
        f"{html.escape(conventions)}."
    )
    return (
        f'<details><summary>What the numbers mean</summary><p class="dial-rule">{explained(text)}'
        "</p></details>"
    )


def dial_view(dials: Sequence[Dial]) -> str:
    """All of it; the page's script fills the canvases and follows the slider.

    dials  the natural model's, then its twin's; both have the same stops and classes
    """
    dial, every = dials[0], [told(each) for each in dials]
    data = every[0]
    first = data["stops"][data["first"]]
    figures = "".join(
        f'<figure class="{note["state"]}"><canvas role="img" aria-label="{title}"></canvas>'
        f"<figcaption><b>{title}</b> <span>{html.escape(note['note'])}</span></figcaption></figure>"
        for title, note in zip(TITLES.values(), first["notes"], strict=True)
    )
    bits = "".join(marks(each, at) for at, each in enumerate(dials))
    turn = slider(
        "dial-range", "Bits", len(data["together"]), data["together"].index(data["first"]),
        first["spoken"],
    )  # fmt: skip
    return (
        f'<section id="dial" aria-label="The dial" data-model="0" '
        f'data-dial="{html.escape(json.dumps(every))}">'
        f'<div class="dial-pictures">{figures}</div>'
        f'<div class="dial-turn">{turn}{bits}</div>'
        f'<p id="dial-words" aria-live="polite"><b>{html.escape(first["verdict"])}</b> '
        f"<span>{html.escape(first['details'])}</span></p>"
        f"{emoji_row(dial)}{models_row(dials)}"
        f'<div class="dial-more">{apart_panel(dial, data)}{rule(dials)}</div>'
        "</section>"
    )
