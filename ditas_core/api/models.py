"""What the library is handed: a pipeline, a checkpoint, a path or a hub id; as a Checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from ..artifact import is_quantized
from ..checkpoints import (
    Captions,
    Checkpoint,
    CheckpointError,
    Prompts,
    check_pipeline,
    load_checkpoint,
)
from ..layers import QuantizedLinear
from ..models import get_linear, smoothing_groups
from ..onnx_runtime import load_on
from .progress import Progress, check_progress, fetching

Model: TypeAlias = Any
"""A Checkpoint, a live diffusers pipeline, or what ``load`` takes."""
UNLOAD = (
    "hand over the full-precision pipeline, without adapters (unload_lora_weights) and without a "
    "quantization_config"
)
QUANTIZED = (
    "model: expected one in full precision, got one that is quantized already; go back to the one "
    "it was made of"
)


def load(
    source: Model,
    *,
    dtype: torch.dtype = torch.float32,
    like: str | Path | None = None,
    backend: str = "simulated",
    captions: Prompts = None,
    progress: Progress = True,
) -> Checkpoint:
    """A checkpoint from a diffusers folder, an original weight file, a hub id, a live pipeline, or
    a folder that ``save`` wrote; the latter's transformer is the quantized one, bit by bit.

    source    a path, ``REPO@COMMIT`` on the hub, or a pipeline, whose weights are shared
    dtype     of the transformer as it is read: float32 or bfloat16
    like      of a weight file: the folder or hub id that lends autoencoder and schedule
    backend   of a folder that ``save`` wrote: see ``convert``
    captions  of a text-conditioned model: embedded prompts or their file; or prompts, where
              ``source`` is a pipeline with its text encoder
    progress  of a download: see ``calibrate``

    Raises:
        CheckpointError: nothing that can be loaded, with the reason and what to do.

    >>> import ditas_core as ditas
    >>> checkpoint = ditas.load("assets/fluent-emoji-dit")
    >>> checkpoint.class_index(checkpoint.class_names[0]), checkpoint.licence
    (0, 'mit')
    """
    check_progress(progress)
    if not isinstance(source, str | Path):
        return checkpoint_of(source, captions)
    if captions is not None and not isinstance(captions, Captions | str | Path):
        raise CheckpointError(
            "captions: expected embedded captions or their file, got prompts: a checkpoint has no "
            "text encoder; hand over the whole pipeline, or Captions.of_pipeline(pipeline, prompts)"
        )
    if is_quantized(Path(source)):
        if captions is not None or like is not None:
            raise CheckpointError(
                "captions, like: expected neither with a quantized folder, which has its own"
            )
        return load_on(Path(source), backend)[0]
    if backend != "simulated":
        raise CheckpointError(
            f"backend: expected a quantized folder to run as {backend}, got a model in full "
            "precision; quantize it first"
        )
    with fetching(progress) as tell:
        return load_checkpoint(source, dtype=dtype, like=like, captions=captions, progress=tell)


def checkpoint_of(model: Model, captions: Prompts = None, progress: Progress = False) -> Checkpoint:
    """Any model as a Checkpoint: a pipeline's view where it lies, what is read on the CPU.

    Raises:
        CheckpointError: no such model, or one that is not understood.
    """
    if isinstance(model, Checkpoint):
        if captions is not None:
            raise CheckpointError("captions: expected none beside a Checkpoint, which has its own")
        return model
    if isinstance(model, str | Path):
        return load(model, captions=captions, progress=progress)
    return Checkpoint.of_pipeline(model, captions)


def full_checkpoint(
    model: Model,
    captions: Prompts = None,
    progress: Progress = False,
    *,
    or_quantized: bool = False,
) -> Checkpoint:
    """``checkpoint_of`` a model that is not quantized yet, or was so by this package.

    Raises:
        CheckpointError: as there; or its layers are not plain linear layers.
    """
    if isinstance(model, str | Path):
        if not or_quantized and is_quantized(Path(model)):
            raise CheckpointError(QUANTIZED)
    elif not isinstance(model, Checkpoint):
        check_pipeline(model)
        check_layers(model.transformer, or_quantized)  # before a text encoder works
    checkpoint = checkpoint_of(model, captions, progress)
    check_layers(checkpoint.transformer, or_quantized)
    return checkpoint


def check_layers(transformer: nn.Module, or_quantized: bool) -> None:
    """Raise CheckpointError unless the layers are plain and full-precision, or this package's."""
    if any(getattr(module, "fused_projections", False) for module in transformer.modules()):
        raise CheckpointError(
            "transformer: expected q, k and v apart, got fused projections; call "
            "unfuse_qkv_projections() first"
        )
    for group in smoothing_groups(transformer):
        for path in group.layers:
            layer = transformer.get_submodule(path)
            if isinstance(layer, QuantizedLinear):
                if or_quantized:
                    continue
                raise CheckpointError(QUANTIZED)
            try:
                plain = get_linear(transformer, path).weight.is_floating_point()
            except TypeError as error:
                raise CheckpointError(f"transformer: {error}; {UNLOAD}") from None
            if not plain:
                raise CheckpointError(
                    f"transformer: {path}: expected floating-point weights, got "
                    f"{type(layer).__name__}; {UNLOAD}"
                )
