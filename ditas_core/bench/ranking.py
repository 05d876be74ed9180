"""Which objective of the search predicts how far the final latents move, over many recipes.

python -m ditas_core bench ranking

Of every setting (convention and bits): plain rounding, one alpha everywhere, what a search finds
with each objective, alphas drawn at random, and each layer's weight bits drawn at random or chosen
within the size of all. Of every recipe: latent SQNR against full precision, and what each objective
predicts of its layers, beside the sum of their errors weighed by reach. Reported is Spearman's
correlation of the two over all recipes, and within settings, where neither bits nor convention
help; ``gain`` is that of reach less that of the first.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from ditas_core.calibration import Calibration, Reach, calibrate, measure_reach
from ditas_core.checkpoints import Checkpoint, load_checkpoint
from ditas_core.cli.commands import apply_recipe, finite, with_influence
from ditas_core.cli.parsing import number
from ditas_core.cli.progress import bar
from ditas_core.evaluation import Correlation, correlations, interval, sqnr_db
from ditas_core.sampling import sample_latents, spread_labels
from ditas_core.search import SearchSpec, predicted_loss, relative, search
from ditas_core.specs import (
    INFLUENCE_SAMPLES,
    MOST_SAMPLES,
    OBJECTIVES,
    WEIGHT_BITS,
    BitWidths,
    CalibrationSpec,
    LayerRecipe,
    Recipe,
    SamplingSpec,
)

from .machine import DEMO, describe

SETTINGS = "integer-tensor:W8A8,integer-tensor:W8A6,integer:W8A6,integer:W4A8"
PREDICTIONS = (*OBJECTIVES, "reach")
GRID = tuple(i / 10 for i in range(11))
FIXED = (0.25, 0.5, 0.75)
MIXED = "bits by layer"
BATCH = 16
CALIBRATION_SEED = 1_000_000
"""Whose noise is no sample's that is measured."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", nargs="?", default=str(DEMO))
    parser.add_argument("--samples", type=number(int, 2, 4096), default=8)
    parser.add_argument("--steps", type=number(int, 1, 1000), default=20)
    parser.add_argument("--settings", default=SETTINGS, help="CONVENTION:BITS with commas")
    parser.add_argument(
        "--random",
        type=number(int, 0, 100),
        default=3,
        help="recipes of random alphas a setting, and as many of random bits",
    )
    parser.add_argument(
        "--influence",
        type=number(int, 1, MOST_SAMPLES),
        default=INFLUENCE_SAMPLES,
        help="samples that S_t is measured on",
    )


def recipes_of(
    checkpoint: Checkpoint, calibration: Calibration, spec: SearchSpec, drawn: int
) -> Iterator[tuple[str, Recipe]]:
    """A setting's recipes by name, each as it is made."""
    layer = spec.layer(checkpoint.width)
    names = [group.name for group in checkpoint.groups]

    def recipe(alphas: list[float | None]) -> Recipe:
        layers: dict[str, LayerRecipe] = {
            name: replace(layer, alpha=alpha) for name, alpha in zip(names, alphas, strict=True)
        }
        made = Recipe("ranking", spec.convention, checkpoint.fingerprint, layers)
        return replace(made, calibration=calibration.sha256)

    yield "plain", recipe([None] * len(names))
    for alpha in FIXED:
        yield f"alpha {alpha:g}", recipe([alpha] * len(names))
    for objective in OBJECTIVES:
        yield (
            f"search, {objective}",
            search(checkpoint, calibration, replace(spec, objective=objective)),
        )
    chance = random.Random(f"{spec.convention} {spec.bits}")
    for index in range(drawn):
        alphas = [chance.choice((None, *GRID)) for _ in names]
        yield f"random {index + 1}", recipe(alphas)
    widths = [replace(spec.bits, weight=bits) for bits in around(spec.bits.weight_bits)]
    for index in range(drawn):
        found = recipe([None] * len(names)).layers.items()
        layers = {name: replace(each, bits=chance.choice(widths)) for name, each in found}
        yield f"random bits {index + 1}", replace(recipe([None] * len(names)), layers=layers)
    yield MIXED, search(checkpoint, calibration, replace(spec, method="mixed"))


def around(bits: int) -> list[int]:
    """Weight bits that random layers have: one fewer, as many, one more."""
    return [each for each in (bits - 1, bits, bits + 1) if each in WEIGHT_BITS]


def predicted_db(
    checkpoint: Checkpoint, calibration: Calibration, recipe: Recipe, reach: Reach
) -> dict[str, float]:
    """What a recipe's layers say of it, as SQNRs in dB.

    output     of the mean over layers of their relative errors
    influence  of the sum over layers of their losses
    reach      of the sum over layers of their relative errors times how far each reaches
    """
    totals = dict.fromkeys(PREDICTIONS, 0.0)
    for group in checkpoint.groups:
        layer = recipe.layers[group.name]
        for objective in OBJECTIVES:
            loss, energy = predicted_loss(
                checkpoint, group, calibration, recipe.convention, layer, objective=objective
            )
            if objective == "output":
                share = relative(loss, energy)
                totals["output"] += share / len(checkpoint.groups)
                totals["reach"] += reach[group.name] * share
            else:
                totals[objective] += loss
    return {name: round(-10 * math.log10(max(total, 1e-30)), 4) for name, total in totals.items()}


