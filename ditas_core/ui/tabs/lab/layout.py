"""Alpha lab: one layer, one slider, and at once what it does to both sides and the output."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from ....calibration import Calibration
from ...page.bar import (
    BarInputs,
    Page,
    View,
    first_choice,
    recipe_names,
    setup_notice,
)
from ...page.glossary import lead
from ...page.moving import MOVE, packed
from ...page.picking import picker, read_pick
from ...page.tab import Tab
from ...page.widths import ACTIVATIONS, WEIGHTS, read_widths
from ...serving.errors import refuse, reported, status
from ...serving.inputs import Inputs
from ...serving.validate import flag, one_of, real
from ...visitors.backend import FIXED_ALPHA, Backend, Choice, Model
from ...visitors.measuring import measure
from ...visitors.running import PRIVATE, QUIET, Finished, Progress, answer, build_controls, wire_job
from ...visitors.session import Session
from .draw import (
    BARS,
    CURVE,
    SHAPES,
    Setting,
    draw,
    empty,
    find_curve,
    hold,
    known_curve,
    moves,
    named,
    used,
    verdict,
)

LEAD = (
    "Take one layer and turn [[α]]: its loud [[activation|activations]] get quieter as α grows, "
    "its [[weight|weights]] louder. [[rounding|Rounding]] gets easier on one side and harder on "
    "the other; the best α is where the layer's output suffers least."
)
GRANULARITY = {
    "integer": "integer: output channel × token",
    "integer-tensor": "integer-tensor: output channel × tensor",
    "integer-g128": "integer-g128: 128 inputs × token",
    "integer-g32": "integer-g32: 32 inputs × token",
    "paper": "paper: input channel × tensor",
    "released": "released: strided 32 × tensor",
}
MINE = "my recipe"
POLL_S = 1.5
NOT_MEASURED = (
    "The lab needs a calibration run of this checkpoint, about a minute on the small demo. "
    "If one is under way, the lab opens by itself; otherwise press “Measure”."
)


@dataclass
class Seen:
    """What a visitor's lab shows: the bar it followed, the frame of its figures, its slider."""

    bar: Any = None
    frame: Any = None
    slider: Any = None


@dataclass(frozen=True)
class LabInputs(Inputs):
    """One layer, how it is rounded, and the α in hand."""

    alpha: Any
    identity: Any
    layer: Any
    weight_bits: Any
    activation_bits: Any
    convention: Any
    branch: Any
    bar: BarInputs

    def read(self, backend: Backend) -> tuple[Choice, Setting, float | None]:
        """Check everything; the last is α, None without smoothing."""
        choice = self.bar.read(backend)
        known = backend.group_names(choice.model)
        if not known:
            raise refuse("layer: expected a measured checkpoint, got none; press “Measure”")
        convention = one_of(self.convention, "granularity", list(GRANULARITY))
        with reported():
            bits = read_widths(self.weight_bits, self.activation_bits, convention)
        setting = Setting(
            choice.model,
            one_of(self.layer, "layer", known),
            bits,
            convention,
            flag(self.branch, "low-rank branch"),
        )
        alpha = round(real(self.alpha, "alpha", 0, 1), 2)
        return choice, setting, None if flag(self.identity, "no smoothing") else alpha


def seen(session: Session) -> Seen:
    found: Seen = session.notes.setdefault("lab", Seen())
    return found


def first_layer(backend: Backend, model: Model) -> str | None:
    """The layer to begin with: the one that breaks first, else the loudest."""
    dial, atlas = backend.dials.get(model), backend.atlas(model)
    if dial is not None:
        return dial.layer
    if atlas is not None:
        return max(atlas.groups, key=lambda name: atlas.groups[name].strength)
    return next(iter(backend.group_names(model)), None)


def layer_choices(backend: Backend, model: Model) -> list[tuple[str, str]]:
    """With the strength of their outliers, where it is known."""
    atlas = backend.atlas(model)
    if atlas is None:
        return [(name, name) for name in backend.group_names(model)]
    return [(f"{name} · outliers ×{g.strength:.1f}", name) for name, g in atlas.groups.items()]


