"""The calibration run with its progress, and how far errors reach, for tabs that need them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import closing
from dataclasses import replace

from ...calibration import Calibration, Influence, InfluenceProgress, iterate_influence
from ...specs import CalibrationSpec
from .backend import Backend, Model
from .running import Progress


def measure(
    backend: Backend, model: Model, spec: CalibrationSpec, part: tuple[int, int] = (1, 1)
) -> Iterator[Progress | Calibration]:
    """Progress of the run, then the Calibration; at once where it is in memory."""
    yield Progress("Loading the checkpoint", 0.0, part)
    events = backend.calibrated(model, spec)
    with closing(events):  # type: ignore[type-var]
        for event in events:
            if isinstance(event, Calibration):
                yield event
            else:
                text = f"Denoising step {event.step} of {event.total}, {spec.samples} samples"
                yield Progress(text, event.step / event.total, part)


def influence_key(model: Model, spec: CalibrationSpec) -> Hashable:
    """Under which all visitors share it: injected outliers leave the function as it is."""
    return ("influence", Model(model.key), spec)


def with_influence(
    backend: Backend, model: Model, calibration: Calibration
) -> Iterator[InfluenceProgress | Calibration]:
    """The calibration with how far errors reach on trajectories of its settings; at once where
    that is in memory. One sample at a time: the activations of a step are kept for the way back.
    """
    key = influence_key(model, calibration.spec)
    found: Influence | None = backend.cache.get(key)
    if found is None:
        checkpoint, spec = backend.checkpoint(Model(model.key)), calibration.spec
        events = iterate_influence(checkpoint, spec.sampling, seed=spec.seed, batch=1)
        with closing(events):  # type: ignore[type-var]
            for event in events:
                if isinstance(event, Influence):
                    found = backend.cache.put(key, event)
                else:
                    yield event
    assert found is not None
    yield replace(calibration, influence=found)
