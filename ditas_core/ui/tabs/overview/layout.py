"""The first tab: the dial, a picture drawn here, and the way from there to everything else."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from ....specs import BIT_PRESETS
from ...page.bar import (
    CUSTOM,
    BarInputs,
    Page,
    View,
    first_choice,
    fold_label,
    recipe_names,
    setup_notice,
)
from ...page.glossary import lead
from ...page.tab import Tab
from ...serving.errors import refuse
from ...serving.inputs import Inputs
from ...serving.validate import one_of, whole
from ...stored.dial import FULL, Dial, bits_of, key_of
from ...stored.results import DITAS
from ...visitors.backend import Backend, Choice, Model
from ...visitors.running import (
    PRIVATE,
    Finished,
    Progress,
    answer,
    build_controls,
    wire_job,
)
from ...visitors.session import Session
from .costs import cost_table
from .dial import INJECTED, NATURAL, dial_view
from .draw import card, drawn_line, drawn_view, worst_layer
from .job import DrawJob, draw_here, make_ready

LARGEST_SEED = 2**31 - 1
NO_DIAL = (
    '<p class="empty">No dial is shipped for this checkpoint: the Compare tab draws what it does '
    "at any bits.</p>"
)
DEVICE = (
    '<p class="device">Or <a href="device/" target="_blank" rel="noopener">Draw on your device</a> '
    "with the 4-bit model, in your own browser.</p>"
)
SHOW = "(stop, emoji, twin) => window.ditasDial?.(stop, emoji, twin)"
TO_LIVE = """() => {
  document.querySelector("#own-emoji input")?.focus({ preventScroll: true });
  document.querySelector("#try-it")?.scrollIntoView({ block: "start" });
}"""
START = "() => document.querySelector('#start-draw').click()"


@dataclass(frozen=True)
class DrawInputs(Inputs):
    """What is drawn here."""

    stop: Any
    name: Any
    noise: Any
    twin: Any = NATURAL

    def read(self, backend: Backend) -> DrawJob:
        """Check the values."""
        model, dial = turned(backend, self.twin)
        stops = {key_of(stop): stop for stop in dial.stops}
        names = list(backend.checkpoint(backend.default).class_names)
        return DrawJob(
            model,
            dial,
            stops[one_of(self.stop, "stop of the dial", list(stops))],
            one_of(self.name, "emoji", names),
            whole(self.noise, "noise", 0, LARGEST_SEED),
        )


def turned(backend: Backend, twin: Any) -> tuple[Model, Dial]:
    """The model that the dial is about."""
    if not backend.dials:
        raise refuse("draw: expected a checkpoint with a dial; the Compare tab draws others")
    names = dict(zip((NATURAL, INJECTED), backend.dials, strict=False))
    model = names[one_of(twin, "model of the dial", list(names))]
    return model, backend.dials[model]


def build_overview(backend: Backend, page: Page) -> View:
    """Drawn when the page is built, so that it is there with the page."""
    first, nobody = first_choice(backend), Session("")
    if backend.dial is None:
        gr.HTML(NO_DIAL, padding=False, elem_id="dial-view")
    else:
        build_dial(backend, page)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            gr.HTML(
                lead(
                    "<b>Its worst layer.</b> Each column is one [[channel]], each row one "
                    "[[denoising step]], bright is loud. [[smoothing|Smoothing]] turns the bright "
                    "columns down."
                ),
                padding=False,
            )
            worst = gr.HTML(worst_layer(backend, nobody, first), padding=False, elem_id="worst")
        with gr.Column(scale=4, min_width=320):
            about = gr.HTML(card(backend, first), padding=False, elem_id="card", min_width=240)
            cost = gr.HTML(cost_table(backend, first), padding=False, elem_id="cost",
                           min_width=260)  # fmt: skip

    def refresh(session: Session, asked: BarInputs) -> tuple[Any, ...]:
        choice = asked.read(backend)
        return (
            card(backend, choice),
            cost_table(backend, choice),
            worst_layer(backend, session, choice),
        )

    page.actions["bits"] = [page.bar.inputs.preset.input]
    return View(refresh, [page.bar.inputs], [about, cost, worst])


def build_dial(backend: Backend, page: Page) -> None:
    """The dial, its doors, and the live drawing."""
    dial = backend.dial
    assert dial is not None
    dials = list(backend.dials.values())
    gr.HTML(dial_view(dials), padding=False, elem_id="dial-view")
    stop = gr.Radio(
        [key_of(each) for each in dial.stops], value=key_of(dial.telling.stop),
        visible="hidden", elem_id="dial-stop", label="stop of the dial",
    )  # fmt: skip
    emoji = gr.Radio(
        list(dial.labels), value=dial.labels[0], visible="hidden", elem_id="dial-class",
        label="emoji of the dial",
    )  # fmt: skip
    twin = gr.Radio(
        [NATURAL, INJECTED][: len(dials)], value=NATURAL, visible="hidden", elem_id="dial-model",
        label="model of the dial",
    )  # fmt: skip
    with gr.Row(elem_id="doors"):
        why = gr.Button("See why it breaks", elem_id="door-why", size="md", min_width=100)
        here = gr.Button("Try it yourself", elem_id="door-try", size="md", min_width=100)
        take = gr.Button("Take it with you", elem_id="door-take", size="md", min_width=100)
    gr.HTML(DEVICE, padding=False)
    names = list(backend.checkpoint(backend.default).class_names)
    gr.HTML(
        lead(
            "<b>Any emoji, drawn here and now</b> in full precision and with the dial's bits, "
            "from the same noise."
        ),
        padding=False,
        elem_id="try-it",
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=280):
            with gr.Row():
                name = gr.Dropdown(
                    names, value=dial.labels[0], label="Emoji", elem_id="own-emoji", scale=3,
                    min_width=150,
                )  # fmt: skip
                noise = gr.Number(
                    1, precision=0, minimum=0, maximum=LARGEST_SEED, label="Noise",
                    elem_id="own-noise", min_width=80,
                )  # fmt: skip
            random = gr.Button("Random emoji", elem_id="random-emoji")
            controls = build_controls("draw", "Draw")
        with gr.Column(scale=7, min_width=320):
            drawn = gr.HTML(drawn_view(None), padding=False, elem_id="drawn")
    inputs = DrawInputs(stop, name, noise, twin)

    def work(session: Session, asked: DrawInputs) -> Iterator[Progress | Finished]:
        job, last, found = asked.read(backend), Progress(""), None
        with closing(draw_here(backend, job)) as events:  # type: ignore[type-var]
            for event in events:
                if isinstance(event, Progress):
                    last = event
                    yield event
                else:
                    found = event
                    yield Progress("drawn", 1.0, last.part, (drawn_view(found),))
        assert found is not None
        yield Finished(drawn_line(found), (drawn_view(found),))

    def pick() -> tuple[str, int]:
        return secrets.choice(names), secrets.randbelow(10_000)

    wire_job(backend, controls, work, [inputs], [drawn], api_name="draw")
    random.click(pick, None, [name, noise], **PRIVATE).then(None, None, None, js=START, **PRIVATE)
    shown = [stop, emoji, twin]
    gr.on([each.change for each in shown], None, shown, None, js=SHOW, **PRIVATE)
    here.click(None, None, None, js=TO_LIVE, **PRIVATE)
    page.fields |= {"dial": stop, "emoji": emoji, "twin": twin, "draw": name, "noise": noise}
    page.actions["dial"] = [stop.input]
    backend.warmers.append(lambda: make_ready(backend))
    page.later.append(lambda: wire_doors(backend, page, stop, twin, why, take))


def wire_doors(
    backend: Backend, page: Page, stop: Any, twin: Any, why: gr.Button, take: gr.Button
) -> None:
    """To other tabs, with the bar at the dial's model, bits and convention."""
    bar, layer = page.bar.inputs, page.fields.get("layer")

    def through(tab: str) -> Any:
        def go(session: Session, at: Any, which: Any) -> tuple[Any, ...]:
            model, dial = turned(backend, which)
            stops = {key_of(each): each for each in dial.stops}
            chosen = stops[one_of(at, "stop of the dial", list(stops))]
            choice = replace(first_choice(backend), model=model)
            if chosen[0] != FULL:
                choice = Choice(model, bits_of(chosen), dial.convention)
            name = str(choice.bits)
            return (
                backend.key_of(model),
                name if name in BIT_PRESETS else CUSTOM,
                choice.bits.weight,
                choice.bits.activation,
                choice.convention,
                gr.update(choices=recipe_names(backend, session, choice), value=DITAS),
                False,
                setup_notice(backend, session, choice),
                gr.update(label=fold_label(choice)),
                gr.Tabs(selected=tab),
                *([dial.layer] if layer is not None else []),
            )

        return answer(backend, go, [stop, twin])

    outputs = [
        bar.checkpoint, bar.preset, bar.weight_bits, bar.activation_bits, bar.convention,
        bar.recipe, bar.inject, page.bar.notice, page.bar.fold, page.tabs,
        *([layer] if layer is not None else []),
    ]  # fmt: skip
    why.click(*through("outliers"), outputs, **PRIVATE)
    take.click(*through("takeaway"), outputs, **PRIVATE)


TAB = Tab("overview", "Overview", build_overview)
