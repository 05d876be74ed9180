"""Inside Search: change one layer of a recipe by hand and see what it predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from ....figures import empty_figure, recipe_errors
from ....specs import Recipe
from ...page.glossary import lead
from ...page.widths import ACTIVATIONS, LAYER_WEIGHTS, read_widths
from ...serving.errors import refuse, reported, status
from ...serving.inputs import Inputs
from ...serving.validate import flag, one_of, real
from ...visitors.backend import Backend, Choice
from ...visitors.running import Controls, Finished, Progress, build_controls
from ...visitors.session import Session
from .draw import edit_html, layer_text, read_name, tiles
from .predicting import Predictions, predict_recipes, predictions

HEIGHT = 460
UNMEASURED = "Not measured yet: press “Predict all”, or “Start” above."


def available(backend: Backend, session: Session, choice: Choice) -> dict[str, Recipe]:
    """All recipes that can be used at once; none of a checkpoint that is not here yet."""
    if not backend.entries[choice.model.key].local and backend.atlas(choice.model) is None:
        return {}
    return backend.recipes(session, choice)


def worst_layer(found: Predictions, recipe: Recipe) -> str:
    """The layer with the largest error that is known; the first where none is."""
    errors = [-1.0 if error is None else error for error in found.errors(recipe)]
    return found.groups[errors.index(max(errors))]


def known_errors(backend: Backend, session: Session, choice: Choice) -> Predictions:
    return predictions(backend, choice.model, session.spec or backend.spec)


@dataclass(frozen=True)
class EditInputs(Inputs):
    """The layer in hand and its settings."""

    layer: Any
    alpha: Any
    identity: Any
    weight: Any
    activation: Any

    def read(
        self, backend: Backend, session: Session, choice: Choice
    ) -> tuple[Recipe, Recipe, str]:
        """The bar's recipe, the same with the change, and the layer."""
        base = available(backend, session, choice).get(choice.recipe)
        if base is None:
            raise refuse(
                f"recipe: expected one that is there already, got {choice.recipe}; "
                "press “Start”, or choose another in the bar"
            )
        group = one_of(self.layer, "layer", list(base.layers))
        with reported():
            bits = read_widths(self.weight, self.activation, base.convention, LAYER_WEIGHTS)
        own = base.layers[group].bits
        if bits.weight == own.weight:  # the page offers no group sizes and keeps those there are
            bits = replace(bits, group_size=own.group_size)
        strength = round(real(self.alpha, "α", 0, 1), 4)
        changed = replace(
            base.layers[group],
            bits=bits,
            alpha=None if flag(self.identity, "no smoothing") else strength,
        )
        return base, base.with_layer(group, changed), group


@dataclass(frozen=True)
class Editor:
    """The layer in hand, its settings, and what they predict."""

    edit: EditInputs
    name: gr.Textbox
    keep: gr.Button
    predict: Controls
    outcome: gr.HTML
    plot: gr.Plot

    @property
    def outputs(self) -> list[Any]:
        """What ``draw_layer`` gives, in its order."""
        return [*self.edit.parts, self.name, self.keep, self.predict.line, *self.shows]

    @property
    def shows(self) -> list[Any]:
        return [self.outcome, self.plot]

    @property
    def changes(self) -> list[Any]:
        """The visitor changes the layer; alpha is listened to on its own."""
        return [self.edit.identity.input, self.edit.weight.input, self.edit.activation.input]


