"""Published shapes of DiT without their weights, so that costs are known before a download."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler

from ..checkpoints import Checkpoint
from ..models import DIT, Transformer
from ..specs import SpecError
from .shape import ModelShape, shape_of

SHAPES = {
    "DiT-S/2": (12, 384, 6),
    "DiT-B/2": (12, 768, 12),
    "DiT-L/2": (24, 1024, 16),
    "DiT-XL/2": (28, 1152, 16),
}
"""Blocks, width, heads (Peebles & Xie, 2023)."""
CLASSES = 1000
BLOCKS = 2
"""Blocks are alike: so many are built and timed."""


def known_transformer(name: str, side: int, blocks: int = 0) -> Transformer:
    """On latents of ``side`` x ``side``; ``blocks`` cuts the depth; weights as diffusers draws
    them, or none where this is called on the meta device."""
    depth, width, heads = SHAPES[name]
    return DIT.cls(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=4,
        out_channels=8,
        num_layers=blocks or depth,
        sample_size=side,
        patch_size=2,
    )


def known_autoencoder() -> AutoencoderKL:
    """The one of Stable Diffusion 1, which the published DiTs use."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=256,
    )


def known_model(name: str, image_size: int) -> tuple[Checkpoint, ModelShape]:
    """Two blocks of the shape with random weights, for timing alone, and the whole shape.

    Raises:
        SpecError: no such shape, or images that it cannot make.
    """
    if name not in SHAPES:
        raise SpecError(f"shape: expected one of {', '.join(SHAPES)}, got {name!r}")
    if image_size % 16 or image_size < 16:
        raise SpecError(f"image size: expected a multiple of 16 pixels, got {image_size}")
    side = image_size // 8
    with torch.device("meta"):
        whole = known_transformer(name, side)
    shape = shape_of(whole, (side // 2) ** 2)
    with torch.random.fork_rng(devices=[]):  # the caller's numbers stay as they are
        torch.manual_seed(0)
        transformer = known_transformer(name, side, BLOCKS).requires_grad_(False).eval()
        vae = known_autoencoder().requires_grad_(False).eval()
    checkpoint = Checkpoint(
        name=f"{name}, {image_size} px, random weights",
        path=Path("random"),
        transformer=transformer,
        vae=vae,
        scheduler=dict(DDIMScheduler(clip_sample=False).config),
        class_names=tuple(map(str, range(CLASSES))),
        licence="none: random weights",
    )
    return checkpoint, shape
