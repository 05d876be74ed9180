"""Contest: methods and number formats at equal bits; two of them drawn; the same live."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ....contest import Contest, ContestSpec
from ....specs import BIT_PRESETS, METHODS, SamplingSpec
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
from ...page.picking import picker, read_pick
from ...page.tab import Tab
from ...serving.errors import refuse, reported
from ...serving.inputs import Inputs
from ...serving.validate import one_of, real, some_of, whole
from ...stored.contests import strength_of
from ...stored.dial import key_of
from ...stored.results import Result
from ...visitors.backend import Backend, Choice, Model
from ...visitors.running import (
    PRIVATE,
    QUIET,
    Finished,
    Progress,
    answer,
    build_controls,
    wire_job,
)
from ...visitors.session import Session
from ..overview.dial import INJECTED, NATURAL
from . import draw as show
from .job import (
    MOST_METHODS,
    MOST_SAMPLES,
    MOST_STEPS,
    OURS,
    LiveJob,
    choice_of,
    draw_two,
    notes_of,
    run_live,
    sources,
)
from .methods import cards

LEAD = (
    "Compared with what? Every method and number format on this model, from one "
    "[[calibration]] and the same noise, with as many bits per weight: scales and branches "
    "counted. Each mark is a [[recipe]]: click two of them."
)
LIVE = (
    "<b>Run it here</b>, at the bar's bits on the bar's checkpoint, with what fits into the "
    "budget. With a few samples most pairs are ties; the shipped ones have more."
)
FIRST_METHODS = ("plain", "gptq", "search", "ditas")
BUDGETS = (2.5, 12.0)


@dataclass(frozen=True)
class PairInputs(Inputs):
    """Which contest is on view, and the two that are chosen."""

    source: Any
    first: Any
    second: Any
    bar: BarInputs

    def read(
        self, backend: Backend, session: Session
    ) -> tuple[Choice, Model, Contest, tuple[str, str]]:
        """Check everything."""
        choice, found = self.bar.read(backend), sources(backend, session)
        if not found:
            raise refuse("contest: expected one that is shipped or was run here, there is none")
        model, contest = found[one_of(self.source, "contest", list(found))]
        known = show.names(contest)
        first = one_of(self.first, "first contender", known)
        second = one_of(self.second, "second contender", known)
        return choice, model, contest, (first, second)


@dataclass(frozen=True)
class LiveInputs(Inputs):
    """What runs here."""

    methods: Any
    budget: Any
    samples: Any
    steps: Any
    bar: BarInputs

    def read(self, backend: Backend, session: Session) -> tuple[Choice, LiveJob]:
        """Check everything."""
        choice = self.bar.read(backend)
        methods = some_of(self.methods, "methods", list(METHODS), MOST_METHODS)
        samples = whole(self.samples, "samples", 1, MOST_SAMPLES)
        budget = real(self.budget, "budget", *BUDGETS)
        steps = whole(self.steps, "steps", 4, MOST_STEPS)
        with reported():
            spec = ContestSpec(
                choice.bits,
                budget,
                tuple(name for name in METHODS if name in methods),
                samples=samples,
                sampling=SamplingSpec(steps=steps),
                batch=samples,
            )
        return choice, LiveJob(choice.model, spec, session.spec or backend.spec)


def first_source(found: list[str], bits: str) -> str | None:
    """The one at the bar's bits, else the first."""
    return next(
        (title for title in found if title.split(" · ")[0] == bits), next(iter(found), None)
    )


