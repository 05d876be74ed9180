"""A stock diffusers folder around a transformer: whole or absent, and ready for the hub.

model_index.json    the pipeline's class and parts; class names of a class-conditioned model
transformer/        config.json and one safetensors file
vae/, scheduler/    as in the checkpoint
captions.safetensors   of a text-conditioned model, instead of its text encoder
recipe.json         what is stored, where it is quantized or smoothed
export.json         what was measured
README.md           the model card
LICENSE             of the base, where it has one
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ..checkpoints import Checkpoint

WEIGHTS = "diffusion_pytorch_model.safetensors"


def write_folder(
    work: Path,
    checkpoint: Checkpoint,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    quantization: Mapping[str, Any] | None,
    texts: Mapping[str, str],
) -> int:
    """Fill an empty folder as described above; bytes of the transformer's file.

    quantization  of the transformer's configuration
    texts         more files by name
    """
    checkpoint.transformer.save_config(work / "transformer")
    about = work / "transformer" / "config.json"
    config = json.loads(about.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    if quantization is not None:
        config["quantization_config"] = dict(quantization)
    about.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_file(dict(tensors), work / "transformer" / WEIGHTS, metadata=dict(metadata))
    checkpoint.vae.save_pretrained(work / "vae", safe_serialization=True)
    (work / "scheduler").mkdir()
    schedule = {"_diffusers_version": version("diffusers"), **checkpoint.scheduler}
    files = {
        "scheduler/scheduler_config.json": json.dumps(schedule, indent=2) + "\n",
        "model_index.json": json.dumps(index_of(checkpoint), indent=2) + "\n",
        **texts,
    }
    for name, text in files.items():
        (work / name).write_text(text, encoding="utf-8")
    if checkpoint.captions is not None:
        checkpoint.captions.save(work)
    for path in checkpoint.path.glob("LICEN[CS]E*") if checkpoint.path.is_dir() else ():
        shutil.copyfile(path, work / path.name)
    for path in work.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return (work / "transformer" / WEIGHTS).stat().st_size


def index_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """``model_index.json``: a text encoder, where there is one, is not part of the export."""
    sampler = str(checkpoint.scheduler.get("_class_name") or "DDIMScheduler")
    index: dict[str, Any] = {
        "_class_name": pipeline_name(checkpoint),
        "_diffusers_version": version("diffusers"),
        "scheduler": ["diffusers", sampler],
        "transformer": ["diffusers", checkpoint.family.cls.__name__],
        "vae": ["diffusers", type(checkpoint.vae).__name__],
    }
    if checkpoint.captions is not None:
        return {**index, "text_encoder": [None, None], "tokenizer": [None, None]}
    names = {str(i): name for i, name in enumerate(checkpoint.class_names)}
    return {**index, "id2label": names}


def pipeline_name(checkpoint: Checkpoint) -> str:
    """The class of the folder that the checkpoint came from, or its family's."""
    family = checkpoint.family
    tokens = 0 if checkpoint.captions is None else checkpoint.captions.tokens
    index = checkpoint.path / "model_index.json"
    if index.is_file():
        named = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
        if named in family.pipelines:
            return str(named)
    return family.pipeline_of(checkpoint.transformer, tokens)
