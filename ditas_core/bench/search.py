"""One pass against one sampling loop per layer, side by side, interleaved.

    python -m ditas_core bench search --json

Both choose the smoothing strength of every layer in the released convention: the
reference as the authors' code does (the model sampled once per layer, every token
of every step), the engine from one trajectory and stored tokens. Chosen alphas are
compared on the reference's own loss curves.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from ditas_core.calibration import calibrate
from ditas_core.checkpoints import Checkpoint, load_checkpoint
from ditas_core.cli.parsing import number
from ditas_core.cli.progress import bar
from ditas_core.sampling import spread_labels
from ditas_core.search import LayerDone, SearchSpec, iterate_search
from ditas_core.specs import (
    BitWidths,
    CalibrationSpec,
    LowRankSpec,
    SamplingSpec,
)

from .machine import DEMO, describe
from .models import random_model
from .released_reference import ReleasedResult, released_search


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        choices=("demo", "xl-slice"),
        action="append",
        help="the shipped checkpoint, or 2 blocks of a DiT-XL/2 with random weights; "
        "may be given twice; default: both",
    )
    parser.add_argument("--runs", type=number(int, 1, 100), default=5)
    parser.add_argument("--steps", type=number(int, 1, 1000), default=6)
    parser.add_argument("--samples", type=number(int, 1, 256), default=4)
    parser.add_argument("--xl-steps", type=number(int, 1, 1000), default=2)
    parser.add_argument("--xl-samples", type=number(int, 1, 256), default=2)
    parser.add_argument("--tokens", type=number(int, 1, 4096), default=CalibrationSpec().tokens)
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="of the engine"
    )
    parser.add_argument("--bits", default="W4A8")
    parser.add_argument(
        "--rank",
        type=number(int, 0, 256),
        default=0,
        help="of the released branch, fitted alike on both sides; 0 leaves the search alone",
    )


def engine(
    checkpoint: Checkpoint, spec: CalibrationSpec, bits: BitWidths, rank: int, precision: str
) -> tuple[float, int, dict[str, LayerDone]]:
    """Seconds, transformer forwards and every layer's result."""
    calls: list[int] = []
    counter = checkpoint.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    started = time.perf_counter()
    try:
        calibration = calibrate(checkpoint, spec)
    finally:
        counter.remove()
    branch = LowRankSpec(rank, 10, "none", "last")
    search_spec = SearchSpec(bits, "released", "ditas", branch, products=precision)
    found = {
        event.group: event
        for event in iterate_search(checkpoint, calibration, search_spec)
        if isinstance(event, LayerDone)
    }
    seconds = time.perf_counter() - started
    forwards = len(calls) or spec.sampling.steps * -(-spec.samples // spec.batch)
    return seconds, forwards, found


def measure(checkpoint: Checkpoint, args: argparse.Namespace, xl: bool) -> dict[str, Any]:
    """Interleaved runs of both sides on one checkpoint."""
    steps, samples = (args.xl_steps, args.xl_samples) if xl else (args.steps, args.samples)
    bits = BitWidths.parse(args.bits)
    sampling = SamplingSpec(steps, 1.5, 3, "ddpm")
    _ = checkpoint.fingerprint
    spec = CalibrationSpec(
        sampling, samples, tokens=args.tokens, batch=samples, precision=args.precision
    )
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(args.runs):
        seconds, forwards, found = engine(checkpoint, spec, bits, args.rank, args.precision)
        ours.append(seconds)
        with bar(f"reference on {checkpoint.name}", len(checkpoint.groups)) as progress:
            reference = released_search(
                checkpoint.transformer,
                checkpoint.scheduler,
                spread_labels(samples, len(checkpoint.class_names)),
                checkpoint.latent_shape,
                sampling,
                0,
                (bits.weight_bits, bits.activation_bits),
                args.rank,
                on_layer=lambda _: progress.update(1),
            )
        theirs.append(reference.seconds)
    return {
        "model": checkpoint.name,
        "layers": len(checkpoint.groups),
        "steps": steps,
        "samples": samples,
        "tokens_per_step": {
            "engine": args.tokens,
            "reference": samples * 2 * checkpoint.image_tokens,
        },
        "runs": args.runs,
        "forwards": {"engine": forwards, "reference": reference.forwards},
        "seconds": {
            "engine": [round(x, 2) for x in ours],
            "reference": [round(x, 2) for x in theirs],
        },
        "median_seconds": {
            "engine": round(statistics.median(ours), 2),
            "reference": round(statistics.median(theirs), 2),
        },
        "ratio": round(statistics.median(b / a for a, b in zip(ours, theirs, strict=True)), 1),
        "ratios": [round(b / a, 1) for a, b in zip(ours, theirs, strict=True)],
        "agreement": agreement(found, reference),
    }


def agreement(found: dict[str, LayerDone], reference: ReleasedResult) -> dict[str, Any]:
    """How good the engine's choices are on the reference's curves."""
    same, excess = 0, []
    for layer in reference.layers:
        alpha = found[layer.name].best_on_grid
        same += alpha == layer.alpha
        index = found[layer.name].grid.index(alpha)
        excess.append(layer.losses[index] / min(layer.losses) - 1)
    within = sum(x <= 0.01 for x in excess)
    return {
        "same_alpha": same,
        "within_1_percent": within,
        "of": len(excess),
        "worst_excess_percent": round(100 * max(excess), 3),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    results = []
    for name in args.model or ["demo", "xl-slice"]:
        checkpoint = load_checkpoint(DEMO) if name == "demo" else random_model("DiT-XL/2", 2)
        results.append(measure(checkpoint, args, name != "demo"))
    settings = {"bits": args.bits, "rank": args.rank, "precision": args.precision}
    return {"settings": settings, "results": results, "machine": describe()}


def lines(report: dict[str, Any]) -> list[str]:
    rows = []
    for one in report["results"]:
        seconds, forwards = one["median_seconds"], one["forwards"]
        agreed = one["agreement"]
        rows.append(
            f"{one['model']}: reference {seconds['reference']} s and {forwards['reference']} "
            f"forwards, engine {seconds['engine']} s and {forwards['engine']}: "
            f"{one['ratio']} times fewer seconds (median of {one['runs']} runs); "
            f"{agreed['same_alpha']} of {agreed['of']} alphas equal, "
            f"{agreed['within_1_percent']} within 1 % of the best loss"
        )
    return rows
