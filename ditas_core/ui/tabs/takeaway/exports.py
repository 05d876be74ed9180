"""The recipe on view as a folder that other libraries load, in one zip: made as a job."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from ....calibration import Calibration
from ....checkpoints import ASSETS, Checkpoint, CheckpointError
from ....exports import LEAVABLE, QUANTIZED, ExportProgress, fit_recipe, iterate_export
from ....specs import Recipe, SpecError, check_choice
from ...page.bar import BarInputs
from ...page.glossary import lead
from ...serving.inputs import Inputs
from ...stored.catalogue import Entry
from ...visitors.backend import Backend, Choice
from ...visitors.copies import QUANTIZED as BYTES_EACH
from ...visitors.copies import make_room
from ...visitors.measuring import measure
from ...visitors.running import Controls, Finished, Progress, answer, build_controls, wire_job
from ...visitors.session import Session
from .store import Store, slug

FORMS = {
    "Smoothed, for diffusers": "smoothed",
    "Quantized, for torchao": "torchao",
    "Quantized, for sdnq": "sdnq",
}
WORDS = {"Low-rank branches": "branch", "Inputs that a layer divides itself (fc2)": "divisor"}
LEAD = (
    "Folders that stock diffusers loads, with nothing of this project installed. <b>Smoothed</b> "
    "computes the same function with smaller [[outlier|outliers]], so that any quantizer rounds it "
    "better. What torchao and sdnq have no place for may be left out; the rest is then searched "
    "again, and the card tells what it costs."
)
IDLE = "A minute or two: what is exported draws pictures first, so that its card can say its SQNR."
MADE = "Ready: the folder is that of the recipe in the bar."
SAMPLES, STEPS = 8, 20
"""Pictures that the card's figures are of."""
LARGEST = 128 * 2**20
"""Bytes of a folder before it is packed."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for; everything has been checked."""

    choice: Choice
    form: str
    leave_out: tuple[str, ...]

    def path(self, store: Store, owner: str, recipe: Recipe) -> Path:
        """Where its zip lies, or would."""
        words = (self.choice.model.title, self.form, *self.leave_out)
        folder = store.place(owner, "export", *words, recipe.to_json(), owner=owner)
        return folder / f"{self.stem}.zip"

    @property
    def stem(self) -> str:
        model = self.choice.model
        stem = f"{model.key}-{self.choice.bits}-{self.form}"
        return slug(stem + (f"-outliers-x{model.strength:g}" if model.injected else ""))


@dataclass(frozen=True)
class ExportInputs(Inputs):
    """Fields that decide what is exported."""

    form: Any
    leave_out: Any
    bar: BarInputs

    def read(self, backend: Backend) -> Wanted:
        """Raises SpecError for anything that is not among what the page offers."""
        words = self.leave_out if isinstance(self.leave_out, list) else [self.leave_out]
        for word in words:
            check_choice("leave out", word, LEAVABLE)
        check_choice("form", self.form, FORMS.values())
        return Wanted(self.bar.read(backend), self.form, tuple(sorted(words)))


def is_shipped(entry: Entry) -> bool:
    """Whether the checkpoint came with the project."""
    return entry.local and Path(entry.source).resolve().is_relative_to(ASSETS)


def check_offered(backend: Backend, choice: Choice) -> None:
    """Raise CheckpointError where the page gives no such folder away."""
    entry = backend.entries[choice.model.key]
    if backend.limits.public and not is_shipped(entry):
        raise CheckpointError(
            f"{entry.key}: expected a checkpoint that came with this page, got another; run it "
            "yourself, or export on the command line: ditas export"
        )


