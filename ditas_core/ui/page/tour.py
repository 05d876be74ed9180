"""The guided tour: eight steps on the live controls, each done by the visitor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from ..serving.errors import status
from ..visitors.backend import Backend
from ..visitors.running import answer
from ..visitors.session import Session
from .bar import BarInputs, Page, fold_label, recipe_names, setup_notice
from .tour_steps import STEPS

NOTE = "tour"
TWIN = (
    "The bar is at the model's twin with **injected outliers**: the same function, louder channels."
)
MATHS = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "$", "right": "$", "display": False},
]
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


@dataclass
class Where:
    """Where one visitor is.

    twin  on the model with injected outliers
    """

    step: int = -1
    done: frozenset[int] = frozenset()
    twin: bool = False


@dataclass(frozen=True)
class TourPanel:
    """The tour's components; ``wire_tour`` connects them once all tabs are laid out."""

    begin: gr.Button
    panel: gr.Group
    text: gr.Markdown
    state: gr.HTML
    back: gr.Button
    there: gr.Button
    onward: gr.Button
    end: gr.Button
    action: gr.Textbox

    @property
    def outputs(self) -> list[Any]:
        return [
            self.panel, self.begin, self.text, self.state, self.back, self.onward, self.action
        ]  # fmt: skip


def tour_button() -> gr.Button:
    return gr.Button(
        f"Take the tour: {len(STEPS)} steps, 2 minutes", size="sm", elem_id="tour-begin",
        scale=0, min_width=250,
    )  # fmt: skip


def build_tour(begin: gr.Button) -> TourPanel:
    """The panel, hidden until the tour begins."""
    with gr.Group(visible=False, elem_id="tour") as panel:
        text = gr.Markdown(latex_delimiters=MATHS, elem_id="tour-text", padding=True)
        state = gr.HTML(padding=False, elem_id="tour-state")
        with gr.Row():
            back = gr.Button("Back", size="sm", elem_id="tour-back", min_width=80)
            there = gr.Button("Take me there", size="sm", elem_id="tour-there", min_width=120)
            onward = gr.Button("Next", size="sm", elem_id="tour-next", min_width=80)
            end = gr.Button("End the tour", size="sm", elem_id="tour-end", min_width=110)
    action = gr.Textbox(visible="hidden", elem_id="tour-deed", label="tour deed")
    return TourPanel(begin, panel, text, state, back, there, onward, end, action)


def where(session: Session) -> Where:
    found: Where = session.notes.setdefault(NOTE, Where())
    return found


def shown(place: Where) -> tuple[Any, ...]:
    """One value per output of the panel."""
    if not 0 <= place.step < len(STEPS):
        skip = gr.skip()
        return gr.update(visible=False), gr.update(visible=True), skip, skip, skip, skip, ""
    step, done = STEPS[place.step], place.step in place.done
    last = place.step == len(STEPS) - 1
    line = status("Done. " + plain(step.seen), "done") if done else status("Your turn.", "busy")
    return (
        gr.update(visible=True),
        gr.update(visible=False),
        f"#### {place.step + 1} of {len(STEPS)} · {step.title}\n{step.task}"
        + (f"\n\n{TWIN}" if place.twin else ""),
        line,
        gr.update(interactive=place.step > 0),
        gr.update(value="Finish" if last else "Next", variant="primary" if done else "secondary"),
        "",
    )


def plain(text: str) -> str:
    """Without the marks of Markdown and formulae."""
    return text.replace("**", "").replace("$\\Delta$", "Δ").replace("$", "")


def about(backend: Backend, session: Session, asked: BarInputs, twin: bool) -> tuple[Any, ...]:
    """The bar turned to the twin with injected outliers, where one is shipped, or back from it;
    another checkpoint stays, and so does a visitor's own injection.

    One value each for checkpoint, recipe, notice and fold.
    """
    models, skip = list(backend.dials), (gr.skip(),) * 4
    if len(models) < 2:
        return skip
    choice, wanted = asked.read(backend), models[1 if twin else 0]
    if asked.inject or choice.model not in models or choice.model == wanted:
        return skip
    choice = replace(choice, model=wanted)
    return (
        backend.key_of(wanted),
        gr.update(choices=recipe_names(backend, session, choice)),
        setup_notice(backend, session, choice),
        gr.update(label=fold_label(choice)),
    )


def twin_in_bar(backend: Backend, asked: BarInputs, twin: bool) -> bool:
    """Whether the bar is at the twin once ``about`` has turned it."""
    models = list(backend.dials)
    if not twin or len(models) < 2:
        return False
    model = asked.read(backend).model
    return model == models[1] or (model == models[0] and not asked.inject)


def wire_tour(backend: Backend, page: Page, tour: TourPanel) -> None:
    """Connect the buttons, and every deed of the tabs."""
    bar = page.bar
    told = [bar.inputs.checkpoint, bar.inputs.recipe, bar.notice, bar.fold]

    def move(by: int) -> Any:
        def go(session: Session, asked: BarInputs) -> tuple[Any, ...]:
            place = where(session)
            place.step = 0 if by == 0 else place.step + by
            if by == 0:
                place.done = frozenset()
            if not 0 <= place.step < len(STEPS):
                place.step = -1
                return (*shown(place), gr.skip(), *about(backend, session, asked, False))
            step = STEPS[place.step]
            place.twin = twin_in_bar(backend, asked, step.twin)
            tab = gr.update(selected=step.tab)
            return (*shown(place), tab, *about(backend, session, asked, step.twin))

        return answer(backend, go, [bar.inputs])

    def did(session: Session, action: Any) -> tuple[Any, ...]:
        place = where(session)
        here = 0 <= place.step < len(STEPS)
        if not here or action != STEPS[place.step].action or place.step in place.done:
            return tuple(gr.skip() for _ in tour.outputs)
        place.done |= {place.step}
        return shown(place)

    def end(session: Session, asked: BarInputs) -> tuple[Any, ...]:
        session.notes[NOTE] = Where()
        return (*shown(where(session)), *about(backend, session, asked, False))

    def there(session: Session) -> Any:
        place = where(session)
        return gr.update(selected=STEPS[max(0, place.step)].tab)

    moved = [*tour.outputs, page.tabs, *told]
    tour.begin.click(*move(0), moved, **PRIVATE)
    tour.onward.click(*move(1), moved, **PRIVATE)
    tour.back.click(*move(-1), moved, **PRIVATE)
    tour.there.click(*answer(backend, there), page.tabs, **PRIVATE)
    tour.end.click(*answer(backend, end, [bar.inputs]), [*tour.outputs, *told], **PRIVATE)
    tour.action.change(*answer(backend, did, [tour.action]), tour.outputs, **PRIVATE)
    for step in STEPS:
        for event in page.actions.get(step.action, []):
            # no question to the server unless the tour is on and waits for this
            event(
                None,
                None,
                tour.action,
                js=f"() => document.querySelector('#tour') ? {step.action!r} : ''",
                **PRIVATE,
            )
