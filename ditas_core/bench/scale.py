"""The whole pipeline on a model of a known shape with random weights: time and memory.

python -m ditas_core bench scale --model DiT-XL/2 --json

On a GPU the peak of each stage is stated beforehand and measured beside it.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from ditas_core.calibration import calibrate, memory_need
from ditas_core.cli.parsing import number
from ditas_core.cli.progress import bar
from ditas_core.conversion import quantize_transformer
from ditas_core.evaluation import SHAPES, ModelShape, Plan, device_memory
from ditas_core.layers import QuantizedLinear
from ditas_core.sampling import sample_latents, spread_labels
from ditas_core.search import CandidateDone, SearchSpec, search
from ditas_core.specs import (
    BitWidths,
    CalibrationSpec,
    LowRankSpec,
    Recipe,
    SamplingSpec,
    SpecError,
    default_rank,
)

from .machine import describe, peak_gb, peak_on_gpu_gb, stage
from .models import random_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=sorted(SHAPES), default="DiT-XL/2")
    parser.add_argument(
        "--blocks", type=number(int, 0, 64), default=0, help="cut the depth; 0 is the model's own"
    )
    parser.add_argument("--bits", default="W4A8")
    parser.add_argument("--method", choices=("search", "ditas"), default="ditas")
    parser.add_argument("--steps", type=number(int, 1, 1000), default=20)
    parser.add_argument("--samples", type=number(int, 1, 256), default=4)
    parser.add_argument("--tokens", type=number(int, 1, 4096), default=CalibrationSpec().tokens)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--images",
        type=number(int, 0, 256),
        default=0,
        help="latents that the quantized model denoises in the end, all at once; default: none",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Build, calibrate, search, quantize, sample; seconds of each, the peak resident memory, and
    the GPU's."""
    seconds: dict[str, float] = {}
    on_gpu = args.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise SpecError("device: expected a GPU for cuda, found none; leave out --device")
    on_gpu_gb: dict[str, float] = {}
    with stage("build", seconds, on_gpu):
        checkpoint = random_model(args.model, args.blocks, "cuda:0" if on_gpu else "cpu")
    peaks = {"build": peak_gb()}
    with stage("fingerprint", seconds):
        _ = checkpoint.fingerprint
    spec = CalibrationSpec(
        SamplingSpec(steps=args.steps, guidance_scale=1.5),
        samples=args.samples,
        tokens=args.tokens,
        batch=1,
        precision=args.precision,
    )
    need = memory_need(checkpoint, spec)
    low_rank = LowRankSpec(rank=default_rank(checkpoint.width))
    plan = Plan(spec, BitWidths.parse(args.bits), "integer", low_rank, images=args.images)
    stated = device_memory(ModelShape.of(checkpoint), plan)
    with (
        stage("calibrate", seconds, on_gpu),
        bar("calibrating", args.steps * args.samples) as progress,
    ):
        calibration = calibrate(checkpoint, spec, progress=lambda _: progress.update(1))
    with stage("hash", seconds):
        _ = calibration.sha256
    peaks["calibrate"] = peak_gb()
    if on_gpu:
        on_gpu_gb["calibrate"] = peak_on_gpu_gb()
    search_spec = SearchSpec(
        BitWidths.parse(args.bits), "integer", args.method, low_rank, products=args.precision
    )
    candidates = len(checkpoint.groups) * 22
    with stage("search", seconds, on_gpu), bar("searching", candidates) as progress:
        recipe = search(
            checkpoint,
            calibration,
            search_spec,
            progress=lambda event: progress.update(isinstance(event, CandidateDone)),
        )
    if args.method == "search":  # the branch is fitted all the same
        layers = {
            name: type(layer)(layer.bits, layer.alpha, low_rank)
            for name, layer in recipe.layers.items()
        }
        recipe = Recipe("ditas", recipe.convention, recipe.checkpoint, layers, recipe.calibration)
    peaks["search"] = peak_gb()
    if on_gpu:
        on_gpu_gb["search"] = peak_on_gpu_gb()
    with stage("quantize", seconds, on_gpu), bar("quantizing", len(checkpoint.groups)) as progress:
        model = quantize_transformer(checkpoint, recipe, calibration, lambda _: progress.update(1))
    peaks["quantize"] = peak_gb()
    if on_gpu:
        on_gpu_gb["quantize"] = peak_on_gpu_gb()
    if args.images:
        labels = spread_labels(args.images, len(checkpoint.class_names))
        parts = (checkpoint.scheduler, labels, checkpoint.latent_shape, spec.sampling, 0)
        with stage("sample", seconds, on_gpu):
            sample_latents(model, *parts)
        peaks["sample"] = peak_gb()
        if on_gpu:
            on_gpu_gb["sample"] = peak_on_gpu_gb()
    layers_made = [m for m in model.modules() if isinstance(m, QuantizedLinear)]
    pipeline = {k: v for k, v in seconds.items() if k != "build"}
    return {
        "model": checkpoint.name,
        "parameters": sum(p.numel() for p in checkpoint.transformer.parameters()),
        "settings": {
            "steps": args.steps,
            "samples": args.samples,
            "guidance": 1.5,
            "tokens": args.tokens,
            "bits": args.bits,
            "method": args.method,
            "precision": args.precision,
            "rank": low_rank.rank,
            "groups": len(checkpoint.groups),
            "candidates": candidates,
            "images": args.images,
            "device": args.device,
        },
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "pipeline_seconds": round(sum(pipeline.values()), 1),
        "peak_gb": {name: round(value, 2) for name, value in peaks.items()},
        "stated_calibration_gb": round(need.total / 1e9, 2),
        "stated_on_gpu_gb": {name: round(stated[name] / 1e9, 2) for name in on_gpu_gb},
        "peak_on_gpu_gb": {name: round(value, 2) for name, value in on_gpu_gb.items()},
        "quantized_layers": len(layers_made),
        "effective_bits": round(
            sum(m.bits_stored for m in layers_made) / sum(m.weights for m in layers_made), 3
        ),
        "machine": describe(),
    }


def lines(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    rows = [f"{report['model']}: {report['parameters'] / 1e6:.0f} M parameters"]
    for name, value in report["seconds"].items():
        peak = report["peak_gb"].get(name)
        row = f"{name:>12}  {value:8.1f} s" + (f"  peak {peak:.2f} GB" if peak else "")
        if name in report["peak_on_gpu_gb"]:
            here, said = report["peak_on_gpu_gb"][name], report["stated_on_gpu_gb"][name]
            row += f"  on the GPU {here:.2f} GB, stated {said:.2f} GB"
        rows.append(row)
    rows.append(f"{'pipeline':>12}  {report['pipeline_seconds']:8.1f} s (without building)")
    return rows
