"""One comparison: the same noise through full precision and through several recipes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace

import torch

from ....calibration import Calibration
from ....comparison import Comparison, Trajectory, compare
from ....specs import CalibrationSpec, Recipe, SamplingSpec
from ...serving.zerogpu import iterate_trajectory
from ...stored.results import DITAS, REFERENCE, SEARCHED, Result, make_result
from ...visitors.backend import Backend, Choice
from ...visitors.engine import Making, engine_name, iterate_quantized, keep_speed
from ...visitors.measuring import measure
from ...visitors.running import Progress
from ...visitors.session import Session
from ..search.job import SearchJob, job_of, run_search

METHODS = {SEARCHED: "search", DITAS: "ditas"}
"""What the built-in recipes that need a search are called in one."""
CONVERTING = 0.2
"""The share of a recipe's progress bar that its conversion gets; sampling has the rest."""


@dataclass(frozen=True)
class CompareJob:
    """What is compared; everything has been checked.

    recipes      names, in the order they are shown in
    classes      one per sample
    calibration  the run that smoothing factors are taken from
    """

    choice: Choice
    recipes: tuple[str, ...]
    classes: tuple[str, ...]
    seed: int
    sampling: SamplingSpec
    calibration: CalibrationSpec


@dataclass(frozen=True)
class Kept:
    """A run in the cache."""

    run: Trajectory

    @property
    def nbytes(self) -> int:
        return self.run.latents.nbytes + self.run.images.nbytes


class Parts:
    """Numbers the parts of the job as they come."""

    def __init__(self, total: int) -> None:
        self.at, self.total = 0, total

    def next(self) -> None:
        self.at += 1
        self.total = max(self.total, self.at)

    def say(self, text: str, fraction: float) -> Progress:
        return Progress(text, fraction, (self.at, self.total))


def run_comparison(
    backend: Backend, session: Session, job: CompareJob
) -> Iterator[Progress | Result]:
    """A Result after every recipe, each holding all so far; the last one is complete.

    Runs are kept in the cache: a second comparison only samples what is new.
    """
    model = job.choice.model
    yield Progress("loading the checkpoint")
    checkpoint = backend.checkpoint(model)
    ready = backend.recipes(session, job.choice)
    missing = [name for name in job.recipes if name not in ready]
    needed = bool(missing) or any(ready[name].needs_calibration for name in job.recipes)
    measured = not needed or backend.measured(model, job.calibration) is not None
    parts = Parts((not measured) + len(missing) + 1 + len(job.recipes))

    calibration: Calibration | None = None
    if needed:
        if not measured:
            parts.next()
        for event in measure(backend, model, job.calibration):
            if isinstance(event, Calibration):
                calibration = event
            elif not measured:
                yield parts.say(f"calibrating: {event.text}", event.fraction)
    for name in missing:
        parts.next()
        search = job_of(job.choice, METHODS[name], job.calibration)
        for found in searched(backend, session, search, name, parts):
            if isinstance(found, Recipe):
                ready[name] = found
            else:
                yield found

    parts.next()
    reference: Trajectory | None = None
    for step in sampled(backend, job, None, None, REFERENCE, parts):
        if isinstance(step, Trajectory):
            reference = step
        else:
            yield step
    assert reference is not None
    runs: dict[str, tuple[Trajectory, Comparison]] = {}
    used: dict[str, Recipe] = {}
    for name in job.recipes:
        parts.next()
        recipe = ready[name]
        if recipe.needs_calibration and calibration is not None:
            # its alphas and ranks; the statistics are the ones just measured
            recipe = replace(recipe, calibration=calibration.sha256)
        for step in sampled(backend, job, recipe, calibration, name, parts):
            if isinstance(step, Trajectory):
                runs[name] = (step, compare(reference, step))
                used[name] = recipe
            else:
                yield step
        title = f"{checkpoint.name} · {job.choice.bits} · {job.choice.convention}"
        settings = settings_of(job)
        timed = {REFERENCE: reference} | {variant: run for variant, (run, _) in runs.items()}
        settings["seconds"] = {
            variant: run.seconds / len(job.classes) for variant, run in timed.items()
        }
        yield make_result(title, job.classes, reference, dict(runs), used, settings)


def settings_of(job: CompareJob) -> dict[str, object]:
    """What reproduces the comparison, together with its recipes."""
    return {
        "seed": job.seed,
        "steps": job.sampling.steps,
        "guidance": job.sampling.guidance_scale,
        "scheduler": job.sampling.scheduler,
        "model": job.choice.model.key,
        "strength": job.choice.model.strength,
        "bits": str(job.choice.bits),
        "convention": job.choice.convention,
        "backend": job.choice.runs_as,
        "engine": engine_name(job.choice),
        "calibration": asdict(job.calibration),
        "asked": list(job.recipes),
    }


def searched(
    backend: Backend, session: Session, job: SearchJob, name: str, parts: Parts
) -> Iterator[Progress | Recipe]:
    """A built-in recipe that these settings do not have yet; it stays on the session."""
    with closing(run_search(backend, session, job)) as events:  # type: ignore[type-var]
        for event in events:
            if isinstance(event, Recipe):
                session.keep(job.name, event)
                yield event
            else:
                yield parts.say(f"searching {name}: {event.text}", event.fraction)


def sampled(
    backend: Backend,
    job: CompareJob,
    recipe: Recipe | None,
    calibration: Calibration | None,
    name: str,
    parts: Parts,
) -> Iterator[Progress | Trajectory]:
    """One guided run, of the quantized model where there is a recipe; from the cache if known."""
    checkpoint = backend.checkpoint(job.choice.model)
    text = "" if recipe is None else recipe.to_json()
    runs_as = job.choice.runs_as if recipe is not None else ""
    key = ("run", job.choice.model, text, runs_as, job.sampling, job.seed, job.classes)
    known: Kept | None = backend.cache.get(key)
    if known is not None:
        yield known.run
        return
    transformer: torch.nn.Module = checkpoint.transformer
    first = 0.0
    if recipe is not None:
        first = CONVERTING
        made = iterate_quantized(backend, job.choice, recipe, calibration)
        with closing(made) as steps:  # type: ignore[type-var]
            for step in steps:
                if isinstance(step, Making):
                    yield parts.say(f"{name}: {step.text}", first * step.fraction)
                else:
                    transformer = step
        yield parts.say(f"{name}: ready to run {engine_name(job.choice)}", first)
    labels = torch.tensor([checkpoint.class_index(label) for label in job.classes])
    events = iterate_trajectory(checkpoint, transformer, labels, job.sampling, job.seed)
    with closing(events):  # type: ignore[type-var]
        for event in events:
            if isinstance(event, Trajectory):
                backend.cache.put(key, Kept(event))
                keep_speed(backend, job.choice, event, transformer, recipe)
                yield event
            else:
                share = first + (1 - first) * event.step / event.steps
                yield parts.say(f"{name}: denoising step {event.step} of {event.steps}", share)
