"""``python -m ditas_core.ui.stored.speeds assets/NAME``: how fast the dial's stops run in integers.

Timed alone, after the dial: a forward pass of full precision and one of every stop in turn, so that
all have the same machine at the same time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...calibration import Calibration, calibrate
from ...checkpoints import Checkpoint, load_checkpoint, processor_name
from ...conversion import quantize_transformer
from ...onnx_runtime import MissingPackage, check_installed, run_on_
from ...sampling import forward_arguments
from ...specs import CalibrationSpec, Recipe, get_convention
from ...writing import write_text
from ..serving.errors import FAILURES
from .catalogue import precomputed_folder

DOCUMENT = "speeds.json"
ROUNDS, WARM_UP = 9, 2


@dataclass(frozen=True)
class Speeds:
    """How many times as fast as full precision, by the stop's name, and where that was."""

    fingerprint: str
    machine: str
    times: dict[str, float] = field(default_factory=dict)

    def told(self, stop: str) -> str:
        """``2.6 times as fast in integers (a processor, 2 threads)``, or nothing."""
        if stop not in self.times:
            return ""
        return f"{self.times[stop]:.1f} times as fast in integers ({self.machine})"


def load_speeds(folder: Path, fingerprint: str) -> Speeds:
    """None timed where there is no such file, or one of another checkpoint.

    Raises:
        ValueError: damaged.
    """
    nothing, path = Speeds(fingerprint, ""), folder / DOCUMENT
    if not path.is_file():
        return nothing
    try:
        found = Speeds(**json.loads(path.read_text(encoding="utf-8")))
    except TypeError as error:
        raise ValueError(f"speeds: damaged, {error}") from error
    return found if found.fingerprint == fingerprint else nothing


@torch.no_grad()
def times_faster(
    checkpoint: Checkpoint, calibration: Calibration, recipes: dict[str, Recipe]
) -> dict[str, float]:
    """Median seconds of a guided pass of one picture in full precision over each recipe's."""
    try:
        check_installed()
        backend = "onnx"
    except MissingPackage:
        backend = "integer"
    built: dict[str, nn.Module] = {"": checkpoint.transformer}
    for name, recipe in recipes.items():
        # its alphas and ranks; the statistics are those of this process
        own = replace(recipe, calibration=calibration.sha256)
        made = quantize_transformer(checkpoint, own, calibration)
        built[name] = run_on_(checkpoint, made, backend)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((2, *checkpoint.latent_shape), generator=generator)  # (2, C, H, W)
    labels = torch.zeros(1, dtype=torch.long)
    arguments = forward_arguments(checkpoint.transformer, labels, checkpoint.conditions)
    seconds: dict[str, list[float]] = {name: [] for name in built}
    for turn in range(ROUNDS + WARM_UP):
        for name, transformer in built.items():
            began = time.perf_counter()
            transformer(latents, timestep=torch.full((2,), 500), **arguments)
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    full = medians.pop("")
    return {name: full / each for name, each in medians.items()}


def integer_recipes(document: dict[str, Any]) -> dict[str, Recipe]:
    """Those of a dial's stops whose weights and activations are both rounded."""
    found = {}
    for cell in (*document["together"], *document["apart"]):
        recipe = Recipe.from_json(json.dumps(cell["recipe"]))
        if max(cell["stop"]) <= 8 and not get_convention(recipe.convention).only_simulated:
            found["W{}A{}".format(*cell["stop"])] = recipe
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ditas_core.ui.stored.speeds", description=__doc__
    )
    parser.add_argument("checkpoint", help="a local DiT folder whose dial is stored")
    parser.add_argument("--out", type=Path, help="the dial's folder; default: assets/precomputed")
    options = parser.parse_args(arguments)
    target = options.out or precomputed_folder()
    try:
        document = json.loads((target / "dial.json").read_text(encoding="utf-8"))
        checkpoint = load_checkpoint(options.checkpoint)
        if document["fingerprint"] != checkpoint.fingerprint:
            raise ValueError(f"dial: expected that of {checkpoint.name}, got another's; make it")
        recipes = integer_recipes(document)
        times: dict[str, float] = {}
        if recipes:
            calibration = calibrate(checkpoint, CalibrationSpec())
            times = times_faster(checkpoint, calibration, recipes)
    except (*FAILURES, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    threads = torch.get_num_threads()
    machine = f"{processor_name()}, {threads} thread{'s' if threads > 1 else ''}"
    found = Speeds(checkpoint.fingerprint, machine, times)
    write_text(target / DOCUMENT, json.dumps(asdict(found), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
