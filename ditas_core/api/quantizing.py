"""One call: calibrate, search, convert."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from ..calibration import Calibration, check_together
from ..checkpoints import Checkpoint, Prompts, is_pipeline
from ..onnx_runtime import check_backend
from ..search import relative_error, unsearched_recipe
from ..specs import MODULATIONS, BitWidths, LowRankSpec, Recipe, SpecError, check_choice
from .drawing import check_drawable, pipeline_with
from .models import Model, full_checkpoint
from .progress import Progress, check_progress
from .report import Report, make_report
from .settings import Trajectory, check_calibration, check_is_recipe, what_to_search
from .steps import apply_recipe, calibrated, predicted, searched, with_influence


def quantize(
    model: Model,
    bits: str | BitWidths = "W4A8",
    *,
    method: str = "ditas",
    convention: str = "integer",
    alpha: float | Sequence[float] | None = None,
    rank: int | LowRankSpec | None = None,
    objective: str = "output",
    budget: float | None = None,
    samples: int = 8,
    steps: int = 20,
    guidance_scale: float | None = None,
    seed: int = 0,
    backend: str = "simulated",
    modulation: str = "none",
    captions: Prompts = None,
    calibration: Calibration | None = None,
    recipe: Recipe | None = None,
    progress: Progress = True,
) -> tuple[Any, Report]:
    """Quantize a DiT or PixArt: a new pipeline that is ready to draw, and a table of its layers.

    model        a diffusers pipeline, which is not changed; a Checkpoint; a path; REPO@COMMIT
    calibration  reused instead of a new one; ``samples``, ``steps``, ``guidance_scale`` and
                 ``seed`` are then not looked at
    recipe       converted instead of a search; ``bits``, ``method``, ``convention``, ``alpha``,
                 ``rank``, ``objective`` and ``budget`` are then not looked at
    backend      how its products run: "simulated", in floating point; "integer", in bytes, to
                 the same numbers; "onnx", in bytes with the whole pass on ONNX Runtime, fastest on
                 a CPU. Conventions of the integer kind can
    modulation   the layers that compute shifts, scales and gates, a third of a DiT: "none" (or what
                 ``recipe`` says), "w8" (8-bit weights), "w8a8" (and activations) or "w4"
    The others are those of ``calibrate`` and ``search``. The pipeline has the class, device and
    precision of the one that was given, and shares all but transformer and scheduler with it.
    Where that lies on a GPU, all is computed there.

    Raises:
        CheckpointError: a model that is not understood, or captions that are missing.
        SpecError, RecipeError: a setting out of its range, or parts that do not belong together.

    >>> from diffusers import DiTPipeline
    >>> import ditas_core as ditas
    >>> pipeline = DiTPipeline.from_pretrained("assets/fluent-emoji-dit")
    >>> quantized, report = ditas.quantize(pipeline, "W4A8", samples=1, steps=2, alpha=(0.5,),
    ...                                    rank=0, progress=False)
    >>> type(quantized).__name__, len(report.rows)
    ('DiTPipeline', 32)
    """
    check_progress(progress)
    wanted = what_to_search(bits, method, convention, alpha, rank, objective, budget)
    check_backend(wanted.spec.convention, backend, [wanted.spec.bits])
    check_choice("modulation", modulation, MODULATIONS)
    trajectory = Trajectory(samples, steps, guidance_scale, seed)
    if calibration is not None:
        check_calibration(calibration)
    if recipe is not None:
        check_is_recipe(recipe)
        check_backend(recipe.convention, backend, recipe.bits)
        if recipe.needs_calibration and calibration is None:
            raise SpecError("calibration: expected the one the recipe was searched with, got none")
    checkpoint = full_checkpoint(model, captions, progress)
    check_drawable(model, checkpoint)
    seconds: dict[str, float] = {}
    if recipe is None and not wanted.spec.needs_calibration:
        recipe = unsearched_recipe(checkpoint, wanted.spec)
    if recipe is None and calibration is None:
        with clock(seconds, "calibration"):
            calibration = calibrated(checkpoint, trajectory, progress)
    errors: dict[str, float] = {}
    if recipe is None:
        assert calibration is not None
        if wanted.spec.reads_influence and calibration.influence is None:
            check_together(checkpoint, calibration)
            with clock(seconds, "influence"):
                calibration = with_influence(checkpoint, calibration, progress)
        with clock(seconds, "search"):
            recipe, layers = searched(checkpoint, calibration, wanted, progress)
        errors = {layer.group: relative_error(layer) for layer in layers}
        weighed = recipe.objective != "output"
        if not layers or weighed or wanted.spec.chooses_bits:  # whose errors are others
            errors = predicted(checkpoint, calibration, recipe, progress)
    elif calibration is not None:
        errors = predicted(checkpoint, calibration, recipe, progress)
    if modulation != "none":
        recipe = replace(recipe, modulation=modulation)
    with clock(seconds, "conversion"):
        quantized = apply_recipe(checkpoint, recipe, calibration, progress, backend)
    source = model.transformer if is_pipeline(model) else checkpoint.transformer
    made = pipeline_with(model, checkpoint, quantized)
    notes = notes_of(model, checkpoint, made, backend)
    return made, make_report(checkpoint, source, quantized, recipe, errors, seconds, notes)


@contextmanager
def clock(seconds: dict[str, float], what: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - started


NOTES = {
    "simulated": "simulated: operands are rounded and multiplied in float32; no speed is claimed",
    "integer": "integer: products of codes run in bytes, to the numbers of the simulation",
    "onnx": "onnx: products of codes run in bytes, the whole pass on ONNX Runtime",
}


def notes_of(model: Model, checkpoint: Checkpoint, made: Any, backend: str) -> tuple[str, ...]:
    """What a reader of the report should know besides its figures."""
    notes = [NOTES[backend]]
    notes += replace(checkpoint, transformer=made.transformer).notes
    dtype = made.transformer.dtype
    if is_pipeline(model) and dtype != torch.float32:
        kind = str(dtype).removeprefix("torch.")
        notes.append(f"worked on a copy in float32; the pipeline draws in {kind}, as the given one")
    return tuple(f"{note[0].upper()}{note[1:]}." for note in notes)
