"""The calibration run with its progress, for every tab that needs one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from ...calibration import Calibration
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
