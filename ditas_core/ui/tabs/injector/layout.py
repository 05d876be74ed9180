"""Injector: louder channels, the same function, and what rounding makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ....specs import SamplingSpec
from ...page.bar import BarInputs, Page, View, first_choice, recipe_names
from ...page.glossary import explained, lead
from ...page.tab import Tab
from ...serving.errors import status
from ...serving.inputs import Inputs
from ...serving.validate import one_of, whole
from ...stored.results import DITAS
from ...visitors.backend import INJECTED_CHANNELS, Backend, Choice, Model
from ...visitors.engine import backend_of, fastest
from ...visitors.running import PRIVATE, Finished, Progress, answer, build_controls, wire_job
from ...visitors.session import Session
from .draw import (
    curve,
    foldable,
    layer_figure,
    live_sheet,
    live_title,
    mean_db,
    of_samples,
    own_points,
    proof,
    rung_line,
    setting_line,
    sheet,
)
from .job import LADDER_SETTING, METHODS, PARTS, SHOWN_SAMPLES, Live, Setting, inject_live

NOTE = "injector"
MOST_CHANNELS = 8
KEPT = 4
LEAD = (
    "<b>Make it worse, on purpose.</b> A few [[channel|channels]] of every layer's input are made "
    "<i>k</i> times louder and the [[weight|weights]] that read them <i>k</i> times smaller: the "
    "same function, so in [[full precision]] the pictures do not change. But [[rounding]] now has "
    "to span the louder channels. Drag the strength and watch the rows."
)


@dataclass(frozen=True)
class InjectInputs(Inputs):
    """What a live run needs; it injects the strength of the bar."""

    channels: Any
    repair: Any
    samples: Any
    steps: Any
    seed: Any
    bar: BarInputs

    def read(self, backend: Backend) -> tuple[Choice, Model, Setting, int]:
        """Check everything: the bar's choice, the model to inject, how, and how many samples."""
        choice, strength = self.bar.read(backend), self.bar.read_strength()
        setting = Setting(
            choice.bits,
            choice.convention,
            whole(self.channels, "channels", 1, MOST_CHANNELS),
            one_of(self.repair, "repair", list(METHODS)),
            SamplingSpec(
                steps=whole(self.steps, "denoising steps", 4, 50),
                guidance_scale=LADDER_SETTING.sampling.guidance_scale,
            ),
            whole(self.seed, "seed", 0, 2**31 - 1),
            backend_of(fastest(backend, choice)),
        )
        samples = whole(self.samples, "samples", 1, SHOWN_SAMPLES)
        return choice, Model(choice.model.key, strength), setting, samples


def lives(session: Session, choice: Choice) -> list[Live]:
    """The visitor's finished results for this checkpoint, oldest first."""
    found: list[Live] = session.notes.setdefault(NOTE, [])
    return [live for live in found if live.model.key == choice.model.key]


def remember(session: Session, live: Live) -> None:
    """The newest few; one per strength and setting."""
    found: list[Live] = session.notes.setdefault(NOTE, [])
    kept = [old for old in found if (old.model, old.setting) != (live.model, live.setting)]
    session.notes[NOTE] = [*kept, live][-KEPT:]


