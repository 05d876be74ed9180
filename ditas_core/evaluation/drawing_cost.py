"""What it costs to draw images by the thousand: measured passes times steps, and bytes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..calibration import memory_of
from ..checkpoints import Checkpoint
from ..drawing import decoded_at_once
from ..sampling import decode_latents
from ..specs import CalibrationSpec
from .cost import LIBRARIES, LONG_S, measure_speed
from .shape import ModelShape, decoding, shape_of

TIMED_SIDE = 16
"""Latents whose decoding is timed, at most; larger ones take as many more operations."""
DECODER_COPIES = 7
"""Of the decoder's largest tensor that are alive at once, a convolution's rearranged ones among
them; measured 6.2 with Stable Diffusion's decoder and 6.8 with the demo's."""


@dataclass(frozen=True)
class Throughput:
    """Of one model on this machine, as it was measured.

    speed        operations per second of the transformer, in passes of ``batch`` guided samples
    decode_s     seconds to decode one image
    """

    speed: float
    decode_s: float
    batch: int


@dataclass(frozen=True)
class DrawingCost:
    """Of a whole run.

    pass_s        of one guided pass of a batch
    decode_s      of one image
    seconds       all together, without loading the model
    memory_bytes  upper bound of what the process holds at once
    disk_bytes    while the file is put together: the shards, and the images once more
    """

    pass_s: float
    decode_s: float
    seconds: float
    memory_bytes: int
    disk_bytes: int


def measure_throughput(
    checkpoint: Checkpoint, batch: int, clock: Callable[[], float] = time.perf_counter
) -> Throughput:
    """Time the checkpoint's own transformer, quantized or not, and its decoder.

    Raises:
        ValueError: no sample, or a clock that stands still.
    """
    speed = measure_speed(checkpoint, shape_as_made(checkpoint).flops, batch, clock)
    side = min(TIMED_SIDE, checkpoint.latent_shape[1])
    at_once = decoded_at_once(checkpoint.image_size)
    generator = torch.Generator().manual_seed(0)
    count = min(batch, at_once)
    latents = torch.randn(count, checkpoint.latent_shape[0], side, side, generator=generator)

    def seconds() -> float:
        start = clock()
        decode_latents(checkpoint.vae, latents)
        return clock() - start

    taken = seconds()
    if taken <= LONG_S:
        taken = sorted(seconds() for _ in range(3))[1]
    full = decoding(checkpoint.vae, checkpoint.latent_shape[1])[0]
    larger = full / decoding(checkpoint.vae, side)[0]
    return Throughput(speed, taken / count * larger, batch)


def shape_as_made(checkpoint: Checkpoint) -> ModelShape:
    """Of the model before it was quantized, whose operations are counted; built without memory."""
    with torch.device("meta"):
        transformer = checkpoint.family.cls.from_config(dict(checkpoint.transformer.config))
    autoencoder = sum(p.numel() for p in checkpoint.vae.parameters())
    return shape_of(transformer, checkpoint.most_tokens, checkpoint.conditions, autoencoder)


def resident_bytes(*modules: nn.Module) -> int:
    """Of all their tensors, each counted once, and of sessions that run in their place."""
    tensors = {
        tensor.data_ptr(): tensor.numel() * tensor.element_size()
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    }
    return sum(tensors.values()) + sum(getattr(module, "nbytes", 0) for module in modules)


def drawing_cost(
    checkpoint: Checkpoint,
    throughput: Throughput,
    count: int,
    steps: int,
    shape: ModelShape | None = None,
) -> DrawingCost:
    """What ``sample --npz`` takes for ``count`` images of ``steps`` steps.

        seconds = count (steps 2 flops / speed + decode_s)

    shape  of the whole model, where ``checkpoint`` has only the first of its blocks, which are
           alike

    Raises:
        ValueError: no image, or no step.
    """
    if count < 1 or steps < 1:
        raise ValueError(f"run: expected at least one image and one step, got {count} and {steps}")
    here = shape_as_made(checkpoint)
    whole = shape or here
    batch = min(throughput.batch, count)
    one = 2 * whole.flops / throughput.speed  # a guided pass of one sample
    blocks = checkpoint.transformer.transformer_blocks
    missing = (len(whole.groups) - len(here.groups)) // (len(here.groups) // len(blocks))
    model = resident_bytes(checkpoint.transformer, checkpoint.vae)
    model += missing * resident_bytes(blocks[-1])
    channels = [c for c, _ in whole.groups]
    spec = replace(CalibrationSpec(), samples=batch, batch=batch)
    call = memory_of(channels, whole.tokens, 0, spec).call
    largest = decoding(checkpoint.vae, checkpoint.latent_shape[1])[1]
    decoded = DECODER_COPIES * 4 * largest * min(batch, decoded_at_once(checkpoint.image_size))
    return DrawingCost(
        pass_s=batch * one,
        decode_s=throughput.decode_s,
        seconds=count * (steps * one + throughput.decode_s),
        memory_bytes=LIBRARIES + model + call + decoded,  # the allocator gives little back
        disk_bytes=2 * count * checkpoint.image_size**2 * 3,
    )
