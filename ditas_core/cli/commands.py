"""What each verb does: load, run the library's generators under a progress bar, write, report."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..artifact import is_quantized, load_quantized, save_quantized, whole_folder, write_text
from ..calibration import Calibration, CalibrationProgress, calibrate
from ..checkpoints import Checkpoint, load_checkpoint
from ..conversion import quantize_transformer
from ..layers import QuantizedLinear
from ..sampling import spread_labels
from ..search import LayerDone, SearchSpec, search
from ..specs import (
    BitWidths,
    CalibrationSpec,
    LowRankSpec,
    Recipe,
    SamplingSpec,
    SpecError,
    default_rank,
    summarize,
)
from .images import contact_sheet, to_uint8
from .progress import bar, finish, trajectory

Report = dict[str, Any]


def set_threads(count: int) -> None:
    torch.set_num_threads(count)


def say(args: argparse.Namespace, line: str) -> None:
    """Text for people: on stdout, or on stderr when stdout carries JSON."""
    (sys.stderr if args.json else sys.stdout).write(line + "\n")


def sampling_spec(args: argparse.Namespace) -> SamplingSpec:
    return SamplingSpec(args.steps, args.guidance, args.guided_channels, args.scheduler)


def load_any(source: str) -> tuple[Checkpoint, Recipe | None]:
    """A quantized folder, or a checkpoint."""
    if is_quantized(Path(source)):
        return load_quantized(Path(source))
    return load_checkpoint(source), None


def effective_bits(transformer: torch.nn.Module) -> float:
    """Stored bits per weight of the quantized layers: codes, scales and branch."""
    layers = [m for m in transformer.modules() if isinstance(m, QuantizedLinear)]
    return sum(m.bits_stored for m in layers) / max(1, sum(m.codes.numel() for m in layers))


def low_rank_spec(args: argparse.Namespace, checkpoint: Checkpoint) -> LowRankSpec:
    """The branch that was asked for; without --rank the model's default."""
    rank = default_rank(checkpoint.width) if args.rank is None else args.rank
    return LowRankSpec(rank, weighting=args.weighting)


