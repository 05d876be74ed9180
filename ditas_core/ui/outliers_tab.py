"""Tab 1: where the loud channels are, before and after smoothing."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gradio as gr
import plotly.graph_objects as go

from ..calibration import Calibration
from ..evaluation.outliers import OutlierAtlas
from ..figures import channel_maps, empty_figure, overview_maps
from ..specs import CalibrationSpec
from .bench import Bench, Session
from .messages import clock, refuse, reported, status
from .setup import Choice, SetupBar, read_choice
from .validate import flag, one_of, real

HEADERS = ["layer", "before ×", "after ×", "α"]
UNMEASURED = "Not measured yet: press “Measure”"
CONCURRENCY = {"concurrency_id": "compute", "concurrency_limit": 1}


@dataclass(frozen=True)
class OutliersTab:
    """What other tabs may refresh."""

    refresh: Any
    inputs: list[Any]
    outputs: list[Any]


def alpha_text(alpha: float | None) -> str:
    return "identity" if alpha is None else f"{alpha:.2f}"


def ranking(atlas: OutlierAtlas, alphas: dict[str, float | None]) -> list[list[Any]]:
    """Layers by outlier strength, strongest first."""
    rows = []
    for name, group in atlas.groups.items():
        alpha = alphas.get(name)
        after = group.smoothed(alpha).strength
        rows.append([name, round(group.strength, 2), round(after, 2), alpha_text(alpha)])
    return sorted(rows, key=lambda row: -row[1])


def first_layer(rows: list[list[Any]], names: list[str]) -> str | None:
    """The layer to open on: where smoothing takes the most away."""
    if rows:
        return str(max(rows, key=lambda row: row[1] - row[2])[0])
    return next(iter(names), None)


def overview(atlas: OutlierAtlas | None, alphas: dict[str, float | None]) -> go.Figure:
    if atlas is None:
        return empty_figure(UNMEASURED)
    return overview_maps(
        atlas.overview().numpy(),
        atlas.overview(alphas).numpy(),
        list(atlas.groups),
        atlas.timesteps,
    )


def layer_map(
    atlas: OutlierAtlas | None, name: str, alpha: float | None, source: str, choice: Choice
) -> tuple[go.Figure, str]:
    """The chosen layer's two panels and one line about them."""
    if atlas is None:
        return empty_figure(UNMEASURED), status(UNMEASURED, "warn")
    group = atlas.groups[name]
    smoothed = group.smoothed(alpha)
    figure = channel_maps(
        group.map().numpy(),
        smoothed.map().numpy(),
        atlas.timesteps,
        f"{group.title}, before",
        f"after smoothing, α = {alpha_text(alpha)}",
    )
    injected = " · injected outliers (function-preserving)" if choice.model.injected else ""
    text = (
        f"{group.title} · α = {alpha_text(alpha)} ({source}) · loudest channel "
        f"{group.strength:.1f}× → {smoothed.strength:.1f}× the median one{injected}"
    )
    return figure, status(text, "done")


