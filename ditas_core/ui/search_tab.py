"""Tab 2: the grid search, layer by layer, as it happens."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import plotly.graph_objects as go

from ..calibration import Calibration
from ..figures import empty_figure, loss_curves
from ..search import LayerDone, SearchSpec, search
from ..specs import METHODS, CalibrationSpec, Recipe, SamplingSpec, summarize
from .bench import Bench, Session
from .messages import clock, reported, status
from .outliers_tab import CONCURRENCY, alpha_text
from .setup import SetupBar, read_choice
from .validate import one_of, whole

HEADERS = ["layer", "best α", "gain, dB", "error, % of output"]
NOTHING = "Press “Start search”:<br>each layer's curve appears here<br>as it is found"
REDRAW_S, STATUS_S = 0.6, 0.2
KEPT_FILES = 64
FOLDER = tempfile.TemporaryDirectory(prefix="ditas-recipes-")
METHOD_LABELS = {
    "ditas": "DiTAS: grid search + low-rank branch",
    "search": "grid search of α",
    "smoothing": "one fixed α = 0.5",
    "plain": "plain rounding, nothing else",
}


@dataclass(frozen=True)
class SearchTab:
    """The event after which other tabs may look at the session's new recipe."""

    finished: Any


def rows_of(layers: list[LayerDone]) -> list[list[Any]]:
    return [
        [
            layer.group,
            alpha_text(layer.alpha),
            round(layer.gain_db, 2),
            round(100 * layer.best / max(layer.energy, 1e-30), 3),
        ]
        for layer in layers
    ]


def by_gain(layers: list[LayerDone]) -> list[list[Any]]:
    return sorted(rows_of(layers), key=lambda row: -row[2])


def curves(layers: list[LayerDone], total: int | None = None) -> go.Figure:
    if not layers:
        return empty_figure(NOTHING, 420)
    data = [(layer.group, layer.grid, layer.losses, layer.identity) for layer in layers]
    return loss_curves(data, total)


def recipe_file(recipe: Recipe) -> str:
    """A file to download; the oldest of this process's are removed."""
    text = recipe.to_json()
    bits = "-".join(sorted({str(layer.bits) for layer in recipe.layers.values()}))
    short = hashlib.sha256(text.encode()).hexdigest()[:8]
    folder = Path(FOLDER.name)
    path = folder / f"recipe-{bits}-{recipe.convention}-{recipe.name}-{short}.json"
    path.write_text(text, encoding="utf-8")
    files = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime)
    for old in files[:-KEPT_FILES]:
        old.unlink(missing_ok=True)
    return str(path)


