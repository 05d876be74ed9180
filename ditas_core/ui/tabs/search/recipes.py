"""Inside Search: the recipes at hand, side by side; rename, delete, download, load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from ....figures import empty_figure, recipe_alphas, recipe_errors
from ....methods import check_parts
from ....specs import Recipe
from ...page.glossary import lead
from ...serving.errors import refuse
from ...serving.validate import one_of, some_of
from ...stored.results import BUILT_IN, DITAS, PLAIN
from ...visitors.backend import Backend, Choice
from ...visitors.session import Session
from .draw import LONGEST_METHOD, RECIPE_HEADERS, compare_rows, read_name, recipe_file, recipe_rows
from .editing import available, known_errors
from .predicting import Predictions

MOST_COMPARED = 4
LONGEST_JSON = 200_000
MOST_RANK, MOST_ITERATIONS = 64, 10
"""Of a branch that is computed while somebody waits."""
PAIR = "Choose two to four recipes to compare"


@dataclass(frozen=True)
class Recipes:
    """The list, the comparison, and what can be done with one recipe."""

    table: gr.Dataframe
    compared: gr.CheckboxGroup
    alphas: gr.Plot
    errors: gr.Plot
    layers: gr.Dataframe
    chosen: gr.Dropdown
    download: gr.DownloadButton
    rename: gr.Button
    delete: gr.Button
    new_name: gr.Textbox
    text: gr.Textbox
    loaded_name: gr.Textbox
    load: gr.Button

    @property
    def shows(self) -> list[Any]:
        """What ``draw_comparison`` gives, in its order."""
        return [self.alphas, self.errors, self.layers]

    @property
    def handles(self) -> list[Any]:
        """What ``draw_chosen`` gives, in its order."""
        return [self.download, self.rename, self.delete, self.new_name]

    @property
    def outputs(self) -> list[Any]:
        """What ``draw_recipes`` gives, in its order."""
        return [self.table, self.compared, *self.shows, self.chosen, *self.handles]


def build_recipes() -> Recipes:
    """Lay it out."""
    gr.HTML("<h3>Recipes, side by side</h3>", padding=False)
    gr.HTML(
        lead(
            "What is built in, and what you have kept: everything here can be chosen as the "
            "bar's [[recipe]]. Yours stay for this visit; download what you want to keep longer."
        ),
        padding=False,
    )
    table = gr.Dataframe(
        headers=RECIPE_HEADERS, datatype="str", interactive=False, label="Recipes at hand",
        max_height=330, elem_id="recipes-table",
    )  # fmt: skip
    compared = gr.CheckboxGroup(
        list(BUILT_IN), label="Compare", info=PAIR, elem_id="compare-recipes"
    )
    with gr.Row():
        with gr.Column(min_width=320):
            alphas = gr.Plot(label="α by layer", show_label=False, elem_id="recipe-alphas")
        with gr.Column(min_width=320):
            errors = gr.Plot(
                label="Predicted error by layer", show_label=False, elem_id="recipe-errors"
            )
    layers = gr.Dataframe(
        headers=["layer"], datatype="str", interactive=False, label="Layer by layer",
        max_height=330, elem_id="recipe-layers",
    )  # fmt: skip
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            chosen = gr.Dropdown(
                list(BUILT_IN), value=None, label="One recipe", elem_id="one-recipe"
            )
            download = gr.DownloadButton(
                "Download as JSON", interactive=False, elem_id="download-recipe", size="md"
            )
        with gr.Column(min_width=300):
            new_name = gr.Textbox(label="New name", max_length=40, elem_id="new-name")
            with gr.Row():
                rename = gr.Button(
                    "Rename", interactive=False, elem_id="rename-recipe", min_width=100
                )
                delete = gr.Button(
                    "Delete", interactive=False, elem_id="delete-recipe", min_width=100
                )
    with gr.Accordion("Load a recipe", open=False, elem_id="load-recipe"):
        text = gr.Textbox(
            label="Recipe JSON", lines=5, max_lines=12, max_length=LONGEST_JSON,
            info="what “Download as JSON” wrote, for the bar's checkpoint", elem_id="recipe-json",
        )  # fmt: skip
        with gr.Row(equal_height=False):
            loaded_name = gr.Textbox(
                "my loaded recipe", label="Name", max_length=40, elem_id="loaded-name"
            )
            load = gr.Button("Load", elem_id="load-json", min_width=120)
    return Recipes(
        table, compared, alphas, errors, layers, chosen, download, rename, delete, new_name,
        text, loaded_name, load,
    )  # fmt: skip


def first_pair(recipes: Mapping[str, Recipe], chosen: str) -> list[str]:
    """The bar's recipe and another one to compare it with."""
    wanted = [chosen, PLAIN, DITAS, *recipes]
    found = [name for name in dict.fromkeys(wanted) if name in recipes]
    return sorted(found[:2], key=list(recipes).index)


def draw_comparison(
    found: Predictions, choice: Choice, recipes: Mapping[str, Recipe]
) -> tuple[Any, ...]:
    """Alphas, predicted errors and the table of every layer."""
    if not recipes:
        nothing = empty_figure(PAIR, 340, dark=choice.dark)
        return nothing, nothing, gr.update(value={"headers": ["layer"], "data": []})
    alphas = {n: [r.layers[g].alpha for g in found.groups] for n, r in recipes.items()}
    errors = {name: found.errors(recipe) for name, recipe in recipes.items()}
    headers, rows = compare_rows(found, recipes)
    return (
        recipe_alphas(found.groups, alphas, dark=choice.dark),
        recipe_errors(found.groups, errors, dark=choice.dark),
        gr.update(value={"headers": headers, "data": rows}),
    )


