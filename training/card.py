"""Write a checkpoint's model card from its own files: no figure is typed here."""

from __future__ import annotations

import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ditas_core.models import NULL_CLASS
from ditas_core.writing import write_text

from .classes import GROUPS
from .data import HELD_OUT_EVERY, IMAGE_PACKAGE, NAMES_PACKAGE

Json = dict[str, Any]
WEIGHTS = "diffusion_pytorch_model.safetensors"
FRONT_MATTER = """---
license: mit
library_name: diffusers
tags:
- diffusion-transformer
- dit
- class-conditional
- image-generation
- emoji
---
"""
SHAPE_SETTINGS = ("layers", "heads", "head_dim", "patch")


def write_card(checkpoint: Path) -> Path:
    """``checkpoint/README.md`` from its configs, weights and ``evaluate.json``.

    FileNotFoundError where the checkpoint was not evaluated.
    """
    if not (checkpoint / "evaluate.json").is_file():
        raise FileNotFoundError(
            f"expected {checkpoint}/evaluate.json, found none; run `evaluate` on it first"
        )
    report = _read(checkpoint / "evaluate.json")
    sections = [
        FRONT_MATTER + f"# {checkpoint.resolve().name}",
        _summary(checkpoint, report),
        "![Contact sheet: four samples of each of 16 classes](contact-sheet.png)\n\n"
        f"A fixed choice. All {len(report['classes'])}, the weak ones too: "
        "[one sample of every class](all-classes.webp).",
        _sampling(report),
        _loading(report),
        _architecture(checkpoint),
        _data(report),
        _training(report),
        _figures(report),
        _limits(report),
    ]
    write_text(checkpoint / "README.md", "\n\n".join(sections) + "\n")
    return checkpoint / "README.md"


