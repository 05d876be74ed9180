"""The bar above the tabs: checkpoint, bits, convention, injected outliers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..specs import BIT_PRESETS, CONVENTIONS, BitWidths
from .bench import Bench, Model
from .messages import reported, status
from .validate import flag, one_of, real, whole

CUSTOM = "custom"
MAX_STRENGTH = 200


@dataclass(frozen=True)
class Choice:
    """The checked values of the bar."""

    model: Model
    bits: BitWidths
    convention: str

    @property
    def title(self) -> str:
        return f"{self.model.title} · {self.bits} · {self.convention}"


@dataclass(frozen=True)
class SetupBar:
    """The bar's components."""

    checkpoint: gr.Dropdown
    preset: gr.Radio
    weight_bits: gr.Slider
    activation_bits: gr.Slider
    convention: gr.Dropdown
    inject: gr.Checkbox
    strength: gr.Slider
    notice: gr.HTML

    @property
    def inputs(self) -> list[Any]:
        return [
            self.checkpoint,
            self.preset,
            self.weight_bits,
            self.activation_bits,
            self.convention,
            self.inject,
            self.strength,
        ]

    @property
    def changes(self) -> list[Any]:
        """The events after which the tabs are drawn anew."""
        return [
            self.checkpoint.input,
            self.preset.input,
            self.weight_bits.release,
            self.activation_bits.release,
            self.convention.input,
            self.inject.input,
            self.strength.release,
        ]


def read_choice(bench: Bench, values: tuple[Any, ...]) -> Choice:
    """Check the bar's seven values."""
    key, preset, weight, activation, convention, inject, strength = values
    one_of(key, "checkpoint", list(bench.entries))
    one_of(preset, "bits", [*BIT_PRESETS, CUSTOM])
    one_of(convention, "convention", list(CONVENTIONS))
    if preset == CUSTOM:
        bits = BitWidths(
            whole(weight, "weight bits", 2, 8), whole(activation, "activation bits", 4, 16)
        )
    else:
        bits = BitWidths.parse(preset)
    factor = 1.0
    if flag(inject, "injected outliers"):
        factor = real(strength, "strength", 1, MAX_STRENGTH)
    return Choice(Model(key, factor), bits, convention)


def setup_notice(bench: Bench, choice: Choice) -> str:
    """What is looked at, in one line."""
    if choice.model.injected:
        text = (
            f"injected outliers (function-preserving): 3 channels of every attention and "
            f"first feed-forward input are ×{choice.model.strength:g}, the next layer's columns "
            "÷ the same; the full-precision image does not change"
        )
        return status(text, "warn")
    shipped = bench.shipped_recipe(choice.model, choice.bits, choice.convention)
    if shipped is not None:
        return status(
            f"{choice.title}: shipped results are shown below; every tab can compute anew.", "done"
        )
    if bench.atlas(choice.model) is None:
        entry = bench.entries[choice.model.key]
        return status(
            bench.notice
            if bench.notice and choice.model == bench.default
            else f"{entry.label}: not measured yet. Press “Measure” in the Outliers tab.",
            "warn",
        )
    return status(f"{choice.title}: no shipped results at these settings. Start a search.", "warn")


def build_setup(bench: Bench) -> SetupBar:
    """Lay out the bar and wire its own reactions."""
    choices = [(entry.label, entry.key) for entry in bench.entries.values()]
    with gr.Group(), gr.Row(equal_height=False):
        checkpoint = gr.Dropdown(
            choices,
            value=bench.default.key,
            label="Checkpoint",
            info="the diffusion transformer to take apart",
            elem_id="checkpoint",
            min_width=220,
        )
        preset = gr.Radio(
            [*BIT_PRESETS, CUSTOM],
            value="W4A8",
            label="Bits",
            info="W weights, A activations",
            elem_id="bits",
            scale=2,
            min_width=320,
        )
        convention = gr.Dropdown(
            list(CONVENTIONS),
            value="integer",
            label="Convention",
            info="what shares a rounding scale",
            elem_id="convention",
            min_width=160,
        )
    with gr.Row(visible=False) as custom_row:
        weight_bits = gr.Slider(2, 8, 4, step=1, label="Weight bits")
        activation_bits = gr.Slider(
            4, 16, 8, step=1, label="Activation bits", info="16 leaves activations alone"
        )
    with gr.Accordion("Teaching aid: injected outliers", open=False):
        gr.Markdown(
            "Makes three channels louder where they are produced and the weights that read them "
            "quieter by the same factor. The picture stays what it was; rounding it gets hard. "
            "Large diffusion transformers grow such channels by themselves."
        )
        with gr.Row():
            inject = gr.Checkbox(
                False, label="injected outliers (function-preserving)", elem_id="inject"
            )
            strength = gr.Slider(
                1, MAX_STRENGTH, 60, step=1, label="Strength, times", elem_id="strength", scale=2
            )
    first = read_choice(bench, (bench.default.key, "W4A8", 4, 8, "integer", False, 60))
    notice = gr.HTML(setup_notice(bench, first), padding=False, elem_id="notice")
    bar = SetupBar(
        checkpoint, preset, weight_bits, activation_bits, convention, inject, strength, notice
    )

    def on_preset(value: str) -> Any:
        return gr.update(visible=value == CUSTOM)

    def on_change(*values: Any) -> str:
        with reported():
            return setup_notice(bench, read_choice(bench, values))

    preset.input(on_preset, preset, custom_row, show_progress="hidden", api_visibility="private")
    gr.on(
        bar.changes,
        on_change,
        bar.inputs,
        notice,
        api_name="describe",
        show_progress="hidden",
        trigger_mode="always_last",
    )
    return bar