def draw_chosen(
    session: Session, recipes: Mapping[str, Recipe], name: str | None
) -> tuple[Any, ...]:
    """What can be done with one recipe; built-in ones can only be downloaded."""
    file = None if name is None else recipe_file(name, recipes[name])
    own = gr.update(interactive=name in session.recipes)
    return (
        gr.update(value=file, interactive=file is not None),
        own,
        own,
        gr.update(
            value=name if name in session.recipes else "", interactive=name in session.recipes
        ),
    )


def draw_recipes(
    backend: Backend, session: Session, choice: Choice, compared: Any, chosen: Any
) -> tuple[Any, ...]:
    """One value per output. ``compared`` and ``chosen`` are kept where they still exist."""
    recipes = available(backend, session, choice)
    if not recipes:
        nothing = empty_figure(PAIR, 340, dark=choice.dark)
        none = gr.update(choices=[], value=[])
        return (
            [], none, nothing, nothing, gr.update(value={"headers": ["layer"], "data": []}),
            gr.update(choices=[], value=None), *draw_chosen(session, {}, None),
        )  # fmt: skip
    wanted = compared if isinstance(compared, list) else []
    names = [name for name in recipes if name in wanted][:MOST_COMPARED]
    if len(names) < 2:
        names = first_pair(recipes, choice.recipe)
    if not isinstance(chosen, str) or chosen not in recipes:
        chosen = choice.recipe if choice.recipe in recipes else names[0]
    found = known_errors(backend, session, choice)
    return (
        recipe_rows(found, recipes),
        gr.update(choices=list(recipes), value=names),
        *draw_comparison(found, choice, {name: recipes[name] for name in names}),
        gr.update(choices=list(recipes), value=chosen),
        *draw_chosen(session, recipes, chosen),
    )


def compare(backend: Backend, session: Session, choice: Choice, compared: Any) -> tuple[Any, ...]:
    """The visitor has chosen other recipes."""
    recipes = available(backend, session, choice)
    names = [] if compared == [] else some_of(compared, "compare", list(recipes), MOST_COMPARED)
    found = known_errors(backend, session, choice)
    return draw_comparison(found, choice, {name: recipes[name] for name in names})


def own_recipe(backend: Backend, session: Session, choice: Choice, name: Any) -> Recipe:
    """One of the visitor's own for this checkpoint."""
    own = [n for n in available(backend, session, choice) if n in session.recipes]
    if not own:
        raise refuse("recipe: expected one of your own, you have kept none yet")
    return session.recipes[one_of(name, "recipe", own)]


def renamed(backend: Backend, session: Session, choice: Choice, name: Any, new: Any) -> str:
    """Under its new name from now on; returns it."""
    recipe = own_recipe(backend, session, choice, name)
    label = read_name(new, list(session.recipes))
    # at the same place: the list keeps its order
    session.recipes = {label if n == name else n: r for n, r in session.recipes.items()}
    assert session.recipes[label] is recipe
    return label


def deleted(backend: Backend, session: Session, choice: Choice, name: Any) -> str:
    """Gone; returns the bar's recipe."""
    own_recipe(backend, session, choice, name)
    del session.recipes[str(name)]
    if choice.recipe != name:
        return choice.recipe
    return DITAS if DITAS in available(backend, session, choice) else PLAIN


def loaded(backend: Backend, session: Session, choice: Choice, text: Any, name: Any) -> str:
    """Keep what was pasted; returns its name.

    Raises:
        gr.Error: too long, another checkpoint's, or a name that cannot be.
        SpecError: not a recipe.
    """
    if not isinstance(text, str) or len(text) > LONGEST_JSON:
        raise refuse(f"recipe: expected up to {LONGEST_JSON // 1000} kB of JSON")
    if not available(backend, session, choice):
        raise refuse("checkpoint: expected one that is here, got one that is not measured yet")
    label = read_name(name, list(session.recipes))
    recipe = Recipe.from_json(text)
    checkpoint = backend.checkpoint(choice.model)
    if recipe.checkpoint != checkpoint.fingerprint:
        raise refuse(
            f"recipe: expected one for {checkpoint.name} ({checkpoint.fingerprint[:12]}), got one "
            f"for {recipe.checkpoint[:12]!r}; choose its checkpoint in the bar"
        )
    groups = [group.name for group in checkpoint.groups]
    if set(recipe.layers) != set(groups):
        raise refuse(f"recipe: expected the {len(groups)} layers of {checkpoint.name}, got others")
    if not 0 < len(recipe.name) <= LONGEST_METHOD or not recipe.name.isprintable():
        raise refuse(f"recipe: expected a method of up to {LONGEST_METHOD} printable characters")
    for group, layer in recipe.layers.items():
        if layer.low_rank.rank > MOST_RANK or layer.low_rank.iterations > MOST_ITERATIONS:
            raise refuse(
                f"recipe: {group}: expected a low-rank branch of rank up to {MOST_RANK} in up to "
                f"{MOST_ITERATIONS} iterations on this page, got {layer.low_rank.rank} in "
                f"{layer.low_rank.iterations}; use it on the command line"
            )
        check_parts(layer)
    layers = {group: recipe.layers[group] for group in groups}
    session.keep(label, replace(recipe, layers=layers, calibration_file=""))
    return label
