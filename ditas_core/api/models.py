"""What the library is handed: a pipeline, a checkpoint, a path or a hub id; as a Checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from ..artifact import is_quantized, load_quantized
from ..checkpoints import HUB_SOURCES, Captions, Checkpoint, CheckpointError, load_checkpoint
from ..checkpoints.checkpoint import check_captions, licence_of_card
from ..models import Family, family_of, null_class
from .checks import check_layers, check_pipeline, is_pipeline, schedule_of
from .origin import find_origin, remember_
from .progress import Progress, check_progress, fetching
from .views import view_of, working_place

Model: TypeAlias = Any
"""A Checkpoint, a live diffusers pipeline, or what ``load`` takes."""
Prompts: TypeAlias = Captions | str | Path | Sequence[str] | None
"""Embedded captions, their file, or prompts for the pipeline's own text encoder."""
NOWHERE = Path(os.devnull) / "pipeline"
"""The path of what was never in a folder."""
PROMPTS = (
    "a photo of a red fox in the snow",
    "an astronaut riding a horse on the moon",
    "a bowl of ramen on a wooden table, seen from above",
    "a portrait of an old fisherman, oil on canvas",
    "a small house by a lake at sunset",
    "a city street at night in the rain, neon signs",
    "a close-up of a hummingbird beside a flower",
    "an isometric drawing of a cosy library",
)
"""What a text-conditioned pipeline is calibrated on where no prompts are given."""


def load(
    source: Model,
    *,
    dtype: torch.dtype = torch.float32,
    like: str | Path | None = None,
    captions: Prompts = None,
    progress: Progress = True,
) -> Checkpoint:
    """A checkpoint from a diffusers folder, an original weight file, a hub id, a live pipeline, or
    a folder that ``save`` wrote; the latter's transformer is the quantized one, bit by bit.

    source    a path, ``REPO@COMMIT`` on the hub, or a pipeline, whose weights are shared
    dtype     of the transformer as it is read: float32 or bfloat16
    like      of a weight file: the folder or hub id that lends autoencoder and schedule
    captions  of a text-conditioned model: embedded prompts or their file; or prompts, where
              ``source`` is a pipeline with its text encoder
    progress  of a download: see ``calibrate``

    Raises:
        CheckpointError: nothing that can be loaded, with the reason and what to do.

    >>> import ditas_core as ditas
    >>> checkpoint = ditas.load("assets/fluent-emoji-dit")
    >>> checkpoint.class_names[0], len(checkpoint.groups)
    ('happy-face', 32)
    """
    check_progress(progress)
    if not isinstance(source, str | Path):
        return checkpoint_of(source, captions)
    if captions is not None and not isinstance(captions, Captions | str | Path):
        raise CheckpointError(
            "captions: expected embedded captions or their file, got prompts: a checkpoint has no "
            "text encoder; hand over the whole pipeline, or Captions.of_pipeline(pipeline, prompts)"
        )
    if is_written(source):
        if captions is not None or like is not None:
            raise CheckpointError(
                "captions, like: expected neither with a quantized folder, which has its own"
            )
        checkpoint, recipe = load_quantized(Path(source))
        remember_(checkpoint.transformer, checkpoint, recipe)
        return checkpoint
    with fetching(progress) as tell:
        return load_checkpoint(source, dtype=dtype, like=like, captions=captions, progress=tell)


def is_written(source: str | Path) -> bool:
    """Whether it is a folder of ``save``."""
    try:
        return is_quantized(Path(source))
    except (OSError, ValueError):  # too long a name, or a null byte
        return False


def checkpoint_of(model: Model, captions: Prompts = None, progress: Progress = False) -> Checkpoint:
    """Any model as a Checkpoint on the CPU; of a pipeline it is a view, see ``view_of``.

    Raises:
        CheckpointError: no such model, or one that is not understood.
    """
    if isinstance(model, Checkpoint):
        if captions is not None:
            raise CheckpointError("captions: expected none beside a Checkpoint, which has its own")
        return model
    if isinstance(model, str | Path):
        return load(model, captions=captions, progress=progress)
    check_pipeline(model)
    family = family_of(model.transformer)
    origin = find_origin(model)
    schedule = schedule_of(model)
    if origin is not None and captions is None:
        captions = origin.captions
    found = captions_of(model, family, captions)
    if found is not None:
        check_captions(found, model.transformer)
    name, licence = name_of(model)
    return Checkpoint(
        name=origin.name if origin else name,
        path=NOWHERE,
        transformer=view_of(model.transformer),
        vae=view_of(model.vae),
        scheduler=schedule,
        class_names=found.names if found is not None else class_names(model),
        licence=origin.licence if origin else licence,
        captions=found,
    )


def full_checkpoint(
    model: Model, captions: Prompts = None, progress: Progress = False
) -> Checkpoint:
    """``checkpoint_of`` a model that is not quantized yet.

    Raises:
        CheckpointError: as there; or its layers are not plain linear layers.
    """
    if not isinstance(model, Checkpoint | str | Path):
        check_pipeline(model)
        check_layers(model.transformer)  # before a text encoder works
    checkpoint = checkpoint_of(model, captions, progress)
    check_layers(checkpoint.transformer)
    return checkpoint


def placed(model: Model, checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint where its networks run: a pipeline's on its GPU, all others on the CPU."""
    if not is_pipeline(model):
        return checkpoint
    there = working_place(model.transformer)
    if there.type == "cpu":
        return checkpoint
    networks = {"transformer": view_of(model.transformer, there), "vae": view_of(model.vae, there)}
    return replace(checkpoint, **networks)


def captions_of(pipeline: Any, family: Family, given: Prompts) -> Captions | None:
    """Embedded captions: given, read, or encoded by the pipeline; None of a class model.

    Raises:
        CheckpointError: captions for classes, or prompts and no text encoder.
    """
    if not family.text:
        if given is not None:
            raise CheckpointError(f"captions: expected none, a {family.name} has classes")
        return None
    if isinstance(given, Captions):
        return given
    if isinstance(given, str | Path):
        return Captions.load(Path(given))
    if getattr(pipeline, "text_encoder", None) is None:
        raise CheckpointError(
            "captions: expected embedded captions, the pipeline has no text encoder; pass "
            "captions=ditas.Captions.load(FOLDER)"
        )
    return Captions.of_pipeline(pipeline, list(PROMPTS if given is None else given))


def name_of(pipeline: Any) -> tuple[str, str]:
    """A pipeline's name, without the folders above it, and its licence where that is known."""
    where = str(pipeline.config.get("_name_or_path") or "")
    if where in HUB_SOURCES:
        return where, HUB_SOURCES[where].licence
    try:
        licence = licence_of_card(Path(where) / "README.md") if where else "unknown"
    except CheckpointError:  # a link to elsewhere
        licence = "unknown"
    return Path(where).name or type(pipeline).__name__, licence


def class_names(pipeline: Any) -> tuple[str, ...]:
    """The pipeline's labels, the first of each class; numbers where it has none."""
    count = null_class(pipeline.transformer)
    names: dict[int, str] = {}
    for name, index in (getattr(pipeline, "labels", None) or {}).items():
        names.setdefault(int(index), name)
    whole = names and sorted(names) == list(range(len(names))) and len(names) <= count
    chosen = [names[i] for i in range(len(names))] if whole else range(count)
    return tuple(map(str, chosen))
