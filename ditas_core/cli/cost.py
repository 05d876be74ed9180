"""The ``cost`` verb: hours and bytes of drawing images by the thousand, before it starts."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..checkpoints import Checkpoint, figure
from ..conversion import quantize_transformer
from ..evaluation import (
    SHAPES,
    DrawingCost,
    ModelShape,
    Plan,
    Throughput,
    drawing_cost,
    estimate,
    known_model,
    measure_throughput,
)
from ..onnx_runtime import check_backend, run_on_
from ..search import SearchSpec, unsearched_recipe
from ..specs import BitWidths, CalibrationSpec, Recipe, SpecError, get_convention, summarize
from .commands import Report, place_, sampling_spec, say
from .loading import load_any

CALIBRATION = CalibrationSpec(batch=1)


def run_cost(args: argparse.Namespace) -> Report:
    """Time a few passes and a decoding here, multiply, and where asked draw some and compare."""
    sampling = sampling_spec(args)
    known = args.checkpoint in SHAPES
    if args.check and (known or args.bits):
        raise SpecError(
            "check: expected a checkpoint or a quantized folder that sample can draw with, and no "
            "--bits; quantize writes such a folder"
        )
    shape: ModelShape | None = None
    recipe: Recipe | None = None
    if known:
        checkpoint, shape = known_model(args.checkpoint, args.image_size)
    else:
        checkpoint, recipe = load_any(args, "simulated" if args.bits else args.backend)
    steps: dict[str, float] = {}
    if recipe is None:
        steps = seconds_before(args, checkpoint, shape)
    if args.bits:
        if recipe is not None:
            raise SpecError("bits: expected none with a quantized folder, which has its own")
        checkpoint, recipe = quantized(args, checkpoint)
    place_(checkpoint, args.device)
    found = measure_throughput(checkpoint, args.batch)
    cost = drawing_cost(checkpoint, found, args.samples, sampling.steps, shape)
    name = checkpoint.name + (f", {summarize(recipe)}" if recipe else ", full precision")
    lines = [f"{name}, backend {args.backend}" if recipe else name]
    lines += lines_of(args, found, cost)
    lines += [f"{what:>12}  {duration(seconds)}" for what, seconds in steps.items()]
    for line in lines:
        say(args, line)
    report: Report = {
        "model": name,
        "backend": args.backend if recipe else None,
        "samples": args.samples,
        "steps": sampling.steps,
        "throughput": asdict(found),
        **asdict(cost),
        "before_s": {what: round(seconds, 1) for what, seconds in steps.items()},
    }
    if args.check:
        report["check"] = checked(args, drawing_cost(checkpoint, found, args.check, sampling.steps))
    return report


def quantized(args: argparse.Namespace, checkpoint: Checkpoint) -> tuple[Checkpoint, Recipe]:
    """Rounded to the nearest, which takes as long to run as any other codes."""
    bits = BitWidths.parse(args.bits)
    check_backend(args.convention, args.backend, [bits])
    recipe = unsearched_recipe(checkpoint, SearchSpec(bits, args.convention, "plain"))
    transformer = quantize_transformer(checkpoint, recipe)
    run_on_(checkpoint, transformer, args.backend)
    return replace(checkpoint, transformer=transformer), recipe


def seconds_before(
    args: argparse.Namespace, checkpoint: Checkpoint, shape: ModelShape | None
) -> dict[str, float]:
    """Of the steps that lead to a quantized folder, with DiTAS, at the speed of one sample."""
    whole = shape or ModelShape.of(checkpoint)
    bits = BitWidths.parse(args.bits or "W4A8")
    branch = get_convention(args.convention).branch(whole.width, None)
    place_(checkpoint, args.device)
    speed = measure_throughput(checkpoint, 1).speed
    plan = Plan(CALIBRATION, bits, args.convention, branch)
    cost = estimate(whole, speed, plan)
    return {"calibrate": cost.calibrate_s, "search": cost.search_s, "quantize": cost.quantize_s}


def lines_of(args: argparse.Namespace, found: Throughput, cost: DrawingCost) -> list[str]:
    """For people."""
    return [
        f"measured here: {found.speed / 1e9:.1f} thousand million operations/s in passes of "
        f"{args.batch} samples, {found.decode_s:.2g} s to decode an image",
        f"{'sample':>12}  {args.samples} images of {args.steps} steps: {duration(cost.seconds)}, "
        f"{figure(cost.memory_bytes)} of memory, {figure(cost.disk_bytes)} of disk; "
        f"a pass {cost.pass_s:.3g} s",
    ]


def duration(seconds: float) -> str:
    """``3.2 h``, ``4.5 min``, ``12 s``."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.3g} s"


def checked(args: argparse.Namespace, cost: DrawingCost) -> dict[str, Any]:
    """Draw with the command itself, in a process of its own; what it took beside ``cost``."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "ditas_core", "sample", args.checkpoint, "--json"]
        words += ["--npz", str(Path(folder) / "check.npz"), "--samples", str(args.check)]
        for option in ("batch", "steps", "guidance", "guided_channels", "scheduler", "seed"):
            words += [f"--{option.replace('_', '-')}", str(getattr(args, option))]
        for option in ("threads", "device", "backend", "like", "weights"):
            words += [f"--{option}", str(getattr(args, option))] if getattr(args, option) else []
        words += ["--captions", str(args.captions)] if args.captions else []
        done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"check: expected sample to draw, got {done.stderr.strip().splitlines()[-1]}")
    took = json.loads(done.stdout.strip().splitlines()[-1])["seconds"]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    say(
        args,
        f"{'check':>12}  {args.check} images: predicted {duration(cost.seconds)} and "
        f"{figure(cost.memory_bytes)}, measured {duration(took)} and {figure(peak)}",
    )
    return {
        "samples": args.check,
        "predicted_s": round(cost.seconds, 2),
        "measured_s": took,
        "predicted_memory_bytes": cost.memory_bytes,
        "measured_memory_bytes": peak,
    }
