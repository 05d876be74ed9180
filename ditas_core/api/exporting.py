"""Models in forms that others load."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from ..calibration import Calibration
from ..checkpoints import CheckpointError, find_origin
from ..exports import FORMS as STOCK
from ..exports import StockExport, export_injected, export_stock
from ..onnx_runtime import STEPS, Exported, export_onnx, graphs
from ..specs import Recipe, SpecError, check_choice
from .models import Model, checkpoint_of, full_checkpoint
from .progress import Progress, check_progress, each_told, told
from .settings import check_calibration, check_is_recipe

FORMS = ("onnx", *STOCK, "injected")
STRENGTH = 32.0


def export(
    model: Model,
    folder: str | Path,
    *,
    to: str = "onnx",
    modulation: str = "none",
    recipe: Recipe | None = None,
    calibration: Calibration | None = None,
    leave_out: Collection[str] = (),
    samples: int = 16,
    steps: int = 20,
    strength: float = STRENGTH,
    progress: Progress = True,
) -> Exported | StockExport:
    """Write a model as a folder that others load; what was written.

    model        a Checkpoint, a pipeline, or what ``load`` takes. For "onnx" quantized or not;
                 quantized ones become integer products. For all others in full precision
    to           "onnx": transformer, decoder, schedule, class names, recipe and card. Folders that
                 stock diffusers loads: "smoothed", the same function with smaller outliers;
                 "injected", the same with larger ones; "torchao" and "sdnq", quantized in the
                 formats of these libraries
    modulation   "none", "w8" (its weights in 8 bits), "w8a8" (and its activations), "w4"; not of
                 "smoothed"
    recipe, calibration   the others: what to store, and what it was searched with
    leave_out    "torchao" and "sdnq": what of the recipe may be missing where the format has no
                 place for it, "branch" or "divisor" (fc2's of a DiT); what is then stored
                 otherwise is searched again
    samples, steps   of the pictures that the SQNR of the card is of
    strength     "injected": how many times larger its outliers are made; powers of two lose the
                 least in half precision

    The folder appears whole or not at all, with a model card.

    Raises:
        ModuleNotFoundError: "onnx", and the extra ``[onnx]`` is not installed.
        FileExistsError: the folder exists and is not empty.
        SpecError: a recipe that the form cannot hold, with the reason.
        CheckpointError: a model that is quantized already where it should not be.

    >>> import tempfile
    >>> import ditas_core as ditas
    >>> quantized, _ = ditas.quantize("assets/fluent-emoji-dit", "W4A8", method="plain",
    ...                               progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     exported = ditas.export(quantized, folder + "/onnx", modulation="w8", progress=False)
    >>> exported.layer_sqnr_db > 60, exported.bits < 7
    (True, True)
    """
    check_progress(progress)
    check_choice("to", to, FORMS)
    if not isinstance(folder, str | Path) or not str(folder):
        raise CheckpointError(f"folder: expected a path, got {folder!r:.60}")
    if to in STOCK:
        if recipe is None:
            raise SpecError(f"recipe: expected one to store with to={to!r}, got none")
        check_is_recipe(recipe)
        if calibration is not None:
            check_calibration(calibration)
        if modulation != "none":
            if to == "smoothed":
                raise SpecError(
                    "modulation: expected none with to='smoothed', which rounds nothing"
                )
            recipe = replace(recipe, modulation=modulation)
        checkpoint = full_checkpoint(model, progress=progress)
        with each_told(progress) as tell_each:
            return export_stock(
                Path(folder),
                checkpoint,
                recipe,
                calibration,
                to,
                leave_out,
                samples,
                steps,
                lambda event: tell_each(event.what, event.done, event.total),
            )
    if recipe is not None or calibration is not None or leave_out:
        raise SpecError(f"recipe, calibration, leave_out: expected none with to={to!r}")
    if to == "injected":
        if modulation != "none":
            raise SpecError("modulation: expected none with to='injected', which rounds nothing")
        return export_injected(Path(folder), full_checkpoint(model, progress=progress), strength)
    checkpoint = checkpoint_of(model, progress=progress)
    origin = find_origin(checkpoint)
    known = None if origin is None else origin.recipe
    with told(progress, "exporting", len(STEPS)) as tell:
        return export_onnx(
            Path(folder), checkpoint, known, modulation, graphs(), lambda _, done, __: tell(done)
        )
