"""The three conventions on one checkpoint: latent SQNR and honest effective bits.

python -m ditas_core bench conventions
"""

from __future__ import annotations

import argparse
from typing import Any

from ditas_core.calibration import calibrate
from ditas_core.checkpoints import load_checkpoint
from ditas_core.cli.commands import apply_recipe, finite, searched
from ditas_core.cli.parsing import number
from ditas_core.cli.progress import trajectory
from ditas_core.comparison import compare
from ditas_core.evaluation import interval
from ditas_core.layers import effective_bits
from ditas_core.sampling import spread_labels
from ditas_core.search import SearchSpec
from ditas_core.specs import BIT_PRESETS, CONVENTIONS, BitWidths, CalibrationSpec, SamplingSpec

from .machine import DEMO, describe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", nargs="?", default=str(DEMO))
    parser.add_argument("--samples", type=number(int, 1, 256), default=8)
    parser.add_argument("--steps", type=number(int, 1, 1000), default=20)
    parser.add_argument("--bits", default=",".join(BIT_PRESETS))
    parser.add_argument("--conventions", default=",".join(CONVENTIONS))
    parser.add_argument("--methods", default="plain,ditas")


def run(args: argparse.Namespace) -> dict[str, Any]:
    checkpoint = load_checkpoint(args.checkpoint)
    spec = SamplingSpec(steps=args.steps)
    labels = spread_labels(args.samples, len(checkpoint.class_names))
    calibration = calibrate(checkpoint, CalibrationSpec(spec, seed=1_000_000))
    reference = trajectory("full precision", checkpoint, checkpoint.transformer, labels, spec, 0)
    rows = []
    for convention in args.conventions.split(","):
        for bits in args.bits.split(","):
            for method in args.methods.split(","):
                search_spec = SearchSpec(BitWidths.parse(bits), convention, method)
                recipe, _ = searched(checkpoint, calibration, search_spec)
                model = apply_recipe(checkpoint, recipe, calibration)
                label = f"{convention} {bits} {method}"
                result = trajectory(label, checkpoint, model, labels, spec, 0)
                sqnr = interval(compare(reference, result).latent_sqnr)
                rows.append(
                    {
                        "convention": convention,
                        "bits": bits,
                        "method": method,
                        "latent_sqnr_db": round(sqnr.mean, 2),
                        "ci95": finite(sqnr.half_width),
                        "effective_bits": round(effective_bits(model), 2),
                    }
                )
    return {
        "checkpoint": checkpoint.name,
        "samples": args.samples,
        "steps": args.steps,
        "rows": rows,
        "machine": describe(),
    }


def lines(report: dict[str, Any]) -> list[str]:
    """A Markdown table: one row per convention and method, one column per bits."""
    columns = list(dict.fromkeys(row["bits"] for row in report["rows"]))
    cells = {(r["convention"], r["method"], r["bits"]): r for r in report["rows"]}
    keys = list(dict.fromkeys((r["convention"], r["method"]) for r in report["rows"]))
    made = ["| convention | method | " + " | ".join(columns) + " |"]
    made.append("|---|---|" + "---|" * len(columns))
    for convention, method in keys:
        shown = []
        for bits in columns:
            row = cells[convention, method, bits]
            spread = "" if row["ci95"] is None else f" ± {row['ci95']:.1f}"
            shown.append(f"{row['latent_sqnr_db']:.1f}{spread} dB, {row['effective_bits']:g} bits")
        made.append(f"| {convention} | {method} | " + " | ".join(shown) + " |")
    return made
