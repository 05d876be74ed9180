"""Whether a live pipeline can be worked on, before any work; the reason where it cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import AutoencoderKL
from torch import nn

from ..checkpoints import CheckpointError
from ..checkpoints.configurations import check_latents
from ..checkpoints.schedule import check_schedule
from ..layers import QuantizedLinear
from ..models import (
    FAMILIES,
    UNKNOWN,
    check_config,
    family_of,
    get_linear,
    reason_of,
    smoothing_groups,
)

UNLOAD = (
    "hand over the full-precision pipeline, without adapters (unload_lora_weights) and without a "
    "quantization_config"
)


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
            f"model: expected a {', '.join(known)}, a Checkpoint, a path or REPO@COMMIT, got "
            f"{type(model).__name__}"
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


def check_layers(transformer: nn.Module) -> None:
    """Raise CheckpointError unless the layers to be quantized are plain and full-precision."""
    if any(getattr(module, "fused_projections", False) for module in transformer.modules()):
        raise CheckpointError(
            "transformer: expected q, k and v apart, got fused projections; call "
            "unfuse_qkv_projections() first"
        )
    for group in smoothing_groups(transformer):
        for path in group.layers:
            layer = transformer.get_submodule(path)
            if isinstance(layer, QuantizedLinear):
                raise CheckpointError(
                    "model: expected one in full precision, got one that is quantized already"
                )
            try:
                plain = get_linear(transformer, path).weight.is_floating_point()
            except TypeError as error:
                raise CheckpointError(f"transformer: {error}; {UNLOAD}") from None
            if not plain:
                raise CheckpointError(
                    f"transformer: {path}: expected floating-point weights, got "
                    f"{type(layer).__name__}; {UNLOAD}"
                )


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
