"""A live diffusers pipeline: whether it can be worked on, and what a checkpoint takes from it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from diffusers import AutoencoderKL
from torch import nn

from ..models import (
    FAMILIES,
    UNKNOWN,
    CheckpointError,
    check_config,
    family_of,
    null_class,
    reason_of,
)
from .captions import Captions, check_captions
from .configurations import check_latents
from .files.folders import licence_of_card
from .hub.sources import HUB_SOURCES
from .schedule import check_schedule

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


def is_pipeline(model: Any) -> bool:
    """Whether it looks like a diffusers pipeline."""
    return hasattr(type(model), "components") and isinstance(
        getattr(model, "config", None), Mapping
    )


def check_pipeline(model: Any) -> None:
    """Raise CheckpointError unless it is a pipeline that is understood, whole and in memory."""
    known = [name for family in FAMILIES for name in family.pipelines]
    if not is_pipeline(model):
        raise CheckpointError(
            f"model: expected a {', '.join(known[:-1])} or {known[-1]}, got "
            f"{type(model).__name__}; ditas.load takes a path or REPO@COMMIT, too"
        )
    found: Any = getattr(model, "transformer", None)
    if not {cls.__name__ for cls in type(model).__mro__} & set(known):
        reason = reason_of(type(found).__name__) or reason_of(type(model).__name__) or UNKNOWN
        raise CheckpointError(
            f"pipeline: expected a {', '.join(known[:-1])} or {known[-1]}, got a "
            f"{type(model).__name__}: {reason}"
        )
    for part in ("transformer", "vae", "scheduler"):
        if getattr(model, part, None) is None:
            raise CheckpointError(f"pipeline: expected a {part}, got none; load the whole pipeline")
    if hasattr(found, "_orig_mod"):
        raise CheckpointError(
            "pipeline: expected its own transformer, got one of torch.compile; compile the "
            "quantized pipeline's afterwards"
        )
    family = family_of(found)
    if not isinstance(model.vae, AutoencoderKL):
        raise CheckpointError(f"vae: expected an AutoencoderKL, got {type(model.vae).__name__}")
    check_config(family, {**model.transformer.config, "_class_name": family.cls.__name__})
    channels = int(found.config.in_channels), int(found.out_channels)
    check_latents(channels, int(model.vae.config.latent_channels), lender="the pipeline")
    for network in (found, model.vae):
        places = {tensor.device for tensor in network.parameters()}
        if len(places) > 1 or "meta" in {place.type for place in places} or is_wrapped(network):
            raise CheckpointError(
                "pipeline: expected its networks in memory, each on one device, got offloading or "
                "layerwise casting; load it without device_map and enable_*"
            )


def is_wrapped(network: nn.Module) -> bool:
    """Whether a library that moves or casts weights has exchanged what its modules run."""
    wrappers = {"_hf_hook", "_diffusers_hook", "forward"}
    return any(wrappers & vars(module).keys() for module in network.modules())


def schedule_of(pipeline: Any) -> dict[str, Any]:
    """The scheduler's configuration, if DDIM can follow it.

    Raises:
        CheckpointError: it cannot.
    """
    schedule = {**pipeline.scheduler.config, "_class_name": type(pipeline.scheduler).__name__}
    try:
        check_schedule(schedule)
    except CheckpointError as error:
        reason = str(error).partition(": ")[2]
        raise CheckpointError(f"pipeline's scheduler: {reason}") from None
    return schedule


def captions_of(pipeline: Any, given: Prompts) -> Captions | None:
    """Embedded captions: given, read, or encoded by the pipeline; None of a class model.

    Raises:
        CheckpointError: captions for classes or of another width, or prompts and no text encoder.
    """
    family = family_of(pipeline.transformer)
    if not family.text:
        if given is not None:
            raise CheckpointError(f"captions: expected none, a {family.name} has classes")
        return None
    if isinstance(given, str | Path):
        given = Captions.load(Path(given))
    if not isinstance(given, Captions):
        given = encoded(pipeline, PROMPTS if given is None else given)
    check_captions(given, pipeline.transformer)
    return given


def encoded(pipeline: Any, prompts: Sequence[str]) -> Captions:
    """By the pipeline's own text encoder.

    Raises:
        CheckpointError: it has none.
    """
    if getattr(pipeline, "text_encoder", None) is None:
        raise CheckpointError(
            "captions: expected embedded captions, the pipeline has no text encoder; pass "
            "captions=ditas.Captions.load(FOLDER)"
        )
    return Captions.of_pipeline(pipeline, list(prompts))


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
