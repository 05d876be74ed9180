"""Inside Search: the editor and the recipes, connected to each other and to the bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from ...page.bar import Page, read_choice, recipe_names, setup_notice
from ...serving.validate import one_of
from ...visitors.backend import Bench, Choice
from ...visitors.running import QUIET, Finished, Progress, answer, wire_job
from ...visitors.session import Desk
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

    bench: Bench
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

    def draw(self, desk: Desk, choice: Choice, hand: Sequence[Any]) -> tuple[Any, ...]:
        layer, compared, chosen = hand
        return (
            *draw_layer(self.bench, desk, choice, layer),
            *draw_recipes(self.bench, desk, choice, compared, chosen),
            self.missing(desk, choice, 0.0),
        )

    def missing(self, desk: Desk, choice: Choice, seconds: float) -> str:
        """Measure for so long what is missing; ``pending`` afterwards."""
        recipes = available(self.bench, desk, choice)
        if not recipes or self.bench.line.locked():
            return ""
        left = known_errors(self.bench, desk, choice).fill(recipes.values(), seconds)
        return f"more {left} {time.monotonic()}" if left else "done"

    def draw_with_bar(
        self, desk: Desk, choice: Choice, name: str, hand: Sequence[Any]
    ) -> tuple[Any, ...]:
        """Everything, with this recipe chosen in the bar."""
        choice = replace(choice, recipe=name)
        return (
            *self.draw(desk, choice, hand),
            gr.update(choices=recipe_names(self.bench, desk, choice), value=name),
            setup_notice(self.bench, desk, choice),
        )


def build_keeping(bench: Bench, page: Page) -> Keeping:
    """Lay both out."""
    editor, recipes = build_editor(bench), build_recipes()
    kept, pending = (
        gr.Textbox(visible="hidden", elem_id=f"{name}-mark", label=f"{name} mark")
        for name in ("kept", "pending")
    )
    return Keeping(bench, page, editor, recipes, kept, pending)


def wire_keeping(bench: Bench, page: Page, parts: Keeping) -> None:
    """Connect what the visitor does."""
    editor, recipes, bar = parts.editor, parts.recipes, page.bar

    def then(act: Callable[..., tuple[str, Any]], extra: int) -> Any:
        """``act(desk, choice, hand, *extra)`` -> the bar's recipe and the one to look at."""

        def handle(desk: Desk, *values: Any) -> tuple[Any, ...]:
            hand = values[extra : extra + 3]
            choice = read_choice(bench, values[extra + 3 :])
            name, chosen = act(desk, choice, hand, *values[:extra])
            return parts.draw_with_bar(desk, choice, name, (*hand[:2], chosen))

        return answer(bench, handle)

    def on_layer(desk: Desk, layer: Any, *values: Any) -> tuple[Any, ...]:
        choice = read_choice(bench, values)
        one_of(layer, "layer", bench.group_names(choice.model))
        return draw_layer(bench, desk, choice, layer)

    def on_edit(desk: Desk, *values: Any) -> tuple[Any, ...]:
        choice = read_choice(bench, values[5:])
        return draw_edit(bench, desk, choice, *read_edit(bench, desk, choice, values[:5]))

    def on_alpha(desk: Desk, *values: Any) -> tuple[Any, ...]:
        """Whoever moves alpha wants smoothing."""
        return False, *on_edit(desk, *values[:2], False, *values[3:])

    def on_keep(desk: Desk, name: Any, *values: Any) -> tuple[Any, ...]:
        choice, hand = read_choice(bench, values[7:]), (values[0], values[5])
        label = kept_change(bench, desk, choice, values[:5], name)
        mark = f"{label}, {time.time():.0f}"
        return *parts.draw_with_bar(desk, choice, label, (*hand, label)), mark

    def on_pending(desk: Desk, text: Any, *values: Any) -> tuple[Any, ...]:
        """A little more each time; what is on view changes only at the end."""
        shows = [*editor.shows, recipes.table, *recipes.shows]
        choice = read_choice(bench, values[6:])
        if isinstance(text, str) and text.startswith("more"):
            return parts.missing(desk, choice, FILL_S), *(gr.skip() for _ in shows)
        found = available(bench, desk, choice)
        if text != "done" or choice.recipe not in found:
            return tuple(gr.skip() for _ in (text, *shows))
        return (
            gr.skip(),
            *on_edit(desk, *values[:5], *values[6:]),
            recipe_rows(known_errors(bench, desk, choice), found),
            *compare(bench, desk, choice, values[5]),
        )

    def on_compare(desk: Desk, compared: Any, *values: Any) -> tuple[Any, ...]:
        return compare(bench, desk, read_choice(bench, values), compared)

    def on_chosen(desk: Desk, name: Any, *values: Any) -> tuple[Any, ...]:
        found = available(bench, desk, read_choice(bench, values))
        return draw_chosen(desk, found, one_of(name, "recipe", list(found)))

    def rename(desk: Desk, choice: Choice, hand: Any, new: Any) -> tuple[str, Any]:
        label = renamed(bench, desk, choice, hand[2], new)
        return (label if choice.recipe == hand[2] else choice.recipe), label

    def delete(desk: Desk, choice: Choice, hand: Any) -> tuple[str, Any]:
        return deleted(bench, desk, choice, hand[2]), None

    def load(desk: Desk, choice: Choice, hand: Any, text: Any, name: Any) -> tuple[str, Any]:
        label = loaded(bench, desk, choice, text, name)
        return label, label

    def work(desk: Desk, *values: Any) -> Iterator[Progress | Finished]:
        choice = read_choice(bench, values[3:])
        yield from predicting(
            bench, desk, choice, lambda: but_line(parts.draw(desk, choice, values[:3]))
        )

    def but_line(all_of_it: Sequence[Any]) -> tuple[Any, ...]:
        """Without the job's own status line, which says more."""
        pairs = zip(parts.outputs, all_of_it, strict=True)
        return tuple(value for output, value in pairs if output is not editor.predict.line)

    private: dict[str, Any] = {"api_visibility": "private", **QUIET}
    editor.layer.input(
        answer(bench, on_layer), [editor.layer, *bar.inputs], editor.outputs, **private
    )
    editor.alpha.input(
        answer(bench, on_alpha), [*editor.settings, *bar.inputs],
        [editor.identity, *editor.shows], **private,
    )  # fmt: skip
    gr.on(
        editor.changes, answer(bench, on_edit), [*editor.settings, *bar.inputs], editor.shows,
        api_name="predict_layer", **QUIET,
    )  # fmt: skip
    parts.pending.change(
        answer(bench, on_pending),
        [parts.pending, *editor.settings, recipes.compared, *bar.inputs],
        [parts.pending, *editor.shows, recipes.table, *recipes.shows], **private,
    )  # fmt: skip
    editor.keep.click(
        answer(bench, on_keep),
        [editor.name, *editor.settings, recipes.compared, recipes.chosen, *bar.inputs],
        [*parts.with_bar, parts.kept], **private,
    )  # fmt: skip
    wire_job(
        bench, editor.predict, work, [*parts.hand, *bar.inputs],
        list(but_line(parts.outputs)), api_name="predict",
    )  # fmt: skip
    recipes.compared.input(
        answer(bench, on_compare), [recipes.compared, *bar.inputs], recipes.shows,
        api_name="compare_recipes", **QUIET,
    )  # fmt: skip
    recipes.chosen.input(
        answer(bench, on_chosen), [recipes.chosen, *bar.inputs], recipes.handles, **private
    )
    hand = [*parts.hand, *bar.inputs]
    recipes.rename.click(then(rename, 1), [recipes.new_name, *hand], parts.with_bar, **private)
    recipes.delete.click(then(delete, 0), hand, parts.with_bar, **private)
    recipes.load.click(
        then(load, 2), [recipes.text, recipes.loaded_name, *hand], parts.with_bar, **private
    )
    page.deeds["edit"] = [editor.alpha.input, *editor.changes]
    page.deeds["keep"] = [parts.kept.change]
