"""Transformers for timing: shapes of known models, random weights, labelled so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel

from ditas_core.checkpoints import Checkpoint
from ditas_core.evaluation import SHAPES


def random_transformer(
    name: str, blocks: int = 0, seed: int = 0, device: str = "cpu"
) -> DiTTransformer2DModel:
    """A transformer of that shape on 32 x 32 x 4 latents, embedders tied across blocks.

    ``blocks`` cuts the depth. Weights are normal with variance 1 / fan-in, the
    modulation's a tenth of that, so that activations stay finite. They are drawn on the CPU, one
    tensor at a time, the same for every ``device``.
    """
    depth, width, heads = SHAPES[name]
    with torch.device("meta"):
        transformer = DiTTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=width // heads,
            in_channels=4,
            out_channels=8,
            num_layers=blocks or depth,
            sample_size=32,
            patch_size=2,
        )
    first = transformer.transformer_blocks[0].norm1
    for block in transformer.transformer_blocks:
        block.norm1.emb = first.emb
    positions = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        num_layers=0,
        sample_size=32,
        patch_size=2,
    ).pos_embed.pos_embed
    generator = torch.Generator().manual_seed(seed)
    transformer.to_empty(device=device)
    for path, parameter in transformer.named_parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 2500
        gain = 0.1 if "norm1.linear" in path or "proj_out_1" in path else 1.0
        drawn = torch.empty(parameter.shape).normal_(0.0, gain / fan_in**0.5, generator=generator)
        parameter.data.copy_(drawn)
    transformer.pos_embed.pos_embed.data.copy_(positions)
    return transformer.requires_grad_(False).eval()


def random_model(name: str, blocks: int = 0, device: str = "cpu") -> Checkpoint:
    """A checkpoint for timing and memory only: its weights are random."""
    label = f"{name}, random weights" + (f", {blocks} blocks" if blocks else "")
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False)
    vae = SimpleNamespace(config=SimpleNamespace(block_out_channels=(1, 1, 1, 1)))
    return Checkpoint(
        name=label,
        path=Path("random"),
        transformer=random_transformer(name, blocks, device=device),
        vae=vae
        if isinstance(vae, AutoencoderKL)
        else AutoencoderKL(block_out_channels=(32,)).to(device),
        scheduler=dict(scheduler.config),
        class_names=tuple(str(i) for i in range(1000)),
        licence="none: random weights",
    )
