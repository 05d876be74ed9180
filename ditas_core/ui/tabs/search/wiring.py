"""Inside Search: the editor and the recipes, connected to each other and to the bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from ...page.bar import Page, read_choice, recipe_names, setup_notice
from ...serving.validate import one_of
from ...visitors.backend import Backend, Choice
from ...visitors.running import QUIET, Finished, Progress, answer, wire_job
from ...visitors.session import Session
from .draw import recipe_rows
from .editing import (
    Editor,
    available,
    build_editor,
    draw_edit,
    draw_layer,
    kept_change,
    known_errors,
    predicting,
    read_edit,
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
class Keeping:
    """Both parts. ``hand``: the layer in hand, the recipes compared, and the one chosen.

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
    def hand(self) -> list[Any]:
        return [self.editor.layer, self.recipes.compared, self.recipes.chosen]

    @property
    def outputs(self) -> list[Any]:
        """What ``draw`` gives, in its order."""
        return [*self.editor.outputs, *self.recipes.outputs, self.pending]

    @property
    def with_bar(self) -> list[Any]:
        """What ``draw_with_bar`` gives, in its order."""
        return [*self.outputs, self.page.bar.recipe, self.page.bar.notice]

    def draw(self, session: Session, choice: Choice, hand: Sequence[Any]) -> tuple[Any, ...]:
        layer, compared, chosen = hand
        return (
            *draw_layer(self.backend, session, choice, layer),
            *draw_recipes(self.backend, session, choice, compared, chosen),
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
        self, session: Session, choice: Choice, name: str, hand: Sequence[Any]
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
    editor, recipes, bar = parts.editor, parts.recipes, page.bar

    def then(act: Callable[..., tuple[str, Any]], extra: int) -> Any:
        """``act(session, choice, hand, *extra)`` -> the bar's recipe and the one to look at."""

        def handle(session: Session, *values: Any) -> tuple[Any, ...]:
            hand = values[extra : extra + 3]
            choice = read_choice(backend, values[extra + 3 :])
            name, chosen = act(session, choice, hand, *values[:extra])
            return parts.draw_with_bar(session, choice, name, (*hand[:2], chosen))

        return answer(backend, handle)

    def on_layer(session: Session, layer: Any, *values: Any) -> tuple[Any, ...]:
        choice = read_choice(backend, values)
        one_of(layer, "layer", backend.group_names(choice.model))
        return draw_layer(backend, session, choice, layer)

    def on_edit(session: Session, *values: Any) -> tuple[Any, ...]:
        choice = read_choice(backend, values[5:])
        return draw_edit(backend, session, choice, *read_edit(backend, session, choice, values[:5]))

    def on_alpha(session: Session, *values: Any) -> tuple[Any, ...]:
        """Whoever moves alpha wants smoothing."""
        return False, *on_edit(session, *values[:2], False, *values[3:])

    def on_keep(session: Session, name: Any, *values: Any) -> tuple[Any, ...]:
        choice, hand = read_choice(backend, values[7:]), (values[0], values[5])
        label = kept_change(backend, session, choice, values[:5], name)
        mark = f"{label}, {time.time():.0f}"
        return *parts.draw_with_bar(session, choice, label, (*hand, label)), mark

    def on_pending(session: Session, text: Any, *values: Any) -> tuple[Any, ...]:
        """A little more each time; what is on view changes only at the end."""
        shows = [*editor.shows, recipes.table, *recipes.shows]
        choice = read_choice(backend, values[6:])
        if isinstance(text, str) and text.startswith("more"):
            return parts.missing(session, choice, FILL_S), *(gr.skip() for _ in shows)
        found = available(backend, session, choice)
        if text != "done" or choice.recipe not in found:
            return tuple(gr.skip() for _ in (text, *shows))
        return (
            gr.skip(),
            *on_edit(session, *values[:5], *values[6:]),
            recipe_rows(known_errors(backend, session, choice), found),
            *compare(backend, session, choice, values[5]),
        )

    def on_compare(session: Session, compared: Any, *values: Any) -> tuple[Any, ...]:
        return compare(backend, session, read_choice(backend, values), compared)

    def on_chosen(session: Session, name: Any, *values: Any) -> tuple[Any, ...]:
        found = available(backend, session, read_choice(backend, values))
        return draw_chosen(session, found, one_of(name, "recipe", list(found)))

    def rename(session: Session, choice: Choice, hand: Any, new: Any) -> tuple[str, Any]:
        label = renamed(backend, session, choice, hand[2], new)
        return (label if choice.recipe == hand[2] else choice.recipe), label

    def delete(session: Session, choice: Choice, hand: Any) -> tuple[str, Any]:
        return deleted(backend, session, choice, hand[2]), None

    def load(session: Session, choice: Choice, hand: Any, text: Any, name: Any) -> tuple[str, Any]:
        label = loaded(backend, session, choice, text, name)
        return label, label

    def work(session: Session, *values: Any) -> Iterator[Progress | Finished]:
        choice = read_choice(backend, values[3:])
        yield from predicting(
            backend, session, choice, lambda: but_line(parts.draw(session, choice, values[:3]))
        )

    def but_line(all_of_it: Sequence[Any]) -> tuple[Any, ...]:
        """Without the job's own status line, which says more."""
        pairs = zip(parts.outputs, all_of_it, strict=True)
        return tuple(value for output, value in pairs if output is not editor.predict.line)

    private: dict[str, Any] = {"api_visibility": "private", **QUIET}
    editor.layer.input(
        answer(backend, on_layer), [editor.layer, *bar.inputs], editor.outputs, **private
    )
    editor.alpha.input(
        answer(backend, on_alpha), [*editor.settings, *bar.inputs],
        [editor.identity, *editor.shows], **private,
    )  # fmt: skip
    gr.on(
        editor.changes, answer(backend, on_edit), [*editor.settings, *bar.inputs], editor.shows,
        api_name="predict_layer", **QUIET,
    )  # fmt: skip
    parts.pending.change(
        answer(backend, on_pending),
        [parts.pending, *editor.settings, recipes.compared, *bar.inputs],
        [parts.pending, *editor.shows, recipes.table, *recipes.shows], **private,
    )  # fmt: skip
    editor.keep.click(
        answer(backend, on_keep),
        [editor.name, *editor.settings, recipes.compared, recipes.chosen, *bar.inputs],
        [*parts.with_bar, parts.kept], **private,
    )  # fmt: skip
    wire_job(
        backend, editor.predict, work, [*parts.hand, *bar.inputs],
        list(but_line(parts.outputs)), api_name="predict",
    )  # fmt: skip
    recipes.compared.input(
        answer(backend, on_compare), [recipes.compared, *bar.inputs], recipes.shows,
        api_name="compare_recipes", **QUIET,
    )  # fmt: skip
    recipes.chosen.input(
        answer(backend, on_chosen), [recipes.chosen, *bar.inputs], recipes.handles, **private
    )
    hand = [*parts.hand, *bar.inputs]
    recipes.rename.click(then(rename, 1), [recipes.new_name, *hand], parts.with_bar, **private)
    recipes.delete.click(then(delete, 0), hand, parts.with_bar, **private)
    recipes.load.click(
        then(load, 2), [recipes.text, recipes.loaded_name, *hand], parts.with_bar, **private
    )
    page.actions["edit"] = [editor.alpha.input, *editor.changes]
    page.actions["keep"] = [parts.kept.change]
