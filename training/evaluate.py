"""Measure a checkpoint: contact sheet, Frechet distance, PSNR, outliers, loss curve.

Everything is sampled by stock ``DiTPipeline``; nothing here knows how the
checkpoint was trained but for the logs it draws.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from diffusers import DiTPipeline, DiTTransformer2DModel
from PIL import Image
from safetensors.torch import load_file, save_file

from ditas_core.fidelity import features_of
from ditas_core.writing import whole_file, write_text

from .data import load_images, read_classes, to_float
from .dit import DiTConfig
from .features import (
    frechet_distance,
    load_feature_network,
    right_label,
    wilson_interval,
)
from .runs import Log, read_config, read_log
from .sheets import contact_sheet, loss_curve, outlier_curve, save_image
from .vae import VAEConfig, reconstruction_psnr

SHEET_CLASSES = (
    "fox", "panda", "octopus", "frog", "pizza", "hamburger", "strawberry", "hot beverage",
    "rocket", "automobile", "castle", "guitar", "robot", "astronaut", "red heart", "sunflower",
)  # fmt: skip
"""A fixed choice; ``draw_all_classes`` leaves none out."""
WEIGHTS = "diffusion_pytorch_model.safetensors"
PROJECTIONS = ("attn1.to_q", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2")


@dataclass(frozen=True)
class EvaluationConfig:
    """How a checkpoint is measured; recorded beside the figures.

    samples  of the Frechet distance; the first ``labelled`` of them also count for the labels
    """

    samples: int = 5000
    labelled: int = 2000
    steps: int = 50
    frechet_steps: int = 20
    frechet_bfloat16: bool = True
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


def sample_kept(
    checkpoint: Path,
    pipeline: DiTPipeline,
    labels: list[int],
    config: EvaluationConfig,
    folder: Path,
    log: Log,
) -> torch.Tensor:
    """As ``sample``, a batch at a time kept in ``folder``: what is there is not drawn again.

    They lie in a folder called by all that they depend on.
    """
    drawn_with = (config.steps, config.guidance_scale, config.seed, config.frechet_bfloat16)
    key = hashlib.sha256(json.dumps([labels, config.batch, *drawn_with]).encode())
    for part in ("transformer", "vae"):
        key.update((checkpoint / part / WEIGHTS).read_bytes())
    home = folder / key.hexdigest()[:16]
    home.mkdir(parents=True, exist_ok=True)
    chunks = []
    for start in range(0, len(labels), config.batch):
        path = home / f"{start:06d}.safetensors"
        if not path.is_file():
            part_labels = labels[start : start + config.batch]
            seeded = replace(config, seed=config.seed + start)
            with torch.autocast("cpu", torch.bfloat16, enabled=config.frechet_bfloat16):
                images = sample(pipeline, part_labels, seeded, lambda _: None)
            with whole_file(path) as unfinished:
                save_file({"images": images}, unfinished)
            log(f"sampled {start + len(part_labels)} of {len(labels)}")
        chunks.append(load_file(path)["images"])
    return torch.cat(chunks)


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
    with torch.autocast("cpu", torch.bfloat16, enabled=config.frechet_bfloat16):
        images = sample(pipeline, labels, config, log)
    return contact_sheet(images, names, per_class=1, a_row=24, cell=72)


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


def read_looks(run: Path) -> list[dict[str, float]]:
    """Step, median and largest outlier of every look at a run."""
    path = run / "looks" / "outliers.jsonl"
    rows = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [{name: json.loads(row)[name] for name in ("step", "median", "largest")} for row in rows]


def evaluate(
    checkpoint: Path, data: Path, run: Path, out: Path, config: EvaluationConfig, log: Log
) -> dict[str, Any]:
    """Write ``evaluate.json``, two contact sheets and the curves to ``out``.

    data  a file of ``prepare`` at twice the checkpoint's image size
    run   the folder that ``train`` wrote; what was sampled is kept there, so that a measurement
          that was stopped goes on
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
    samples = sample_kept(checkpoint, pipeline, drawn.tolist(), many, run / "samples", log)
    log("features")
    reference = features_of(network, images)
    sampled = features_of(network, samples)
    part = torch.randperm(len(reference), generator=generator)[: len(reference) // 4]
    first = min(config.labelled, config.samples)
    groups = {
        "samples": sampled,
        "first_samples": sampled[:first],
        "training_subset": reference[part],
    }
    distances = {
        name: {"images": len(group), "distance": frechet_distance(group, reference)}
        for name, group in groups.items()
    }
    right = int(right_label(sampled[:first], drawn[:first], reference, labels).sum())
    looks = read_looks(run)
    report = {
        "config": asdict(config),
        "seconds": round(time.monotonic() - started, 1),
        "image_size": size,
        "classes": {name: int(count) for name, count in zip(names, counts, strict=True)},
        "frechet": {"reference_images": len(reference), **distances},
        "right_label": {
            "samples": first,
            "share": right / first,
            "ci95": wilson_interval(right, first),
        },
        "vae": {"held_out_images": int(held_out.sum()), "psnr_db": psnr},
        "outliers": outliers,
        "outliers_over_training": looks,
        "training": training,
    }
    out.mkdir(parents=True, exist_ok=True)
    save_image(sheet, out / "contact-sheet.png")
    save_image(all_classes, out / "all-classes.webp")
    if looks:
        save_image(outlier_curve(looks), out / "outlier-curve.png")
    save_image(loss_curve(run), out / "loss-curve.png")
    write_text(out / "evaluate.json", json.dumps(report, indent=2) + "\n")
    return report
