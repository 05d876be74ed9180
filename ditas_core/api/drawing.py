"""Pipelines that draw: over a checkpoint, and in place of the one that was handed in."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import diffusers
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import is_transformers_available
from torch import nn

from ..checkpoints import Checkpoint, CheckpointError, is_pipeline, settle_patches_
from ..checkpoints.files import read_json
from .models import Model


def pipeline(checkpoint: Checkpoint, **parts: Any) -> Any:
    """The stock diffusers pipeline over a checkpoint, quantized or not; its networks are shared.

    parts  what a checkpoint does not hold: ``text_encoder`` and ``tokenizer`` of a PixArt, which
           otherwise draws from embedded captions alone

    Raises:
        CheckpointError: PixArt's pipelines, without the transformers library.

    >>> import ditas_core as ditas
    >>> pipe = ditas.pipeline(ditas.load("assets/fluent-emoji-dit"))
    >>> pipe.set_progress_bar_config(disable=True)
    >>> pipe([0], num_inference_steps=2).images[0].mode
    'RGB'
    """
    cls = stock_pipeline(checkpoint)
    named: Any = getattr(diffusers, str(checkpoint.scheduler.get("_class_name")), None)
    known = isinstance(named, type) and issubclass(named, SchedulerMixin)
    sampler: Any = named if known else diffusers.DDIMScheduler
    networks = {"transformer": checkpoint.transformer, "vae": checkpoint.vae}
    networks["scheduler"] = sampler.from_config(checkpoint.scheduler)
    if checkpoint.family.text:
        return cls(**{"tokenizer": None, "text_encoder": None, **networks, **parts})
    made = cls(**networks, **parts)
    made.labels = {name: i for i, name in enumerate(checkpoint.class_names)}
    return made


def stock_pipeline(checkpoint: Checkpoint) -> Any:
    """The class that draws with a checkpoint: the one that its folder names, or its family's.

    Raises:
        CheckpointError: it needs a library that is not installed.
    """
    family = checkpoint.family
    tokens = 0 if checkpoint.captions is None else checkpoint.captions.tokens
    name = family.pipeline_of(checkpoint.transformer, tokens)
    index = checkpoint.path / "model_index.json"
    if index.is_file():
        named = read_json(index).get("_class_name")
        name = str(named) if named in family.pipelines else name
    if family.text and not is_transformers_available():
        raise CheckpointError(
            f"model: expected the package transformers, which a {name} needs, found none; "
            "pip install transformers, or go by ditas.load, calibrate, search and convert"
        )
    return getattr(diffusers, name)


def check_drawable(model: Model, checkpoint: Checkpoint) -> None:
    """Raise CheckpointError, before long work, where no pipeline could be made after it."""
    if not is_pipeline(model):
        stock_pipeline(checkpoint)


def pipeline_with(model: Model, checkpoint: Checkpoint, quantized: Any) -> Any:
    """A new pipeline that draws with a quantized transformer: ``model``'s own class, device and
    precision, if it is one. All other parts are shared, but for the scheduler, which is copied.
    """
    if not is_pipeline(model):
        return pipeline(replace(checkpoint, transformer=quantized))
    there = model.transformer
    # not diffusers' own method, which warns of an empty list of modules
    quantized = nn.Module.to(quantized, there.device, there.dtype)
    if there.device.type == "cpu":
        settle_patches_(quantized)
    made = copy.copy(model)  # with whatever its class keeps besides its parts
    made.register_modules(transformer=quantized, scheduler=copy.deepcopy(model.scheduler))
    if hasattr(model, "labels"):
        made.labels = dict(model.labels)
    return made