def build_lab(backend: Backend, page: Page) -> View | None:
    """Lay out the tab."""
    gr.HTML(lead(LEAD), padding=False)
    with gr.Column(visible=False) as gate:
        controls = build_controls("lab", "Measure", NOT_MEASURED, "warn")
    timer = gr.Timer(POLL_S, active=False)
    choice, names = first_choice(backend), layer_choices(backend, backend.default)
    first = choice.bits
    at_first = (first.weight, first.activation, choice.convention)
    with gr.Row():
        layer = gr.Dropdown(
            names, value=first_layer(backend, backend.default), label="Layer", elem_id="lab-layer",
            info="inputs and weights that share one α", scale=2, min_width=230,
        )  # fmt: skip
        convention = gr.Dropdown(
            [(text, name) for name, text in GRANULARITY.items()],
            value=choice.convention, label="Granularity", elem_id="lab-convention",
            info="weights × activations that share a rounding scale", scale=2, min_width=250,
        )  # fmt: skip
        weight_bits = gr.Dropdown(
            WEIGHTS, value=first.weight, label="Weights", info="bits or format",
            elem_id="lab-weight-bits", min_width=110,
        )  # fmt: skip
        activation_bits = gr.Dropdown(
            ACTIVATIONS, value=first.activation, label="Activations",
            info="16: left alone", elem_id="lab-activation-bits", min_width=110,
        )  # fmt: skip
        branch = gr.Checkbox(
            True, label="low-rank branch", info="repays weights' error",
            elem_id="lab-branch", min_width=140,
        )  # fmt: skip
    with gr.Column(elem_id="lab-hand", min_width=0):
        alpha = gr.Slider(
            0, 1, FIXED_ALPHA, step=0.01, label="α", elem_id="alpha", buttons=["reset"],
            info="0 leaves the outliers to the activations, 1 gives them to the weights",
        )  # fmt: skip
        said = gr.HTML(status(""), padding=False, elem_id="lab-verdict")
    with gr.Row(equal_height=True):
        identity = gr.Checkbox(
            False, label="no smoothing at all", elem_id="lab-identity", min_width=170
        )
        to_best = gr.Button("Go to the optimum", elem_id="lab-optimum", size="md", min_width=150)
        use = gr.Button("Use this α in my recipe", elem_id="lab-use", size="md", min_width=190)
    told = gr.HTML(padding=False, elem_id="lab-told")
    with gr.Row():
        with gr.Column(min_width=300, scale=4):
            bars = gr.Plot(show_label=False, elem_id=BARS)
            curve = gr.Plot(show_label=False, elem_id=CURVE, elem_classes="picks")
            picked = picker(CURVE)
        with gr.Column(min_width=300, scale=5):
            shapes = gr.Plot(show_label=False, elem_id=SHAPES)
    hidden: dict[str, Any] = {"visible": "hidden", "lines": 1}
    moved = gr.Textbox(label="figures", elem_id="lab-moved", **hidden)
    wanted = gr.Textbox(label="curve to search", elem_id="lab-wanted", **hidden)
    found = gr.Textbox(label="curve found", elem_id="lab-found", **hidden)

    switches = [layer, weight_bits, activation_bits, convention, branch]
    inputs = LabInputs(
        alpha, identity, layer, weight_bits, activation_bits, convention, branch, page.bar.inputs
    )
    page.fields |= {
        "alpha": alpha,
        "lab_layer": layer,
        "lab_identity": identity,
        "lab_weight_bits": weight_bits,
        "lab_activation_bits": activation_bits,
        "lab_granularity": convention,
        "lab_branch": branch,
    }
    page.actions |= {"alpha": [alpha.input], "lab_convention": [convention.input]}

    def measured(session: Session, model: Model) -> Calibration | None:
        return backend.measured(model, session.spec or backend.spec)

    def needed(session: Session, model: Model) -> Calibration:
        calibration = measured(session, model)
        if calibration is None:
            raise refuse("lab: expected a measured checkpoint, got none yet; press “Measure”")
        return calibration

    def show(
        session: Session, choice: Choice, setting: Setting, at: float | None, quick: bool
    ) -> tuple[dict[str, Any], str, str]:
        """Figures or moves, verdict, and the curve to ask for ("" where it is known)."""
        calibration = needed(session, setting.model)
        held, line = hold(backend, setting, calibration), known_curve(backend, setting, calibration)
        frame = (setting, choice.dark, at is None, line is None, calibration.sha256)
        same = quick and seen(session).frame == frame
        seen(session).frame = frame
        if same and at is not None:
            figures = moves(held, line, at, choice.dark)
        else:
            figures = draw(held, line, at, choice.dark)
        return figures, verdict(held, line, at), "" if line is not None else repr(setting)

    def on_hand(session: Session, asked: LabInputs) -> tuple[Any, ...]:
        """Something moved inside the tab; the slider takes over from "no smoothing"."""
        choice, setting, at = asked.read(backend)
        if measured(session, choice.model) is None:
            return gr.skip(), status(NOT_MEASURED, "warn"), "", ""
        smoothless = seen(session).frame is not None and seen(session).frame[2]
        slid = asked.identity is True and smoothless and seen(session).slider != asked.alpha
        at = round(float(asked.alpha), 2) if slid else at
        seen(session).slider = asked.alpha
        figures, said, want = show(session, choice, setting, at, quick=True)
        return gr.update(value=False) if slid else gr.skip(), said, packed(figures), want

    def refresh(session: Session, asked: LabInputs) -> tuple[Any, ...]:
        """The whole tab; what was switched in the bar since the last time is taken over."""
        choice = asked.bar.read(backend)
        bar = (choice.bits, choice.convention)
        followed = seen(session).bar
        mine = (asked.weight_bits, asked.activation_bits, asked.convention)
        if followed != bar and (followed or mine == at_first):  # else: from the page's address
            mine = (choice.bits.weight, choice.bits.activation, choice.convention)
        seen(session).bar = bar
        choices, group = layer_choices(backend, choice.model), asked.layer
        if group not in [key for _, key in choices]:
            group = first_layer(backend, choice.model)
        weight, activation, name = mine
        switched = (gr.update(choices=choices, value=group), *mine)
        if measured(session, choice.model) is None:
            figures = empty("Not measured yet", choice.dark)
            waiting = (gr.update(visible=True), gr.Timer(active=backend.queue.locked()))
            return (*switched, *fresh(figures), status("Not measured yet"), "", *waiting)
        asked = replace(
            asked, layer=group, weight_bits=weight, activation_bits=activation, convention=name
        )
        figures, said, want = show(session, *asked.read(backend), quick=False)
        seen(session).slider = asked.alpha
        done = (gr.update(visible=False), gr.Timer(active=False))
        return (*switched, *fresh(figures), said, want, *done)

    def on_tick(session: Session, asked: LabInputs) -> tuple[Any, ...]:
        """Once the run that somebody else started is over."""
        if measured(session, asked.bar.read(backend).model) is None:
            return *(gr.skip() for _ in outputs[:-1]), gr.Timer(active=backend.queue.locked())
        return refresh(session, asked)

    def work(session: Session, asked: LabInputs) -> Iterator[Progress | Finished]:
        choice = asked.bar.read(backend)
        for event in measure(backend, choice.model, session.spec or backend.spec):
            if isinstance(event, Progress):
                yield event
        yield Finished(f"{choice.model.title} is measured.", refresh(session, asked))

    def search(session: Session, want: str, asked: LabInputs) -> Any:
        """The curve that is not known yet."""
        _, setting, _ = asked.read(backend)
        if not want:
            return gr.skip()
        find_curve(backend, setting, needed(session, setting.model))
        return f"{setting!r} {time.monotonic_ns()}"

    def jump(session: Session, asked: LabInputs, at: float | None) -> tuple[Any, ...]:
        """Set the slider, or the box, from elsewhere."""
        number = asked.alpha if at is None else round(at, 2)
        _, *shown = on_hand(session, replace(asked, alpha=number, identity=at is None))
        return number, at is None, *shown

    def on_best(session: Session, asked: LabInputs) -> tuple[Any, ...]:
        _, setting, _ = asked.read(backend)
        found = find_curve(backend, setting, needed(session, setting.model))
        return jump(session, asked, found.alpha)

    def on_pick(session: Session, text: Any, asked: LabInputs) -> tuple[Any, ...]:
        x = read_pick(text).x
        return jump(session, asked, min(1.0, max(0.0, x)) if isinstance(x, float | int) else None)

    def on_use(session: Session, asked: LabInputs) -> tuple[Any, ...]:
        choice, setting, at = asked.read(backend)
        calibration = needed(session, choice.model)
        name, recipe = backend.recipe(session, choice)
        if recipe is None:
            raise refuse(
                f"recipe: expected one that exists, got {name}; search it first or choose "
                "another one in the bar"
            )
        if recipe.convention != setting.convention:
            raise refuse(
                f"granularity: expected the recipe's {recipe.convention}, got "
                f"{setting.convention}; a recipe has one for all its layers"
            )
        session.keep(MINE, used(backend, recipe, setting, at, calibration))
        chosen = replace(choice, recipe=MINE)
        rank = setting.spec.branch(backend.checkpoint(choice.model).width).rank
        text = (
            f"“{MINE}” is {name} with {setting.group} at {setting.bits}, {named(at)}, "
            f"{f'branch of rank {rank}' if rank else 'no branch'}. The whole page uses it now."
        )
        return (
            status(text, "done"),
            gr.update(choices=recipe_names(backend, session, chosen), value=MINE),
            setup_notice(backend, session, chosen),
        )

    drawn = [said, moved, wanted]
    jumped = [alpha, identity, *drawn]
    outputs = [*switches[:-1], bars, curve, shapes, said, wanted, gate, timer]
    gr.on(  # one listener: its answers arrive in the order of the moves
        [alpha.input, identity.input, found.change, *(switch.input for switch in switches)],
        *answer(backend, on_hand, [inputs]), [identity, *drawn], api_name="alpha", **QUIET,
    )  # fmt: skip
    moved.change(None, moved, None, js=MOVE, api_visibility="private")
    wanted.change(*answer(backend, search, [wanted, inputs]), found, **PRIVATE)
    to_best.click(*answer(backend, on_best, [inputs]), jumped, **PRIVATE)
    picked.input(*answer(backend, on_pick, [picked, inputs]), jumped, **PRIVATE)
    kept = [told, page.bar.inputs.recipe, page.bar.notice]
    use.click(*answer(backend, on_use, [inputs]), kept, api_name="use_alpha", **QUIET)
    timer.tick(*answer(backend, on_tick, [inputs]), outputs, **PRIVATE)
    wire_job(backend, controls, work, [inputs], outputs, api_name="lab_measure")
    return View(refresh, [inputs], outputs)


def fresh(figures: dict[str, Any]) -> list[Any]:
    """Values for gr.Plot that differ from any before: moves since then changed what is on view."""
    for figure in figures.values():
        figure.update_layout(meta=time.monotonic_ns())
    return [figures[name] for name in (BARS, CURVE, SHAPES)]


TAB = Tab("lab", "Alpha lab", build_lab)