def check_size(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError for a folder that would be too large."""
    networks = (checkpoint.transformer, checkpoint.vae)
    size = 4 * sum(p.numel() for network in networks for p in network.parameters())
    if size > LARGEST:
        raise CheckpointError(
            f"{checkpoint.name}: expected a folder of at most {LARGEST >> 20} MB, got up to "
            f"{size >> 20}; export on the command line: ditas export"
        )


def export_zip(
    backend: Backend, session: Session, store: Store, wanted: Wanted
) -> Iterator[Progress | Path]:
    """Progress, then the file; leaving it at any moment leaves nothing behind."""
    choice = wanted.choice
    check_offered(backend, choice)
    name, recipe = backend.recipe(session, choice)
    if recipe is None:
        raise SpecError(f"{name}: expected a recipe to export, got none at these settings yet")
    target = wanted.path(store, session.key, recipe)
    if target.is_file():
        yield target
        return
    checkpoint = backend.checkpoint(choice.model)
    check_size(checkpoint)
    if wanted.form in QUANTIZED:  # refused before anything is measured
        groups, network = checkpoint.groups, checkpoint.transformer
        fit_recipe(recipe, groups, network, wanted.form, wanted.leave_out)
    calibration: Calibration | None = None
    if recipe.needs_calibration or wanted.form == "smoothed":
        spec = backend.spec if session.spec is None else session.spec
        with closing(measure(backend, choice.model, spec, (1, 2))) as events:  # type: ignore[type-var]
            for event in events:
                if isinstance(event, Calibration):
                    calibration = event
                else:
                    yield event
        assert calibration is not None
        if recipe.needs_calibration:
            # its alphas and ranks; the statistics are the ones just measured
            recipe = replace(recipe, calibration=calibration.sha256)
    make_room(backend.cache, checkpoint, 2 * BYTES_EACH, "an export")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / wanted.stem
        steps = iterate_export(
            folder, checkpoint, recipe, calibration, wanted.form, wanted.leave_out, SAMPLES, STEPS
        )
        with closing(steps):  # type: ignore[type-var]
            for step in steps:
                if isinstance(step, ExportProgress):
                    yield Progress(step.what, step.done / max(1, step.total), (2, 2))
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = {f"{wanted.stem}/{path.relative_to(folder)}": path for path in files}
        store.pack(target, names)
    yield target


@dataclass(frozen=True)
class ExportParts:
    """The section's components."""

    form: gr.Radio
    leave_out: gr.CheckboxGroup
    controls: Controls
    button: gr.DownloadButton

    def inputs(self, bar: BarInputs) -> ExportInputs:
        return ExportInputs(self.form, self.leave_out, bar)


def offered(path: Path | None) -> Any:
    """A download button with its file, or switched off."""
    return gr.update(value=None if path is None else str(path), interactive=path is not None)


def build_exports() -> ExportParts:
    """Lay out the section."""
    gr.HTML('<h3 class="card-title">For other libraries</h3>', padding=False)
    gr.HTML(lead(LEAD), padding=False)
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            form = gr.Radio(
                list(FORMS.items()), value="smoothed", label="Form", elem_id="export-form"
            )
            leave_out = gr.CheckboxGroup(
                list(WORDS.items()),
                label="May be left out",
                info="of the recipe, where torchao or sdnq have no place for it",
                elem_id="export-leave-out",
            )
        with gr.Column(min_width=300):
            controls = build_controls("export", "Make folder", IDLE)
            button = gr.DownloadButton(
                "Folder (zip)", interactive=False, elem_id="take-export", min_width=170
            )
    return ExportParts(form, leave_out, controls, button)


def made_already(
    backend: Backend, session: Session, store: Store, asked: ExportInputs
) -> Path | None:
    """The file of what is asked for, if it has been made."""
    wanted = asked.read(backend)
    _, recipe = backend.recipe(session, wanted.choice)
    if recipe is None:
        return None
    path = wanted.path(store, session.key, recipe)
    return path if path.is_file() else None


def wire_exports(backend: Backend, parts: ExportParts, store: Store, bar: BarInputs) -> Any:
    """Start makes the file; another form or word shows whether its file is there."""
    inputs = parts.inputs(bar)

    def work(session: Session, asked: ExportInputs) -> Iterator[Progress | Finished]:
        for event in export_zip(backend, session, store, asked.read(backend)):
            if isinstance(event, Path):
                yield Finished(MADE, (offered(event),))
            else:
                yield event

    def shown(session: Session, asked: ExportInputs) -> Any:
        return offered(made_already(backend, session, store, asked))

    for field in (parts.form, parts.leave_out):
        field.input(
            *answer(backend, shown, [inputs]),
            [parts.button],
            api_visibility="private",
            show_progress="hidden",
            trigger_mode="always_last",
        )
    return wire_job(backend, parts.controls, work, [inputs], [parts.button], api_name="export")
