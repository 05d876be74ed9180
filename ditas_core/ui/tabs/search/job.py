"""One search: calibrate where needed, then layer after layer; what is found is kept at once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

from ....calibration import Calibration
from ....search import (
    BitsProgress,
    Fitting,
    LayerDone,
    SearchSpec,
    iterate_search,
    partial_recipe,
)
from ....specs import METHODS, CalibrationSpec, Recipe
from ...visitors.backend import Backend, Choice, Model
from ...visitors.measuring import influence_key, with_influence
from ...visitors.session import Session
from .predicting import predictions

PARTIAL = "my partial search"
NAMES = {"ditas": "ditas search", "search": "grid search", "plain": "plain rounding"}
"""Of methods that are called otherwise in the name of a recipe."""


@dataclass(frozen=True)
class SearchJob:
    """What is searched; everything has been checked."""

    model: Model
    spec: SearchSpec
    calibration: CalibrationSpec

    @property
    def key(self) -> Hashable:
        """Under which the session keeps the layers found so far."""
        return (self.model, self.spec, self.calibration)

    @property
    def name(self) -> str:
        """What the finished recipe is called."""
        name = f"my {self.spec.bits} {NAMES.get(self.spec.method, self.spec.method)}"
        if self.spec.convention != "integer":
            name += f", {self.spec.convention}"
        if self.spec.objective != "output":
            name += f", {self.spec.objective}"
        return name + (f", outliers ×{self.model.strength:g}" if self.model.injected else "")


@dataclass(frozen=True)
class Searching:
    """Where the search is. ``fraction`` is that of the part's work, kept layers not counted.

    fresh   whether a layer has just been finished
    """

    text: str
    fraction: float
    part: tuple[int, int]
    fresh: bool = False


def job_of(
    choice: Choice, method: str, calibration: CalibrationSpec, objective: str = "output"
) -> SearchJob:
    """A method without a grid chooses nothing that an objective could change."""
    spec = SearchSpec(choice.bits, choice.convention, method)
    if METHODS[method].smoothing == "grid":
        spec = replace(spec, objective=objective)
    return SearchJob(choice.model, spec, calibration)


def kept_layers(session: Session, job: SearchJob) -> list[LayerDone]:
    """The layers found so far, in execution order."""
    found = list(session.searches.get(job.key, {}).values())
    return sorted(found, key=lambda layer: layer.index)


def run_search(
    backend: Backend, session: Session, job: SearchJob, afresh: bool = False
) -> Iterator[Searching | Recipe]:
    """Goes on from the layers that the session holds; the last event is the recipe.

    Closing it at any moment leaves every finished layer on the session.
    """
    calibrates = backend.measured(job.model, job.calibration) is None
    key, reads = influence_key(job.model, job.calibration), job.spec.reads_influence
    chooses = job.spec.chooses_bits
    parts = 1 + calibrates + (reads and backend.cache.get(key) is None) + chooses
    calibration: Calibration | None = None
    with closing(backend.calibrated(job.model, job.calibration)) as events:  # type: ignore[type-var]
        for event in events:
            if isinstance(event, Calibration):
                calibration = event
            else:
                text = f"calibrating: denoising step {event.step} of {event.total}"
                yield Searching(text, event.step / event.total, (1, parts))
    assert calibration is not None
    if reads:
        with closing(with_influence(backend, job.model, calibration)) as reach:  # type: ignore[type-var]
            for way in reach:
                if isinstance(way, Calibration):
                    calibration = way
                else:
                    text = f"measuring influence: {way.done} of {way.total} steps there and back"
                    yield Searching(text, way.done / way.total, (parts - chooses - 1, parts))
    checkpoint = backend.checkpoint(job.model)
    found = session.found(job.key)
    if afresh:
        found.clear()
    known = dict(found)
    total, fresh, tried = len(checkpoint.groups), 0, 0.0
    with closing(iterate_search(checkpoint, calibration, job.spec, finished=known)) as steps:  # type: ignore[type-var]
        for step in steps:
            if isinstance(step, Recipe):
                learn(backend, job, step, found.values())
                yield step
                return
            if isinstance(step, BitsProgress):
                text = f"choosing each layer's bits: {step.done} of {step.total}"
                yield Searching(text, step.done / step.total, (parts, parts))
                continue
            is_new = False
            if isinstance(step, LayerDone):
                is_new = step.group not in known
                fresh, tried = fresh + is_new, 0.0
                found[step.group] = step
            elif isinstance(step, Fitting):
                tried = max(tried, step.done / step.of / 2)
            else:
                tried = min(0.95, tried + 1 / (len(job.spec.grid) + 2))
            share = (fresh + tried) / max(1, total - len(known))
            text = f"{len(found)} of {total} layers found"
            yield Searching(text, share, (parts - chooses, parts), is_new)


def learn(backend: Backend, job: SearchJob, recipe: Recipe, layers: Iterable[LayerDone]) -> None:
    """Errors of the output at the searched bits are what recipes predict; other objectives weigh
    them otherwise, and methods that choose bits search without compensation."""
    judged = job.spec.objective == "output" and not job.spec.chooses_bits
    if judged and recipe.bits == (job.spec.bits,):
        predictions(backend, job.model, job.calibration).learn(recipe, layers)


def keep_partial(backend: Backend, session: Session, job: SearchJob) -> Recipe | None:
    """What a cancelled search has found, as a recipe on the session; None if nothing."""
    layers = kept_layers(session, job)
    calibration = backend.measured(job.model, job.calibration)
    if not layers or calibration is None:
        return None
    recipe = partial_recipe(
        backend.checkpoint(job.model), calibration, job.spec, layers, f"{job.spec.method}, partial"
    )
    learn(backend, job, recipe, layers)
    session.keep(PARTIAL, recipe)
    return recipe
