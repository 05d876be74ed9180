"""Tab 3: the same noise through both models, side by side."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import gradio as gr

from ..specs import SamplingSpec
from .bench import Bench, Model, Session
from .catalogue import showcase
from .comparing import Job, run_job
from .messages import clock, reported, status
from .outliers_tab import CONCURRENCY
from .results import PLAIN, RECIPE, REFERENCE, Result
from .setup import Choice, SetupBar, read_choice
from .validate import one_of, real, some_of, whole
from .views import ab_image, differences, gallery, metrics_table, pair, sample_names, trend

MAX_SAMPLES = 8
HEADERS = ["mean ± 95 %", "plain", "recipe"]


def classes_of(bench: Bench, key: str) -> list[str]:
    """Class names if the checkpoint is loaded or local; hub ones are loaded on demand."""
    if not bench.entries[key].local:
        return [str(i) for i in range(1000)]
    return list(bench.checkpoint(Model(key)).class_names)


def build_compare(bench: Bench, bar: SetupBar, session: gr.State) -> None:
    """Lay out the tab; it opens on the shipped comparison."""
    first = read_choice(bench, (bench.default.key, "W4A8", 4, 8, "integer", False, 60))
    names = classes_of(bench, bench.default.key)

    def stored(choice: Choice, held: Session) -> Result | None:
        """This session's last result, else the shipped one of these settings."""
        if held.result:
            found: Result | None = bench.cache.get(("result", held.result))
            if found is not None:
                return found
        if bench.shipped_recipe(choice.model, choice.bits, choice.convention) is None:
            return None
        assert bench.shipped is not None
        return bench.shipped.presets[str(choice.bits)].result

    def show_all(result: Result | None, gain: float) -> tuple[Any, ...]:
        """Every view of one result, at its first sample."""
        return (
            gr.update(choices=sample_names(result), value=next(iter(sample_names(result)), None)),
            *show_sample(result, 0, RECIPE, gain),
            gallery(result),
            metrics_table(result),
            trend(result),
        )

    def show_sample(result: Result | None, at: int, variant: str, gain: float) -> tuple[Any, ...]:
        return (
            pair(result, at, variant),
            ab_image(result, at, REFERENCE),
            differences(result, at, gain),
        )

    start_result = stored(first, Session())
    shown = show_all(start_result, 4.0)
    text0 = f"{start_result.title}" if start_result else "Nothing compared yet: press “Generate”."

    gr.Markdown(
        "**Does it matter in the picture?** Full precision, plain rounding and the recipe start "
        "from exactly the same noise and classes. Every difference you see is quantization.",
        elem_classes="lead",
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=320):
            classes = gr.Dropdown(
                names,
                value=showcase(names, 4),
                multiselect=True,
                max_choices=MAX_SAMPLES,
                label="Classes",
                info="taken in turn",
                elem_id="classes",
            )
            with gr.Row():
                count = gr.Slider(
                    1, MAX_SAMPLES, 4, step=1, label="Samples", elem_id="count", min_width=130
                )
                seed = gr.Number(
                    0, precision=0, label="Seed", minimum=0, elem_id="seed", min_width=130
                )
            with gr.Row():
                steps = gr.Slider(4, 100, 30, step=1, label="Steps", elem_id="steps", min_width=130)
                guidance = gr.Slider(
                    1, 8, 2.5, step=0.1, label="Guidance", elem_id="guidance", min_width=130
                )
            with gr.Row():
                go = gr.Button("Generate", variant="primary", elem_id="generate")
                cancel = gr.Button(
                    "Cancel", variant="stop", interactive=False, elem_id="cancel-generate"
                )
            line = gr.HTML(
                status(text0, "done" if start_result else ""),
                padding=False,
                elem_id="compare-status",
            )
            table = gr.Dataframe(
                shown[5],
                headers=HEADERS,
                datatype="str",
                interactive=False,
                label="Distance to full precision",
                elem_id="metrics",
                column_widths=["32%", "34%", "34%"],
                wrap=True,
            )
        with gr.Column(scale=5, min_width=320):
            with gr.Row():
                sample = gr.Dropdown(
                    sample_names(start_result),
                    value=next(iter(sample_names(start_result)), None),
                    label="Sample",
                    elem_id="sample",
                    min_width=160,
                )
                variant = gr.Radio(
                    [PLAIN, RECIPE],
                    value=RECIPE,
                    label="Slider: full precision against",
                    elem_id="variant",
                    min_width=260,
                )
            with gr.Row(equal_height=False):
                slider = gr.ImageSlider(
                    shown[1],
                    label="Full precision | quantized",
                    interactive=False,
                    buttons=["fullscreen"],
                    elem_id="slider",
                    max_height=420,
                    min_width=280,
                )
                with gr.Column(min_width=280):
                    single = gr.Image(
                        shown[2],
                        label="A / B view (keyboard: Tab, Space)",
                        interactive=False,
                        buttons=["fullscreen"],
                        elem_id="ab-view",
                    )
                    ab = gr.Radio(
                        [REFERENCE, PLAIN, RECIPE], value=REFERENCE, label="Show", elem_id="ab"
                    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=320):
            gain = gr.Slider(
                1,
                16,
                4,
                step=1,
                label="Difference gain, times",
                elem_id="gain",
                info="grey where equal to full precision",
            )
            difference = gr.Gallery(
                shown[3],
                label="Signed difference to full precision",
                columns=2,
                object_fit="contain",
                height="auto",
                elem_id="difference",
                elem_classes="pixels",
                buttons=["fullscreen"],
                interactive=False,
            )
        with gr.Column(scale=4, min_width=320):
            plot = gr.Plot(
                shown[6], label="Divergence over the steps", show_label=False, elem_id="divergence"
            )
    wall = gr.Gallery(
        shown[4],
        label="All samples: full precision, plain rounding, recipe",
        columns=6,
        object_fit="contain",
        height="auto",
        elem_id="gallery",
        interactive=False,
        buttons=["fullscreen"],
    )
    views = [sample, slider, single, difference, wall, table, plot]
    outputs = [line, *views, ab, go, cancel, session]

    def run(
        chosen: Any, number: Any, number_seed: Any, number_steps: Any, scale: Any,
        amplify: Any, held: Session, *values: Any,
    ) -> Iterator[tuple[Any, ...]]:  # fmt: skip
        skip = gr.skip()
        with reported():
            choice = read_choice(bench, values)
            wanted = some_of(chosen, "classes", classes_of(bench, choice.model.key), MAX_SAMPLES)
            job = Job(
                model=choice.model,
                bits=choice.bits,
                convention=choice.convention,
                classes=tuple(wanted),
                samples=whole(number, "samples", 1, MAX_SAMPLES),
                seed=whole(number_seed, "seed", 0, 2**31 - 1),
                sampling=SamplingSpec(
                    steps=whole(number_steps, "steps", 4, 100),
                    guidance_scale=real(scale, "guidance", 1, 8),
                ),
            )
            factor = real(amplify, "gain", 1, 16)
        yield (
            status("Waiting for the compute slot", "busy", 0),
            *(skip,) * (len(views) + 1),
            gr.update(interactive=False),
            gr.update(interactive=True),
            skip,
        )
        with reported(), bench.working():
            began = time.monotonic()
            events = run_job(bench, job, held)
            result: Result | None = None
            recipe_session = held
            last = 0.0
            with closing(events):  # type: ignore[type-var]
                for event in events:
                    if isinstance(event, Result):
                        result = event
                    elif isinstance(event, Session):
                        recipe_session = event
                    elif time.monotonic() - last > 0.2:
                        last = time.monotonic()
                        text = f"{event.text} · {clock(last - began)} elapsed"
                        yield (
                            status(text, "busy", event.fraction),
                            *(skip,) * (len(views) + 4),
                        )
            assert result is not None
            key = uuid.uuid4().hex
            bench.cache.put(("result", key), result)
            text = f"{result.title} · {clock(time.monotonic() - began)}"
            yield (
                status(text, "done", 1),
                *show_all(result, factor),
                REFERENCE,
                gr.update(interactive=True),
                gr.update(interactive=False),
                replace(recipe_session, result=key),
            )

    def look(name: Any, against: Any, amplify: Any, held: Session, *values: Any) -> tuple[Any, ...]:
        with reported():
            result = stored(read_choice(bench, values), held)
            if result is None:
                return show_sample(None, 0, RECIPE, 1)
            at = sample_names(result).index(one_of(name, "sample", sample_names(result)))
            other = one_of(against, "variant", [PLAIN, RECIPE])
            return show_sample(result, at, other, real(amplify, "gain", 1, 16))

    def toggle(name: Any, which: Any, held: Session, *values: Any) -> Any:
        with reported():
            result = stored(read_choice(bench, values), held)
            shown_as = one_of(which, "show", [REFERENCE, PLAIN, RECIPE])
            if result is None:
                return None
            at = sample_names(result).index(one_of(name, "sample", sample_names(result)))
            return ab_image(result, at, shown_as)

    def on_change(amplify: Any, held: Session, *values: Any) -> tuple[Any, ...]:
        """New settings: the old result is put away, the shipped one shown if there is one."""
        with reported():
            choice = read_choice(bench, values)
            fresh = replace(held, result="")
            result = stored(choice, fresh)
            text = result.title if result else f"{choice.title}: nothing compared yet."
            return (
                status(text, "done" if result else ""),
                *show_all(result, real(amplify, "gain", 1, 16)),
                REFERENCE,
                fresh,
            )

    def on_checkpoint(key: Any) -> Any:
        with reported():
            offered = classes_of(bench, one_of(key, "checkpoint", list(bench.entries)))
            return gr.update(choices=offered, value=showcase(offered, 4))

    def stopped() -> tuple[Any, ...]:
        return (
            status("Cancelled. The previous comparison stays on view.", "warn"),
            gr.update(interactive=True),
            gr.update(interactive=False),
        )

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    running = go.click(
        run,
        [classes, count, seed, steps, guidance, gain, session, *bar.inputs],
        outputs,
        api_name="compare",
        show_progress="hidden",
        trigger_mode="once",
        **CONCURRENCY,
    )
    cancel.click(None, None, None, cancels=[running], queue=False, **quiet).then(
        stopped, None, [line, go, cancel], queue=False, **quiet
    )
    running.failure(
        lambda: (status("Not run.", "warn"), gr.update(interactive=True),
                 gr.update(interactive=False)),
        None, [line, go, cancel], queue=False, **quiet,
    )  # fmt: skip
    looking = [sample, variant, gain, session, *bar.inputs]
    gr.on(
        [sample.input, variant.input, gain.release], look, looking, [slider, single, difference],
        trigger_mode="always_last", **quiet,
    ).then(lambda: REFERENCE, None, ab, queue=False, **quiet)  # fmt: skip
    ab.change(toggle, [sample, ab, session, *bar.inputs], single, **quiet)
    gr.on(
        bar.changes, on_change, [gain, session, *bar.inputs], [line, *views, ab, session],
        trigger_mode="always_last", **quiet,
    )  # fmt: skip
    bar.checkpoint.input(on_checkpoint, bar.checkpoint, classes, **quiet)
