"""Each process draws its shards; what is there is not drawn again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checkpoints import Checkpoint
from ..sampling import decode_latents, iterate_latents
from .shards import DrawSpec, ShardJournal

DECODED_PIXELS = 2**18
"""Pixels that are decoded at once: four images of 256 px, whose decoder takes more memory than
anything else by then."""


@dataclass(frozen=True)
class StepDone:
    """A denoising step of a shard."""

    shard: int
    step: int


@dataclass(frozen=True)
class BatchDone:
    """A shard is kept, or was already (``found``)."""

    shard: int
    found: bool


def own_shards(shards: int, rank: int, world: int) -> range:
    """Of one process: every ``world``-th, so that what a run has finished is as much of each
    one's share, whatever the number of processes that go on with it."""
    return range(rank, shards, world)


def decoded_at_once(size: int) -> int:
    """Images of ``size`` x ``size`` pixels."""
    return max(1, DECODED_PIXELS // size**2)


def to_bytes(images: Tensor) -> Tensor:
    """float (N, 3, H, W) in [0, 1] -> uint8 (N, H, W, 3), the nearest of 256 levels."""
    return (images.permute(0, 2, 3, 1) * 255 + 0.5).clamp(0, 255).to(torch.uint8).contiguous()


def draw_shards(
    checkpoint: Checkpoint, spec: DrawSpec, journal: ShardJournal, rank: int = 0, world: int = 1
) -> Iterator[StepDone | BatchDone]:
    """Draw what is missing of one process's share; yields after every step and shard.

    Image i starts from the noise of seed + i, whatever batch and process it falls to. Where
    activations are quantized per tensor, an image also depends on those of its batch.
    """
    for shard in own_shards(spec.shards, rank, world):
        if journal.images(shard) is not None:
            yield BatchDone(shard, True)
            continue
        first, last = spec.rows(shard)
        steps = iterate_latents(
            checkpoint.transformer,
            checkpoint.scheduler,
            torch.tensor(spec.labels[first:last]),
            checkpoint.latent_shape,
            spec.sampling,
            spec.seed + first,
            checkpoint.conditions,
        )
        for step in steps:
            yield StepDone(shard, step.index)
            latents = step.latents  # (n, C, H, W)
        images = decode_latents(checkpoint.vae, latents, decoded_at_once(spec.size))
        journal.add(shard, to_bytes(images))
        yield BatchDone(shard, False)
