"""The row under the bar that loads a checkpoint from the hub; hidden where none is to load."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from ...checkpoints import Checkpoint, figure, find_source, known_need
from ..serving.errors import status
from ..serving.validate import one_of
from ..stored.catalogue import Entry
from ..visitors.backend import Backend, Choice
from ..visitors.entries import forbidden
from ..visitors.loading import load
from ..visitors.running import Controls, Finished, Progress, answer, build_controls, wire_job
from ..visitors.session import Session

if TYPE_CHECKING:
    from .bar import BarInputs

DOWNLOADS = "downloads"
"""Their own line: a download of minutes holds up no computation."""


@dataclass(frozen=True)
class LoadRow:
    """The row, its job, and a field that changes when something has been loaded."""

    row: gr.Column
    controls: Controls
    loaded: gr.Textbox


def offer(backend: Backend, entry: Entry) -> str:
    """What loading takes; or why it cannot be had here."""
    if entry.local:
        return ""
    if not entry.allowed:
        return status(f"{entry.key}: {forbidden(entry)}", "warn")
    source = find_source(entry.source)
    need = None if source is None or not source.bytes else known_need(source)
    text = "“Load” downloads it once and keeps it as safetensors"
    if need is not None:
        text += (
            f": {figure(need.file_bytes)} to download, {figure(need.disk)} of disk meanwhile, "
            f"{figure(need.float32)} of memory in float32 or {figure(need.bfloat16)} in bfloat16"
        )
    return status(f"{text}. It can be cancelled; the next one goes on from there.")


def build_load_row(backend: Backend, first: Choice) -> LoadRow:
    """Lay out the row."""
    with gr.Column(visible=not backend.is_loaded(first.model), elem_id="shelf") as row:
        controls = build_controls("load", "Load")
        controls.line.value = offer(backend, backend.entries[first.model.key])
    loaded = gr.Textbox("", visible="hidden", elem_id="loaded", label="loaded")
    return LoadRow(row, controls, loaded)


def wire_load_row(
    backend: Backend,
    load_row: LoadRow,
    inputs: BarInputs,
    outputs: list[Any],
    describe: Callable[[Session, BarInputs], tuple[Any, ...]],
) -> None:
    """Load runs the job in the downloads' line; ``describe`` gives ``outputs`` when it is done."""

    def work(session: Session, asked: BarInputs) -> Iterator[Progress | Finished]:
        choice = asked.read(backend)
        with closing(load(backend, choice.model)) as events:  # type: ignore[type-var]
            for event in events:
                if isinstance(event, Checkpoint):
                    shown = (*describe(session, asked), str(time.monotonic_ns()))
                    yield Finished(f"{choice.model.key} is loaded.", shown)
                else:
                    yield event

    def on_choice(session: Session, key: Any) -> tuple[Any, str]:
        entry = backend.entries[one_of(key, "checkpoint", list(backend.entries))]
        shown = not backend.is_loaded(backend.model_of(entry.key))
        return gr.update(visible=shown), offer(backend, entry)

    wire_job(
        backend,
        load_row.controls,
        work,
        [inputs],
        [*outputs, load_row.loaded],
        api_name="load",
        line=backend.fetching,
        concurrency_id=DOWNLOADS,
    )
    gr.on(
        [inputs.checkpoint.change, load_row.loaded.change],
        *answer(backend, on_choice, [inputs.checkpoint]),
        [load_row.row, load_row.controls.line],
        api_visibility="private",
        show_progress="hidden",
    )
