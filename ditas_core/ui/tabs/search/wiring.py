"""Inside Search: the editor and the recipes, connected to each other and to the bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from ...page.bar import BarInputs, Page, recipe_names, setup_notice
from ...serving.inputs import Inputs
from ...serving.validate import one_of
from ...visitors.backend import Backend, Choice
from ...visitors.running import PRIVATE, QUIET, Finished, Progress, answer, wire_job
from ...visitors.session import Session
from .draw import recipe_rows
from .editing import (
    EditInputs,
    Editor,
    available,
    build_editor,
    draw_edit,
    draw_layer,
    kept_change,
    known_errors,
    predicting,
)
from .recipes import (
    Recipes,
    build_recipes,
    compare,
    deleted,
    draw_chosen,
    draw_recipes,
    loaded,
    renamed,
)

FILL_S = 0.8
"""Seconds of one turn that measures errors nobody has predicted yet."""


@dataclass(frozen=True)
class Hand(Inputs):
    """The layer in hand, the recipes compared, and the one chosen."""

    layer: Any
    compared: Any
    chosen: Any


@dataclass(frozen=True)
class Keeping:
    """Both parts.

    pending   hidden: "more" while errors are missing and are measured bit by bit,
              "done" when all that is on view can be drawn with them
    """

    backend: Backend
    page: Page
    editor: Editor
    recipes: Recipes
    kept: gr.Textbox
    pending: gr.Textbox

    @property
    def hand(self) -> Hand:
        return Hand(self.editor.edit.layer, self.recipes.compared, self.recipes.chosen)

    @property
    def outputs(self) -> list[Any]:
        """What ``draw`` gives, in its order."""
        return [*self.editor.outputs, *self.recipes.outputs, self.pending]

    @property
    def with_bar(self) -> list[Any]:
        """What ``draw_with_bar`` gives, in its order."""
        return [*self.outputs, self.page.bar.inputs.recipe, self.page.bar.notice]

    def draw(self, session: Session, choice: Choice, hand: Hand) -> tuple[Any, ...]:
        return (
            *draw_layer(self.backend, session, choice, hand.layer),
            *draw_recipes(self.backend, session, choice, hand.compared, hand.chosen),
            self.missing(session, choice, 0.0),
        )

    def missing(self, session: Session, choice: Choice, seconds: float) -> str:
        """Measure for so long what is missing; ``pending`` afterwards."""
        recipes = available(self.backend, session, choice)
        if not recipes or self.backend.queue.locked():
            return ""
        left = known_errors(self.backend, session, choice).fill(recipes.values(), seconds)
        return f"more {left} {time.monotonic()}" if left else "done"

    def draw_with_bar(
        self, session: Session, choice: Choice, name: str, hand: Hand
    ) -> tuple[Any, ...]:
        """Everything, with this recipe chosen in the bar."""
        choice = replace(choice, recipe=name)
        return (
            *self.draw(session, choice, hand),
            gr.update(choices=recipe_names(self.backend, session, choice), value=name),
            setup_notice(self.backend, session, choice),
        )


def build_keeping(backend: Backend, page: Page) -> Keeping:
    """Lay both out."""
    editor, recipes = build_editor(backend), build_recipes()
    kept, pending = (
        gr.Textbox(visible="hidden", elem_id=f"{name}-mark", label=f"{name} mark")
        for name in ("kept", "pending")
    )
    return Keeping(backend, page, editor, recipes, kept, pending)


def wire_keeping(backend: Backend, page: Page, parts: Keeping) -> None:
    """Connect what the visitor does."""
    editor, recipes, bar = parts.editor, parts.recipes, page.bar.inputs

    def then(act: Callable[..., tuple[str, Any]], *extra: Any) -> Any:
        """``act(session, choice, chosen, *extra)`` -> the bar's recipe, and the one to look at."""

        def handle(session: Session, *values: Any) -> tuple[Any, ...]:
            *more, hand, asked = values
            choice = asked.read(backend)
            name, chosen = act(session, choice, hand.chosen, *more)
            return parts.draw_with_bar(session, choice, name, replace(hand, chosen=chosen))

        return answer(backend, handle, [*extra, parts.hand, bar])

    def on_layer(session: Session, layer: Any, asked: BarInputs) -> tuple[Any, ...]:
        choice = asked.read(backend)
        one_of(layer, "layer", backend.group_names(choice.model))
        return draw_layer(backend, session, choice, layer)

    def on_edit(session: Session, edit: EditInputs, asked: BarInputs) -> tuple[Any, ...]:
        choice = asked.read(backend)
        return draw_edit(backend, session, choice, *edit.read(backend, session, choice))

    def on_alpha(session: Session, edit: EditInputs, asked: BarInputs) -> tuple[Any, ...]:
        """Whoever moves alpha wants smoothing."""
        return False, *on_edit(session, replace(edit, identity=False), asked)

    def on_keep(
        session: Session, name: Any, edit: EditInputs, compared: Any, _: Any, asked: BarInputs
    ) -> tuple[Any, ...]:
        choice = asked.read(backend)
        label = kept_change(backend, session, choice, edit, name)
        hand, mark = Hand(edit.layer, compared, label), f"{label}, {time.time():.0f}"
        return *parts.draw_with_bar(session, choice, label, hand), mark

    def on_pending(
        session: Session, text: Any, edit: EditInputs, compared: Any, asked: BarInputs
    ) -> tuple[Any, ...]:
        """A little more each time; what is on view changes only at the end."""
        shows = [*editor.shows, recipes.table, *recipes.shows]
        choice = asked.read(backend)
        if isinstance(text, str) and text.startswith("more"):
            return parts.missing(session, choice, FILL_S), *(gr.skip() for _ in shows)
        found = available(backend, session, choice)
        if text != "done" or choice.recipe not in found:
            return tuple(gr.skip() for _ in (text, *shows))
        return (
            gr.skip(),
            *on_edit(session, edit, asked),
            recipe_rows(known_errors(backend, session, choice), found),
            *compare(backend, session, choice, compared),
        )

    def on_compare(session: Session, compared: Any, asked: BarInputs) -> tuple[Any, ...]:
        return compare(backend, session, asked.read(backend), compared)

    def on_chosen(session: Session, name: Any, asked: BarInputs) -> tuple[Any, ...]:
        found = available(backend, session, asked.read(backend))
        return draw_chosen(session, found, one_of(name, "recipe", list(found)))

    def rename(session: Session, choice: Choice, chosen: Any, new: Any) -> tuple[str, Any]:
        label = renamed(backend, session, choice, chosen, new)
        return (label if choice.recipe == chosen else choice.recipe), label

    def delete(session: Session, choice: Choice, chosen: Any) -> tuple[str, Any]:
        return deleted(backend, session, choice, chosen), None

    def load(session: Session, choice: Choice, _: Any, text: Any, name: Any) -> tuple[str, Any]:
        label = loaded(backend, session, choice, text, name)
        return label, label

    def work(session: Session, hand: Hand, asked: BarInputs) -> Iterator[Progress | Finished]:
        choice = asked.read(backend)
        yield from predicting(
            backend, session, choice, lambda: but_line(parts.draw(session, choice, hand))
        )

    def but_line(all_of_it: Sequence[Any]) -> tuple[Any, ...]:
        """Without the job's own status line, which says more."""
        pairs = zip(parts.outputs, all_of_it, strict=True)
        return tuple(value for output, value in pairs if output is not editor.predict.line)

    edit = editor.edit
    edit.layer.input(*answer(backend, on_layer, [edit.layer, bar]), editor.outputs, **PRIVATE)
    edit.alpha.input(
        *answer(backend, on_alpha, [edit, bar]), [edit.identity, *editor.shows], **PRIVATE
    )
    gr.on(
        editor.changes, *answer(backend, on_edit, [edit, bar]), editor.shows,
        api_name="predict_layer", **QUIET,
    )  # fmt: skip
    parts.pending.change(
        *answer(backend, on_pending, [parts.pending, edit, recipes.compared, bar]),
        [parts.pending, *editor.shows, recipes.table, *recipes.shows], **PRIVATE,
    )  # fmt: skip
    editor.keep.click(
        *answer(backend, on_keep, [editor.name, edit, recipes.compared, recipes.chosen, bar]),
        [*parts.with_bar, parts.kept], **PRIVATE,
    )  # fmt: skip
    wire_job(
        backend, editor.predict, work, [parts.hand, bar],
        list(but_line(parts.outputs)), api_name="predict",
    )  # fmt: skip
    recipes.compared.input(
        *answer(backend, on_compare, [recipes.compared, bar]), recipes.shows,
        api_name="compare_recipes", **QUIET,
    )  # fmt: skip
    recipes.chosen.input(
        *answer(backend, on_chosen, [recipes.chosen, bar]), recipes.handles, **PRIVATE
    )
    recipes.rename.click(*then(rename, recipes.new_name), parts.with_bar, **PRIVATE)
    recipes.delete.click(*then(delete), parts.with_bar, **PRIVATE)
    recipes.load.click(*then(load, recipes.text, recipes.loaded_name), parts.with_bar, **PRIVATE)
    page.actions["edit"] = [edit.alpha.input, *editor.changes]
    page.actions["keep"] = [parts.kept.change]
