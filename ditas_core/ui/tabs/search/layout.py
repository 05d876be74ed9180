"""Search: every layer's best alpha as it is found; recipes changed by hand, kept and compared."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from ....search import LayerDone
from ....specs import METHODS, OBJECTIVES, RECOMMENDED, CalibrationSpec, Recipe, summarize
from ...page.bar import BarInputs, Page, View
from ...page.glossary import lead
from ...page.picking import picker, read_pick
from ...page.tab import Tab
from ...serving.errors import refuse, reported, status
from ...serving.inputs import Inputs, components, filled
from ...serving.validate import flag, one_of, whole
from ...visitors.backend import Backend, Choice
from ...visitors.running import PRIVATE, QUIET, Finished, Progress, answer, build_controls, wire_job
from ...visitors.session import Session
from .draw import (
    CURVES,
    MAP,
    SEARCH_HEADERS,
    by_gain,
    layer_table,
    search_figure,
    totals_html,
)
from .editing import draw_layer
from .job import PARTIAL, SearchJob, job_of, keep_partial, kept_layers, run_search
from .wiring import build_keeping, wire_keeping

NOTE = "search"
GOALS = {
    "output": "output error of the layer (DiTAS)",
    "influence": "influence on the final picture",
}
"""What a search minimises, for people."""
REDRAW_S = 0.6


@dataclass(frozen=True)
class SearchInputs(Inputs):
    """What is searched; ``afresh`` is the job's, ``hand`` only for those who draw all of it."""

    method: Any
    objective: Any
    steps: Any
    images: Any
    afresh: Any
    hand: Any
    bar: BarInputs

    def read(self, backend: Backend) -> tuple[Choice, SearchJob]:
        """Check everything but ``afresh`` and ``hand``."""
        choice, first = self.bar.read(backend), backend.spec
        method = one_of(self.method, "method", tuple(METHODS))
        objective = one_of(self.objective, "objective", tuple(OBJECTIVES))
        sampling = replace(first.sampling, steps=whole(self.steps, "denoising steps", 4, 100))
        images = whole(self.images, "images", 1, 16)
        run = replace(first, sampling=sampling, samples=images)
        return choice, job_of(choice, method, run, objective)


def found_layers(
    backend: Backend, session: Session, job: SearchJob
) -> tuple[list[LayerDone], str, str]:
    """What is known of this search, and a status line with its kind."""
    layers, total = kept_layers(session, job), len(backend.group_names(job.model))
    if layers and len(layers) == total:
        return layers, f"All {total} layers are found: tick “Start over” to search anew.", "done"
    if layers:
        return layers, f"{len(layers)} of {total} layers are kept; Start goes on there.", "warn"
    shipped, spec = backend.shipped, job.spec
    preset = None if shipped is None else shipped.presets.get(str(spec.bits))
    if (
        shipped is not None
        and preset is not None
        and (job.model, spec.method, spec.convention, spec.objective)
        == (backend.default, "ditas", shipped.convention, "output")
    ):
        return list(preset.layers), f"Shipped search: {summarize(preset.recipe)}", "done"
    text = f"{job.model.title} · {spec.bits} · {spec.convention}: not searched yet. Press “Start”."
    return [], text, ""


def notes_of(session: Session) -> dict[str, Any]:
    found: dict[str, Any] = session.notes.setdefault(NOTE, {"view": MAP, "spec": None})
    return found


def order() -> list[str]:
    """Methods as they are offered: the paper's and the recommended one first."""
    return sorted(reversed(METHODS), key=lambda name: name not in ("ditas", RECOMMENDED))


