"""The guided tour: eight steps on the live controls, each done by the visitor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..serving.errors import status
from ..visitors.backend import Bench
from ..visitors.running import answer
from ..visitors.session import Desk
from .bar import Page
from .tour_steps import STEPS

NOTE = "tour"
MATHS = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "$", "right": "$", "display": False},
]
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


@dataclass
class Where:
    """Where one visitor is."""

    step: int = -1
    done: frozenset[int] = frozenset()


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
    deed: gr.Textbox

    @property
    def outputs(self) -> list[Any]:
        return [
            self.panel, self.begin, self.text, self.state, self.back, self.onward, self.deed
        ]  # fmt: skip


def build_tour() -> TourPanel:
    """The panel, hidden until the tour begins."""
    begin = gr.Button("Take the tour: 8 steps, 2 minutes", size="sm", elem_id="tour-begin")
    with gr.Group(visible=False, elem_id="tour") as panel:
        text = gr.Markdown(latex_delimiters=MATHS, elem_id="tour-text", padding=True)
        state = gr.HTML(padding=False, elem_id="tour-state")
        with gr.Row():
            back = gr.Button("Back", size="sm", elem_id="tour-back", min_width=80)
            there = gr.Button("Take me there", size="sm", elem_id="tour-there", min_width=120)
            onward = gr.Button("Next", size="sm", elem_id="tour-next", min_width=80)
            end = gr.Button("End the tour", size="sm", elem_id="tour-end", min_width=110)
    deed = gr.Textbox(visible="hidden", elem_id="tour-deed", label="tour deed")
    return TourPanel(begin, panel, text, state, back, there, onward, end, deed)


def where(desk: Desk) -> Where:
    found: Where = desk.notes.setdefault(NOTE, Where())
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
        f"#### {place.step + 1} of {len(STEPS)} · {step.title}\n{step.task}",
        line,
        gr.update(interactive=place.step > 0),
        gr.update(value="Finish" if last else "Next", variant="primary" if done else "secondary"),
        "",
    )


def plain(text: str) -> str:
    """Without the marks of Markdown and formulae."""
    return text.replace("**", "").replace("$\\Delta$", "Δ").replace("$", "")


def wire_tour(bench: Bench, page: Page, tour: TourPanel) -> None:
    """Connect the buttons, and every deed of the tabs."""

    def move(by: int) -> Any:
        def go(desk: Desk) -> tuple[Any, ...]:
            place = where(desk)
            place.step = 0 if by == 0 else place.step + by
            if by == 0:
                place.done = frozenset()
            if not 0 <= place.step < len(STEPS):
                place.step = -1
                return (*shown(place), gr.skip())
            return (*shown(place), gr.update(selected=STEPS[place.step].tab))

        return answer(bench, go)

    def did(desk: Desk, deed: Any) -> tuple[Any, ...]:
        place = where(desk)
        here = 0 <= place.step < len(STEPS)
        if not here or deed != STEPS[place.step].deed or place.step in place.done:
            return tuple(gr.skip() for _ in tour.outputs)
        place.done |= {place.step}
        return shown(place)

    def end(desk: Desk) -> tuple[Any, ...]:
        desk.notes[NOTE] = Where()
        return shown(where(desk))

    def there(desk: Desk) -> Any:
        place = where(desk)
        return gr.update(selected=STEPS[max(0, place.step)].tab)

    moved = [*tour.outputs, page.tabs]
    tour.begin.click(move(0), None, moved, **PRIVATE)
    tour.onward.click(move(1), None, moved, **PRIVATE)
    tour.back.click(move(-1), None, moved, **PRIVATE)
    tour.there.click(answer(bench, there), None, page.tabs, **PRIVATE)
    tour.end.click(answer(bench, end), None, tour.outputs, **PRIVATE)
    tour.deed.change(answer(bench, did), tour.deed, tour.outputs, **PRIVATE)
    for step in STEPS:
        for event in page.deeds.get(step.deed, []):
            # no question to the server unless the tour is on and waits for this
            event(
                None,
                None,
                tour.deed,
                js=f"() => document.querySelector('#tour') ? {step.deed!r} : ''",
                **PRIVATE,
            )