def build_contest(backend: Backend, page: Page) -> View:
    """Lay out the tab."""
    gr.HTML(lead(LEAD), padding=False)
    found = sources(backend, Session(""))
    title = first_source(list(found), str(first_choice(backend).bits))
    known = show.names(found[title][1]) if title is not None else []
    source = gr.Dropdown(list(found), value=title, label="Contest", elem_id="contest-source")
    said = gr.HTML(padding=False, elem_id="contest-said")
    plot = gr.Plot(show_label=False, label="front", elem_id=show.PLOT, elem_classes="picks")
    clicked = picker(show.PLOT)
    with gr.Row():
        two = show.two_of(found[title][1] if title is not None else None, (None, None))
        first = gr.Dropdown(
            known, value=two[0], label="First contender", elem_id="contest-first", min_width=200
        )
        second = gr.Dropdown(
            known, value=two[1], label="Second contender", elem_id="contest-second", min_width=200
        )
    tested = gr.HTML(padding=False, elem_id="contest-tested")
    controls = build_controls("contest-draw", "Draw these two")
    pictures = gr.HTML(show.drawn(None), padding=False, elem_id="contest-pictures")
    with gr.Row(elem_id="contest-doors"):
        studio = gr.Button("To Compare", elem_id="contest-compare", size="md", min_width=110)
        blind = gr.Button("To the blind test", elem_id="contest-blind", size="md", min_width=110)
        dial = gr.Button("These bits on the dial", elem_id="contest-dial", size="md", min_width=110)
    table = gr.Dataframe(
        headers=list(show.HEADERS), datatype=list(show.KINDS), interactive=False,
        label="All contenders: a click on a header sorts", show_search="search", max_height=420,
        elem_id="contest-table", buttons=[],
    )  # fmt: skip
    with gr.Accordion("What each method and number format does", open=False):
        gr.HTML(cards(), padding=False, elem_id="contest-methods")
    gr.HTML(lead(LIVE), padding=False)
    live, running = build_live(page)
    inputs = PairInputs(source, first, second, page.bar.inputs)
    shown = [source, said, plot, first, second, tested, table]

    def view(session: Session, title: str | None, wanted: tuple[Any, Any], dark: bool) -> Any:
        """All of the tab but the pictures."""
        found = sources(backend, session)
        contest = found[title][1] if title is not None else None
        two = show.two_of(contest, wanted)
        known = show.names(contest)
        return (
            gr.update(choices=list(found), value=title),
            show.caption(contest),
            show.front(contest, [name for name in two if name], dark),
            gr.update(choices=known, value=two[0]),
            gr.update(choices=known, value=two[1]),
            show.pair_line(contest, [name for name in two if name]),
            show.table(contest),
        )

    def refresh(session: Session, asked: PairInputs) -> tuple[Any, ...]:
        choice, found = asked.bar.read(backend), list(sources(backend, session))
        title = asked.source if asked.source in found else first_source(found, str(choice.bits))
        return tuple(view(session, title, (asked.first, asked.second), choice.dark))

    def on_pick(session: Session, text: Any, asked: PairInputs) -> tuple[Any, ...]:
        """The newest two clicks are chosen."""
        choice, _, contest, two = asked.read(backend, session)
        label = show.picked(contest, read_pick(text))
        if label == two[1]:
            return tuple(gr.skip() for _ in shown)
        return tuple(view(session, asked.source, (two[1], label), choice.dark))

    def draw_work(session: Session, asked: PairInputs) -> Iterator[Progress | Finished]:
        choice, model, contest, two = asked.read(backend, session)
        result: Result | None = None
        events = draw_two(backend, session, choice, model, contest, two)
        with closing(events):  # type: ignore[type-var]
            for event in events:
                if isinstance(event, Progress):
                    yield event
                else:
                    result = event
        assert result is not None
        key = uuid.uuid4().hex
        backend.cache.put(("result", key), result)
        session.result = key
        yield Finished(show.title_line(dict.fromkeys(two)), (show.drawn(result),))

    def live_work(session: Session, asked: LiveInputs) -> Iterator[Progress | Finished]:
        choice, job = asked.read(backend, session)
        part, made = (1, 2), None
        events = run_live(backend, session, job)
        with closing(events):  # type: ignore[type-var]
            for event in events:
                if isinstance(event, Progress):
                    part = event.part
                    yield event
                else:
                    made = event
                    outputs = tuple(view(session, mine(session), (None, None), choice.dark))
                    yield Progress(f"{len(made.rows)} measured", 0.0, part, outputs)
        assert made is not None
        text = f"{len(made.rows)} contenders are measured; the closest: {made.standing[0].label}."
        yield Finished(text, tuple(view(session, mine(session), (None, None), choice.dark)))

    def mine(session: Session) -> str | None:
        return next((t for t in sources(backend, session) if t.startswith(OURS)), None)

    def stopped(session: Session, asked: LiveInputs) -> tuple[str, tuple[Any, ...]]:
        choice, notes = asked.bar.read(backend), notes_of(session)
        text = "Cancelled. What was on view stays."
        if notes.finished:
            text = (
                f"Cancelled: {len(notes.finished)} of {notes.entered} contenders are measured and "
                "stay. “Run” goes on from there."
            )
        title = mine(session)
        if title is None:
            return text, tuple(gr.skip() for _ in shown)
        return text, tuple(view(session, title, (None, None), choice.dark))

    gr.on(
        [each.input for each in (source, first, second)],
        *answer(backend, refresh, [inputs], once=True), shown, api_name="contest", **QUIET,
    )  # fmt: skip
    clicked.input(*answer(backend, on_pick, [clicked, inputs]), shown, **PRIVATE)
    wire_job(backend, controls, draw_work, [inputs], [pictures], api_name="contest_draw")
    wire_job(backend, running, live_work, [live], shown, api_name="contest_run", stopped=stopped)
    page.later.append(lambda: wire_doors(backend, page, inputs, studio, blind, dial))
    return View(refresh, [inputs], shown)