def build_search(bench: Bench, bar: SetupBar, session: gr.State) -> SearchTab:
    """Lay out the tab; it opens on the shipped search."""
    first = read_choice(bench, (bench.default.key, "W4A8", 4, 8, "integer", False, 60))

    def shipped_view(choice: Any) -> tuple[str, list[list[Any]], go.Figure, Any]:
        recipe = bench.shipped_recipe(choice.model, choice.bits, choice.convention)
        if recipe is None or bench.shipped is None:
            text = f"{choice.title}: not searched yet."
            return status(text), [], curves([]), gr.update(interactive=False, value=None)
        layers = list(bench.shipped.presets[str(choice.bits)].layers)
        text = f"Shipped search: {summarize(recipe)}"
        return (
            status(text, "done"),
            by_gain(layers),
            curves(layers),
            gr.update(interactive=True, value=recipe_file(recipe)),
        )

    line0, rows0, figure0, file0 = shipped_view(first)
    gr.Markdown(
        "**How much to smooth?** α = 0 leaves the burden with the activations' rounding, α = 1 "
        "moves it to the weights'. Every layer is tried at 21 values, on tokens kept from one "
        "sampling run. Below the dashed line is better than no smoothing; where nothing is "
        "better, the layer is left alone (identity).",
        elem_classes="lead",
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            method = gr.Radio(
                [(METHOD_LABELS[name], name) for name in reversed(METHODS)],
                value="ditas",
                label="Method",
                elem_id="method",
            )
            with gr.Accordion("Calibration run", open=False):
                steps = gr.Slider(4, 100, 50, step=1, label="Denoising steps", elem_id="cal-steps")
                samples = gr.Slider(1, 16, 8, step=1, label="Images", elem_id="cal-samples")
            with gr.Row():
                start = gr.Button("Start search", variant="primary", elem_id="start-search")
                cancel = gr.Button(
                    "Cancel", variant="stop", interactive=False, elem_id="cancel-search"
                )
            line = gr.HTML(line0, padding=False, elem_id="search-status")
            download = gr.DownloadButton(
                "Download recipe (JSON)",
                value=file0.get("value"),
                interactive=bool(file0.get("interactive")),
                elem_id="download-recipe",
                size="md",
            )
        with gr.Column(scale=5, min_width=320):
            plot = gr.Plot(figure0, label="Loss curves", show_label=False, elem_id="curves")
    table = gr.Dataframe(
        rows0,
        headers=HEADERS,
        datatype=["str", "str", "number", "number"],
        interactive=False,
        label="Every layer's best α",
        max_height=380,
        elem_id="search-table",
    )
    outputs = [line, table, plot, download, start, cancel, session]

    def run(
        chosen: Any, cal_steps: Any, cal_samples: Any, held: Session, *values: Any
    ) -> Iterator[tuple[Any, ...]]:
        with reported():
            choice = read_choice(bench, values)
            one_of(chosen, "method", METHODS)
            calibration_spec = CalibrationSpec(
                SamplingSpec(steps=whole(cal_steps, "denoising steps", 4, 100)),
                samples=whole(cal_samples, "images", 1, 16),
            )
            spec = SearchSpec(choice.bits, choice.convention, chosen)
        skip = gr.skip()
        yield (
            status("Waiting for the compute slot", "busy", 0),
            [],
            curves([]),
            gr.update(interactive=False, value=None),
            gr.update(interactive=False),
            gr.update(interactive=True),
            skip,
        )
        with reported(), bench.working():
            began = time.monotonic()
            calibration: Calibration | None = None
            events = bench.calibrated(choice.model, calibration_spec)
            with closing(events):  # type: ignore[type-var]
                for event in events:
                    if isinstance(event, Calibration):
                        calibration = event
                        continue
                    text = f"1 of 2 · calibrating: denoising step {event.step} of {event.total}"
                    text += f" · {clock(time.monotonic() - began)} elapsed"
                    bar_at = event.step / event.total
                    yield (status(text, "busy", bar_at), *(skip,) * 6)
            assert calibration is not None
            checkpoint = bench.checkpoint(choice.model)
            searched = time.monotonic()
            layers: list[LayerDone] = []
            recipe: Recipe | None = None
            total = len(checkpoint.groups)
            shown = drawn = 0.0
            candidates = 0
            found = search(checkpoint, calibration, spec)
            with closing(found):  # type: ignore[type-var]
                for step in found:
                    now = time.monotonic()
                    if isinstance(step, Recipe):
                        recipe = step
                        break
                    if isinstance(step, LayerDone):
                        layers.append(step)
                        candidates = 0
                    else:
                        candidates += 1
                    done = len(layers) + candidates / (len(spec.grid) + 1)
                    left = (now - searched) / max(done, 0.05) * (total - done)
                    text = (
                        f"2 of 2 · {len(layers)} of {total} layers · "
                        f"{clock(now - began)} elapsed, {clock(left)} to go"
                    )
                    head = status(text, "busy", done / total)
                    if isinstance(step, LayerDone) and now - drawn > REDRAW_S:
                        drawn = shown = now
                        yield (head, rows_of(layers)[::-1], curves(layers, total), *(skip,) * 4)
                    elif now - shown > STATUS_S:
                        shown = now
                        yield (head, *(skip,) * 6)
            assert recipe is not None
            text = f"Done in {clock(time.monotonic() - began)}: {summarize(recipe)}"
            if choice.model.injected:
                text += " · injected outliers (function-preserving)"
            final = curves(layers) if layers else empty_figure("Plain rounding: nothing to search")
            yield (
                status(text, "done", 1),
                by_gain(layers),
                final,
                gr.update(interactive=True, value=recipe_file(recipe)),
                gr.update(interactive=True),
                gr.update(interactive=False),
                Session(choice.model, recipe.to_json(), calibration_spec, held.result),
            )

    def stopped() -> tuple[Any, ...]:
        text = "Cancelled. The layers found so far stay on view; the last recipe is still in use."
        return status(text, "warn"), gr.update(interactive=True), gr.update(interactive=False)

    def on_change(*values: Any) -> tuple[Any, ...]:
        with reported():
            return shipped_view(read_choice(bench, values))

    running = start.click(
        run,
        [method, steps, samples, session, *bar.inputs],
        outputs,
        api_name="search",
        show_progress="hidden",
        trigger_mode="once",
        **CONCURRENCY,
    )
    cancel.click(None, None, None, cancels=[running], queue=False, api_visibility="private").then(
        stopped,
        None,
        [line, start, cancel],
        queue=False,
        api_visibility="private",
        show_progress="hidden",
    )
    running.failure(
        lambda: (gr.update(interactive=True), gr.update(interactive=False)),
        None,
        [start, cancel],
        queue=False,
        api_visibility="private",
    )
    gr.on(
        bar.changes,
        on_change,
        bar.inputs,
        [line, table, plot, download],
        api_name="shipped_search",
        show_progress="hidden",
        trigger_mode="always_last",
    )
    return SearchTab(running)
