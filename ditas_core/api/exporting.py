"""Models in forms that others load."""

from __future__ import annotations

from pathlib import Path

from ..checkpoints import CheckpointError, find_origin
from ..onnx_runtime import STEPS, Exported, export_onnx, graphs
from ..specs import check_choice
from .models import Model, checkpoint_of
from .progress import Progress, check_progress, told

FORMS = ("onnx",)


def export(
    model: Model,
    folder: str | Path,
    *,
    to: str = "onnx",
    modulation: str = "none",
    progress: Progress = True,
) -> Exported:
    """Write a model, quantized or not, as a folder that other runtimes load; what was written.

    model       a Checkpoint, a pipeline, or what ``load`` takes; quantized ones become integer
                products
    to          "onnx": transformer, decoder, schedule, class names, recipe and card
    modulation  "none", "w8" (its weights in 8 bits), "w8a8" (and its activations) or "w4"

    The folder appears whole or not at all, after its files were checked and compared with torch.

    Raises:
        ModuleNotFoundError: the extra ``[onnx]`` is not installed.
        FileExistsError: the folder exists and is not empty.
        SpecError: a convention that has no integer product ("paper", "released").

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
    checkpoint = checkpoint_of(model, progress=progress)
    origin = find_origin(checkpoint)
    recipe = None if origin is None else origin.recipe
    with told(progress, "exporting", len(STEPS)) as tell:
        return export_onnx(
            Path(folder), checkpoint, recipe, modulation, graphs(), lambda _, done, __: tell(done)
        )
