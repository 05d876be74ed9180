"""What one visitor sees of a comparison: which result, which sample, which recipe is B."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from ....figures import divergence_curves, empty_figure, metric_bars
from ...stored.results import Result
from ...visitors.backend import Backend, Choice, Model
from ...visitors.queue import POLL_S, QueueFull, Ticket
from ...visitors.session import Session
from .studio import (
    EMPTY_SHEET,
    contact_sheet,
    decoded_strip,
    estimates,
    metrics_table,
    slider_pair,
    viewer_value,
)

NOTE = "compare"


@dataclass
class Look:
    """What of a result one visitor looks at.

    variant  the recipe that is B; ``wanted`` is the one asked for, which a result that
             is still growing may not have yet
    bar      the bar's recipe when this was last looked at
    """

    key: str = ""
    sample: int = 0
    variant: str = ""
    wanted: str = ""
    bar: str = ""

    def want(self, name: str) -> None:
        self.variant = self.wanted = name


@dataclass(frozen=True)
class OnView:
    """A result and the key that its decoded strips are kept under."""

    key: str
    result: Result = field(repr=False)


def shown(backend: Backend, session: Session, choice: Choice) -> OnView | None:
    """The visitor's last comparison if it is about the bar's choice, else the shipped one."""
    last: Result | None = backend.cache.get(("result", session.result)) if session.result else None
    if last is not None and (
        last.settings.get("model") == choice.model.key
        and last.settings.get("strength") == choice.model.strength
        and last.settings.get("bits") == str(choice.bits)
        and last.settings.get("convention") == choice.convention
        and last.settings.get("backend") == choice.runs_as
    ):
        return OnView(f"{session.result}-{len(last.variants)}", last)
    shipped, bits = backend.shipped, str(choice.bits)
    if (
        shipped is None
        or bits not in shipped.presets
        or choice.model != backend.default
        or choice.convention != shipped.convention
        or choice.runs_as != "simulated"
    ):
        return None
    return OnView(f"shipped {bits}", shipped.presets[bits].result)


def look_at(session: Session, view: OnView, recipe: str) -> Look:
    """What this visitor looks at, within what the result has; B follows the bar's recipe."""
    look: Look = session.notes.setdefault(NOTE, Look())
    if look.key.partition("-")[0] != view.key.partition("-")[0]:
        look.sample = 0
    look.key = view.key
    look.sample = min(look.sample, len(view.result.labels) - 1)
    if recipe != look.bar:
        look.bar = look.wanted = recipe
    there = view.result.variants
    look.variant = look.wanted if look.wanted in there else there[-1]
    return look


def class_names(backend: Backend, model: Model) -> list[str]:
    """Names where the checkpoint is here; numbers where it would be loaded first."""
    entry = backend.entries[model.key]
    if not entry.local and backend.cache.get(("checkpoint", Model(model.key))) is None:
        return [str(number) for number in range(1000)]
    return list(backend.checkpoint(Model(model.key)).class_names)


def strip(backend: Backend, view: OnView, model: Model, name: str, sample: int) -> str:
    """The decoded steps of one picture, from the cache if they were shown before."""
    vae = backend.checkpoint(Model(model.key)).vae
    key = ("strip", view.key.partition("-")[0], name, sample)
    found: str = backend.cache.make(key, lambda: decoded_strip(vae, view.result, name, sample))
    return found


def decoding(backend: Backend, view: OnView, model: Model, sample: int) -> Iterator[None]:
    """All strips of one sample, with a pause after each; waits for its turn first.

    Nobody is refused because the line is full: the page itself asks for the steps.
    """
    keys = (("strip", view.key.partition("-")[0], name, sample) for name in view.result.images)
    if all(backend.cache.get(key) is not None for key in keys):
        return
    ticket: Ticket | None = None
    while ticket is None:
        try:
            ticket = backend.queue.join()
        except QueueFull:
            yield
            time.sleep(POLL_S)
    with ticket:
        for _ in ticket.waits():
            yield
        for name in view.result.images:
            strip(backend, view, model, name, sample)
            yield


def viewer(backend: Backend, session: Session, view: OnView, choice: Choice) -> dict[str, Any]:
    """The viewer's value: with all steps if they have been decoded, else the viewer asks."""
    look = look_at(session, view, choice.recipe)
    short = view.key.partition("-")[0]
    keys = {name: ("strip", short, name, look.sample) for name in view.result.images}
    found = {name: backend.cache.get(key) for name, key in keys.items()}
    ready = None if None in found.values() else found
    return viewer_value(view.key, view.result, look.sample, look.variant, ready)


def slider(view: OnView, look: Look) -> Any:
    """The finished picture of one sample in full precision and with the recipe that is B."""
    pair = slider_pair(view.result, look.sample, look.variant)
    return gr.update(value=pair, label=f"Full precision | {look.variant}")


def draw(backend: Backend, session: Session, choice: Choice) -> tuple[Any, ...]:
    """Sheet, viewer, slider, two figures and the table."""
    view = shown(backend, session, choice)
    if view is None:
        empty = empty_figure("Press “Compare”", 340)
        return EMPTY_SHEET, None, gr.update(value=None), empty, empty, ""
    look, result = look_at(session, view, choice.recipe), view.result
    n = len(result.labels)
    bars = metric_bars(
        estimates(result),
        title=f"Higher is closer: mean, 95 % interval, n = {n}",
        dark=choice.dark,
    )
    return (
        contact_sheet(result, look.sample),
        viewer(backend, session, view, choice),
        slider(view, look),
        divergence_curves(result.timesteps, result.divergence, dark=choice.dark),
        bars,
        metrics_table(result),
    )
