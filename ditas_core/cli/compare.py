"""The ``compare`` verb: paired runs of a reference and of several quantized models."""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from ..artifact import whole_model_bits
from ..calibration import Calibration
from ..checkpoints import Checkpoint
from ..comparison import Trajectory, compare
from ..conversion import inject_outliers, quantize_modulation
from ..evaluation import Interval, interval
from ..layers import effective_bits
from ..models import Transformer
from ..onnx_runtime import check_backend, load_on, run_on_
from ..sampling import spread_labels
from ..search import SearchSpec
from ..specs import BitWidths, CalibrationSpec, Recipe, SpecError, summarize
from ..writing import check_new_folder, whole_folder
from .commands import (
    Report,
    apply_recipe,
    calibrated,
    finite,
    low_rank_spec,
    place_,
    sampling_spec,
    say,
    searched,
)
from .images import contact_sheet, to_uint8
from .loading import load
from .progress import trajectory


@dataclass(frozen=True)
class Contestant:
    """One quantized model that is compared with the reference.

    label, recipe  what it is called in the results, and its recipe in a line
    backend        what it runs on
    bits, method   of an ablation's, whose rows are also compared with the plain one of their
                   bits, modulation and backend; "" of a folder's
    """

    label: str
    recipe: Recipe
    transformer: Transformer
    backend: str
    bits: str = ""
    method: str = ""


def injected(checkpoint: Checkpoint, strength: float) -> Checkpoint:
    """Its twin with injected outliers, which its name says."""
    return replace(
        checkpoint,
        name=f"{checkpoint.name} + injected x{strength:g}",
        transformer=inject_outliers(checkpoint.transformer, strength),
    )


def ablation_specs(args: argparse.Namespace, checkpoint: Checkpoint) -> list[SearchSpec]:
    """Every bits x method of --ablation."""
    if not args.ablation:
        return []
    return [
        SearchSpec(
            BitWidths.parse(bits),
            args.convention,
            method.strip(),
            low_rank_spec(args, checkpoint),
        )
        for bits in args.ablation.split(",")
        for method in args.methods.split(",")
    ]


def ablation(
    args: argparse.Namespace,
    checkpoint: Checkpoint,
    specs: list[SearchSpec],
    calibration: Calibration | None,
) -> Iterator[Contestant]:
    """Quantize on the spot; calibrated there too where no calibration is given."""
    for spec in specs:
        if calibration is None:
            # its own seed, far from the compared samples'
            calibration = calibrated(
                checkpoint, CalibrationSpec(sampling_spec(args), seed=1_000_000)
            )
        recipe, _ = searched(checkpoint, calibration, spec)
        converted = apply_recipe(checkpoint, recipe, calibration)
        for modulation in args.modulation:
            changed = replace(recipe, modulation=modulation)
            # of a copy: a backend is attached to the transformer itself
            transformer = quantize_modulation(copy.deepcopy(converted), modulation)
            for backend in args.backend:
                run_on_(checkpoint, transformer, backend)
                label = f"{spec.bits} {spec.method}"
                label += "" if len(args.modulation) == 1 else f" {modulation}"
                label += "" if len(args.backend) == 1 else f" {backend}"
                yield Contestant(label, changed, transformer, backend, str(spec.bits), spec.method)


def recipe_of(path: Path, checkpoint: Checkpoint) -> Recipe:
    """A quantized folder's, without its weights.

    Raises:
        SpecError: no such folder, or one that was quantized from another checkpoint.
    """
    if not (path / "recipe.json").is_file():
        raise SpecError(
            f"{path}: expected a folder that quantize wrote, found no recipe.json in it"
        )
    recipe = Recipe.load(path / "recipe.json")
    if recipe.checkpoint != checkpoint.fingerprint:
        raise SpecError(
            f"{path}: expected a model quantized from {checkpoint.name}, got one from another"
        )
    return recipe


def contestants(
    args: argparse.Namespace,
    checkpoint: Checkpoint,
    specs: list[SearchSpec],
    calibration: Calibration | None,
) -> Iterator[Contestant]:
    for path, backend in product(args.quantized, args.backend):
        quantized, recipe = load_on(path, backend)
        place_(quantized, args.device)
        label = path.name if len(args.backend) == 1 else f"{path.name} {backend}"
        yield Contestant(label, recipe, quantized.transformer, backend)
    yield from ablation(args, checkpoint, specs, calibration)


def metrics(summary: dict[str, Interval]) -> dict[str, Any]:
    return {
        key: {"mean": round(value.mean, 4), "ci95": finite(value.half_width), "n": value.n}
        for key, value in summary.items()
    }


