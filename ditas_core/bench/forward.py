"""One forward pass in every way a CPU offers: milliseconds, SQNR, file size, memory.

python -m ditas_core bench forward --json
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from ditas_core.checkpoints import Checkpoint, load_checkpoint
from ditas_core.cli.parsing import number
from ditas_core.cli.progress import bar
from ditas_core.evaluation import sqnr_db
from ditas_core.models import class_conditions
from ditas_core.onnx_runtime import versions
from ditas_core.specs import MODULATIONS

from .contestants import Contestant, contestants, sample_of
from .machine import DEMO, describe
from .models import random_model

MODELS = ("demo", "DiT-XL/2")
SAMPLES = {"demo": 8, "DiT-XL/2": 1}
"""Images at once; with guidance twice as many latents."""
WARM_UP = 2
SETS = ("avx2", "avx512_f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", default=",".join(MODELS), help="(%(default)s)")
    parser.add_argument(
        "--blocks", type=number(int, 1, 28), default=7, help="of DiT-XL/2 (%(default)s)"
    )
    parser.add_argument("--rounds", type=number(int, 1, 1000), default=15, help="(%(default)s)")
    parser.add_argument(
        "--modulation",
        choices=sorted(MODULATIONS),
        default="w8a8",
        help="also ours with the modulation in 8 bits (%(default)s)",
    )
    parser.add_argument("--only", default="", help="words in the names to be run, with commas")
    parser.add_argument("--eager", action="store_true", help="leave out what is compiled")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Every way that is installed, in turns; medians."""
    unknown = set(args.models.split(",")) - set(MODELS)
    if unknown:
        raise ValueError(f"models: expected some of {', '.join(MODELS)}, got {min(unknown)}")
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return {
        "models": {name: measured(name, args) for name in args.models.split(",")},
        "rounds": args.rounds,
        "instruction_sets": [name for name in SETS if capabilities.get(name)],
        "versions": versions(),
        "machine": describe(),
    }


def model_of(name: str, blocks: int) -> Checkpoint:
    return load_checkpoint(str(DEMO)) if name == "demo" else random_model(name, blocks)


@torch.no_grad()
def measured(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """The rows of one model, and what is absent."""
    checkpoint = model_of(name, args.blocks)
    samples = SAMPLES[name]
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2 * samples, *checkpoint.latent_shape, generator=generator)
    arguments = {
        "timestep": torch.full((2 * samples,), 500),
        **class_conditions(checkpoint.transformer, torch.arange(samples)),
    }
    wanted = [word.strip() for word in args.only.split(",") if word.strip()]
    built: list[Contestant] = []
    absent: dict[str, str] = {}
    for called, make in contestants(args.modulation, not args.eager):
        if built and wanted and not any(word in called for word in wanted):
            continue
        try:
            built.append(make(checkpoint, torch.get_num_threads()))
        except ModuleNotFoundError as error:
            absent[called] = f"{error.name} is not installed"
    outputs, seconds = timed(built, latents, arguments, args.rounds)
    reference = outputs[built[0].name]
    rows = []
    for each in built:
        median = statistics.median(seconds[each.name])
        rows.append(
            {
                "name": each.name,
                "ms": round(1e3 * median, 2),
                "ms_least": round(1e3 * min(seconds[each.name]), 2),
                "times_faster": round(statistics.median(seconds[built[0].name]) / median, 2),
                "sqnr_db": None
                if each is built[0]
                else round(float(sqnr_db(reference, outputs[each.name]).mean()), 1),
                "file_mb": round(each.file / 1e6, 1),
                "memory_mb": round(each.memory / 1e6, 1),
            }
        )
    return {"latents": 2 * samples, "model": checkpoint.name, "rows": rows, "absent": absent}


def timed(
    built: list[Contestant], latents: torch.Tensor, arguments: dict[str, Any], rounds: int
) -> tuple[dict[str, torch.Tensor], dict[str, list[float]]]:
    """What each computes, and its seconds, one after the other in every round."""
    outputs: dict[str, torch.Tensor] = {}
    seconds: dict[str, list[float]] = {each.name: [] for each in built}
    with bar("forward passes", rounds + WARM_UP) as progress:
        for turn in range(rounds + WARM_UP):
            for each in built:
                started = time.perf_counter()
                sample = sample_of(each, latents, arguments)
                if turn >= WARM_UP:
                    seconds[each.name].append(time.perf_counter() - started)
                else:
                    outputs[each.name] = sample.float()
            progress.update(1)
    return outputs, seconds


def lines(report: dict[str, Any]) -> list[str]:
    """A Markdown table per model."""
    made = []
    for name, found in report["models"].items():
        made.append(f"{found['model']}, {found['latents']} latents ({name})")
        made.append("| | ms | x fp32 | SQNR, dB | file, MB | memory, MB |")
        made.append("|---|---|---|---|---|---|")
        for row in found["rows"]:
            sqnr = "" if row["sqnr_db"] is None else row["sqnr_db"]
            made.append(
                f"| {row['name']} | {row['ms']} | {row['times_faster']} | {sqnr} | "
                f"{row['file_mb']} | {row['memory_mb']} |"
            )
        made += [f"absent: {what}: {why}" for what, why in found["absent"].items()]
    return made