def build_editor(backend: Backend) -> Editor:
    """Lay it out."""
    gr.HTML("<h3>Change one layer by hand</h3>", padding=False)
    gr.HTML(
        lead(
            "Start from the bar's [[recipe]]; choose a layer here, in the table or on the map, "
            "then another [[α]] or other bits. The predicted error is the share of the layer's "
            "output that [[rounding]] takes, on tokens kept from the [[calibration]] run."
        ),
        padding=False,
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            names = backend.group_names(backend.default)
            layer = gr.Dropdown(names, label="Layer", elem_id="edit-layer")
            alpha = gr.Slider(
                0, 1, 0.5, step=0.01, label="α of this layer", elem_id="edit-alpha",
                info="0 leaves the burden with the activations, 1 moves it to the weights",
            )  # fmt: skip
            identity = gr.Checkbox(False, label="no smoothing (identity)", elem_id="edit-identity")
            with gr.Row():
                weight = gr.Dropdown(
                    LAYER_WEIGHTS, value=4, label="Weights", elem_id="edit-weight",
                    info="bits or format", min_width=120,
                )  # fmt: skip
                activation = gr.Dropdown(
                    ACTIVATIONS, value=8, label="Activations", elem_id="edit-activation",
                    info="bits or format", min_width=120,
                )  # fmt: skip
            name = gr.Textbox(
                label="Keep it as", max_length=40, elem_id="edit-name",
                info="a copy of the bar's recipe with this change",
            )  # fmt: skip
            keep = gr.Button("Keep this change", elem_id="edit-keep")
            predict = build_controls("predict", "Predict all", UNMEASURED)
        with gr.Column(scale=5, min_width=320):
            outcome = gr.HTML(tiles([]), padding=False, elem_id="edit-outcome")
            plot = gr.Plot(label="Predicted error by layer", show_label=False, elem_id="edit-plot")
    edit = EditInputs(layer, alpha, identity, weight, activation)
    return Editor(edit, name, keep, predict, outcome, plot)


def draw_edit(
    backend: Backend, session: Session, choice: Choice, base: Recipe, changed: Recipe, group: str
) -> tuple[Any, Any]:
    """What the change predicts, and every layer's error."""
    found = known_errors(backend, session, choice)
    for recipe in (changed, base):
        found.find(recipe.convention, group, recipe.layers[group])
    title = next(each.title for each in found.checkpoint.groups if each.name == group)
    errors = {choice.recipe: found.errors(base)}
    if changed.layers[group] != base.layers[group]:
        own = found.errors(changed)
        text = f"your change: {layer_text(changed.layers[group])}"
        errors[text] = [e if n == group else None for n, e in zip(found.groups, own, strict=True)]
    return (
        edit_html(found, choice.recipe, base, changed, group, title),
        recipe_errors(found.groups, errors, group, height=HEIGHT, dark=choice.dark),
    )


def draw_layer(
    backend: Backend, session: Session, choice: Choice, group: Any, alpha: float | None = None
) -> tuple[Any, ...]:
    """One value per output of the editor: a layer of the bar's recipe, or at another ``alpha``."""
    base = available(backend, session, choice).get(choice.recipe)
    off = gr.update(interactive=False)
    if base is None:
        text = "no such recipe yet: press “Start”, or choose another in the bar"
        return (
            gr.update(choices=backend.group_names(choice.model), value=None),
            *(gr.skip(),) * 4,
            gr.skip(),
            off,
            gr.skip(),
            tiles([("–", f"{choice.recipe}: {text}")]),
            empty_figure("Nothing to predict yet", HEIGHT, dark=choice.dark),
        )
    found = known_errors(backend, session, choice)
    names = found.groups
    group = group if isinstance(group, str) and group in names else worst_layer(found, base)
    layer = base.layers[group]
    changed = base
    if alpha is not None:
        changed = base.with_layer(group, replace(layer, alpha=alpha))
    strength = changed.layers[group].alpha
    own = choice.recipe in session.recipes
    return (
        gr.update(choices=names, value=group),
        0.5 if strength is None else strength,
        strength is None,
        layer.bits.weight,
        layer.bits.activation,
        choice.recipe[:40] if own else f"my {choice.recipe}, by hand",
        gr.update(interactive=True),
        measured_line(found),
        *draw_edit(backend, session, choice, base, changed, group),
    )


def measured_line(found: Predictions) -> str:
    if found.calibration is None:
        return status(UNMEASURED)
    return status(f"Measured on {found.source}: errors are predicted at once.", "done")


def kept_change(
    backend: Backend, session: Session, choice: Choice, edit: EditInputs, name: Any
) -> str:
    """Save the bar's recipe with the change; returns its name."""
    label = read_name(name)
    _, changed, _ = edit.read(backend, session, choice)
    calibration = backend.measured(choice.model, session.spec or backend.spec)
    if changed.needs_calibration and calibration is not None:
        # the smoothing factors come from the run that the errors were predicted on
        changed = replace(changed, calibration=calibration.sha256)
    if changed.needs_calibration and not changed.calibration:
        raise refuse(
            "calibration: expected a measured run for this α, got none; press “Predict all”"
        )
    session.keep(label, changed)
    return label


def predicting(
    backend: Backend, session: Session, choice: Choice, draw: Callable[[], tuple[Any, ...]]
) -> Iterator[Progress | Finished]:
    """The Predict job; ``draw`` gives the outputs once all is known."""
    recipes = available(backend, session, choice)
    spec = session.spec or backend.spec
    with closing(predict_recipes(backend, choice.model, spec, recipes)) as events:  # type: ignore[type-var]
        for event in events:
            yield Progress(event.text, event.fraction, event.part)
    count = len(available(backend, session, choice))
    yield Finished(
        f"Predicted: {count} recipes on {spec.samples} images × {spec.sampling.steps} steps.",
        draw(),
    )
