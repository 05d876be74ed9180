"""The sizes that costs depend on, and the operations that one forward pass takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ..checkpoints import Checkpoint, view_of
from ..models import Conditions, Transformer, smoothing_groups
from ..sampling import forward_arguments

SD_AUTOENCODER = 83_653_863
"""Parameters of the autoencoder that the published DiTs use."""


class Counter(TorchDispatchMode):
    """Within the block, ``flops`` grows by the operations of this thread's products, and
    ``largest`` is the number of elements of the largest tensor that was made.

    torch's own FlopCounterMode asks the modules of all threads which of them runs.
    """

    flops = 0
    largest = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        options: Mapping[str, Any] = kwargs or {}
        out = func(*args, **options)
        count = flop_registry.get(func._overloadpacket)
        self.flops += count(*args, **options, out_val=out) if count else 0
        if isinstance(out, torch.Tensor):
            self.largest = max(self.largest, out.numel())
        return out


def transformer_flops(transformer: Transformer, conditions: Conditions | None = None) -> int:
    """Operations (2 per multiply-add) of one pass of one sample, counted on the meta device.

    A guided step is two such passes. Blocks are alike: one is counted, and what a second adds.

    conditions  those of a checkpoint
    """
    empty = view_of(transformer, "meta")
    size = int(transformer.config.sample_size)
    latents = torch.empty(2, int(transformer.config.in_channels), size, size, device="meta")
    times = torch.empty(2, device="meta")
    arguments = forward_arguments(empty, torch.zeros(1, dtype=torch.long), conditions)
    blocks, found = empty.transformer_blocks, []
    for count in (1, 2):
        empty.transformer_blocks = blocks[:count]
        with torch.no_grad(), Counter() as counter:
            empty(latents, timestep=times, **arguments)  # both halves
        found.append(counter.flops // 2)
    return int(found[0] + (len(blocks) - 1) * (found[1] - found[0]))


def decoding(vae: AutoencoderKL, side: int) -> tuple[int, int]:
    """Operations of decoding one image from latents of ``side`` x ``side``, and the elements of
    the largest tensor on the way, counted on the meta device."""
    empty = view_of(vae, "meta")
    channels = int(vae.config.latent_channels)
    with torch.no_grad(), Counter() as counter:
        empty.decode(torch.empty(1, channels, side, side, device="meta"))
    return counter.flops, counter.largest


@dataclass(frozen=True)
class ModelShape:
    """All that costs depend on.

    tokens       of one image, or of its caption if that is longer
    groups       (C, outputs of all layers together) of every smoothing group
    flops        see ``transformer_flops``
    parameters   of the transformer
    autoencoder  parameters of the autoencoder
    """

    width: int
    tokens: int
    groups: tuple[tuple[int, int], ...]
    flops: int
    parameters: int
    autoencoder: int

    @staticmethod
    def of(checkpoint: Checkpoint) -> ModelShape:
        """A loaded checkpoint's."""
        return shape_of(
            checkpoint.transformer,
            checkpoint.most_tokens,
            checkpoint.conditions,
            sum(p.numel() for p in checkpoint.vae.parameters()),
        )

    @property
    def linear_weights(self) -> int:
        """Weights of all layers that are quantized."""
        return sum(c * outputs for c, outputs in self.groups)


def shape_of(
    transformer: Transformer,
    tokens: int,
    conditions: Conditions | None = None,
    autoencoder: int = SD_AUTOENCODER,
) -> ModelShape:
    """Of a model that may be on the meta device, without memory."""
    groups = []
    for group in smoothing_groups(transformer):
        shapes = [transformer.get_submodule(path).weight.shape for path in group.layers]
        groups.append((int(shapes[0][1]), sum(int(rows) for rows, _ in shapes)))
    config = transformer.config
    return ModelShape(
        width=int(config.num_attention_heads) * int(config.attention_head_dim),
        tokens=tokens,
        groups=tuple(groups),
        flops=transformer_flops(transformer, conditions),
        parameters=sum(p.numel() for p in transformer.parameters()),
        autoencoder=autoencoder,
    )