def build_search(backend: Backend, page: Page) -> View | None:
    """Lay out the tab."""
    gr.HTML(
        lead(
            "How much to [[smoothing|smooth]]? [[α]] = 0 leaves the burden with the "
            "[[activation|activations']] rounding, 1 moves it to the [[weight|weights']]. The "
            "[[grid search]] tries every layer on tokens kept from one [[calibration]] run; "
            "where no α helps, the layer is left alone ([[identity]])."
        ),
        padding=False,
    )
    first = backend.spec
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            method = gr.Radio(
                [(METHODS[name].title, name) for name in order()],
                value="ditas",
                label="Method",
                elem_id="method",
            )
            objective = gr.Radio(
                [(GOALS[name], name) for name in OBJECTIVES], value="output", label="Objective",
                info="Of a grid search. Influence weighs each step's error by how far it moves the "
                "final picture, which is measured first.",
                elem_id="objective",
            )  # fmt: skip
            with gr.Accordion("Calibration run", open=False, elem_id="search-calibration"):
                steps = gr.Slider(
                    4, 100, first.sampling.steps, step=1, label="Denoising steps",
                    elem_id="search-steps",
                )  # fmt: skip
                images = gr.Slider(
                    1, 16, first.samples, step=1, label="Images", elem_id="search-images"
                )
            afresh = gr.Checkbox(
                False, label="Start over, forget what was found", elem_id="start-over"
            )
            controls = build_controls("search", "Start", "Opening")
            totals = gr.HTML(totals_html([], 0), padding=False, elem_id="search-totals")
        with gr.Column(scale=5, min_width=320):
            kind = gr.Radio([MAP, CURVES], value=MAP, label="Show", elem_id="search-view")
            plot = gr.Plot(
                label="The search", show_label=False, elem_id="search-plot", elem_classes="picks"
            )
            picked = picker("search-plot")
    table = gr.Dataframe(
        headers=SEARCH_HEADERS, datatype=["str", "str", "number", "number"], interactive=False,
        label="Every layer's best α (select a row to change it below)", max_height=300,
        elem_id="search-table",
    )  # fmt: skip
    lower = build_keeping(backend, page)
    searched = gr.Textbox(visible="hidden", elem_id="searched-mark", label="searched mark")
    bar = page.bar.inputs
    started = SearchInputs(method, objective, steps, images, afresh, lower.hand, bar)
    inputs = replace(started, afresh=None)
    settings = replace(inputs, hand=None)
    search_shows = [table, plot, totals]
    skip = gr.skip()
    rest = (skip,) * (len(lower.with_bar) + 1)

    def show(session: Session, choice: Choice, job: SearchJob) -> tuple[Any, ...]:
        """Status line, then ``search_shows``."""
        layers, text, mood = found_layers(backend, session, job)
        names = backend.group_names(choice.model)
        return (
            status(text, mood),
            layer_table(by_gain(layers), job.spec.objective),
            search_figure(names, layers, notes_of(session)["view"], choice.dark),
            totals_html(layers, len(names), job.spec.objective),
        )

    def sliders(session: Session) -> tuple[Any, Any]:
        """The run that the visitor asked for elsewhere; not what is being typed here."""
        notes = notes_of(session)
        if notes["spec"] == session.spec:
            return skip, skip
        notes["spec"] = session.spec
        spec: CalibrationSpec = session.spec or first
        return spec.sampling.steps, spec.samples

    def refresh(session: Session, asked: SearchInputs) -> tuple[Any, ...]:
        moved = sliders(session)
        if moved[0] is not skip:
            asked = replace(asked, steps=moved[0], images=moved[1])
        choice, job = asked.read(backend)
        return (*moved, *show(session, choice, job), *lower.draw(session, choice, asked.hand))

    def on_settings(session: Session, kind: Any, asked: SearchInputs) -> tuple[Any, ...]:
        notes_of(session)["view"] = one_of(kind, "show", [MAP, CURVES])
        return show(session, *asked.read(backend))

    def work(session: Session, asked: SearchInputs) -> Iterator[Progress | Finished]:
        over = flag(asked.afresh, "start over")
        choice, job = asked.read(backend)
        session.spec = notes_of(session)["spec"] = (
            None if job.calibration == first else job.calibration
        )
        began, drawn, recipe = time.monotonic(), 0.0, None
        with closing(run_search(backend, session, job, over)) as events:  # type: ignore[type-var]
            for event in events:
                if isinstance(event, Recipe):
                    recipe = event
                    continue
                outputs = None
                if event.fresh and time.monotonic() - drawn > REDRAW_S:
                    drawn = time.monotonic()
                    layers, names = kept_layers(session, job), backend.group_names(job.model)
                    outputs = (
                        layer_table(layers[::-1], job.spec.objective),
                        search_figure(names, layers, notes_of(session)["view"], choice.dark),
                        totals_html(layers, len(names), job.spec.objective),
                        *rest,
                    )
                yield Progress(event.text, event.fraction, event.part, outputs)
        assert recipe is not None
        session.keep(job.name, recipe)
        text = f"Done in {time.monotonic() - began:.0f} s, kept as “{job.name}” and chosen in the "
        yield Finished(
            f"{text}bar: {summarize(recipe)}",
            (
                *show(session, choice, job)[1:],
                *lower.draw_with_bar(session, choice, job.name, asked.hand),
                f"{job.name}, {time.time():.0f}",
            ),
        )

    def stopped(session: Session, asked: SearchInputs) -> tuple[str, tuple[Any, ...]]:
        choice, job = asked.read(backend)
        recipe = keep_partial(backend, session, job)
        layers, names = kept_layers(session, job), backend.group_names(job.model)
        if recipe is None:
            text = "Cancelled before the first layer was found."
            return text, (*(skip,) * len(search_shows), *rest)
        text = (
            f"Cancelled: {len(layers)} of {len(names)} layers are kept, and Start goes on there. "
            f"“{PARTIAL}” has their α, the other layers are not smoothed."
        )
        return text, (
            *show(session, choice, job)[1:],
            *lower.draw_with_bar(session, choice, choice.recipe, asked.hand),
            f"partial, {time.time():.0f}",
        )

    wire_job(
        backend, controls, work, [started],
        [*search_shows, *lower.with_bar, searched], api_name="search", stopped=stopped,
    )  # fmt: skip
    gr.on(
        [kind.input, method.input, objective.input, steps.input, images.input],
        *answer(backend, on_settings, [kind, settings]),
        [controls.line, *search_shows], api_name="search_layers", **QUIET,
    )  # fmt: skip

    def on_row(request: gr.Request, event: gr.SelectData, *values: Any) -> tuple[Any, ...]:
        row = getattr(event, "row_value", None)
        with reported():
            if not isinstance(row, list) or not row:
                raise refuse("layer: expected a row of the table, got none")
            (asked,) = filled([bar], values)
            choice = asked.read(backend)
            one_of(row[0], "layer", backend.group_names(choice.model))
            return draw_layer(backend, backend.session(request), choice, row[0])

    def on_pick(session: Session, text: Any, asked: SearchInputs) -> tuple[Any, ...]:
        """A cell of the map or a point of a curve: that layer at that alpha."""
        pick, choice = read_pick(text), asked.bar.read(backend)
        layer, alpha = pick.x, pick.y
        if notes_of(session)["view"] == CURVES:
            layers = found_layers(backend, session, asked.read(backend)[1])[0]
            layer = layers[pick.trace].group if 0 <= pick.trace < len(layers) else ""
            alpha = pick.x
        one_of(layer, "layer", backend.group_names(choice.model))
        inside = isinstance(alpha, int | float) and 0 <= alpha <= 1
        return draw_layer(backend, session, choice, layer, float(alpha) if inside else None)

    table.select(on_row, components([bar]), lower.editor.outputs, **PRIVATE)
    picked.input(*answer(backend, on_pick, [picked, settings]), lower.editor.outputs, **PRIVATE)
    wire_keeping(backend, page, lower)

    page.fields["method"], page.fields["objective"] = method, objective
    page.actions["search"] = [searched.change]
    shown = [steps, images, controls.line, *search_shows, *lower.outputs]
    return View(refresh, [inputs], shown)


TAB = Tab("search", "Search", build_search)
