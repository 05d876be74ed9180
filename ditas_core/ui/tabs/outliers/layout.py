"""The outlier atlas: every layer and step, then one layer, then one channel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from ....calibration import Calibration
from ....evaluation import Half, Measure, OutlierAtlas
from ....figures import empty_figure
from ....models import FAMILIES
from ...page.bar import BarInputs, Page, View, first_choice
from ...page.glossary import lead
from ...page.moving import MOVE, packed
from ...page.picking import picker, read_pick
from ...page.tab import Tab
from ...serving.errors import refuse, reported, status
from ...serving.inputs import Inputs, components, filled
from ...serving.validate import flag, one_of, real
from ...visitors.backend import Backend
from ...visitors.measuring import measure as measure_model
from ...visitors.running import PRIVATE, QUIET, Finished, Progress, answer, build_controls, wire_job
from ...visitors.session import Session
from . import draw as show

LEAD = (
    "<b>A few [[channel|channels]] shout.</b> Each cell is one layer at one [[denoising step]]: "
    "its [[outlier strength]]. [[rounding|Rounding]] has to span the loudest channel, so the "
    "others are left with few levels; [[smoothing]] divides the loud ones and multiplies the "
    "[[weight|weights]] that read them. <b>Click a cell or select a row</b> to open the layer. "
    f"It is named by its block and part: {'; '.join(family.said for family in FAMILIES)}."
)
LAYER = (
    "<b>One layer.</b> What flows into it before and after smoothing, and what smoothing does "
    "to the weights behind it. One factor serves all steps ([[temporal aggregation]])."
)
CHANNEL = (
    "<b>One channel.</b> Choose it here, type its number, or click it in the layer's figure: its "
    "values, the levels that rounding leaves them, and its range over the run."
)
IDLE = "“Measure” runs the model once in full precision and records what flows into each layer."


@dataclass(frozen=True)
class Scene:
    """What is to be drawn."""

    atlas: OutlierAtlas
    alphas: dict[str, float | None]
    look: show.Look
    change: bool
    channel: int
    calibration: Calibration | None


@dataclass(frozen=True)
class AtlasInputs(Inputs):
    """What of the atlas is looked at, and how."""

    measure: Any
    half: Any
    panels: Any
    layer: Any
    timestep: Any
    view: Any
    ordered: Any
    follow: Any
    by_hand: Any
    channel: Any
    bar: BarInputs

    def read(self, backend: Backend, session: Session, keep: bool) -> Scene | None:
        """Check everything; None where nothing has been measured yet.

        Not ``keep``: a layer, timestep or channel that this checkpoint lacks is replaced
        by its loudest one instead of refused.
        """
        choice = self.bar.read(backend)
        measure = show.MEASURES[one_of(self.measure, "measure", list(show.MEASURES))]
        half = Half(one_of(self.half, "guidance half", show.HALVES))
        one_of(self.view, "view", show.VIEWS)
        atlas = backend.atlas(choice.model)
        if atlas is None:
            return None
        change = one_of(self.panels, "overview", show.PANELS) == show.PANELS[1]
        alphas, source = backend.alphas(session, choice)
        ranking = atlas.ranking(alphas, measure, half)
        layer, timestep = self.layer, self.timestep
        if not keep and str(layer) not in atlas.groups:
            layer = show.calmed(ranking).layer
        layer = one_of(layer, "layer", list(atlas.groups))
        steps = [show.WHOLE_RUN, *map(str, atlas.timesteps)]
        if not keep and str(timestep) not in steps:
            timestep = show.WHOLE_RUN
        timestep = one_of(timestep, "timestep", steps)
        alpha = alphas.get(layer)
        if not flag(self.follow, "the recipe's α"):
            alpha, source = real(self.by_hand, "α by hand", 0, 1), "by hand"
        look = show.Look(
            layer, alpha, source, measure, half,
            None if timestep == show.WHOLE_RUN else int(timestep),
            self.view, flag(self.ordered, "loudest first"), choice,
        )  # fmt: skip
        count = len(atlas.groups[layer].act_absmax)
        number = read_channel(self.channel, count)
        if number is None:
            if keep:
                raise refuse(f"channel: expected a number from 0 to {count - 1}")
            number = next(rank.channel for rank in ranking if rank.layer == layer)
        calibration = backend.measured(choice.model, session.spec or backend.spec)
        return Scene(atlas, alphas, look, change, number, calibration)


def read_channel(value: object, count: int) -> int | None:
    """A channel's number as the dropdown or a person writes it; None = none of the layer's."""
    digits = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 6
    number = int(str(value)) if digits else -1
    return number if 0 <= number < count else None


def placed(figures: tuple[Any, ...]) -> tuple[Any, ...]:
    """One figure in the one frame, or two in the pair; the others are hidden."""
    shown, hidden = gr.update(visible=True), gr.update(visible=False)
    if len(figures) == 2:
        return hidden, shown, *figures
    return gr.update(value=figures[0], visible=True), hidden, gr.skip(), gr.skip()


def build_outliers(backend: Backend, page: Page) -> View:
    """Lay out the tab; figures come when it is opened."""
    first = backend.atlas(first_choice(backend).model)
    names = backend.group_names(backend.default)
    gr.HTML(lead(LEAD), padding=False)
    with gr.Row(equal_height=False):
        with gr.Column(scale=8, min_width=320), gr.Group(), gr.Row():
            measure = gr.Radio(
                list(show.MEASURES), value=next(iter(show.MEASURES)), label="Outlier strength",
                elem_id="atlas-measure", min_width=240,
            )  # fmt: skip
            half = gr.Radio(
                show.HALVES, value=show.HALVES[0], label="Guidance half",
                elem_id="atlas-half", min_width=240,
            )  # fmt: skip
            panels = gr.Radio(
                show.PANELS, value=show.PANELS[0], label="Overview",
                elem_id="atlas-panels", min_width=240,
            )  # fmt: skip
        with gr.Column(scale=3, min_width=280):
            controls = build_controls("measure", "Measure", IDLE)
    overview = gr.Plot(label="Layers × timesteps", show_label=False, elem_id="atlas-overview",
                       elem_classes="picks")  # fmt: skip
    overview_pick = picker("atlas-overview")
    frame = gr.Textbox(visible="hidden", elem_id="atlas-frame", label="frame of the overview")
    overview_line = gr.HTML(padding=False, elem_id="atlas-line")
    gr.HTML(lead(LAYER), padding=False)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            table = gr.Dataframe(
                headers=show.headers(Measure.RATIO),
                datatype=["str", "number", "number", "number", "number", "str"],
                interactive=False,
                label="Layers, strongest first",
                show_search="search",
                max_height=340,
                elem_id="ranking",
                buttons=[],
                column_widths=["80px", "92px", "84px", "88px", "60px", "66px"],
            )
            breaking = None if backend.dial is None else backend.dial.layer
            layer = gr.Dropdown(names, value=breaking, label="Layer",
                                elem_id="atlas-layer-name")  # fmt: skip
            follow = gr.Checkbox(True, label="use the recipe's α", elem_id="atlas-follow")
            by_hand = gr.Slider(
                0, 1, 0.5, step=0.05, label="α by hand, for this layer",
                info="0 spares the weights, 1 the activations", elem_id="atlas-alpha",
            )  # fmt: skip
        with gr.Column(scale=7, min_width=320):
            with gr.Group():
                view = gr.Radio(
                    list(show.VIEWS), value=show.MAPS, label="Show", elem_id="atlas-view"
                )
                ordered = gr.Checkbox(
                    False, label="sort the heatmaps' channels, loudest first", elem_id="atlas-order"
                )
            plot = gr.Plot(label="The layer", show_label=False, elem_id="atlas-layer",
                           elem_classes="picks")  # fmt: skip
            with gr.Row(visible=False) as pair:
                left = gr.Plot(label="Before", show_label=False, min_width=400,
                               elem_id="atlas-before")  # fmt: skip
                right = gr.Plot(label="After", show_label=False, min_width=400,
                                elem_id="atlas-after")  # fmt: skip
            layer_pick = picker("atlas-layer")
            layer_line = gr.HTML(padding=False, elem_id="atlas-layer-line")
    gr.HTML(lead(CHANNEL), padding=False)
    with gr.Row():
        channel = gr.Dropdown(
            [], label="Channel", info="the loudest ones, or any number",
            allow_custom_value=True, elem_id="atlas-channel", min_width=220,
        )  # fmt: skip
        steps = [show.WHOLE_RUN, *([] if first is None else map(str, first.timesteps))]
        timestep = gr.Dropdown(
            steps, value=show.WHOLE_RUN, label="Timestep", info="of the histogram and the frame",
            elem_id="atlas-timestep", min_width=220,
        )  # fmt: skip
    with gr.Row():
        histogram = gr.Plot(label="Values and levels", show_label=False, min_width=320,
                            elem_id="atlas-histogram")  # fmt: skip
        over_time = gr.Plot(label="Range over time", show_label=False, min_width=320,
                            elem_id="atlas-range")  # fmt: skip
    channel_line = gr.HTML(padding=False, elem_id="atlas-channel-line")

    inputs = AtlasInputs(
        measure, half, panels, layer, timestep, view, ordered, follow, by_hand, channel,
        page.bar.inputs,
    )  # fmt: skip
    of_overview = [overview, overview_line]
    of_layer = [plot, pair, left, right, layer_line]
    of_channel = [channel, histogram, over_time, channel_line]
    inside = [layer, timestep, follow, by_hand]
    of_opened = [*inside, frame, overview_line, *of_layer, *of_channel]
    outputs = [table, *inside, *of_overview, *of_layer, *of_channel]

    def scene_of(session: Session, asked: AtlasInputs) -> Scene:
        scene = asked.read(backend, session, keep=True)
        if scene is None:
            raise refuse(f"outliers: {show.UNMEASURED}")
        return scene

    def drawing(draw: Callable[[Scene], tuple[Any, ...]], *, once: bool = False) -> Any:
        """A listener that draws what is asked for."""
        return answer(
            backend, lambda session, asked: draw(scene_of(session, asked)), [inputs], once=once
        )

    def draw_overview(scene: Scene) -> tuple[Any, ...]:
        figure = show.overview(scene.atlas, scene.alphas, scene.look, scene.change)
        return figure, tell(scene)

    def move_frame(scene: Scene) -> tuple[Any, ...]:
        """The overview as it stands; only its frame goes to the layer on view."""
        shapes = show.framed(scene.atlas, scene.look, scene.change)
        move = {"patch": {"shapes": shapes}, "at": time.monotonic_ns()}
        return packed({"atlas-overview": move}), tell(scene)

    def draw_timestep(scene: Scene) -> tuple[Any, ...]:
        return *move_frame(scene), *draw_below(scene)

    def tell(scene: Scene) -> str:
        return status(show.overview_text(scene.atlas, scene.look), "done")

    def draw_layer(scene: Scene) -> tuple[Any, ...]:
        figures = show.layer_figures(scene.atlas, scene.look, scene.calibration)
        line = status(show.layer_text(scene.atlas, scene.look), "done")
        return *placed(figures), line

    def draw_channel(scene: Scene) -> tuple[Any, ...]:
        found = scene.atlas.groups[scene.look.layer]
        names = show.channel_names(found, scene.look.half)
        *figures, text, kind = show.channel_figures(
            scene.atlas, scene.look, scene.calibration, scene.channel
        )
        return gr.update(choices=names, value=str(scene.channel)), *figures, status(text, kind)

    def draw_inside(scene: Scene) -> tuple[Any, ...]:
        """What the controls say of the layer on view."""
        known, look = scene.alphas.get(scene.look.layer), scene.look
        by_recipe = look.source != "by hand"
        return (
            gr.update(choices=list(scene.atlas.groups), value=look.layer),
            gr.update(
                choices=[show.WHOLE_RUN, *map(str, scene.atlas.timesteps)],
                value=show.WHOLE_RUN if look.timestep is None else str(look.timestep),
            ),
            by_recipe,
            (0.5 if known is None else known) if by_recipe else gr.skip(),
        )

    def draw_below(scene: Scene) -> tuple[Any, ...]:
        return *draw_layer(scene), *draw_channel(scene)

    def refresh(session: Session, asked: AtlasInputs) -> tuple[Any, ...]:
        """Everything, after the bar, the measure or the half changed."""
        scene = asked.read(backend, session, keep=False)
        if scene is None:
            blank = empty_figure(show.UNMEASURED, dark=asked.bar.read(backend).dark)
            line = status(show.UNMEASURED, "warn")
            nothing = gr.update(choices=[], value=None)
            return (
                [], nothing, gr.update(choices=[show.WHOLE_RUN], value=show.WHOLE_RUN), True,
                gr.skip(), blank, line, *placed((blank,)),
                line, nothing, blank, blank, line,
            )  # fmt: skip
        rows = show.ranking_rows(scene.atlas, scene.alphas, scene.look.measure, scene.look.half)
        labels = show.headers(scene.look.measure)
        return (
            gr.update(value={"headers": labels, "data": rows}),
            *draw_inside(scene),
            *draw_overview(scene),
            *draw_below(scene),
        )

    def open_layer(session: Session, asked: AtlasInputs) -> tuple[Any, ...]:
        """A fresh look at a layer: its own loudest channel, the recipe's α."""
        atlas = backend.atlas(asked.bar.read(backend).model)
        one_of(asked.layer, "layer", [] if atlas is None else list(atlas.groups))
        scene = replace(asked, follow=True, channel="").read(backend, session, keep=False)
        assert scene is not None
        return *draw_inside(scene), *move_frame(scene), *draw_below(scene)

    def on_row(event: gr.SelectData, request: gr.Request, *values: Any) -> tuple[Any, ...]:
        row = getattr(event, "row_value", None)
        if not isinstance(row, list) or not row:
            raise refuse("layer: expected a row of the table, got none")
        with reported():
            (asked,) = filled([inputs], values)
            return open_layer(backend.session(request), replace(asked, layer=row[0]))

    def on_cell(session: Session, text: Any, asked: AtlasInputs) -> tuple[Any, ...]:
        pick = read_pick(text)
        return open_layer(session, replace(asked, layer=pick.x, timestep=str(pick.y)))

    def on_hand(session: Session, asked: AtlasInputs) -> tuple[Any, ...]:
        return False, *draw_below(scene_of(session, replace(asked, follow=False)))

    def on_pick(session: Session, text: Any, asked: AtlasInputs) -> tuple[Any, ...]:
        scene = scene_of(session, asked)
        number = show.picked_channel(scene.atlas, scene.look, read_pick(text))
        return draw_channel(replace(scene, channel=number))

    def work(session: Session, asked: AtlasInputs) -> Iterator[Progress | Finished]:
        choice = asked.bar.read(backend)
        spec = session.spec or backend.spec
        for event in measure_model(backend, choice.model, spec):
            if isinstance(event, Progress):
                yield event
        text = (
            f"Measured: {spec.sampling.steps} steps of {spec.samples} samples, "
            f"{spec.tokens} tokens kept per layer and step."
        )
        yield Finished(text, refresh(session, asked))

    gr.on([measure.input, half.input], *answer(backend, refresh, [inputs]), outputs, **PRIVATE)
    panels.input(*drawing(draw_overview), of_overview, **PRIVATE)
    layer.input(
        *answer(backend, open_layer, [inputs], once=True), of_opened, api_name="outlier_layer",
        **QUIET,
    )  # fmt: skip
    table.select(on_row, components([inputs]), of_opened, **PRIVATE)
    overview_pick.input(*answer(backend, on_cell, [overview_pick, inputs]), of_opened, **PRIVATE)
    drawn = [frame, overview_line, *of_layer, *of_channel]
    timestep.input(*drawing(draw_timestep, once=True), drawn, **PRIVATE)
    gr.on([view.input, ordered.input], *drawing(draw_layer), of_layer, **PRIVATE)
    follow.input(*drawing(draw_below), [*of_layer, *of_channel], **PRIVATE)
    by_hand.input(*answer(backend, on_hand, [inputs]), [follow, *of_layer, *of_channel], **PRIVATE)
    channel.input(
        *drawing(draw_channel, once=True), of_channel, api_name="outlier_channel", **QUIET
    )
    frame.change(None, frame, None, js=MOVE, api_visibility="private")
    layer_pick.input(*answer(backend, on_pick, [layer_pick, inputs]), of_channel, **PRIVATE)
    wire_job(backend, controls, work, [inputs], outputs, api_name="measure")
    page.fields |= {"measure": measure, "half": half, "layer": layer, "channel": channel}
    page.actions |= {
        "measure": [measure.input],
        "half": [half.input],
        "layer": [layer.input, table.select, overview_pick.input],
        "view": [view.input],
        "channel": [channel.input, layer_pick.input],
    }
    return View(refresh, [inputs], outputs)


TAB = Tab("outliers", "Outliers", build_outliers)
