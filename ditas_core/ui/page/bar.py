"""The bar above the tabs: checkpoint, bits, convention, recipe; what all tabs are about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from ...specs import BIT_PRESETS, CONVENTIONS, BitWidths, get_convention
from ..serving.errors import refuse, reported, status
from ..serving.inputs import Inputs
from ..serving.validate import flag, is_plain, one_of, real
from ..stored.results import BUILT_IN, DITAS
from ..visitors.backend import Backend, Choice, Model
from ..visitors.engine import speed_line
from ..visitors.running import QUIET, answer
from ..visitors.session import Session
from .fetching import LoadRow, build_load_row, wire_load_row
from .widths import ACTIVATIONS, WEIGHTS, read_widths

PRODUCTS = {"simulated": "simulated", "integer": "in integers"}
CUSTOM = "custom"
MAX_STRENGTH = 200
FIRST_STRENGTH = 60
UNMEASURED_BITS, UNMEASURED_CONVENTION = BIT_PRESETS[1], next(iter(CONVENTIONS))
"""What the page opens on where no results are shipped that could tell what to look at."""


@dataclass(frozen=True)
class BarInputs(Inputs):
    """What all tabs are about. ``inject`` and ``strength`` stand in the Injector tab."""

    checkpoint: Any
    preset: Any
    weight_bits: Any
    activation_bits: Any
    convention: Any
    recipe: Any
    inject: Any
    strength: Any
    dark: Any
    backend: Any

    def read(self, backend: Backend) -> Choice:
        """Check the values."""
        key = one_of(self.checkpoint, "checkpoint", list(backend.entries))
        one_of(self.preset, "bits", [*BIT_PRESETS, CUSTOM])
        one_of(self.convention, "convention", list(CONVENTIONS))
        if not is_plain(self.recipe) or not 0 < len(self.recipe) <= 80:
            raise refuse("recipe: expected the name of a recipe")
        if self.preset == CUSTOM:
            with reported():
                bits = read_widths(self.weight_bits, self.activation_bits, self.convention)
        else:
            bits = BitWidths.parse(self.preset)
        model = backend.model_of(key)
        if flag(self.inject, "injected outliers"):
            # to the slider's steps: each strength is a copy of the whole model
            model = Model(model.key, float(round(self.read_strength())))
        dark = flag(self.dark, "dark")
        one_of(self.backend, "products", list(PRODUCTS))
        return Choice(model, bits, self.convention, self.recipe, dark, self.backend)

    def read_strength(self) -> float:
        """The slider's value, whether or not the injected model is used everywhere."""
        return real(self.strength, "strength", 1, MAX_STRENGTH)


@dataclass(frozen=True)
class SetupBar:
    """The bar's components."""

    inputs: BarInputs
    fold: gr.Accordion
    notice: gr.HTML
    load_row: LoadRow

    @property
    def changes(self) -> list[Any]:
        """The events after which the open tab is drawn anew."""
        bar = self.inputs
        chosen = (
            bar.checkpoint,
            bar.preset,
            bar.weight_bits,
            bar.activation_bits,
            bar.convention,
            bar.recipe,
            bar.inject,
            bar.backend,
        )
        return [
            *(each.input for each in chosen),
            bar.strength.release,
            bar.dark.change,
            self.load_row.loaded.change,
        ]


@dataclass
class Page:
    """What the tabs share while they are laid out.

    tabs    the tab bar, for going elsewhere: ``gr.Tabs(selected="compare")``
    fields  components whose values stand in the page's address, by parameter
    actions what the tour waits for: name -> listeners' events that do it
    link    shows the page's address
    later   what a tab wires once all are laid out
    """

    bar: SetupBar
    tabs: gr.Tabs
    fields: dict[str, Any] = field(default_factory=dict)
    actions: dict[str, list[Any]] = field(default_factory=dict)
    link: gr.Textbox | None = None
    later: list[Callable[[], None]] = field(default_factory=list)


@dataclass(frozen=True)
class View:
    """How to draw a tab anew: ``refresh(session, *inputs)`` -> one value per output.

    Called when the tab is opened and, while it is open, when the bar changes.
    """

    refresh: Callable[..., tuple[Any, ...]]
    inputs: list[Any]
    outputs: list[Any]


def first_choice(backend: Backend) -> Choice:
    """What the page opens on: bits and convention at which the shipped results show most."""
    bits, convention = UNMEASURED_BITS, UNMEASURED_CONVENTION
    if backend.shipped is not None:
        bits, convention = backend.shipped.telling, backend.shipped.convention
    return Choice(Model(backend.default.key), BitWidths.parse(bits), convention)


def recipe_names(backend: Backend, session: Session, choice: Choice) -> list[str]:
    """The four built-in ones, then the visitor's own for this checkpoint."""
    if not backend.entries[choice.model.key].local and not backend.is_measured(choice.model):
        return list(BUILT_IN)
    found = backend.recipe_names(session, choice)
    return [*BUILT_IN, *(name for name in found if name not in BUILT_IN)]


