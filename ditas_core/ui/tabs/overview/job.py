"""A class drawn here and now: full precision, DiTAS and plain rounding from the same noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ....calibration import Calibration
from ....comparison import Trajectory, compare
from ....figures import to_uint8
from ....search import plain_recipe
from ....specs import Recipe, SamplingSpec
from ...serving.zerogpu import iterate_trajectory
from ...stored.dial import FULL, Dial, Stop, bits_of
from ...stored.results import DITAS, PLAIN, REFERENCE
from ...visitors.backend import Backend, Choice, Model
from ...visitors.engine import (
    Making,
    backend_of,
    engine_name,
    fastest,
    iterate_quantized,
    keep_speed,
)
from ...visitors.measuring import measure
from ...visitors.running import Progress

CONVERTING = 0.3
"""The share of a part's progress bar that making the quantized copy gets."""


@dataclass(frozen=True)
class DrawJob:
    """What is drawn; everything has been checked."""

    model: Model
    dial: Dial
    stop: Stop
    name: str
    noise: int

    @property
    def ways(self) -> tuple[str, ...]:
        """In the order they are drawn in: what was asked for first."""
        return (REFERENCE,) if self.stop == (FULL, FULL) else (REFERENCE, DITAS, PLAIN)

    @property
    def sampling(self) -> SamplingSpec:
        """As the stored pictures were drawn."""
        found = self.dial.settings
        return SamplingSpec(steps=found["steps"], guidance_scale=found["guidance"])


@dataclass(frozen=True)
class Drawn:
    """Pictures so far.

    images   way -> (H, W, 3) bytes
    sqnr     way -> latent SQNR in dB
    ms       way -> milliseconds of a step, measured here
    seconds  way -> of the whole picture, without decoding
    engine   what the quantized ones ran on
    """

    job: DrawJob
    engine: str
    images: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    sqnr: dict[str, float] = field(default_factory=dict)
    ms: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def with_run(self, way: str, run: Trajectory, sqnr: float | None) -> Drawn:
        return replace(
            self,
            images={**self.images, way: to_uint8(run.images)[0]},
            sqnr=self.sqnr if sqnr is None else {**self.sqnr, way: sqnr},
            ms={**self.ms, way: run.ms_per_step},
            seconds={**self.seconds, way: run.seconds},
        )


def choice_of(backend: Backend, job: DrawJob) -> Choice:
    """The dial's stop, on what is fastest here."""
    return fastest(backend, Choice(job.model, bits_of(job.stop), job.dial.convention))


def make_ready(backend: Backend) -> None:
    """Both copies of the stop that the page opens on, so that the first emoji need not wait."""
    dial = backend.dial
    if dial is not None:
        job = DrawJob(backend.default, dial, dial.telling.stop, dial.labels[0], 0)
        for way in job.ways[1:]:
            for _ in copy_of(backend, choice_of(backend, job), job, way, (1, 1)):
                pass


def draw_here(backend: Backend, job: DrawJob) -> Iterator[Progress | Drawn]:
    """A Drawn after every picture; the last one is complete."""
    checkpoint = backend.checkpoint(job.model)
    choice = choice_of(backend, job)
    labels = torch.tensor([checkpoint.class_index(job.name)])  # (1,)
    drawn, reference = Drawn(job, engine_name(choice)), None
    for number, way in enumerate(job.ways, start=1):
        part = (number, len(job.ways))
        transformer: torch.nn.Module = checkpoint.transformer
        recipe: Recipe | None = None
        if way != REFERENCE:
            for step in copy_of(backend, choice, job, way, part):
                if isinstance(step, Progress):
                    yield step
                else:
                    recipe, transformer = step
        events = iterate_trajectory(checkpoint, transformer, labels, job.sampling, job.noise)
        with closing(events):  # type: ignore[type-var]
            for event in events:
                if isinstance(event, Trajectory):
                    keep_speed(backend, choice, event, transformer, recipe)
                    reference = event if reference is None else reference
                    near = None if way == REFERENCE else compare(reference, event).latent_sqnr
                    drawn = drawn.with_run(way, event, None if near is None else float(near[0]))
                    yield drawn
                else:
                    share = CONVERTING + (1 - CONVERTING) * event.step / event.steps
                    yield Progress(f"{way}: step {event.step} of {event.steps}", share, part)


def copy_of(
    backend: Backend, choice: Choice, job: DrawJob, way: str, part: tuple[int, int]
) -> Iterator[Progress | tuple[Recipe, torch.nn.Module]]:
    """The recipe and a quantized copy, which the cache keeps for the next emoji."""
    key = ("dial copy", job.model, job.stop, way, backend_of(choice))
    known: tuple[Recipe, torch.nn.Module] | None = backend.cache.get(key)
    if known is not None:
        yield known
        return
    checkpoint = backend.checkpoint(job.model)
    plain, calibration = plain_recipe(checkpoint, choice.bits, choice.convention), None
    recipe = replace(plain, modulation=job.dial.cells[job.stop].recipe.modulation)
    if way == DITAS:
        recipe = job.dial.cells[job.stop].recipe
        for event in measure(backend, job.model, backend.spec):
            if isinstance(event, Calibration):
                calibration = event
            else:
                yield replace(event, text=f"once for all recipes: {event.text}", part=part)
        assert calibration is not None
        # its alphas and ranks; the statistics are those of this process
        recipe = replace(recipe, calibration=calibration.sha256)
    made = iterate_quantized(backend, choice, recipe, calibration, keep=False)
    with closing(made) as steps:  # type: ignore[type-var]
        for step in steps:
            if isinstance(step, Making):
                yield Progress(f"{way}: {step.text}", CONVERTING * step.fraction, part)
            else:
                yield backend.cache.put(key, (recipe, step))
