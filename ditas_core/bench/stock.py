"""What smoothing does for other quantizers: torchao, sdnq and quanto round a checkpoint as it is,
and as ``export --to smoothed`` writes it; natural and injected outliers, the same pictures.

python -m ditas_core bench stock --json
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from ditas_core.calibration import Calibration, calibrate
from ditas_core.checkpoints import Checkpoint, load_checkpoint
from ditas_core.cli.commands import finite, searched
from ditas_core.cli.parsing import number
from ditas_core.cli.progress import bar
from ditas_core.conversion import inject_outliers
from ditas_core.evaluation import interval, sqnr_db
from ditas_core.exports import final_latents, smoothed_transformer
from ditas_core.sampling import sample_latents, spread_labels
from ditas_core.search import SearchSpec
from ditas_core.specs import BitWidths, CalibrationSpec, SamplingSpec

from .contestants import grouped_paths, sdnq_int8, torchao_int8, ungrouped_paths
from .machine import DEMO, describe

SEED = 1_000_000
"""Of calibrations; pictures begin at 0."""
ACROSS = 4
"""Samples on which quanto calibrates its static ranges."""


@dataclass(frozen=True)
class Quantizer:
    """A library's way to round a network in place, the layers of the smoothing groups alone.

    bits, convention   what of ours comes closest: the alphas are searched with it
    """

    name: str
    package: str
    bits: str
    convention: str
    change: Callable[[Any, Checkpoint], object]


def torchao_int4(network: Any, _: Checkpoint) -> None:
    tools: Any = import_module("torchao.quantization")
    chosen = grouped_paths(network)
    config = tools.Int8DynamicActivationIntxWeightConfig(
        weight_dtype=import_module("torch").int4, weight_granularity=tools.PerGroup(32)
    )
    tools.quantize_(network, config, filter_fn=lambda _, path: path in chosen)


def sdnq_uint4(network: Any, _: Checkpoint) -> None:
    tools: Any = import_module("sdnq")
    tools.sdnq_post_load_quant(
        network,
        weights_dtype="uint4",
        group_size=64,
        add_skip_keys=False,
        minimum_allowed_numel=0,
        modules_to_not_convert=ungrouped_paths(network),
    )


def quanto(weights: str, activations: str | None) -> Callable[[Any, Checkpoint], None]:
    """Static activations have one range a layer, of a few trajectories."""

    def change(network: Any, checkpoint: Checkpoint) -> None:
        tools: Any = import_module("optimum.quanto")
        kinds = {"weights": getattr(tools, weights)}
        if activations is not None:
            kinds["activations"] = getattr(tools, activations)
        tools.quantize(network, include=sorted(grouped_paths(network)), **kinds)
        if activations is not None:
            labels = spread_labels(ACROSS, len(checkpoint.class_names))
            with tools.Calibration():
                sample_latents(
                    network,
                    checkpoint.scheduler,
                    labels,
                    checkpoint.latent_shape,
                    SamplingSpec(20, checkpoint.family.guidance_scale),
                    SEED,
                    checkpoint.conditions,
                )
        tools.freeze(network)

    return change


QUANTIZERS = (
    Quantizer("torchao int8 dynamic", "torchao", "W8A8", "integer-symmetric",
              lambda network, _: torchao_int8(network)),
    Quantizer("torchao int8 dynamic, int4 g32", "torchao", "W4A8", "integer-g32", torchao_int4),
    Quantizer("sdnq int8 products", "sdnq", "W8A8", "integer-symmetric",
              lambda network, _: sdnq_int8(network)),
    Quantizer("sdnq uint4 g64, weights only", "sdnq", "W4A16", "integer-g64", sdnq_uint4),
    Quantizer("quanto int8 static", "optimum-quanto", "W8A8", "integer-tensor",
              quanto("qint8", "qint8")),
    Quantizer("quanto int4, weights only", "optimum-quanto", "W4A16", "integer-g128",
              quanto("qint4", None)),
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", nargs="?", default=str(DEMO))
    parser.add_argument("--samples", type=number(int, 2, 256), default=16, help="(%(default)s)")
    parser.add_argument("--steps", type=number(int, 1, 1000), default=20, help="(%(default)s)")
    parser.add_argument(
        "--strengths", default="1,30", help="of injected outliers; 1 is natural (%(default)s)"
    )
    parser.add_argument("--only", default="", help="words in the names to be run, with commas")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Every quantizer that is installed, at every strength."""
    wanted = [word.strip() for word in args.only.split(",") if word.strip()]
    chosen = [q for q in QUANTIZERS if not wanted or any(word in q.name for word in wanted)]
    installed = {q.package: version_of(q.package) for q in chosen}
    there = [q for q in chosen if installed[q.package]]
    base = load_checkpoint(args.checkpoint)
    spec = SamplingSpec(args.steps, base.family.guidance_scale)
    labels = spread_labels(args.samples, len(base.class_names))
    reference = drawn("full precision", base, base.transformer, labels, spec)
    rows = []
    for text in args.strengths.split(","):
        strength, checkpoint = float(text), base
        if strength > 1:
            checkpoint = replace(base, transformer=inject_outliers(base.transformer, strength))
        calibration = calibrate(checkpoint, CalibrationSpec(spec, seed=SEED))
        smoothed = {
            pair: smooth(checkpoint, calibration, *pair)
            for pair in dict.fromkeys((q.bits, q.convention) for q in there)
        }
        for each in there:
            pair = each.bits, each.convention
            plain = latent_sqnr(each, checkpoint, labels, spec, reference)
            smooth_one = latent_sqnr(each, smoothed[pair], labels, spec, reference)
            rows.append(
                {
                    "quantizer": each.name,
                    "outliers": strength,
                    "plain_db": summary(plain),
                    "smoothed_db": summary(smooth_one),
                    "gain_db": summary(smooth_one - plain),
                }
            )
    return {
        "checkpoint": base.name,
        "samples": args.samples,
        "steps": args.steps,
        "rows": rows,
        "absent": sorted(q.name for q in chosen if q not in there),
        "versions": installed,
        "machine": describe(),
    }


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def smooth(
    checkpoint: Checkpoint, calibration: Calibration, bits: str, convention: str
) -> Checkpoint:
    """As ``export --to smoothed`` writes it, with alphas for these bits."""
    spec = SearchSpec(BitWidths.parse(bits), convention, "search")
    recipe, _ = searched(checkpoint, calibration, spec)
    network, _ = smoothed_transformer(checkpoint, recipe, calibration)
    return replace(checkpoint, transformer=network)


