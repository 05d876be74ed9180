"""Tiny PixArt models of the real classes, random weights, laid out as the stock pipelines do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from conftest import randomize_, tiny_vae
from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel
from safetensors.torch import load_file, save_file

from ditas_core.checkpoints import Captions

TOKENS, TEXT_WIDTH = 12, 20
NAMES = ("a red fox", "an owl, at night", "two bees")
LENGTHS = (3, 12, 5)
SCHEDULE = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


def tiny_pixart(told: bool, seed: int = 0, **options: Any) -> PixArtTransformer2DModel:
    """Two blocks of four heads x 24.

    told   as PixArt-alpha at 1024 px: latents of 128 x 128 (in patches of 16), which makes
           the class take resolution and aspect ratio; otherwise as Sigma, 8 x 8
    """
    sizes: dict[str, Any] = {"sample_size": 128, "patch_size": 16} if told else {"sample_size": 8}
    settings: dict[str, Any] = {
        "num_attention_heads": 4,
        "attention_head_dim": 24,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 2,
        "cross_attention_dim": 96,
        "caption_channels": TEXT_WIDTH,
        **sizes,
        **options,
    }
    transformer = PixArtTransformer2DModel(**settings)
    randomize_(transformer, seed)
    return transformer.requires_grad_(False).eval()


def tiny_captions(seed: int = 3) -> Captions:
    """Three captions of different lengths; what pads them is large, as a text encoder's is."""
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(len(NAMES), TOKENS, TEXT_WIDTH, generator=generator)
    mask = torch.arange(TOKENS)[None] < torch.tensor(LENGTHS)[:, None]  # (K, L)
    null = torch.randn(TOKENS, TEXT_WIDTH, generator=generator)
    null_mask = torch.arange(TOKENS) < 1
    embeds[~mask] *= 50
    null[~null_mask] *= 50
    return Captions(NAMES, embeds, mask, null, null_mask)


def save_tiny_pixart(target: Path, told: bool) -> Path:
    """A whole folder with its captions; the pipelines' own classes need a text encoder."""
    tiny_pixart(told).save_pretrained(target / "transformer")
    tiny_vae().save_pretrained(target / "vae")
    DPMSolverMultistepScheduler(**SCHEDULE).save_pretrained(target / "scheduler")
    index = {
        "_class_name": "PixArtAlphaPipeline" if told else "PixArtSigmaPipeline",
        "_diffusers_version": "0.27.0",
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "PixArtTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (target / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    (target / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n", encoding="utf-8")
    tiny_captions().save(target)
    return target


def with_dead_buffers(folder: Path, pickled: bool, *more: str) -> Path:
    """The transformer's file as diffusers 0.22 to 0.25 and converters wrote it."""
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    width = state["pos_embed.proj.bias"].shape[0]
    state["caption_projection.y_embedding"] = torch.ones(120, TEXT_WIDTH)
    state["pos_embed.pos_embed"] = torch.zeros(1, 64, width)
    state.update({name: torch.zeros(2) for name in more})
    if pickled:
        file.unlink()
        torch.save(state, file.with_suffix(".bin"))
    else:
        save_file(state, file, metadata={"format": "pt"})
    return folder
