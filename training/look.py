"""How a run is doing: a sheet of fixed classes, its outliers and its weights, kept as it goes."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DiTPipeline
from safetensors.torch import save_file

from ditas_core.writing import whole_file

from .data import read_classes
from .dit import DiTConfig, build_scheduler, plain_dit
from .evaluate import EvaluationConfig, outlier_strength, sample
from .runs import Log, read_config
from .sheets import contact_sheet, save_image
from .vae import latent_size

LOOKED_AT = (
    "fox", "panda", "octopus", "frog", "butterfly", "penguin", "T-Rex", "unicorn",
    "pizza", "hamburger", "strawberry", "doughnut", "avocado", "ice cream", "sushi", "hot beverage",
    "rocket", "automobile", "bicycle", "sailboat", "airplane", "locomotive", "castle", "volcano",
    "guitar", "drum", "camera", "light bulb", "bomb", "key", "laptop", "crown",
    "robot", "ghost", "alien", "grinning face", "nerd face", "astronaut", "firefighter", "mermaid",
    "red heart", "thumbs up", "sunflower", "cactus", "soccer ball", "teddy bear",
    "any animal", "any food",
)  # fmt: skip
"""The same 48 at every look."""
LOOK = EvaluationConfig(steps=20, guidance_scale=3.0, batch=16)


def running_pipeline(run: Path) -> tuple[DiTPipeline, int]:
    """The averaged weights of a run that may still go on, in a stock pipeline; and its step."""
    config = read_config(run / "dit", DiTConfig)
    vae = AutoencoderKL.from_pretrained(run / "vae" / "vae")
    state = torch.load(run / "dit" / "state.pt", weights_only=True, map_location="cpu")
    transformer = plain_dit(latent_size(vae), config)
    transformer.load_state_dict(state["ema"])
    pipeline = DiTPipeline(transformer=transformer.eval(), vae=vae, scheduler=build_scheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, int(state["step"])


def look(run: Path, names: tuple[str, ...], log: Log) -> Path:
    """``run/looks/STEP.png`` of one sample a class, a line of ``outliers.jsonl``, the weights."""
    pipeline, step = running_pipeline(run)
    known = read_classes(run)
    if missing := set(names) - set(known):
        raise ValueError(f"expected classes of {run}/classes.json, got {sorted(missing)}")
    labels = [known.index(name) for name in names]
    with torch.autocast("cpu", torch.bfloat16):
        images = sample(pipeline, labels, LOOK, log)
        strengths = outlier_strength(pipeline, labels[:8], LOOK)
    folder = run / "looks"
    folder.mkdir(exist_ok=True)
    sheet = folder / f"{step:07d}.png"
    save_image(contact_sheet(images, list(names), per_class=1, a_row=8), sheet)
    row = {
        "step": step,
        "median": round(statistics.median(strengths.values()), 2),
        "largest": round(max(strengths.values()), 2),
        "layers": {name: round(value, 2) for name, value in strengths.items()},
    }
    with (folder / "outliers.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    weights = {
        key: value.half().clone() for key, value in pipeline.transformer.state_dict().items()
    }
    with whole_file(sheet.with_suffix(".safetensors")) as part:
        save_file(weights, part)
    log(f"looked at step {step}: outliers {row['median']} x in the median, {row['largest']} x most")
    return sheet
