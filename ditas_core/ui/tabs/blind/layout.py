"""Blind test: two pictures from the same noise, one of them quantized. Which?"""

from __future__ import annotations

import random
from typing import Any

import gradio as gr

from ...page.bar import BarInputs, Page, View
from ...page.glossary import lead
from ...page.tab import Tab
from ...serving.errors import refuse
from ...serving.validate import one_of
from ...stored.results import BUILT_IN, DITAS, Result
from ...visitors.backend import Backend, Choice
from ...visitors.running import QUIET, answer
from ...visitors.session import Session
from .draw import feedback, pair_view, score_table
from .rules import GUESSES, LEFT, NEITHER, RIGHT, BlindTest

NOTE = "blind"
CHANCE: random.Random = random.SystemRandom()
"""Draws the sides; tests put a seeded one here."""
LEAD = (
    "<b>Can you tell?</b> Two pictures from the same noise and the same class: one in "
    "[[full precision]], one [[rounding|rounded]] by the [[recipe]] you choose. Sides are drawn "
    "anew each time, and this page does not know the answer before you guess. The score says how "
    "often pure guessing would do as well."
)
FOCUS = (
    "() => {{ let n = 0; const t = setInterval(() => {{ const b = "
    "document.querySelector('#{name}'); if (b && !b.disabled) {{ b.focus(); clearInterval(t); }} "
    "if (++n > 40) clearInterval(t); }}, 50); }}"
)
"""A button that was pressed and is now disabled loses the focus: hand it to the next one."""


def source(backend: Backend, session: Session, choice: Choice) -> tuple[str, Result] | None:
    """The visitor's last comparison, or the shipped one at the bar's bits."""
    found: Result | None = backend.cache.get(("result", session.result)) if session.result else None
    if found is not None:
        return session.result, found
    preset = None if backend.shipped is None else backend.shipped.presets.get(str(choice.bits))
    return None if preset is None else (f"shipped {choice.bits}", preset.result)


def current(session: Session) -> BlindTest | None:
    found: BlindTest | None = session.notes.get(NOTE)
    return found


def first_variant(result: Result, wanted: object) -> str:
    """What the visitor chose where the result has it."""
    for name in (wanted, DITAS):
        if isinstance(name, str) and name in result.variants:
            return name
    return result.variants[-1]


def shown(test: BlindTest | None) -> tuple[Any, ...]:
    """Pictures, feedback, score, and which buttons can be pressed."""
    asking = test is not None and not test.pair.guess
    answered = test is not None and bool(test.pair.guess)
    return (
        pair_view(test),
        feedback(test),
        score_table({} if test is None else test.tallies),
        *(gr.update(interactive=asking) for _ in GUESSES),
        gr.update(interactive=answered, variant="primary" if answered else "secondary"),
    )


def build_blind(backend: Backend, page: Page) -> View:
    """Lay out the tab."""
    gr.HTML(lead(LEAD), padding=False)
    variant = gr.Radio(
        list(BUILT_IN),
        value=DITAS,
        label="Recipe under test",
        info="of your last comparison, or of the shipped one at the bar's bits",
        elem_id="blind-variant",
    )
    about = gr.HTML(padding=False, elem_id="blind-source")
    pictures = gr.HTML(padding=False, elem_id="blind-pictures")
    with gr.Row(elem_id="blind-buttons"):
        left = gr.Button("Left is quantized", elem_id="blind-left", min_width=110)
        right = gr.Button("Right is quantized", elem_id="blind-right", min_width=110)
        unsure = gr.Button("I cannot tell", elem_id="blind-unsure", min_width=110)
    said = gr.HTML(feedback(None), padding=False, elem_id="blind-feedback")
    with gr.Row():
        onward = gr.Button("Next pair", interactive=False, elem_id="blind-next", min_width=110)
        fresh = gr.Button("New test", elem_id="blind-new", min_width=110)
    score = gr.HTML(score_table({}), padding=False, elem_id="blind-score")
    side = gr.Textbox(visible="hidden", elem_id="blind-side", label="guess")

    def test_of(session: Session, wanted: Any, asked: BarInputs) -> BlindTest | None:
        """The visitor's test, with a new pair where the pictures are others now."""
        found = source(backend, session, asked.read(backend))
        if found is None:
            return None
        name = first_variant(found[1], wanted)
        test = current(session)
        if test is None:
            test = session.notes[NOTE] = BlindTest(found[0], found[1], name, CHANCE)
        test.show(found[0], found[1], name)
        return test

    def refresh(session: Session, wanted: Any, asked: BarInputs) -> tuple[Any, ...]:
        test = test_of(session, wanted, asked)
        if test is None:
            return gr.skip(), "", *shown(None)
        title = gr.update(choices=test.result.variants, value=test.variant)
        return title, f'<p class="blind-label">{test.result.title}</p>', *shown(test)

    def start(session: Session, wanted: Any, asked: BarInputs) -> tuple[Any, ...]:
        session.notes.pop(NOTE, None)
        return refresh(session, wanted, asked)

    def change(session: Session, wanted: Any, asked: BarInputs) -> tuple[Any, ...]:
        if not isinstance(wanted, str) or len(wanted) > 80:
            raise refuse("recipe under test: expected the name of a recipe")
        return refresh(session, wanted, asked)

    def guess(session: Session, where: Any) -> tuple[Any, ...]:
        one_of(where, "guess", GUESSES)
        test = current(session)
        if test is None:
            raise refuse("guess: expected a pair on view, there is none; press “New test”")
        if test.pair.guess:
            raise refuse("guess: this pair has been answered; press “Next pair”")
        test.answer(where)
        return shown(test)

    def go_on(session: Session) -> tuple[Any, ...]:
        test = current(session)
        if test is None:
            raise refuse("next pair: expected a test, there is none; press “New test”")
        if test.pair.guess:  # a pair that has not been answered stays
            test.draw()
        return shown(test)

    inputs, private = [variant, page.bar.inputs], {"api_visibility": "private"}
    seen = [pictures, said, score, left, right, unsure, onward]
    everything = [variant, about, *seen]
    quiet: dict[str, Any] = {"show_progress": "hidden"}
    for index, (button, where) in enumerate(((left, LEFT), (right, RIGHT), (unsure, NEITHER))):
        named = {"api_name": "blind_guess"} if index == 0 else private
        button.click(
            *answer(backend, guess, [side]), seen, js=f"() => {where!r}", **named, **quiet
        ).success(None, None, None, js=FOCUS.format(name="blind-next"), **private)
    onward.click(*answer(backend, go_on), seen, **private, **quiet).success(
        None, None, None, js=FOCUS.format(name="blind-left"), **private
    )
    fresh.click(*answer(backend, start, inputs), everything, api_name="blind_new", **quiet)
    variant.input(*answer(backend, change, inputs), everything, **private, **QUIET)
    page.actions["blind"] = [left.click, right.click, unsure.click]
    return View(refresh, inputs, everything)


TAB = Tab("blind", "Blind test", build_blind)
