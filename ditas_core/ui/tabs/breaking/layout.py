"""Where it breaks: quantize only a part of the model; the other half gives bits to layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ...page.bar import BarInputs, Page, View
from ...page.glossary import lead
from ...page.picking import picker, read_pick
from ...page.tab import Tab
from ...serving.errors import refuse
from ...serving.inputs import Inputs
from ...serving.validate import one_of, whole
from ...visitors.backend import Backend
from ...visitors.running import PRIVATE, Finished, Progress, answer, build_controls, wire_job
from ...visitors.session import Session
from .budget import MOST_SAMPLES, MOST_STEPS, AskInputs, BudgetInputs, build_budget
from .draw import decibels, history_table, part_figure, trial_pictures
from .job import (
    QUICK_SAMPLES,
    QUICK_STEPS,
    Ask,
    recipe_of,
    run_part,
    starts,
    sweep_layers,
    sweep_steps,
)
from .trials import LayerSweep, Notes, notes_of

LEAD = (
    "Which part of the model can bear few bits, and which cannot? [[rounding|Round]] one layer "
    "alone, all but one, or only the late [[denoising step|steps]], always from the same noise "
    "as [[full precision]]; then map every layer's [[sensitivity]] and spend the bits where they "
    "count. Bits and [[recipe]] are those of the bar above."
)
PARTS = (
    ("only this layer", "only"),
    ("all but this layer", "but"),
    ("only from step k on", "from"),
    ("the whole model", "whole"),
    ("every layer in turn", "layers"),
    ("from step k on, six values of k", "steps"),
)
GOES_ON = "“Quantize it” goes on there."
SWEEPS = {"layers": sweep_layers, "steps": sweep_steps}


@dataclass(frozen=True)
class PartInputs(Inputs):
    """The part that is quantized, and how to sample."""

    what: Any
    layer: Any
    first: Any
    ask: AskInputs

    def read(self, backend: Backend, session: Session) -> tuple[str, str, int, Ask]:
        """Check everything: what, the layer, the first step's loop index, and how to sample.

        The layer is only checked where it is the part.
        """
        what = one_of(self.what, "what", [value for _, value in PARTS])
        ask = self.ask.read(backend)
        recipe_of(backend, session, ask.choice)
        if what in ("only", "but"):
            one_of(self.layer, "layer", backend.group_names(ask.choice.model))
        start = whole(self.first, "k", 1, MOST_STEPS) - 1
        if what == "from" and start >= ask.steps:
            raise refuse(f"k: expected 1 to {ask.steps}, the number of steps, got {start + 1}")
        return what, self.layer, start, ask


def build_sampling(page: Page) -> AskInputs:
    """How both halves sample."""
    with gr.Row():
        samples = gr.Slider(
            1, MOST_SAMPLES, 4, step=1, label="Samples", elem_id="break-samples", min_width=130
        )
        steps = gr.Slider(
            4, MOST_STEPS, 20, step=1, label="Denoising steps", elem_id="break-steps", min_width=130
        )
    # no bounds here: AskInputs has them, and says them in words
    seed = gr.Number(7, label="Seed of the noise", step=1, elem_id="break-seed")
    return AskInputs(samples, steps, seed, page.bar.inputs)


def build_breaking(backend: Backend, page: Page) -> View | None:
    """Lay out both halves; one view redraws them together."""
    gr.HTML(lead(LEAD), padding=False)
    first, ask = build_part(backend, page)
    second = build_budget(backend, page, ask)

    def refresh(
        session: Session, layer: Any, numbers_of: Any, asked: BudgetInputs
    ) -> tuple[Any, ...]:
        return (
            *first.refresh(session, layer, asked.ask.bar),
            *second.refresh(session, numbers_of, asked),
        )

    return View(refresh, [*first.inputs, *second.inputs], [*first.outputs, *second.outputs])


def closing_line(notes: Notes) -> str:
    """What has just been found."""
    if notes.shown == "layers" and notes.layers is not None:
        sweep = notes.layers
        return (
            f"Of {len(sweep.layers)} layers alone, {sweep.worst} breaks most: "
            f"{sweep.sqnr[sweep.worst]:.1f} dB, mean of {sweep.settings}."
        )
    if notes.shown == "steps" and notes.steps is not None:
        found = [t.sqnr.mean for _, t in sorted(notes.steps.trials.items())]
        return f"From the first step on {found[0]:.1f} dB, the last step alone {found[-1]:.1f} dB."
    trial = notes.trials[0]
    return f"{trial.what}: latent SQNR {decibels(trial.sqnr)}, n = {trial.sqnr.n}."


def build_part(backend: Backend, page: Page) -> tuple[View, AskInputs]:
    """First half: quantize only a part; also how to sample.

    Drawn anew with the bar, too, which is among the second half's inputs.
    """
    layers = backend.group_names(backend.default)
    gr.Markdown("### 1 · Quantize only a part")
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            what = gr.Radio(
                list(PARTS),
                value="only",
                label="What is quantized",
                info="the last two are sweeps: many runs, "
                f"at most {QUICK_SAMPLES} samples; layers with {QUICK_STEPS} steps",
                elem_id="break-what",
            )
            layer = gr.Dropdown(
                layers,
                value=layers[-1] if layers else None,
                label="Layer",
                info="block and part; a click on a bar of the sweep chooses it too",
                elem_id="break-layer",
            )
            first = gr.Slider(
                1, MOST_STEPS, 11, step=1, label="First quantized step k", visible=False,
                info="1 is the noisiest; the steps before it run in full precision",
                elem_id="break-first",
            )  # fmt: skip
            ask = build_sampling(page)
            controls = build_controls(
                "partial", "Quantize it", "Takes some ten seconds on the demo checkpoint."
            )
        with gr.Column(scale=3, min_width=300):
            pictures = gr.HTML(trial_pictures(notes_of(Session(""))), padding=False)
            plot = gr.Plot(
                show_label=False,
                label="experiment",
                elem_id="break-plot",
                elem_classes="picks",
            )
            picked = picker("break-plot")
    history = gr.HTML("", padding=False, elem_id="break-history")
    outputs = [pictures, plot, history]

    def drawn(session: Session, dark: bool) -> tuple[Any, ...]:
        notes = notes_of(session)
        return trial_pictures(notes), part_figure(notes, dark), history_table(notes.trials)

    def work(session: Session, asked: PartInputs) -> Iterator[Any]:
        notes_of(session).sweeping = None
        what, layer, start, ask = asked.read(backend, session)
        if what in SWEEPS:
            events = SWEEPS[what](backend, session, ask)
        else:
            events = run_part(backend, session, ask, what, layer, start)
        for event in events:
            shown = drawn(session, ask.choice.dark) if event.shown else None
            yield Progress(event.text, event.fraction, event.part, shown)
        yield Finished(closing_line(notes_of(session)), drawn(session, ask.choice.dark))

    def stopped(session: Session, asked: PartInputs) -> tuple[str, tuple[Any, ...]]:
        notes = notes_of(session)
        sweep, notes.sweeping = notes.sweeping, None
        text = "Cancelled. What was done stays on view."
        if isinstance(sweep, LayerSweep):
            text = f"Cancelled after {len(sweep.sqnr)} of {len(sweep.layers)} layers. {GOES_ON}"
        elif sweep is not None:
            found, total = len(sweep.trials), len(starts(sweep.steps))
            text = f"Cancelled after {found} of {total} values of k. {GOES_ON}"
        return text, drawn(session, asked.ask.bar.read(backend).dark)

    def refresh(session: Session, layer: Any, bar: BarInputs) -> tuple[Any, ...]:
        choice = bar.read(backend)
        names = backend.group_names(choice.model)
        value = layer if layer in names else names[-1] if names else None
        return (gr.update(choices=names, value=value), *drawn(session, choice.dark))

    def on_what(value: Any) -> tuple[Any, Any]:
        return gr.update(visible=value in ("only", "but")), gr.update(visible=value == "from")

    def on_steps(value: Any, first: Any) -> Any:
        most = whole(value, "steps", 4, MOST_STEPS)
        return gr.update(maximum=most, value=min(whole(first, "k", 1, MOST_STEPS), most))

    def on_pick(session: Session, text: Any, bar: BarInputs) -> Any:
        names = backend.group_names(bar.read(backend).model)
        pick = read_pick(text)
        return gr.update(value=pick.x) if pick.x in names else gr.skip()

    inputs = [PartInputs(what, layer, first, ask)]
    running = wire_job(
        backend, controls, work, inputs, outputs, api_name="partial", stopped=stopped
    )
    what.change(on_what, what, [layer, first], **PRIVATE)
    ask.steps.change(on_steps, [ask.steps, first], first, **PRIVATE)
    picked.input(*answer(backend, on_pick, [picked, page.bar.inputs]), layer, **PRIVATE)
    page.actions["partial"] = [running.success]
    return View(refresh, [layer], [layer, *outputs]), ask


TAB = Tab("breaking", "Where it breaks", build_breaking)
