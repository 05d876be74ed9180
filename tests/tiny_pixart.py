"""Tiny PixArt models of the real classes, random weights, laid out as the stock pipelines do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from conftest import randomize_, tiny_vae
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PixArtTransformer2DModel
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


@torch.no_grad()
def plain_latents(
    told: bool, labels: list[int], noise: torch.Tensor, steps: int, guidance: float
) -> torch.Tensor:
    """What the tiny model samples for the tiny captions, one sample and one half at a time.

    Without a mask or padding: each pass gets the caption's own tokens alone. DDIM
    (eta = 0) is written out.
    """
    transformer, captions = tiny_pixart(told), tiny_captions()
    pixels = 2.0 * int(transformer.config.sample_size)
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    times = [i * (1000 // steps) for i in range(steps)][::-1]
    size = {"resolution": torch.full((1, 2), pixels), "aspect_ratio": torch.ones(1, 1)}

    def eps(x: torch.Tensor, t: int, tokens: torch.Tensor) -> torch.Tensor:
        out = transformer(
            x,
            encoder_hidden_states=tokens[None],
            timestep=torch.tensor([t]),
            added_cond_kwargs=size if told else None,
        ).sample
        return out[:, :4]

    ends = []
    for label, start in zip(labels, noise, strict=True):
        own, null = captions.embeds[label][: LENGTHS[label]], captions.null_embeds[:1]
        x = start[None]
        for t in times:
            conditional, unconditional = eps(x, t, own), eps(x, t, null)
            e = unconditional + guidance * (conditional - unconditional)
            before = t - 1000 // steps
            a, b = kept[t], kept[before] if before >= 0 else torch.tensor(1.0)
            x = b.sqrt() * (x - (1 - a).sqrt() * e) / a.sqrt() + (1 - b).sqrt() * e
        ends.append(x[0])
    return torch.stack(ends)


def stock_latents(
    told: bool, labels: list[int], noise: torch.Tensor, steps: int, guidance: float
) -> torch.Tensor:
    """The same by the stock pipeline, which needs the transformers library."""
    from diffusers import PixArtAlphaPipeline, PixArtSigmaPipeline

    cls = PixArtAlphaPipeline if told else PixArtSigmaPipeline
    pipeline = cls(
        tokenizer=None,
        text_encoder=None,
        vae=tiny_vae(),
        transformer=tiny_pixart(told),
        scheduler=DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=True),
    )
    pipeline.set_progress_bar_config(disable=True)
    captions, n = tiny_captions(), len(labels)
    return pipeline(
        prompt=None,
        negative_prompt=None,
        prompt_embeds=captions.embeds[labels],
        prompt_attention_mask=captions.mask[labels],
        negative_prompt_embeds=captions.null_embeds.repeat(n, 1, 1),
        negative_prompt_attention_mask=captions.null_mask.repeat(n, 1),
        latents=noise,
        num_inference_steps=steps,
        guidance_scale=guidance,
        use_resolution_binning=False,
        output_type="latent",
    ).images
