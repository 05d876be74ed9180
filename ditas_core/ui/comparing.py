"""One comparison job: calibrate and search where needed, quantize, sample three times."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import torch

from ..calibration import Calibration
from ..comparison import Trajectory, compare, run_trajectory
from ..conversion import quantize_transformer
from ..search import SearchSpec, plain_recipe, search
from ..specs import BitWidths, CalibrationSpec, Recipe, SamplingSpec, summarize
from .bench import Bench, Model, Session
from .results import PLAIN, RECIPE, Result, make_result


@dataclass(frozen=True)
class Job:
    """What is compared; everything has been checked."""

    model: Model
    bits: BitWidths
    convention: str
    classes: tuple[str, ...]
    samples: int
    seed: int
    sampling: SamplingSpec


@dataclass(frozen=True)
class JobProgress:
    """Where the job is; ``fraction`` is that of the current part."""

    text: str
    fraction: float


Events = Iterator[JobProgress | Session | Result]


def calibration_for(
    bench: Bench, model: Model, spec: CalibrationSpec
) -> Iterator[JobProgress | Calibration]:
    """The calibration, measured with progress unless it is cached."""
    events = bench.calibrated(model, spec)
    with closing(events):  # type: ignore[type-var]
        for event in events:
            if isinstance(event, Calibration):
                yield event
            else:
                text = f"calibrating: step {event.step} of {event.total}"
                yield JobProgress(text, event.step / event.total)


def recipe_for(
    bench: Bench, job: Job, held: Session, calibration: Calibration
) -> Iterator[JobProgress | Recipe]:
    """The session's recipe, the shipped one (bound to this calibration), or a new search."""
    recipe = bench.session_recipe(held, job.model, job.bits, job.convention)
    if recipe is None:
        recipe = bench.shipped_recipe(job.model, job.bits, job.convention)
        if recipe is not None:  # its alphas and ranks; the statistics are the ones just measured
            recipe = replace(recipe, calibration=calibration.sha256)
    if recipe is not None:
        yield recipe
        return
    events = search(
        bench.checkpoint(job.model), calibration, SearchSpec(job.bits, job.convention, "ditas")
    )
    layers = len(bench.checkpoint(job.model).groups)
    done: set[str] = set()
    with closing(events):  # type: ignore[type-var]
        for event in events:
            if isinstance(event, Recipe):
                yield event
            else:
                done.add(event.group)
                yield JobProgress(f"searching: layer {len(done)} of {layers}", len(done) / layers)


def trajectory(
    bench: Bench, job: Job, transformer: torch.nn.Module, labels: torch.Tensor, name: str
) -> Iterator[JobProgress | Trajectory]:
    """One guided run with progress."""
    checkpoint = bench.checkpoint(job.model)
    events = run_trajectory(checkpoint, transformer, labels, job.sampling, job.seed)
    with closing(events):  # type: ignore[type-var]
        for event in events:
            if isinstance(event, Trajectory):
                yield event
            else:
                text = f"{name}: step {event.step} of {event.steps}"
                yield JobProgress(text, event.step / event.steps)


def run_job(bench: Bench, job: Job, held: Session) -> Events:
    """Progress, the session that now holds the recipe, and last the Result."""
    yield JobProgress("loading the checkpoint", 0.0)
    checkpoint = bench.checkpoint(job.model)
    own = bench.session_recipe(held, job.model, job.bits, job.convention)
    spec = CalibrationSpec() if own is None else held.calibration
    calibration: Calibration | None = None
    for measured in calibration_for(bench, job.model, spec):
        if isinstance(measured, Calibration):
            calibration = measured
        else:
            yield measured
    assert calibration is not None
    recipe: Recipe | None = None
    for found in recipe_for(bench, job, held, calibration):
        if isinstance(found, Recipe):
            recipe = found
        else:
            yield found
    assert recipe is not None
    yield Session(job.model, recipe.to_json(), spec, held.result)

    names = tuple(job.classes[i % len(job.classes)] for i in range(job.samples))
    labels = torch.tensor([checkpoint.class_index(name) for name in names])
    key = ("reference", job.model.key, job.sampling, job.seed, names)
    reference: Trajectory | None = bench.cache.get(key)
    if reference is None:
        for event in trajectory(bench, job, checkpoint.transformer, labels, "full precision"):
            if isinstance(event, Trajectory):
                reference = event
            else:
                yield event
        # injected models compute the same function up to rounding of float32; keep natural ones
        if not job.model.injected:
            bench.cache.put(key, reference)
    assert reference is not None

    runs = {}
    for name, each in (
        (PLAIN, plain_recipe(checkpoint, job.bits, job.convention)),
        (RECIPE, recipe),
    ):
        quantized: torch.nn.Module | None = None
        for step in quantize_transformer(checkpoint, each, calibration):
            if isinstance(step, torch.nn.Module):
                quantized = step
            else:
                text = f"{name}: quantizing layer {step.index} of {step.total}"
                yield JobProgress(text, step.index / step.total)
        assert quantized is not None
        run: Trajectory | None = None
        for event in trajectory(bench, job, quantized, labels, name):
            if isinstance(event, Trajectory):
                run = event
            else:
                yield event
        assert run is not None
        runs[name] = (run, compare(reference, run))
    note = " · injected outliers (function-preserving)" if job.model.injected else ""
    title = f"{job.model.key} · {summarize(recipe)} · seed {job.seed}{note}"
    yield make_result(title, names, reference, runs)