def drawn(
    label: str, checkpoint: Checkpoint, network: nn.Module, labels: Tensor, spec: SamplingSpec
) -> Tensor:
    """Final latents, (N, C, H, W)."""
    with bar(label, spec.steps * -(-len(labels) // 16)) as shown:
        return final_latents(checkpoint, network, labels, spec, lambda: shown.update(1))


def latent_sqnr(
    quantizer: Quantizer,
    checkpoint: Checkpoint,
    labels: Tensor,
    spec: SamplingSpec,
    reference: Tensor,
) -> Tensor:
    """Of each sample, (N,), once the library has rounded a copy of the transformer."""
    network = copy.deepcopy(checkpoint.transformer)
    with torch.no_grad():
        quantizer.change(network, checkpoint)
        return sqnr_db(reference, drawn(quantizer.name, checkpoint, network, labels, spec))


def summary(values: Tensor) -> dict[str, float | None]:
    found = interval(values)
    return {"mean": round(found.mean, 2), "ci95": finite(found.half_width)}


def lines(report: dict[str, Any]) -> list[str]:
    """A Markdown table: one row per quantizer and strength."""
    made = ["| quantizer | outliers | plain | smoothed | gain |", "|---|---|---|---|---|"]
    for row in report["rows"]:
        kind = "natural" if row["outliers"] == 1 else f"injected x{row['outliers']:g}"
        cells = [
            f"{row[key]['mean']:.1f} ± {row[key]['ci95']:.1f} dB"
            for key in ("plain_db", "smoothed_db", "gain_db")
        ]
        made.append(f"| {row['quantizer']} | {kind} | " + " | ".join(cells) + " |")
    if report["absent"]:
        made.append(f"not installed: {', '.join(report['absent'])}")
    return made
