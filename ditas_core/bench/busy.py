"""One program alone and two at once, with OpenMP's threads spinning and sleeping as they wait.

The program calibrates, converts two recipes and samples on the demo checkpoint, each run in a
process of its own with all cores. "before": OpenMP's default, threads that wait spin; "after":
what every entry point sets. The four cells are interleaved, round after round.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from ditas_core.threads import CHOSEN_BY_USER, share_cores

from .machine import DEMO, ROOT, describe

PROGRAM = """
import sys

import torch

from ditas_core.calibration import calibrate
from ditas_core.checkpoints import load_checkpoint
from ditas_core.comparison import run_trajectory
from ditas_core.conversion import quantize_transformer
from ditas_core.search import SearchSpec, search
from ditas_core.specs import BitWidths, CalibrationSpec, SamplingSpec

checkpoint = load_checkpoint(sys.argv[1])
sampling = SamplingSpec(steps=int(sys.argv[2]))
calibration = calibrate(checkpoint, CalibrationSpec(sampling=sampling, samples=2))
for bits in ("W8A8", "W4A8"):
    recipe = search(checkpoint, calibration, SearchSpec(BitWidths.parse(bits), method="plain"))
    quantized = quantize_transformer(checkpoint, recipe, calibration)
    run = run_trajectory(checkpoint, quantized, torch.arange(4), sampling, seed=0)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3, help="of all four cells (%(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="of each sampling (%(default)s)")
    parser.add_argument("--checkpoint", type=Path, default=DEMO, help="(the demo)")
    parser.add_argument(
        "--limit", type=float, default=300, help="seconds until a run is given up (%(default)s)"
    )


def seconds(args: argparse.Namespace, count: int, setting: dict[str, str]) -> float:
    """Until the last of ``count`` equal programs, started together, has ended; at most the limit.

    Raises:
        RuntimeError: a program failed.
    """
    left = {k: v for k, v in os.environ.items() if k not in CHOSEN_BY_USER}
    words = [sys.executable, "-c", PROGRAM, str(args.checkpoint), str(args.steps)]
    started = time.monotonic()
    running = [
        subprocess.Popen(
            words, cwd=ROOT, env={**left, **setting}, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )
        for _ in range(count)
    ]  # fmt: skip
    try:
        for process in running:
            _, said = process.communicate(timeout=args.limit - (time.monotonic() - started))
            if process.returncode:
                raise RuntimeError(f"expected the program to end well, got: {said.strip()[-300:]}")
    except subprocess.TimeoutExpired:
        return float(args.limit)
    finally:
        for process in running:
            process.kill()
            process.wait()
    return time.monotonic() - started


def run(args: argparse.Namespace) -> dict[str, object]:
    after: dict[str, str] = {}
    share_cores(after)
    settings: dict[str, dict[str, str]] = {"before": {}, "after": after}
    cells: dict[tuple[str, int], list[float]] = {}
    for _ in range(args.rounds):
        for count in (1, 2):
            for name, setting in settings.items():
                cells.setdefault((name, count), []).append(seconds(args, count, setting))
    return {
        "machine": describe(),
        "rounds": args.rounds,
        "steps": args.steps,
        "limit": args.limit,
        "settings": settings,
        "seconds": {
            name: {str(count): [round(s, 1) for s in cells[name, count]] for count in (1, 2)}
            for name in settings
        },
        "median": {
            name: {str(count): round(median(cells[name, count]), 1) for count in (1, 2)}
            for name in settings
        },
        "two_at_once_ratio": round(median(cells["before", 2]) / median(cells["after", 2]), 2),
        "alone_ratio": round(median(cells["before", 1]) / median(cells["after", 1]), 2),
    }


def lines(report: dict[str, object]) -> list[str]:
    machine, middle, settings = report["machine"], report["median"], report["settings"]
    assert isinstance(machine, dict) and isinstance(middle, dict) and isinstance(settings, dict)
    rows = [
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load'][0]}, "
        f"torch {machine['torch']}; medians of {report['rounds']}, a run counts "
        f"{report['limit']:g} s at most",
        "| setting | alone, s | two at once, s |",
        "|---|---|---|",
    ]
    for name, row in middle.items():
        told = " ".join(f"{k}={v}" for k, v in settings[name].items()) or "OpenMP's default"
        rows.append(f"| {name}: {told} | {row['1']} | {row['2']} |")
    rows.append(
        f"two at once: {report['two_at_once_ratio']} times as fast; "
        f"alone: {report['alone_ratio']} times"
    )
    return rows
