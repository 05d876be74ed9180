"""The output error that recipes predict, found once per layer and setting for all visitors."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

from ....calibration import Calibration
from ....checkpoints import Checkpoint
from ....search import LayerDone, predicted_error, relative_error
from ....specs import CalibrationSpec, LayerRecipe, Recipe
from ...visitors.backend import Backend, Model

Known = dict[tuple[str, str, LayerRecipe], float]
MOST_KNOWN = 20_000


@dataclass(frozen=True)
class Predictions:
    """Relative output errors of one checkpoint on one calibration.

    calibration   None where only what was shipped or searched is known
    known         (convention, group, settings) -> error, shared by all visitors
    source        what the errors were measured on, for people
    """

    checkpoint: Checkpoint
    calibration: Calibration | None
    known: Known
    source: str

    @property
    def groups(self) -> list[str]:
        """In execution order, which a recipe read from a file does not keep."""
        return [group.name for group in self.checkpoint.groups]

    def errors(self, recipe: Recipe) -> list[float | None]:
        """What is known already, one per group."""
        layers = recipe.layers
        return [self.known.get((recipe.convention, name, layers[name])) for name in self.groups]

    def missing(self, recipe: Recipe) -> list[str]:
        pairs = zip(self.groups, self.errors(recipe), strict=True)
        return [name for name, error in pairs if error is None]

    def find(self, convention: str, group: str, layer: LayerRecipe) -> float | None:
        """Known, or measured now; None without a calibration."""
        key = (convention, group, layer)
        if key not in self.known and self.calibration is not None:
            found = next(each for each in self.checkpoint.groups if each.name == group)
            error = predicted_error(self.checkpoint, found, self.calibration, convention, layer)
            self.keep(key, error)
        return self.known.get(key)

    def fill(self, recipes: Iterable[Recipe], seconds: float) -> int:
        """Measure what is missing, for about so long; how many are missing then."""
        if self.calibration is None:
            return 0
        until, left = time.monotonic() + seconds, 0
        for recipe in recipes:
            for name in self.missing(recipe):
                if time.monotonic() < until:
                    self.find(recipe.convention, name, recipe.layers[name])
                else:
                    left += 1
        return left

    def learn(self, recipe: Recipe, layers: Iterable[LayerDone]) -> None:
        """A search's own losses of its choices are the predicted errors."""
        for done in layers:
            layer = recipe.layers[done.group]
            if layer.alpha == done.alpha:
                self.keep((recipe.convention, done.group, layer), relative_error(done))

    def keep(self, key: tuple[str, str, LayerRecipe], error: float) -> None:
        while len(self.known) >= MOST_KNOWN:
            self.known.pop(next(iter(self.known)), None)
        self.known[key] = error


def predictions(backend: Backend, model: Model, spec: CalibrationSpec) -> Predictions:
    """On the run that the visitor asked for if it is measured, else on the shipped one."""
    checkpoint = backend.checkpoint(model)
    calibration = backend.measured(model, spec)
    shipped = backend.shipped if model == backend.default else None
    sha = shipped.calibration if shipped is not None else "none"
    if calibration is not None:
        sha = calibration.sha256

    def start() -> Known:
        known: Known = {}
        if shipped is not None and sha == shipped.calibration:
            found = Predictions(checkpoint, None, known, "")
            for preset in shipped.presets.values():
                found.learn(preset.recipe, preset.layers)
        return known

    known = backend.cache.make(("predictions", checkpoint.fingerprint, sha), start)
    source = "the shipped calibration run"
    if calibration is not None:
        source = f"{spec.samples} images × {spec.sampling.steps} steps"
    return Predictions(checkpoint, calibration, known, source)


@dataclass(frozen=True)
class Predicting:
    """Where the job is; ``part`` (1, 2) = measuring inputs, (2, 2) = predicting."""

    text: str
    fraction: float
    part: tuple[int, int]


def predict_recipes(
    backend: Backend, model: Model, spec: CalibrationSpec, recipes: dict[str, Recipe]
) -> Iterator[Predicting]:
    """Measure every missing error of the recipes; stops within one layer."""
    parts = 1
    if backend.measured(model, spec) is None:
        parts = 2
        with closing(backend.calibrated(model, spec)) as events:  # type: ignore[type-var]
            for event in events:
                if not isinstance(event, Calibration):
                    text = f"calibrating: denoising step {event.step} of {event.total}"
                    yield Predicting(text, event.step / event.total, (1, 2))
    found = predictions(backend, model, spec)
    work = [(recipe, group) for recipe in recipes.values() for group in found.missing(recipe)]
    for done, (recipe, group) in enumerate(work):
        text = f"predicting: layer {done + 1} of {len(work)}"
        yield Predicting(text, done / len(work), (parts, parts))
        found.find(recipe.convention, group, recipe.layers[group])