def setup_notice(backend: Backend, session: Session, choice: Choice) -> str:
    """What is looked at, in one line."""
    entry = backend.entries[choice.model.key]
    notice = backend.notice if choice.model == backend.default else ""
    measured = backend.is_measured(choice.model)
    if not backend.is_loaded(choice.model) and not measured:
        text = f"{entry.label}: not loaded yet. Press “Load”."
        if not entry.allowed:
            text = f"{entry.label}: not offered by this page."
        return status(notice or text, "warn")
    if not measured:
        text = f"{entry.key}: not measured yet. Open Outliers and press “Measure”."
        return status(notice or text, "warn")
    name = choice.recipe
    if name not in backend.recipe_names(session, choice):
        text = f"{choice.title}: no {name[:60]} recipe yet. Open Search and start one."
        return status(text, "warn")
    if choice.model.injected:
        text = (
            f"injected outliers (function-preserving): 3 channels of every attention and "
            f"first feed-forward input are ×{choice.model.strength:g}, the next layer's columns "
            "÷ the same; the full-precision image does not change"
        )
        return status(text, "warn")
    text = f"{choice.title} · recipe: {name} · {speed_line(backend, choice)}"
    return status(text + why_simulated(choice), "done")


def why_simulated(choice: Choice) -> str:
    """Where integers were asked for and convention or bits cannot."""
    cannot = get_convention(choice.convention).why_simulated([choice.bits])
    return f"; no integers: {cannot}" if cannot and choice.backend != choice.runs_as else ""


def fold_label(choice: Choice) -> str:
    """What the folded bar says of itself."""
    return f"Settings: {choice.title} · {choice.recipe}"


def build_setup(backend: Backend) -> SetupBar:
    """Lay out the bar, folded away where there is something to see without it, and wire its own
    reactions."""
    label = fold_label(first_choice(backend))
    with gr.Accordion(label, open=backend.shipped is None, elem_id="settings") as fold:
        return build_bar(backend, fold)


def build_bar(backend: Backend, fold: gr.Accordion) -> SetupBar:
    """What is inside."""
    choices = [(entry.label, entry.key) for entry in backend.entries.values()]
    first = first_choice(backend)
    with gr.Group(elem_id="bar"), gr.Row(equal_height=False):
        checkpoint = gr.Dropdown(
            choices,
            value=backend.default.key,
            label="Checkpoint",
            info="the model to take apart",
            elem_id="checkpoint",
            min_width=190,
        )
        preset = gr.Radio(
            [*BIT_PRESETS, CUSTOM],
            value=str(first.bits),
            label="Bits",
            info="W weights, A activations",
            elem_id="bits",
            scale=4,
            min_width=320,
        )
        convention = gr.Dropdown(
            list(CONVENTIONS),
            value=first.convention,
            label="Convention",
            info="what shares a rounding scale",
            elem_id="convention",
            min_width=130,
        )
        recipe = gr.Dropdown(
            list(BUILT_IN),
            value=DITAS,
            label="Recipe",
            info="what “after” means on this page",
            elem_id="recipe",
            min_width=130,
        )
        products = gr.Dropdown(
            [(text, name) for name, text in PRODUCTS.items()],
            value="simulated",
            label="Products",
            info="how layers multiply",
            elem_id="backend",
            min_width=120,
        )
    with gr.Row(visible=False) as custom_row:
        weight_bits = gr.Dropdown(
            WEIGHTS, value=first.bits.weight, label="Weights", elem_id="weight-bits",
            info="bits, or a number format",
        )  # fmt: skip
        activation_bits = gr.Dropdown(
            ACTIVATIONS, value=first.bits.activation, label="Activations",
            info="bits, 16 leaves them alone, or a number format", elem_id="activation-bits",
        )  # fmt: skip
    inject = gr.Checkbox(
        False,
        label="use the injected model in every tab",
        elem_id="inject",
        render=False,
    )
    strength = gr.Slider(
        1, MAX_STRENGTH, FIRST_STRENGTH, step=1, label="Strength, times", elem_id="strength",
        render=False,
    )  # fmt: skip
    dark = gr.Checkbox(False, label="dark", visible="hidden", elem_id="dark")
    notice = gr.HTML(setup_notice(backend, Session(""), first), padding=False, elem_id="notice")
    inputs = BarInputs(
        checkpoint,
        preset,
        weight_bits,
        activation_bits,
        convention,
        recipe,
        inject,
        strength,
        dark,
        products,
    )
    bar = SetupBar(inputs, fold, notice, build_load_row(backend, first))

    def on_preset(value: str) -> Any:
        return gr.update(visible=value == CUSTOM)

    def describe(session: Session, asked: BarInputs) -> tuple[Any, str, Any]:
        choice = asked.read(backend)
        return (
            gr.update(choices=recipe_names(backend, session, choice)),
            setup_notice(backend, session, choice),
            gr.update(label=fold_label(choice)),
        )

    preset.change(on_preset, preset, custom_row, show_progress="hidden", api_visibility="private")
    gr.on(
        bar.changes,
        *answer(backend, describe, [inputs], once=True),
        [recipe, notice, fold],
        api_name="describe",
        **QUIET,
    )
    wire_load_row(backend, bar.load_row, inputs, [recipe, notice, fold], describe)
    return bar
