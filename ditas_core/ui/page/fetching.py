"""The row under the bar that loads a checkpoint from the hub; hidden where none is to load."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ...checkpoints import Checkpoint, find_source, known_need
from ...checkpoints.machine import figure
from ..serving.errors import status
from ..serving.validate import one_of
from ..stored.catalogue import Entry
from ..visitors.backend import Bench, Choice, Model
from ..visitors.loading import load
from ..visitors.running import Controls, Finished, Progress, answer, build_controls, wire_job
from ..visitors.session import Desk

DOWNLOADS = "downloads"
"""Their own line: a download of minutes holds up no computation."""


@dataclass(frozen=True)
class Shelf:
    """The row, its job, and a field that changes when something has been loaded."""

    row: gr.Column
    controls: Controls
    loaded: gr.Textbox


def offer(bench: Bench, entry: Entry) -> str:
    """What loading takes; or why it cannot be had here."""
    if entry.local:
        return ""
    if not entry.allowed:
        return status(f"{entry.key}: {bench.forbidden(entry)}", "warn")
    source = find_source(entry.source)
    need = None if source is None or not source.bytes else known_need(source)
    text = "“Load” downloads it once and keeps it as safetensors"
    if need is not None:
        text += (
            f": {figure(need.file_bytes)} to download, {figure(need.disk)} of disk meanwhile, "
            f"{figure(need.float32)} of memory in float32 or {figure(need.bfloat16)} in bfloat16"
        )
    return status(f"{text}. It can be cancelled; the next one goes on from there.")


def build_shelf(bench: Bench, first: Choice) -> Shelf:
    """Lay out the row."""
    with gr.Column(visible=not bench.is_loaded(first.model), elem_id="shelf") as row:
        controls = build_controls("load", "Load")
        controls.line.value = offer(bench, bench.entries[first.model.key])
    loaded = gr.Textbox("", visible="hidden", elem_id="loaded", label="loaded")
    return Shelf(row, controls, loaded)


def wire_shelf(
    bench: Bench,
    shelf: Shelf,
    checkpoint: gr.Dropdown,
    inputs: list[Any],
    outputs: list[Any],
    read: Callable[[Bench, tuple[Any, ...]], Choice],
    describe: Callable[[Desk, Choice], tuple[Any, ...]],
) -> None:
    """Load runs the job in the downloads' line; ``describe`` gives ``outputs`` when it is done."""

    def work(desk: Desk, *values: Any) -> Iterator[Progress | Finished]:
        choice = read(bench, values)
        with closing(load(bench, choice.model)) as events:  # type: ignore[type-var]
            for event in events:
                if isinstance(event, Checkpoint):
                    shown = (*describe(desk, choice), str(time.monotonic_ns()))
                    yield Finished(f"{choice.model.key} is loaded.", shown)
                else:
                    yield event

    def on_choice(desk: Desk, key: Any) -> tuple[Any, str]:
        entry = bench.entries[one_of(key, "checkpoint", list(bench.entries))]
        return gr.update(visible=not bench.is_loaded(Model(entry.key))), offer(bench, entry)

    wire_job(
        bench,
        shelf.controls,
        work,
        inputs,
        [*outputs, shelf.loaded],
        api_name="load",
        line=bench.fetching,
        concurrency_id=DOWNLOADS,
    )
    gr.on(
        [checkpoint.change, shelf.loaded.change],
        answer(bench, on_choice),
        checkpoint,
        [shelf.row, shelf.controls.line],
        api_visibility="private",
        show_progress="hidden",
    )