def run(args: argparse.Namespace) -> dict[str, Any]:
    started = time.perf_counter()
    checkpoint = load_checkpoint(args.checkpoint)
    spec = SamplingSpec(steps=args.steps)
    labels = spread_labels(args.samples, len(checkpoint.class_names))
    calibration = calibrate(checkpoint, CalibrationSpec(spec, seed=CALIBRATION_SEED))
    begun = time.perf_counter()
    calibration = with_influence(checkpoint, calibration, args.influence)
    assert calibration.influence is not None
    seconds = time.perf_counter() - begun
    reach = measure_reach(checkpoint, spec, args.influence, CALIBRATION_SEED)

    def final(transformer: nn.Module) -> Tensor:
        parts = [
            sample_latents(
                transformer, checkpoint.scheduler, labels[first : first + BATCH],
                checkpoint.latent_shape, spec, first, checkpoint.conditions,
            )
            for first in range(0, len(labels), BATCH)
        ]  # fmt: skip
        return torch.cat(parts)  # (N, C, H, W)

    reference = final(checkpoint.transformer)
    rows: list[dict[str, Any]] = []
    settings = [each.split(":") for each in args.settings.split(",")]
    of_each = 2 + len(FIXED) + len(OBJECTIVES) + 2 * args.random
    with bar("ranking", len(settings) * of_each) as progress:
        for convention, bits in settings:
            wanted = SearchSpec(BitWidths.parse(bits), convention, "search", grid=GRID)
            for name, recipe in recipes_of(checkpoint, calibration, wanted, args.random):
                model = apply_recipe(checkpoint, recipe, calibration)
                found = interval(sqnr_db(reference, final(model)))
                spread = finite(found.half_width)
                row: dict[str, Any] = {"convention": convention, "bits": bits, "recipe": name}
                row["latent_sqnr_db"] = {"mean": finite(found.mean), "ci95": spread}
                row["predicted_db"] = predicted_db(checkpoint, calibration, recipe, reach)
                rows.append(row)
                progress.update(1)
    return {
        "checkpoint": checkpoint.name,
        "samples": args.samples,
        "steps": args.steps,
        "influence": [float(f"{each:.4g}") for each in calibration.influence.steps.tolist()],
        "influence_samples": args.influence,
        "influence_seconds": round(seconds, 1),
        "correlations": ranked(rows),
        "rows": rows,
        "seconds": round(time.perf_counter() - started, 1),
        "machine": describe(),
    }


def ranked(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Spearman's correlations over all recipes and within settings; ``gain`` is the difference."""
    measured = [row["latent_sqnr_db"]["mean"] for row in rows]
    predictions = [[row["predicted_db"][name] for row in rows] for name in PREDICTIONS]
    keys = [(row["convention"], row["bits"]) for row in rows]
    strata = [list(dict.fromkeys(keys)).index(key) for key in keys]

    def told(found: list[Correlation]) -> dict[str, Any]:
        names = (*PREDICTIONS, "gain")
        return {
            name: {key: finite(value) for key, value in asdict(one).items()}
            for name, one in zip(names, found, strict=True)
        }

    return {
        "all": told(correlations(predictions, measured)),
        "within": told(correlations(predictions, measured, strata)),
    }


def lines(report: dict[str, Any]) -> list[str]:
    """Markdown tables: the correlations, and what each objective's search came to."""

    def cell(found: dict[str, Any]) -> str:
        if found["rho"] is None or found["low"] is None:
            return "none"
        return f"{found['rho']:.2f} ({found['low']:.2f} to {found['high']:.2f})"

    names = list(PREDICTIONS)
    count, settings = len(report["rows"]), {(r["convention"], r["bits"]) for r in report["rows"]}
    made = [
        f"| Spearman's correlation | {' | '.join(names)} | gain |",
        "|---" * (len(names) + 2) + "|",
    ]
    for key, title in (
        ("all", f"over all {count} recipes"),
        ("within", f"within settings, mean of {len(settings)}"),
    ):
        found = report["correlations"][key]
        made.append(f"| {title} | {' | '.join(cell(found[each]) for each in (*names, 'gain'))} |")
    columns = ["plain", *(f"search, {name}" for name in OBJECTIVES), MIXED]
    cells = {(r["convention"], r["bits"], r["recipe"]): r["latent_sqnr_db"] for r in report["rows"]}
    made += ["", "| latent SQNR, dB | " + " | ".join(columns) + " |"]
    made.append("|---" * (len(columns) + 1) + "|")
    for convention, bits in dict.fromkeys((r["convention"], r["bits"]) for r in report["rows"]):
        shown = []
        for column in columns:
            each = cells[convention, bits, column]
            spread = "" if each["ci95"] is None else f" ± {each['ci95']:.1f}"
            shown.append(f"{each['mean']:.1f}{spread}")
        made.append(f"| {convention} {bits} | {' | '.join(shown)} |")
    return made
