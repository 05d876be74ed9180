"""``python -m ditas_core.ui.stored.precompute assets/NAME``: the results that the page opens on.

The same library calls as a visitor's, at the default settings: one calibration,
the search at every preset, and a comparison of plain rounding and the recipe.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ...calibration import Calibration, calibrate
from ...checkpoints import Checkpoint, load_checkpoint
from ...comparison import Trajectory, compare, run_trajectory
from ...conversion import quantize_transformer
from ...evaluation.outliers import outlier_atlas
from ...search import LayerDone, SearchSpec, iterate_search, plain_recipe, search
from ...specs import BIT_PRESETS, BitWidths, CalibrationSpec, Recipe, SamplingSpec
from ...writing import whole_folder
from ..serving.errors import FAILURES
from ..tabs.injector.job import ladder
from .catalogue import precomputed_folder, showcase
from .ladder import Ladder, save_ladder
from .results import DITAS, PLAIN, SEARCHED, SMOOTHED, Preset, Shipped, make_result, save_shipped

CONVENTION = "integer"
SAMPLES, SEED, STEPS, GUIDANCE = 8, 7, 50, 2.5
FRAMES = 11
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
            checkpoint, calibration, SearchSpec(bits, CONVENTION, "ditas")
        )
        searched = search(checkpoint, calibration, SearchSpec(bits, CONVENTION, "search"))
        smoothed = search(checkpoint, calibration, SearchSpec(bits, CONVENTION, "smoothing"))
        assert isinstance(recipe, Recipe) and isinstance(searched, Recipe)
        assert isinstance(smoothed, Recipe)
        recipes = {
            PLAIN: plain_recipe(checkpoint, bits, CONVENTION),
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
        title = f"{checkpoint.name} · {name} · {CONVENTION} · shipped"
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
        convention=CONVENTION,
        calibration=calibration.sha256,
        atlas=outlier_atlas(checkpoint, calibration),
        presets=found,
    )


def write(shipped: Shipped, target: Path, steps: Ladder | None = None) -> None:
    """Into a whole new folder that takes an older one's place."""
    with whole_folder(target, replace=True) as work:
        save_shipped(shipped, work)
        if steps is not None:
            save_ladder(steps, work)
        for file in work.iterdir():
            file.chmod(0o644)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ditas_core.ui.stored.precompute", description=__doc__
    )
    parser.add_argument("checkpoint", help="a local DiT folder, for example assets/NAME")
    parser.add_argument("--out", type=Path, default=None, help="default: assets/precomputed")
    parser.add_argument("--steps", type=int, default=STEPS, help="denoising steps (default 50)")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="images (default 8)")
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    options = parser.parse_args(arguments)

    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        checkpoint = load_checkpoint(options.checkpoint)
        spec = CalibrationSpec(SamplingSpec(steps=options.steps))
        calibration = measured(checkpoint, report, spec)
        shipped = precompute(
            checkpoint,
            report,
            spec,
            SamplingSpec(steps=options.steps, guidance_scale=options.guidance),
            options.samples,
            calibration=calibration,
        )
        steps = ladder(checkpoint, calibration, report)
    except FAILURES as error:
        print(error, file=sys.stderr)
        return 2
    write(shipped, options.out or precomputed_folder(), steps)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
