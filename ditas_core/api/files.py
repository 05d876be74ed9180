"""Quantized models on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..artifact import save_quantized
from ..checkpoints import NOWHERE, Checkpoint, CheckpointError, origin_of, view_of
from ..writing import check_new_folder


def save(quantized: Any, folder: str | Path) -> Path:
    """Write a quantized pipeline or Checkpoint as a folder, which ``load`` and the command line
    read; the folder.

    It holds packed codes, scales, the branch, the autoencoder and the schedule, and appears
    whole or not at all.

    Raises:
        CheckpointError: nothing that ``quantize``, ``convert`` or ``load`` has quantized.
        FileExistsError: the folder exists and is not empty.

    >>> import tempfile
    >>> import ditas_core as ditas
    >>> quantized, _ = ditas.quantize("assets/fluent-emoji-dit", "W8A8", method="plain",
    ...                               progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = ditas.load(ditas.save(quantized, folder + "/w8a8"))
    >>> again.name, type(ditas.pipeline(again)).__name__
    ('w8a8', 'DiTPipeline')
    """
    origin = origin_of(quantized)
    if not isinstance(folder, str | Path) or not str(folder):
        raise CheckpointError(f"folder: expected a path, got {folder!r:.60}")
    target = Path(folder)
    check_new_folder(target)
    checkpoint = Checkpoint(
        name=origin.name,
        path=NOWHERE,
        transformer=view_of(quantized.transformer),
        vae=view_of(quantized.vae),
        scheduler=origin.scheduler,
        class_names=origin.class_names,
        licence=origin.licence,
        captions=origin.captions,
    )
    save_quantized(target, checkpoint, checkpoint.transformer, origin.recipe)
    return target