def count_parameters(weights: Path) -> tuple[int, int]:
    """(elements in the file, elements with the embedders that all blocks share counted once)."""
    stored = distinct = 0
    with safe_open(weights, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
            size = math.prod(file.get_slice(key).get_shape())
            stored += size
            copy = re.fullmatch(r"transformer_blocks\.(\d+)\.norm1\.emb\..*", key)
            distinct += size if copy is None or copy[1] == "0" else 0
    return stored, distinct


def _read(path: Path) -> Json:
    content: Json = json.loads(path.read_text(encoding="utf-8"))
    return content


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _summary(checkpoint: Path, report: Json) -> str:
    size, classes = report["image_size"], len(report["classes"])
    _, parameters = count_parameters(checkpoint / "transformer" / WEIGHTS)
    duration = _duration(report["training"]["dit"]["seconds"])
    return (
        f"A class-conditional latent Diffusion Transformer of {parameters / 1e6:.1f} M parameters "
        f"that draws emoji of {size} x {size} pixels in {classes} classes, trained on a CPU in "
        f"{duration}. It is small enough to sample in seconds without a GPU, and has the layout of "
        "the original DiT in diffusers, so it serves to study how such models are quantized."
    )


def _sampling(report: Json) -> str:
    config = report["config"]
    return (
        f"Not selected: seeds {config['seed']} onwards, {config['steps']} DDIM steps, "
        f"guidance scale {config['guidance_scale']:g} on all latent channels."
    )


def _loading(report: Json) -> str:
    config, name = report["config"], next(iter(report["classes"]))
    return f"""## Use

```python
import torch
from diffusers import DiTPipeline

pipeline = DiTPipeline.from_pretrained("path/to/this/folder")
labels = pipeline.get_label_ids(["{name}"] * 4)
generator = torch.Generator().manual_seed({config["seed"]})
images = pipeline(
    class_labels=labels,
    guidance_scale={config["guidance_scale"]:g},
    num_inference_steps={config["steps"]},
    generator=generator,
).images
```

The null class of classifier-free guidance is {NULL_CLASS}, as `DiTPipeline` expects."""


def _architecture(checkpoint: Path) -> str:
    transformer = _read(checkpoint / "transformer" / "config.json")
    vae = _read(checkpoint / "vae" / "config.json")
    scheduler = _read(checkpoint / "scheduler" / "scheduler_config.json")
    rows = []
    for part in ("transformer", "vae"):
        weights = checkpoint / part / WEIGHTS
        stored, distinct = count_parameters(weights)
        size = f"{weights.stat().st_size / 1e6:.1f} MB"
        rows.append((f"`{part}/`", f"{distinct:,}", f"{stored:,}", size))
    heads, head_dim = transformer["num_attention_heads"], transformer["attention_head_dim"]
    down = 2 ** (len(vae["block_out_channels"]) - 1)
    table = _table(("Part", "Parameters", "Elements in the file", "File (float16)"), rows)
    return f"""## Architecture

- `transformer/`: `DiTTransformer2DModel`, {transformer["num_layers"]} adaLN-Zero blocks, width \
{heads * head_dim}, {heads} heads, patch {transformer["patch_size"]}, on latents of \
{transformer["in_channels"]} x {transformer["sample_size"]} x {transformer["sample_size"]}; \
predicts the noise. All blocks share the timestep and label embedders, as in the original DiT; \
the file holds one equal copy per block, as diffusers does.
- `vae/`: `AutoencoderKL`, widths {", ".join(map(str, vae["block_out_channels"]))}, {down} x down, \
{vae["latent_channels"]} latent channels, scaling factor {vae["scaling_factor"]:.4f}.
- `scheduler/`: `{scheduler["_class_name"]}`, {scheduler["beta_schedule"]} schedule from \
{scheduler["beta_start"]:g} to {scheduler["beta_end"]:g} over \
{scheduler["num_train_timesteps"]} timesteps.

{table}"""


def _data(report: Json) -> str:
    counts = report["classes"]
    single = len(counts) - len(GROUPS)
    return f"""## Data and its licence

{sum(counts.values()):,} images of {single} emoji, a class each, and {len(GROUPS)} groups such as \
"{GROUPS[-1].name}", whose label stands in for the emoji's some of the time. Skin tones, hair, man \
and woman of one emoji share a label, as do the hours of a clock. Flags, symbols, keycaps, \
families and gestures are left out, and emoji that hardly differ from another one. Every image is \
seen turned, scaled, moved, mirrored where that keeps its meaning, and tinted a little.

- Images: Microsoft's Fluent emoji in 3D, MIT licence, copyright Microsoft Corporation, from the \
npm package `{IMAGE_PACKAGE}`; composited on white.
- Names and groups: npm package `{NAMES_PACKAGE}`, MIT licence. Classes are called as Unicode \
calls the emoji.
- One emoji in {HELD_OUT_EVERY} was kept from the VAE, the skin tones of one together."""


def _training(report: Json) -> str:
    titles = {"vae": "VAE", "dit": "DiT"}
    runs = [(titles[name], run) for name, run in report["training"].items()]
    settings = [
        (title, name, value)
        for title, run in runs
        for name, value in run["config"].items()
        if name not in SHAPE_SETTINGS
    ]
    rows = [
        (
            title,
            f"{run['steps']:,}",
            f"{run['steps'] * run['config']['batch']:,}",
            _duration(run["seconds"]),
            f"{run['loss']:.4f}",
        )
        for title, run in runs
    ]
    return f"""## Training

AdamW on a CPU in bfloat16 autocast; an exponential moving average of the weights is what ships. \
Classes are drawn in proportion to the square root of their size. The DiT's rate is constant until \
the anneal at its end; the rate, epsilon and beta2 of AdamW are chosen so that outliers grow by \
themselves (He et al., NeurIPS 2024).

{_table(("Run", "Steps", "Images seen", "Wall time", "Last loss"), rows)}

![Loss curves](loss-curve.png)

<details><summary>Hyper-parameters and seeds</summary>

{_table(("Run", "Setting", "Value"), settings)}

</details>"""


def _figures(report: Json) -> str:
    frechet, config, vae = report["frechet"], report["config"], report["vae"]
    groups = (
        ("Samples", "samples"),
        ("The first of them", "first_samples"),
        ("Random quarter of the training images", "training_subset"),
    )
    distances = [
        (label, f"{frechet[name]['images']:,}", f"{frechet[name]['distance']:.2f}")
        for label, name in groups
    ]
    kinds: dict[str, dict[str, float]] = {}
    for name, ratio in report["outliers"].items():
        _, block, kind = name.split(".", 2)
        kinds.setdefault(kind, {})[block] = ratio
    strengths = []
    for kind, of in kinds.items():
        block, largest = max(of.items(), key=lambda item: item[1])
        median = statistics.median(of.values())
        strengths.append((f"`{kind}`", f"{median:.1f}", f"{largest:.1f}", block))
    right = report["right_label"]
    curve = "\n\n![Outliers over training](outlier-curve.png)"
    curve = curve if report["outliers_over_training"] else ""
    precision = " in bfloat16" if config.get("frechet_bfloat16") else ""
    return f"""## Figures

Frechet distance to the {frechet["reference_images"]:,} training images, on pooled \
EfficientNet-Lite0 features (ImageNet weights, bilinear to 224 pixels). Samples: classes in \
proportion to the training images, {config["frechet_steps"]} DDIM steps{precision}, guidance scale \
{config["guidance_scale"]:g}. The distance grows as the images get fewer, so compare equal \
numbers; the random quarter is part of what it is compared with, which makes its distance a floor.

{_table(("Images", "Number", "Distance"), distances)}

Of the first {right["samples"]:,} samples the nearest training image, by the same features, has \
the label asked for in {right["share"]:.1%} (95 % interval {right["ci95"][0]:.1%} to \
{right["ci95"][1]:.1%}).

The VAE reconstructs {vae["held_out_images"]} held-out images at {vae["psnr_db"]:.2f} dB PSNR \
(mean over images).

Outliers: the largest channel over the median one, by the absolute maximum of each layer's input \
over a guided trajectory of {config["outlier_steps"]} steps and {config["outlier_samples"]} \
samples. They are natural: no channel was rescaled.

{_table(("Layer", "Median over blocks", "Largest", "in block"), strengths)}{curve}"""


def _limits(report: Json) -> str:
    size, classes = report["image_size"], len(report["classes"])
    return f"""## Limits

- It draws emoji of {size} x {size} pixels of these {classes} classes and nothing else. Most were \
learnt from one image: seeds differ in pose, size and tint, hardly in what is drawn.
- So it reproduces its training images closely, by design; it is made to study quantization.
- The figures are not comparable with published FIDs: other features, other data, other numbers of \
images.
- Its activation outliers are those of a small model; large DiTs have stronger ones."""