def run_info(args: argparse.Namespace) -> Report:
    checkpoint, recipe = load_any(args.checkpoint)
    transformer = checkpoint.transformer
    tensors = list(transformer.parameters()) + list(transformer.buffers())
    report: Report = {
        "name": checkpoint.name,
        "licence": checkpoint.licence,
        "fingerprint": checkpoint.fingerprint,
        "blocks": len(transformer.transformer_blocks),
        "width": checkpoint.width,
        "parameters": sum(p.numel() for p in transformer.parameters())
        if recipe is None
        else sum(t.numel() for t in tensors),
        "vae_parameters": sum(p.numel() for p in checkpoint.vae.parameters()),
        "latent_shape": list(checkpoint.latent_shape),
        "image_size": checkpoint.image_size,
        "classes": list(checkpoint.class_names),
        "groups": [group.name for group in checkpoint.groups] if recipe is None else [],
        "quantized": recipe is not None,
    }
    if recipe is not None:
        report["recipe"] = summarize(recipe)
        report["effective_bits"] = round(effective_bits(transformer), 3)
    for key, value in report.items():
        say(args, f"{key:>16}  {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return report


def run_calibrate(args: argparse.Namespace) -> Report:
    spec = CalibrationSpec(sampling_spec(args), args.samples, args.seed, args.tokens)
    checkpoint = load_checkpoint(args.checkpoint)
    started = time.perf_counter()
    calibration = calibrated(checkpoint, spec)
    calibration.save(args.out)
    seconds = time.perf_counter() - started
    say(args, f"wrote {args.out}: {len(calibration.groups)} groups, {seconds:.1f} s")
    return {
        "out": str(args.out),
        "sha256": calibration.sha256,
        "groups": len(calibration.groups),
        "steps": len(calibration.timesteps),
        "bytes": args.out.stat().st_size,
        "seconds": round(seconds, 2),
    }


def calibrated(checkpoint: Checkpoint, spec: CalibrationSpec) -> Calibration:
    with bar("calibrating", spec.sampling.steps) as progress:
        for event in calibrate(checkpoint, spec):
            if isinstance(event, CalibrationProgress):
                progress.update(1)
            else:
                return event
    raise RuntimeError("calibration ended without a result")


def searched(
    checkpoint: Checkpoint, calibration: Calibration, spec: SearchSpec, file: str = ""
) -> tuple[Recipe, list[LayerDone]]:
    layers: list[LayerDone] = []
    with bar(f"searching {spec.bits} {spec.method}", len(checkpoint.groups)) as progress:
        for event in search(checkpoint, calibration, spec, file):
            if isinstance(event, LayerDone):
                layers.append(event)
                progress.update(1)
            elif isinstance(event, Recipe):
                return event, layers
    raise RuntimeError("search ended without a recipe")


def run_search(args: argparse.Namespace) -> Report:
    bits = BitWidths.parse(args.bits)
    SearchSpec(bits, args.convention, args.method, LowRankSpec(weighting=args.weighting))
    checkpoint = load_checkpoint(args.checkpoint)
    spec = SearchSpec(bits, args.convention, args.method, low_rank_spec(args, checkpoint))
    calibration = Calibration.load(args.calibration)
    started = time.perf_counter()
    hint = os.path.relpath(args.calibration.resolve(), args.out.resolve().parent)
    recipe, layers = searched(checkpoint, calibration, spec, hint)
    write_text(args.out, recipe.to_json())
    seconds = time.perf_counter() - started
    for layer in layers:
        alpha = "identity" if layer.alpha is None else f"{layer.alpha:.2f}"
        say(args, f"{layer.title:>18}  alpha {alpha:>8}  {layer.gain_db:6.2f} dB over identity")
    say(args, f"wrote {args.out}: {summarize(recipe)}, {seconds:.1f} s")
    return {
        "out": str(args.out),
        "recipe": summarize(recipe),
        "alphas": {layer.group: layer.alpha for layer in layers},
        "gain_db": {layer.group: round(layer.gain_db, 3) for layer in layers},
        "seconds": round(seconds, 2),
    }


def find_calibration(args: argparse.Namespace, recipe: Recipe) -> Calibration | None:
    if not recipe.needs_calibration:
        return None
    if args.calibration is not None:
        return Calibration.load(args.calibration)
    named = args.recipe.resolve().parent / recipe.calibration_file
    if not recipe.calibration_file or not named.is_file():
        raise SpecError(
            f"recipe: expected its calibration at {named}, found none; pass --calibration FILE"
        )
    return Calibration.load(named)


def converted(checkpoint: Checkpoint, recipe: Recipe, calibration: Calibration | None) -> Any:
    with bar("quantizing", len(checkpoint.groups)) as progress:
        return finish(quantize_transformer(checkpoint, recipe, calibration), progress)


def run_quantize(args: argparse.Namespace) -> Report:
    if not args.recipe.is_file():
        raise SpecError(f"recipe: expected a file, found none at {args.recipe}")
    recipe = Recipe.from_json(args.recipe.read_text(encoding="utf-8"))
    checkpoint = load_checkpoint(args.checkpoint)
    calibration = find_calibration(args, recipe)
    started = time.perf_counter()
    transformer = converted(checkpoint, recipe, calibration)
    save_quantized(args.out, checkpoint, transformer, recipe)
    size = sum(f.stat().st_size for f in (args.out / "transformer").iterdir())
    report = {
        "out": str(args.out),
        "recipe": summarize(recipe),
        "effective_bits": round(effective_bits(transformer), 3),
        "transformer_bytes": size,
        "seconds": round(time.perf_counter() - started, 2),
    }
    say(args, f"wrote {args.out}: {report['recipe']}, {report['effective_bits']} bits per weight")
    return report


def run_sample(args: argparse.Namespace) -> Report:
    spec = sampling_spec(args)
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise FileExistsError(f"out: expected a new or empty folder, got {args.out}")
    checkpoint, _ = load_any(args.checkpoint)
    if args.classes.strip():
        wanted = [checkpoint.class_index(name) for name in args.classes.split(",")]
        count = args.samples or len(wanted)
        labels = torch.tensor([wanted[i % len(wanted)] for i in range(count)])
    else:
        labels = spread_labels(args.samples or 16, len(checkpoint.class_names))
    started = time.perf_counter()
    result = trajectory("sampling", checkpoint, checkpoint.transformer, labels, spec, args.seed)
    names = [checkpoint.class_names[i] for i in labels.tolist()]
    with whole_folder(args.out) as work:
        pixels = to_uint8(result.images)
        for index, (image, name) in enumerate(zip(pixels, names, strict=True)):
            safe = "".join(c if c.isalnum() else "-" for c in name)[:40]
            Image.fromarray(image).save(work / f"{index:04d}-{safe}.png")
        contact_sheet(pixels).save(work / "contact-sheet.png")
        settings = {"classes": names, "seed": args.seed, "steps": spec.steps}
        settings.update(guidance_scale=spec.guidance_scale, scheduler=spec.scheduler)
        (work / "settings.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
    seconds = time.perf_counter() - started
    say(args, f"wrote {len(labels)} images to {args.out} in {seconds:.1f} s")
    return {"out": str(args.out), **settings, "seconds": round(seconds, 2)}


def finite(value: float) -> float | None:
    """JSON has no infinity: None instead."""
    return round(value, 4) if math.isfinite(value) else None