def build_injector(backend: Backend, page: Page) -> View:
    """Lay out the tab."""
    first = first_choice(backend)
    layers = foldable(backend, first.model)
    gr.HTML(lead(LEAD), padding=False)
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=300):
            page.bar.inputs.strength.render()
        with gr.Column(scale=2, min_width=260):
            page.bar.inputs.inject.render()
    line = gr.HTML(padding=False, elem_id="rung-line")
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            rows = gr.HTML(padding=False, elem_id="rung")
        with gr.Column(scale=4, min_width=320):
            plot = gr.Plot(label="SQNR over strength", show_label=False, elem_id="strengths")
    about = gr.HTML(padding=False, elem_id="ladder-about")
    gr.HTML(
        lead(
            "<b>The proof</b> that nothing but the rounding has changed: the largest differences "
            "between the two runs in [[full precision]], of the size of 32-bit rounding errors."
        ),
        padding=False,
    )
    proved = gr.HTML(padding=False, elem_id="proof")

    gr.HTML(
        lead(
            "<b>Inside one layer.</b> The same colours, the same [[denoising step|steps]]: the "
            "injected channels are the new bright columns."
        ),
        padding=False,
    )
    layer = gr.Dropdown(
        layers,
        value=layers[0] if layers else None,
        label="Layer",
        info="inputs of attention and of the first feed-forward product",
        elem_id="injected-layer",
    )
    inside = gr.Plot(label="One layer", show_label=False, elem_id="injected-map")

    gr.HTML(
        lead(
            "<b>Compute it live</b> at exactly the strength above, with the bits and the "
            "[[convention]] of the bar."
        ),
        padding=False,
    )
    with gr.Row():
        channels = gr.Slider(
            1,
            MOST_CHANNELS,
            INJECTED_CHANNELS,
            step=1,
            label="Channels",
            info=f"in every layer; the rest of the page uses {INJECTED_CHANNELS}",
            elem_id="inject-channels",
            min_width=200,
        )
        repair = gr.Radio(
            list(METHODS),
            value=DITAS,
            label="Repair with",
            info="a grid search of α; DiTAS adds the low-rank branch",
            elem_id="inject-repair",
            min_width=200,
        )
    with gr.Accordion("Samples, steps and seed", open=False, elem_id="inject-more"), gr.Row():
        samples = gr.Slider(
            1,
            SHOWN_SAMPLES,
            2,
            step=1,
            label="Samples",
            elem_id="inject-samples",
            min_width=160,
        )
        steps = gr.Slider(
            4,
            50,
            LADDER_SETTING.sampling.steps,
            step=1,
            label="Denoising steps",
            elem_id="inject-steps",
            min_width=160,
        )
        seed = gr.Number(
            LADDER_SETTING.seed,
            precision=0,
            minimum=0,
            maximum=2**31 - 1,
            label="Seed",
            elem_id="inject-seed",
            min_width=120,
        )
    controls = build_controls("inject", "Compute", "Takes some twenty seconds on two cores.")
    shown = gr.HTML(live_sheet(None), padding=False, elem_id="injected-live")

    def quick(session: Session, asked: BarInputs) -> tuple[Any, ...]:
        """Everything that follows the strength while it is dragged."""
        choice, strength = asked.read(backend), asked.read_strength()
        ladder = backend.ladder if choice.model.key == backend.default.key else None
        text, kind = rung_line(ladder, strength)
        drawn = curve(ladder, strength, own_points(lives(session, choice)), choice.dark)
        if ladder is None:
            return status(text, kind), "", "", drawn
        rung = ladder.nearest(strength)
        return (
            status(text, kind),
            proof(rung.same, rung.strength, ladder.labels),
            sheet(ladder.natural, rung, ladder.labels, ladder.settings["bits"]),
            drawn,
        )

    def one_layer(session: Session, name: Any, asked: BarInputs) -> Any:
        choice = asked.read(backend)
        known = foldable(backend, choice.model)
        if known:
            one_of(name, "layer", known)
        return layer_figure(backend, choice, str(name), asked.read_strength())

    def dragged(session: Session, name: Any, asked: BarInputs) -> tuple[Any, ...]:
        return (*quick(session, asked), one_layer(session, name, asked))

    def refresh(session: Session, name: Any, asked: BarInputs) -> tuple[Any, ...]:
        choice = asked.read(backend)
        known = foldable(backend, choice.model)
        here = name if isinstance(name, str) and name in known else known[0] if known else None
        ladder = backend.ladder if choice.model.key == backend.default.key else None
        said = "" if ladder is None else f'<p class="lead">{explained(setting_line(ladder))}</p>'
        return (
            *quick(session, asked),
            said,
            # a value that is still good is not sent back: the visitor may have chosen since
            gr.update(choices=known) if here == name else gr.update(choices=known, value=here),
            layer_figure(backend, choice, str(here), asked.read_strength()),
        )

    def work(session: Session, asked: InjectInputs) -> Iterator[Progress | Finished]:
        choice, model, setting, number = asked.read(backend)
        last: Live | None = None
        events = inject_live(backend, model, session.spec or backend.spec, setting, number)
        with closing(events):  # type: ignore[type-var]
            for event in events:
                if isinstance(event, Live):
                    last = event
                    said = "full precision is done" if not event.rung.sqnr else "rounded"
                    yield Progress(
                        said, 1.0, (3 if not event.rung.sqnr else 5, PARTS),
                        (live_sheet(event), gr.skip(), gr.skip()),
                    )  # fmt: skip
                else:
                    yield Progress(event.text, event.fraction, (event.part, PARTS))
        assert last is not None
        remember(session, last)
        means = ", ".join(f"{n} {mean_db(v)}" for n, v in last.rung.sqnr.items())
        ladder = backend.ladder if model.key == backend.default.key else None
        drawn = curve(ladder, model.strength, own_points(lives(session, choice)), choice.dark)
        yield Finished(
            f"{live_title(last)}: {means}; {of_samples(len(last.labels))}",
            (live_sheet(last), drawn, offer(session, choice, last)),
        )

    def offer(session: Session, choice: Choice, live: Live) -> Any:
        """The recipe, by name, where the whole page can use it: with the page's channels."""
        recipe, setting = live.rung.recipe, live.setting
        if recipe is None or setting.channels != INJECTED_CHANNELS or live.model.strength <= 1:
            return gr.skip()
        name = f"{setting.repair} {setting.bits} injected ×{live.model.strength:g}"
        session.keep(name, recipe)
        if not choice.model.injected:
            return gr.skip()
        return gr.update(choices=recipe_names(backend, session, choice), value=name)

    def stopped(session: Session, asked: InjectInputs) -> tuple[str, tuple[Any, ...]]:
        text = "Cancelled. The pictures that were done stay, and the next start goes on from there."
        return text, (gr.skip(), gr.skip(), gr.skip())

    bar = page.bar.inputs
    fast = [line, proved, rows, plot]
    # one listener for all that follows the drag: two that keep the last question ("always_last")
    # on one event would ask each other for ever; arrow keys give no "release"
    bar.strength.input(*answer(backend, dragged, [layer, bar]), [*fast, inside], **PRIVATE)
    layer.input(*answer(backend, one_layer, [layer, bar]), inside, **PRIVATE)
    inputs = InjectInputs(channels, repair, samples, steps, seed, bar)
    wire_job(
        backend, controls, work, [inputs], [shown, plot, bar.recipe], api_name="inject_outliers",
        stopped=stopped,
    )  # fmt: skip
    page.fields["injected-layer"] = layer
    page.actions["inject"] = [bar.strength.input]
    return View(refresh, [layer, bar], [*fast, about, layer, inside])


TAB = Tab("injector", "Injector", build_injector)
