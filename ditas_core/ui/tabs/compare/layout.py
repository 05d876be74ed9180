"""Compare: the same noise and classes in full precision and with several recipes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import gradio as gr

from ....sampling import Stopped, until_stopped
from ....specs import SamplingSpec
from ...page.bar import BarInputs, Page, View, recipe_names, setup_notice
from ...page.glossary import lead
from ...page.tab import Tab
from ...page.theme import STATIC
from ...serving.errors import refuse, reported, status
from ...serving.inputs import Inputs, components, filled
from ...serving.validate import one_of, real, some_of, whole
from ...stored.catalogue import showcase
from ...stored.results import BUILT_IN, REFERENCE
from ...visitors.backend import Backend, Choice
from ...visitors.running import PRIVATE, Finished, Progress, build_controls, wire_job
from ...visitors.session import Session
from .draw import class_names, decoding, draw, look_at, shown, viewer
from .draw import slider as against
from .job import CompareJob, run_comparison
from .studio import EMPTY_SHEET, headline, kept

MOST_SAMPLES, MOST_RECIPES, LARGEST_SEED = 8, 5, 2**31 - 1
SAMPLES, SEED, STEPS, GUIDANCE = 4, 7, 25, 2.5
SLIDER_HEIGHT = 400
DECODING_AT_ONCE = 2
"""Places in the line that the viewer takes at most; the rest of its questions wait before it."""
TABLE_CSS = "th, td { padding: 6px; } @media (max-width: 640px) { table { font-size: 13px; } }"
LEAD = (
    "Does it matter in the picture? [[full precision|Full precision]] and every [[recipe]] start "
    "from exactly the same noise and class. Whatever differs below is quantization: swap A and B "
    "in place, walk through the [[denoising step|denoising steps]], look at the difference."
)


@dataclass(frozen=True)
class CompareInputs(Inputs):
    """What is sampled, and with which recipes."""

    classes: Any
    samples: Any
    seed: Any
    steps: Any
    guidance: Any
    recipes: Any
    bar: BarInputs

    def read(self, backend: Backend, session: Session) -> CompareJob:
        """Check everything."""
        choice = self.bar.read(backend)
        labels = some_of(self.classes, "classes", class_names(backend, choice.model), MOST_SAMPLES)
        offered = recipe_names(backend, session, choice)
        wanted = some_of(self.recipes, "recipes to compare", offered, MOST_RECIPES)
        number = whole(self.samples, "samples", 1, MOST_SAMPLES)
        return CompareJob(
            choice=choice,
            recipes=tuple(name for name in offered if name in wanted),
            classes=tuple(islice(cycle(labels), number)),
            seed=whole(self.seed, "seed", 0, LARGEST_SEED),
            sampling=SamplingSpec(
                steps=whole(self.steps, "steps", 4, 100),
                guidance_scale=real(self.guidance, "guidance", 1, 8),
            ),
            calibration=session.spec or backend.spec,
        )


def said(event: gr.EventData) -> dict[str, Any]:
    """What a component of ours tells.

    Raises:
        gr.Error: anything but an object.
    """
    if not isinstance(event._data, dict):
        raise refuse("event: expected what the page's own script sends")
    return event._data


def still(chosen: Any, offered: list[str], otherwise: list[str]) -> Any:
    """Other choices; the selection stays as it is (it may change meanwhile) while it can."""
    selection = kept(chosen, offered, otherwise)
    if selection == chosen:
        return gr.update(choices=offered)
    return gr.update(choices=offered, value=selection)


def build_compare(backend: Backend, page: Page) -> View:
    """Lay out the tab; it opens on the shipped comparison."""
    bar, names = page.bar.inputs, class_names(backend, backend.default)
    gr.HTML(lead(LEAD), padding=False)
    with gr.Row(equal_height=False):
        with gr.Column(scale=7, min_width=320):
            studio = gr.HTML(
                None,
                label="Studio viewer",
                html_template=(STATIC / "viewer.html").read_text(encoding="utf-8"),
                css_template=(STATIC / "viewer.css").read_text(encoding="utf-8"),
                js_on_load=(STATIC / "viewer.js").read_text(encoding="utf-8"),
                apply_default_css=False,
                elem_id="studio",
            )
        with gr.Column(scale=3, min_width=280):
            recipes = gr.CheckboxGroup(
                list(BUILT_IN),
                value=list(BUILT_IN),
                label="Recipes to compare",
                info="each adds one ingredient to the one before",
                elem_id="compare-recipes",
            )
            classes = gr.Dropdown(
                names,
                value=showcase(names, SAMPLES),
                multiselect=True,
                max_choices=MOST_SAMPLES,
                label="Classes",
                info="taken in turn",
                elem_id="compare-classes",
            )
            with gr.Row():
                samples = gr.Slider(
                    1, MOST_SAMPLES, SAMPLES, step=1, label="Samples", elem_id="compare-samples",
                    min_width=120,
                )  # fmt: skip
                seed = gr.Number(
                    SEED, precision=0, minimum=0, maximum=LARGEST_SEED, label="Seed",
                    elem_id="compare-seed", min_width=120,
                )  # fmt: skip
            with gr.Row():
                steps = gr.Slider(
                    4, 100, STEPS, step=1, label="Steps", elem_id="compare-steps", min_width=200
                )
                guidance = gr.Slider(
                    1, 8, GUIDANCE, step=0.1, label="Guidance", elem_id="compare-guidance",
                    min_width=200,
                )  # fmt: skip
            controls = build_controls("compare", "Compare")
    sheet = gr.HTML(
        EMPTY_SHEET,
        label="Contact sheet",
        css_template=(STATIC / "contact.css").read_text(encoding="utf-8"),
        js_on_load=(STATIC / "contact.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id="contact",
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            slider = gr.ImageSlider(
                label="Full precision | recipe",
                interactive=False,
                buttons=["fullscreen"],
                format="png",
                height=SLIDER_HEIGHT,
                max_height=SLIDER_HEIGHT - 4,
                elem_id="compare-slider",
            )
            table = gr.HTML(
                css_template=TABLE_CSS, apply_default_css=False, elem_id="compare-table"
            )
        with gr.Column(scale=5, min_width=320):
            curve = gr.Plot(
                label="Divergence over the steps", show_label=False, elem_id="divergence"
            )
            bars = gr.Plot(label="Metrics", show_label=False, elem_id="metric-bars")
    views = [sheet, studio, slider, curve, bars, table, page.bar.notice]

    def drawn(session: Session, choice: Choice) -> tuple[Any, ...]:
        """With the bar's line, which tells what was timed."""
        return (*draw(backend, session, choice), setup_notice(backend, session, choice))

    def work(session: Session, asked: CompareInputs) -> Iterator[Progress | Finished]:
        job = asked.read(backend, session)
        key, result = uuid.uuid4().hex, None
        last = Progress("")
        with closing(run_comparison(backend, session, job)) as events:  # type: ignore[type-var]
            for event in events:
                if isinstance(event, Progress):
                    last = event
                    yield event
                    continue
                result = event
                backend.cache.put(("result", key), result)
                session.result = key
                if len(result.variants) < len(job.recipes):
                    text = f"{result.variants[-1]}: done"
                    yield Progress(text, 1.0, last.part, drawn(session, job.choice))
        assert result is not None
        yield Finished(headline(result), drawn(session, job.choice))

    def stopped(session: Session, asked: CompareInputs) -> tuple[str, tuple[Any, ...]]:
        choice = asked.bar.read(backend)
        view = shown(backend, session, choice)
        done = () if view is None else view.result.variants
        wanted = [] if view is None else view.result.settings.get("asked", [])
        text = "Cancelled. What was on view stays; what is sampled is kept for the next run."
        if len(done) < len(wanted):
            text = (
                f"Cancelled: {len(done)} of {len(wanted)} recipes are compared and stay on view. "
                "“Compare” goes on from there."
            )
        return text, drawn(session, choice)

    def read_event(event: gr.EventData, request: gr.Request, values: tuple[Any, ...]) -> Any:
        """The visitor, the bar's choice, what a component of ours tells, what is on view."""
        (asked,) = filled([bar], values)
        session, choice = backend.session(request), asked.read(backend)
        return session, choice, said(event), shown(backend, session, choice)

    def on_pick(event: gr.EventData, request: gr.Request, *values: Any) -> tuple[Any, ...]:
        """Another sample; a picture of a recipe makes that recipe B too."""
        with reported():
            session, choice, found, view = read_event(event, request, values)
            if view is None:
                raise refuse("sample: nothing is on view; press “Compare”")
            look = look_at(session, view, choice.recipe)
            look.sample = whole(found.get("sample"), "sample", 0, len(view.result.labels) - 1)
            name = one_of(found.get("variant"), "variant", list(view.result.images))
            if name != REFERENCE:
                look.want(name)
            return viewer(backend, session, view, choice), against(view, look)

    def on_ab(event: gr.EventData, request: gr.Request, *values: Any) -> Any:
        """Another recipe is B; swapping sides is the viewer's own business."""
        with reported():
            session, choice, found, view = read_event(event, request, values)
            if view is None:
                return gr.skip()
            look = look_at(session, view, choice.recipe)
            name = one_of(found.get("variant"), "variant", view.result.variants)
            if name == look.variant:
                return gr.skip()
            look.want(name)
            return against(view, look)

    def on_frames(event: gr.EventData, request: gr.Request, *values: Any) -> Iterator[Any]:
        """Decode the steps of the sample on view, in the line with all that compute.

        Ends as soon as the visitor looks at something else, or has gone.
        """
        with reported():
            session, choice, _, view = read_event(event, request, values)
            if view is None:
                yield gr.skip()
                return
            look = look_at(session, view, choice.recipe)
            sample, key, before = look.sample, look.key, session.closed

            def is_over() -> bool:
                return session.closed != before or (look.sample, look.key) != (sample, key)

            with suppress(Stopped), session.working():
                events = decoding(backend, view, choice.model, sample)
                with closing(events):  # type: ignore[type-var]
                    for _ in until_stopped(events, is_over):
                        yield gr.skip()  # the page may close it here
                        if is_over():
                            return
                yield viewer(backend, session, view, choice)

    def refresh(session: Session, chosen: Any, wanted: Any, asked: BarInputs) -> tuple[Any, ...]:
        choice = asked.read(backend)
        view, offered = shown(backend, session, choice), recipe_names(backend, session, choice)
        known = class_names(backend, choice.model)
        text = f"{choice.title}: nothing compared yet. Press “Compare”."
        line = status(text, "warn") if view is None else status(headline(view.result), "done")
        return (
            line,
            still(wanted, offered, list(BUILT_IN)),
            still(chosen, known, showcase(known, SAMPLES)),
            *drawn(session, choice),
        )

    inputs = CompareInputs(classes, samples, seed, steps, guidance, recipes, bar)
    running = wire_job(
        backend, controls, work, [inputs], views, api_name="compare", stopped=stopped
    )
    sheet.pick(on_pick, components([bar]), [studio, slider], **PRIVATE)
    studio.ab(on_ab, components([bar]), slider, **PRIVATE)
    studio.frames(
        on_frames,
        components([bar]),
        studio,
        concurrency_limit=DECODING_AT_ONCE,
        concurrency_id="frames",
        **{**PRIVATE, "trigger_mode": "multiple"},
    )
    page.fields |= {"seed": seed, "steps": steps, "guidance": guidance}
    page.actions |= {
        "compare": [running.success],
        "ab": [studio.ab],
        "step": [studio.step],
        "sample": [sheet.pick],
    }
    return View(refresh, [classes, recipes, bar], [controls.line, recipes, classes, *views])


TAB = Tab("compare", "Compare", build_compare)