def run_compare(args: argparse.Namespace) -> Report:
    if not args.quantized and not args.ablation:
        raise SpecError("compare: expected quantized folders or --ablation BITS, got neither")
    if args.inject > 1 and (args.quantized or not args.ablation):
        raise SpecError("compare: --inject works with --ablation and without folders")
    checkpoint = load(args)
    if args.inject > 1:
        checkpoint = injected(checkpoint, args.inject)
    # everything that can be wrong is looked at before the long work
    specs = ablation_specs(args, checkpoint)
    recipes = [recipe_of(path, checkpoint) for path in args.quantized]
    for backend in args.backend:
        if args.ablation:
            check_backend(args.convention, backend, (spec.bits for spec in specs))
        for recipe in recipes:
            check_backend(recipe.convention, backend, recipe.bits)
    calibration = None if args.calibration is None else Calibration.load(args.calibration)
    if args.out is not None:
        check_new_folder(args.out)
    spec = sampling_spec(args)
    labels = spread_labels(args.samples, len(checkpoint.class_names))
    _ = checkpoint.fingerprint
    place_(checkpoint, args.device)
    started = time.perf_counter()

    def run(label: str, transformer: nn.Module) -> Trajectory:
        return trajectory(label, checkpoint, transformer, labels, spec, args.seed)

    reference = run("full precision", checkpoint.transformer)
    images = {"full-precision": reference.images}
    rows: list[dict[str, Any]] = []
    plain: dict[tuple[str, ...], Tensor] = {}
    for one in contestants(args, checkpoint, specs, calibration):
        result = run(one.label, one.transformer)
        found = compare(reference, result)
        row: dict[str, Any] = {
            "label": one.label,
            "recipe": summarize(one.recipe),
            "backend": one.backend,
            "modulation": one.recipe.modulation,
            "effective_bits": round(effective_bits(one.transformer), 3),
            "whole_model_bits": round(whole_model_bits(one.transformer), 3),
            "seconds_per_sample": round(result.seconds / args.samples, 3),
            **metrics(found.summary()),
        }
        kind = (one.bits, one.recipe.modulation, one.backend)
        if one.method == "plain":
            plain[kind] = found.latent_sqnr
        elif kind in plain:
            gain = interval(found.latent_sqnr - plain[kind])
            row["gain_over_plain_db"] = metrics({"gain": gain})["gain"]
        rows.append(row)
        images[one.label.replace(" ", "-")] = result.images
        say(args, line_of(row))
    if args.out is not None:
        with whole_folder(args.out) as work:
            for name, pictures in images.items():
                contact_sheet(to_uint8(pictures)).save(work / f"{name}.png")
            side_by_side(images).save(work / "side-by-side.png")
    return {
        "checkpoint": checkpoint.name,
        "fingerprint": checkpoint.fingerprint,
        "injected": args.inject if args.inject > 1 else None,
        "convention": args.convention if args.ablation else None,
        "samples": args.samples,
        "steps": spec.steps,
        "guidance_scale": spec.guidance_scale,
        "scheduler": spec.scheduler,
        "seed": args.seed,
        "seconds_per_sample": round(reference.seconds / args.samples, 3),
        "results": rows,
        "seconds": round(time.perf_counter() - started, 1),
    }


def line_of(row: dict[str, Any]) -> str:
    """One result for people."""

    def spread(entry: dict[str, Any], digits: int) -> str:
        around = "" if entry["ci95"] is None else f" ± {entry['ci95']:.{digits}f}"
        return f"{entry['mean']:.{digits}f}{around}"

    text = (
        f"{row['label']:>24}  latent SQNR {spread(row['latent_sqnr_db'], 2)} dB"
        f"  PSNR {spread(row['psnr_db'], 2)} dB  SSIM {spread(row['ssim'], 4)}"
        f"  {row['effective_bits']} bits/weight, {row['whole_model_bits']:.2f} of the whole"
        f"  {row['seconds_per_sample']:.2f} s/sample"
    )
    if "gain_over_plain_db" in row:
        text += f"  gain over plain {spread(row['gain_over_plain_db'], 2)} dB"
    return text


def side_by_side(images: dict[str, Tensor], limit: int = 8) -> Image.Image:
    """One row per model, the first samples as columns."""
    rows = [to_uint8(pictures[:limit]) for pictures in images.values()]
    count, height, width, _ = rows[0].shape
    sheet = Image.new("RGB", (count * width, len(rows) * height), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(Image.fromarray(image), (x * width, y * height))
    return sheet
