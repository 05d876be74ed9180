"""``python -m ditas_core.ui.stored.precompute assets/NAME``: the results that the page opens on.

The same library calls as a visitor's, at the default settings: one calibration, the convention
that shows most, the dial, the search at every preset, a comparison of plain rounding and the
recipe, and the ladder of injected outliers. ``--only PART`` makes one of them, and keeps the rest.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...calibration import Calibration, calibrate
from ...checkpoints import Checkpoint, load_checkpoint
from ...comparison import Trajectory, compare, run_trajectory
from ...conversion import inject_outliers, quantize_transformer
from ...evaluation import outlier_atlas
from ...search import LayerDone, SearchSpec, iterate_search, plain_recipe, search
from ...specs import (
    BIT_PRESETS,
    CONVENTIONS,
    BitWidths,
    CalibrationSpec,
    Recipe,
    SamplingSpec,
    check_number,
)
from ...writing import whole_folder
from ..serving.errors import FAILURES
from ..tabs.injector.job import ladder
from .catalogue import precomputed_folder, showcase
from .dial import DOCUMENT, Dial, save_dial
from .dialling import DialSpec, choose_convention, make_dial
from .ladder import Ladder, save_ladder
from .results import DITAS, PLAIN, SEARCHED, SMOOTHED, Preset, Shipped, make_result, save_shipped

SAMPLES, SEED, STEPS, GUIDANCE = 8, 7, 50, 2.5
FRAMES = 6
PARTS = {
    "dial": ("dial*", "speeds.json"),
    "results": ("results.json", "atlas.safetensors", "recipe-*", "W*-*"),
    "ladder": ("ladder*",),
}
"""What can be made alone, and its files."""
Report = Callable[[str], None]


def measured(checkpoint: Checkpoint, report: Report, spec: CalibrationSpec) -> Calibration:
    """One calibration run."""
    report(f"calibrating {checkpoint.name}")
    calibration = calibrate(checkpoint, spec)
    return calibration


def precompute(
    checkpoint: Checkpoint,
    report: Report,
    calibration_spec: CalibrationSpec,
    sampling: SamplingSpec,
    samples: int = SAMPLES,
    presets: Sequence[str] = BIT_PRESETS,
    calibration: Calibration | None = None,
    convention: str = "integer",
) -> Shipped:
    """All shipped results of one checkpoint."""
    if calibration is None:
        calibration = measured(checkpoint, report, calibration_spec)
    chosen = showcase(checkpoint.class_names, samples)
    names = tuple(chosen[i % len(chosen)] for i in range(samples))
    labels = torch.tensor([checkpoint.class_index(name) for name in names])

    def sample(transformer: torch.nn.Module) -> Trajectory:
        run = run_trajectory(checkpoint, transformer, labels, sampling, SEED)
        return run

    report("sampling in full precision")
    reference = sample(checkpoint.transformer)
    found: dict[str, Preset] = {}
    for name in presets:
        bits = BitWidths.parse(name)
        report(f"{name}: searching")
        *events, recipe = iterate_search(
            checkpoint, calibration, SearchSpec(bits, convention, "ditas")
        )
        searched = search(checkpoint, calibration, SearchSpec(bits, convention, "search"))
        smoothed = search(checkpoint, calibration, SearchSpec(bits, convention, "smoothing"))
        assert isinstance(recipe, Recipe) and isinstance(searched, Recipe)
        assert isinstance(smoothed, Recipe)
        recipes = {
            PLAIN: plain_recipe(checkpoint, bits, convention),
            SMOOTHED: smoothed,
            SEARCHED: searched,
            DITAS: recipe,
        }
        runs = {}
        for variant, each in recipes.items():
            report(f"{name}: sampling, {variant}")
            quantized = quantize_transformer(checkpoint, each, calibration)
            run = sample(quantized)
            runs[variant] = (run, compare(reference, run))
        title = f"{checkpoint.name} · {name} · {convention} · shipped"
        settings = {
            "seed": SEED,
            "steps": sampling.steps,
            "guidance": sampling.guidance_scale,
            "scheduler": sampling.scheduler,
        }
        found[name] = Preset(
            recipe=recipe,
            searched=searched,
            layers=tuple(event for event in events if isinstance(event, LayerDone)),
            result=make_result(title, names, reference, runs, recipes, settings, FRAMES),
        )
    return Shipped(
        fingerprint=checkpoint.fingerprint,
        convention=convention,
        calibration=calibration.sha256,
        atlas=outlier_atlas(checkpoint, calibration),
        presets=found,
    )


def write(
    shipped: Shipped | None,
    target: Path,
    steps: Ladder | None = None,
    dial: Dial | None = None,
) -> None:
    """The folder, in the place of an older one; parts that are None are those that it had."""
    made = {"dial": dial, "results": shipped, "ladder": steps}
    anew = [file for part, files in PARTS.items() if made[part] is not None for file in files]
    with whole_folder(target, replaces=True) as work:
        if target.is_dir():
            ignore = shutil.ignore_patterns(*anew)
            shutil.copytree(target, work, dirs_exist_ok=True, ignore=ignore)
        if shipped is not None:
            save_shipped(shipped, work)
        if steps is not None:
            save_ladder(steps, work)
        if dial is not None:
            save_dial(dial, work)
        for file in work.iterdir():
            file.chmod(0o644)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m ditas_core.ui.stored.precompute", description=__doc__
    )
    found.add_argument("checkpoint", help="a local DiT folder, for example assets/NAME")
    found.add_argument("--out", type=Path, default=None, help="default: assets/precomputed")
    found.add_argument("--steps", type=int, default=STEPS, help="denoising steps (default 50)")
    found.add_argument("--samples", type=int, default=SAMPLES, help="images (default 8)")
    found.add_argument("--guidance", type=float, default=GUIDANCE)
    found.add_argument(
        "--convention", choices=list(CONVENTIONS), help="default: the one that shows most, measured"
    )
    found.add_argument(
        "--calibration", type=Path, help="a file of this checkpoint's, instead of a run"
    )
    found.add_argument(
        "--inject", type=float, metavar="STRENGTH", help="of its twin with injected outliers"
    )
    found.add_argument("--only", choices=list(PARTS), help="make this anew and keep the rest")
    return found


def convention_of(target: Path, fingerprint: str) -> str | None:
    """That of the checkpoint's results or dial, where they are there: all parts have the same, and
    those of its twin with injected outliers."""
    for name in ("results.json", DOCUMENT):
        if (target / name).is_file():
            document = json.loads((target / name).read_text("utf-8"))
            if document.get("fingerprint") == fingerprint:
                return str(document["convention"])
    return None


def tried_of(target: Path, fingerprint: str) -> dict[str, Any] | None:
    """What the convention of the checkpoint's dial was chosen by, where it is there."""
    if not (target / DOCUMENT).is_file():
        return None
    document = json.loads((target / DOCUMENT).read_text("utf-8"))
    return document["settings"]["tried"] if document.get("fingerprint") == fingerprint else None


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    target = options.out or precomputed_folder()

    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        natural = checkpoint = load_checkpoint(options.checkpoint)
        if options.inject is not None:
            check_number("--inject", options.inject, 1.0, 1000.0)
            injected = inject_outliers(natural.transformer, options.inject)
            checkpoint = replace(natural, transformer=injected)
        spec = CalibrationSpec(SamplingSpec(steps=options.steps))
        if options.calibration is None:
            calibration = measured(checkpoint, report, spec)
        else:
            calibration = Calibration.load(options.calibration)
        sampling = SamplingSpec(steps=options.steps, guidance_scale=options.guidance)
        dials = DialSpec(samples=options.samples)
        parts = [options.only] if options.only else list(PARTS)
        convention, tried = options.convention, None
        if convention is None and options.inject is not None:
            convention = convention_of(precomputed_folder(), natural.fingerprint)
        elif convention is None and options.only:
            convention = convention_of(target, natural.fingerprint)
            tried = tried_of(target, natural.fingerprint)
        if convention is None:
            convention, tried = choose_convention(checkpoint, calibration, dials, report)
        dial = shipped = steps = None
        if "dial" in parts:
            dial = make_dial(checkpoint, calibration, convention, report, dials, tried)
            if options.inject is not None:
                told = dial.settings | {"injected": options.inject}
                dial = replace(dial, fingerprint=natural.fingerprint, settings=told)
        if "results" in parts:
            shipped = precompute(
                checkpoint,
                report,
                spec,
                sampling,
                options.samples,
                calibration=calibration,
                convention=convention,
            )
        if "ladder" in parts:
            steps = ladder(checkpoint, calibration, report)
    except (*FAILURES, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    write(shipped, target, steps, dial)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