def build_outliers(bench: Bench, bar: SetupBar, session: gr.State) -> OutliersTab:
    """Lay out the tab; it is drawn at once where the atlas is known."""
    first = read_choice(bench, (bench.default.key, "W4A8", 4, 8, "integer", False, 60))
    atlas = bench.atlas(first.model)
    alphas, source = bench.alphas(Session(), first.model, first.bits, first.convention)
    rows = ranking(atlas, alphas) if atlas else []
    names = bench.group_names(first.model)
    top = first_layer(rows, names)
    first_map, first_line = layer_map(atlas, str(top), alphas.get(str(top)), source, first)

    gr.Markdown(
        "**A few channels shout.** Each cell is one layer at one denoising step: how many times "
        "its loudest channel exceeds its median one. Rounding has to span the loudest, so the "
        "rest is left with few levels. Smoothing divides loud channels and multiplies the "
        "weights that read them; both panels share one colour scale. A layer is named by its "
        "block and part: qkv and proj are attention, fc1 and fc2 the feed-forward.",
        elem_classes="lead",
    )
    with gr.Row():
        measure = gr.Button(
            "Measure", variant="secondary", size="sm", scale=0, min_width=110, elem_id="measure"
        )
        stop = gr.Button(
            "Cancel", variant="stop", size="sm", interactive=False, scale=0, min_width=110
        )
    progress = gr.HTML(
        status("Measured. Press “Measure” to run the calibration trajectory again.")
        if atlas
        else status(UNMEASURED, "warn"),
        padding=False,
        elem_id="measure-status",
    )
    overview_plot = gr.Plot(
        overview(atlas, alphas), label="Layer × timestep", elem_id="overview", show_label=False
    )
    gr.Markdown("### One layer, channel by channel\nSelect a row, or choose a layer.")
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            table = gr.Dataframe(
                rows,
                headers=HEADERS,
                datatype=["str", "number", "number", "str"],
                interactive=False,
                label="Layers by outlier strength",
                max_height=360,
                elem_id="ranking",
            )
            group = gr.Dropdown(names, value=top, label="Layer", elem_id="layer")
            follow = gr.Checkbox(True, label="use the recipe's α", elem_id="follow")
            by_hand = gr.Slider(
                0,
                1,
                alphas.get(str(top)) or 0.5,
                step=0.05,
                label="Migration strength α by hand",
                info="0 serves the weights, 1 the activations",
                elem_id="alpha",
            )
        with gr.Column(scale=5, min_width=320):
            channel_plot = gr.Plot(
                first_map, label="Timestep × channel", elem_id="channels", show_label=False
            )
            line = gr.HTML(first_line, padding=False, elem_id="layer-line")

    def draw(
        name: Any, use_recipe: Any, alpha: Any, held: Session, *values: Any
    ) -> tuple[go.Figure, str]:
        with reported():
            choice = read_choice(bench, values)
            recipe_alpha = flag(use_recipe, "use the recipe's α")
            found = bench.atlas(choice.model)
            if found is None:
                return layer_map(None, "", None, "", choice)
            one_of(name, "layer", list(found.groups))
            if recipe_alpha:
                known, origin = bench.alphas(held, choice.model, choice.bits, choice.convention)
                return layer_map(found, name, known.get(name), origin, choice)
            return layer_map(found, name, real(alpha, "alpha", 0, 1), "by hand", choice)

    def refresh(name: Any, held: Session, *values: Any) -> tuple[Any, ...]:
        """Everything in this tab, after the settings or the recipe changed."""
        with reported():
            choice = read_choice(bench, values)
            found = bench.atlas(choice.model)
            known, origin = bench.alphas(held, choice.model, choice.bits, choice.convention)
            ranks = ranking(found, known) if found else []
            keys = bench.group_names(choice.model)
            chosen = name if name in keys else first_layer(ranks, keys)
            figure, text = layer_map(found, str(chosen), known.get(str(chosen)), origin, choice)
            return (
                overview(found, known),
                ranks,
                gr.update(choices=keys, value=chosen),
                True,
                figure,
                text,
            )

    refreshed = [overview_plot, table, group, follow, channel_plot, line]

    def run(held: Session, *values: Any) -> Any:
        """Calibrate the chosen checkpoint, then draw."""
        with reported(), bench.working():
            choice = read_choice(bench, values)
            began = time.monotonic()
            skip = tuple(gr.skip() for _ in refreshed)
            buttons = (gr.update(interactive=False), gr.update(interactive=True))
            yield (status("Loading the checkpoint", "busy", 0), *buttons, *skip)
            events = bench.calibrated(choice.model, CalibrationSpec())
            with closing(events):  # type: ignore[type-var]
                for event in events:
                    if isinstance(event, Calibration):
                        continue
                    spent = time.monotonic() - began
                    left = spent / event.step * (event.total - event.step)
                    text = f"Denoising step {event.step} of {event.total} · "
                    text += f"{clock(spent)} elapsed, {clock(left)} to go"
                    yield (
                        status(text, "busy", event.step / event.total),
                        gr.skip(),
                        gr.skip(),
                        *skip,
                    )
            text = f"Measured in {clock(time.monotonic() - began)}."
            yield (
                status(text, "done", 1),
                gr.update(interactive=True),
                gr.update(interactive=False),
                *refresh(None, held, *values),
            )

    def select(event: gr.SelectData) -> tuple[Any, bool]:
        row = getattr(event, "row_value", None)
        if not row:
            raise refuse("layer: expected a row of the table, got none")
        return row[0], True

    def stopped() -> tuple[Any, ...]:
        return (
            status("Cancelled.", "warn"),
            gr.update(interactive=True),
            gr.update(interactive=False),
        )

    drawn = [group, follow, by_hand, session, *bar.inputs]
    quiet: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
    group.change(draw, drawn, [channel_plot, line], api_name="outlier_map", **quiet)
    follow.input(draw, drawn, [channel_plot, line], api_visibility="private", **quiet)
    by_hand.input(lambda: False, None, follow, queue=False, api_visibility="private", **quiet).then(
        draw, drawn, [channel_plot, line], api_visibility="private", **quiet
    )
    table.select(select, None, [group, follow], api_visibility="private", show_progress="hidden")
    inputs = [group, session, *bar.inputs]
    gr.on(bar.changes, refresh, inputs, refreshed, api_name="outlier_overview", **quiet)
    running = measure.click(
        run,
        [session, *bar.inputs],
        [progress, measure, stop, *refreshed],
        api_name="measure",
        show_progress="hidden",
        **CONCURRENCY,
    )
    stop.click(None, None, None, cancels=[running], queue=False, api_visibility="private").then(
        stopped, None, [progress, measure, stop], queue=False, api_visibility="private"
    )
    return OutliersTab(refresh, inputs, refreshed)