def build_live(page: Page) -> tuple[LiveInputs, Any]:
    """What is asked of a contest that runs here, and its buttons."""
    methods = gr.CheckboxGroup(
        list(METHODS), value=[name for name in FIRST_METHODS if name in METHODS],
        label="Methods", info=f"at most {MOST_METHODS}", elem_id="contest-which",
    )  # fmt: skip
    with gr.Row():
        budget = gr.Slider(
            *BUDGETS, 5.0, step=0.25, label="Bits per weight, at most", elem_id="contest-budget",
            min_width=160,
        )  # fmt: skip
        samples = gr.Slider(
            1, MOST_SAMPLES, 4, step=1, label="Samples", elem_id="contest-samples", min_width=130
        )
        steps = gr.Slider(
            4, MOST_STEPS, 10, step=1, label="Denoising steps", elem_id="contest-steps",
            min_width=130,
        )  # fmt: skip
    controls = build_controls("contest", "Run", "A minute for each two methods on the demo.")
    return LiveInputs(methods, budget, samples, steps, page.bar.inputs), controls


def wire_doors(
    backend: Backend, page: Page, inputs: PairInputs, studio: Any, blind: Any, dial: Any
) -> None:
    """To other tabs, with the bar at the second contender, or the dial at its bits."""
    bar = page.bar.inputs

    def through(tab: str) -> Any:
        def go(session: Session, asked: PairInputs) -> tuple[Any, ...]:
            choice, model, contest, two = asked.read(backend, session)
            at = choice_of(choice, model, contest, two[-1])
            offered = recipe_names(backend, session, at)
            if at.recipe not in offered:
                raise refuse("contender: expected one that is drawn; press “Draw these two” first")
            name = str(at.bits)
            key = backend.key_of(model)
            return (
                key,
                name if name in BIT_PRESETS else CUSTOM,
                at.bits.weight,
                at.bits.activation,
                at.convention,
                gr.update(choices=offered, value=at.recipe),
                backend.model_of(key) != model,
                model.strength if model.injected else gr.skip(),
                at.backend,
                setup_notice(backend, session, at),
                gr.update(label=fold_label(at)),
                gr.Tabs(selected=tab),
            )

        return answer(backend, go, [inputs])

    def turn(session: Session, asked: PairInputs) -> tuple[Any, ...]:
        choice, model, contest, two = asked.read(backend, session)
        bits = choice_of(choice, model, contest, two[-1]).bits
        turned = backend.dials.get(model)
        cell = None if turned is None else turned.cell(bits)
        if cell is None:
            raise refuse(
                f"dial: expected bits at which it stops, got {bits} of {model.title}; Compare "
                "draws any"
            )
        twin = INJECTED if strength_of(contest) > 1 else NATURAL
        return key_of(cell.stop), twin, gr.Tabs(selected="overview")

    outputs = [
        bar.checkpoint, bar.preset, bar.weight_bits, bar.activation_bits, bar.convention,
        bar.recipe, bar.inject, bar.strength, bar.backend, page.bar.notice, page.bar.fold,
        page.tabs,
    ]  # fmt: skip
    studio.click(*through("compare"), outputs, **PRIVATE)
    blind.click(*through("blind"), outputs, **PRIVATE)
    if "dial" in page.fields:
        shown = [page.fields["dial"], page.fields["twin"], page.tabs]
        dial.click(*answer(backend, turn, [inputs]), shown, **PRIVATE)


TAB = Tab("contest", "Contest", build_contest)
