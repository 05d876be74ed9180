"""Tiny pipelines of the stock classes and their folders, random weights."""

from __future__ import annotations

import copy
import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import diffusers
import torch
from conftest import build_random_checkpoint, tiny_transformer, tiny_vae
from diffusers import DDIMScheduler, DiTPipeline, DPMSolverMultistepScheduler
from diffusers.utils import is_transformers_available
from tiny_pixart import SCHEDULE, TEXT_WIDTH, tiny_pixart

from ditas_core.checkpoints import Captions, fingerprint

RUN: dict[str, Any] = {"num_inference_steps": 3, "output_type": "np"}
LABELS = {0: "cat, feline", 1: "dog", 2: "fox"}
DDIM = DDIMScheduler(**SCHEDULE, clip_sample=False)


def dit(scheduler: Any = DDIM) -> DiTPipeline:
    made = DiTPipeline(tiny_transformer(), tiny_vae(), copy.deepcopy(scheduler), id2label=LABELS)
    made.set_progress_bar_config(disable=True)
    return made


def edit_json(path: Path, **values: Any) -> None:
    """Change what a JSON file says under these keys."""
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}))


def save_tiny(target: Path) -> Path:
    """A stock pipeline folder of the random checkpoint, with class names and a model card."""
    checkpoint = build_random_checkpoint()
    scheduler = DDIMScheduler.from_config(checkpoint.scheduler)
    DiTPipeline(checkpoint.transformer, checkpoint.vae, scheduler).save_pretrained(target)
    names = {str(i): name for i, name in enumerate(checkpoint.class_names)}
    edit_json(target / "model_index.json", id2label=names)
    (target / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n", encoding="utf-8")
    return target


class Encoder(torch.nn.Module):
    """In place of a T5: what a token stands for depends on its number alone."""

    dtype, device = torch.float32, torch.device("cpu")

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor]:
        return ((ids[..., None] * torch.arange(1.0, TEXT_WIDTH + 1)).sin(),)  # (N, L, D)


def tokenizer(texts: list[str], max_length: int = 0, **_: Any) -> Any:
    """A token a letter."""
    length = max_length or max(map(len, texts))
    ids = torch.tensor([[*map(ord, x[:length]), *[0] * (length - len(x))] for x in texts])
    mask = torch.arange(length)[None] <= torch.tensor([[len(x)] for x in texts])
    return SimpleNamespace(input_ids=ids, attention_mask=mask.long())


def sigma_class() -> Any:
    return pixart_class("Sigma")


def pixart_class(kind: str) -> Any:
    """The stock pipeline; without transformers, whose names it needs in annotations."""
    if is_transformers_available():
        return getattr(diffusers, f"PixArt{kind}Pipeline")
    names: Any = ModuleType("transformers")
    names.T5EncoderModel, names.T5Tokenizer = Encoder, object
    sys.modules["transformers"] = names
    try:
        found = import_module(f"diffusers.pipelines.pixart_alpha.pipeline_pixart_{kind.lower()}")
    finally:
        del sys.modules["transformers"]
    return getattr(found, f"PixArt{kind}Pipeline")


def pixart(told: bool = False, scheduler: Any = None, **parts: Any) -> Any:
    parts = {"tokenizer": None, "text_encoder": None, **parts}
    scheduler = scheduler or DPMSolverMultistepScheduler(**SCHEDULE)
    made = pixart_class("Alpha" if told else "Sigma")(
        vae=tiny_vae(), transformer=tiny_pixart(told), scheduler=scheduler, **parts
    )
    made.set_progress_bar_config(disable=True)
    return made


def embedded(captions: Captions) -> dict[str, Any]:
    """Options of a PixArt pipeline that draw the first caption without a text encoder."""
    return {
        "negative_prompt": None,
        "prompt_embeds": captions.embeds[:1],
        "prompt_attention_mask": captions.mask[:1],
        "negative_prompt_embeds": captions.null_embeds[None],
        "negative_prompt_attention_mask": captions.null_mask[None],
        "use_resolution_binning": False,
    }


def draw(pipeline: Any, **options: Any) -> torch.Tensor:
    """Images in [0, 1], (N, H, W, 3); without options of a DiT's two classes."""
    options = options or {"class_labels": [1, 2]}
    generator = torch.Generator().manual_seed(3)
    return torch.from_numpy(pipeline(generator=generator, **RUN, **options).images)


def state_of(pipeline: Any) -> tuple[Any, ...]:
    """What must not change: weights, parts, the scheduler's state, modes, hooks, places."""
    modules = [*pipeline.transformer.modules(), *pipeline.vae.modules()]
    return (
        fingerprint(pipeline.transformer),
        fingerprint(pipeline.vae),
        {name: id(part) for name, part in pipeline.components.items()},
        {name: str(value) for name, value in vars(pipeline.scheduler).items()},
        [(id(m), m.training, len(m._forward_pre_hooks), len(m._forward_hooks)) for m in modules],
        [(p.dtype, p.device, p.requires_grad) for m in modules for p in m.parameters()],
    )


def broken(what: str) -> Any:
    """A pipeline that cannot be worked on."""
    pipeline = dit()
    transformer = pipeline.transformer
    if what == "offloaded":
        transformer.transformer_blocks[1]._hf_hook = object()
    elif what == "elsewhere":
        transformer.transformer_blocks[1].to("meta")
    elif what == "cast":
        transformer.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    elif what == "fused":
        transformer.transformer_blocks[0].attn1.fuse_projections()
    elif what == "compiled":
        pipeline.transformer = torch.compile(transformer)
    elif what == "adapted":
        transformer.transformer_blocks[0].attn1.to_q = torch.nn.Sequential(torch.nn.Linear(32, 32))
    elif what == "flowing":
        pipeline.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    elif what == "decoderless":
        pipeline.vae = None
    return pipeline
