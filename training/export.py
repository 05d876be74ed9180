"""Write a trained run as a stock ``DiTPipeline`` folder in half precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiTPipeline, ModelMixin

from ditas_core.writing import whole_folder, write_text

from .dit import DiTConfig, build_scheduler, plain_dit
from .vae import latent_size


def export_checkpoint(
    vae_folder: Path, dit_state_path: Path, target: Path, config: DiTConfig, names: list[str]
) -> Path:
    """The averaged weights of a run -> ``target``, a folder stock diffusers loads.

    ``names`` are its classes', in the order of their labels.
    The embedders that all blocks shared while training are written once per
    block, as ``DiTTransformer2DModel`` has them. Float16 safetensors.
    ``target`` appears by a rename; an older checkpoint there, with the figures
    that belong to it, is replaced. Anything else there is a FileExistsError.
    """
    for path in (vae_folder / "config.json", dit_state_path):
        if not path.is_file():
            raise FileNotFoundError(f"expected a finished training run, found no {path}")
    if target.exists() and not (target / "model_index.json").is_file():
        raise FileExistsError(f"expected no {target}, or a checkpoint to replace; got another file")
    vae = AutoencoderKL.from_pretrained(vae_folder)
    state = torch.load(dit_state_path, weights_only=True, map_location="cpu")
    transformer = plain_dit(latent_size(vae), config)
    transformer.load_state_dict(state["ema"])
    pipeline = DiTPipeline(
        transformer=to_half_(transformer).eval(),
        vae=to_half_(vae).eval(),
        scheduler=build_scheduler(),
    )

    with whole_folder(target, replaces=True) as part:
        pipeline.save_pretrained(part, safe_serialization=True)
        index = _read_json(part / "model_index.json")
        index["id2label"] = {str(label): name for label, name in enumerate(names)}
        write_text(part / "model_index.json", json.dumps(index, indent=2) + "\n")
        for path in [*part.glob("*.json"), *part.glob("*/*.json")]:
            kept = {key: value for key, value in _read_json(path).items() if key != "_name_or_path"}
            write_text(path, json.dumps(kept, indent=2) + "\n")
    return target


def to_half_(model: ModelMixin) -> ModelMixin:
    """Float32 -> float16 in place; OverflowError if a weight does not fit."""
    model.half()
    for name, weight in model.state_dict().items():
        if not torch.isfinite(weight).all():
            raise OverflowError(f"expected weights within float16, got more in {name}")
    return model


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
