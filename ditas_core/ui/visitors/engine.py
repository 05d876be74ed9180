"""What quantized copies run on, and how fast: as it was timed in this process, never assumed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from torch import nn

from ...artifact import stored_bytes
from ...comparison import Trajectory
from ...onnx_runtime import MissingPackage, check_installed, run_on_
from ..serving.zerogpu import can_borrow
from .backend import Backend, Choice


@dataclass(frozen=True)
class Speed:
    """One run: milliseconds of a step for one picture, megabytes of the transformer as stored."""

    ms: float
    megabytes: float

    def __str__(self) -> str:
        return f"{self.ms:.1f} ms a step and picture, {self.megabytes:.1f} MB"


@cache
def has_onnx() -> bool:
    try:
        check_installed()
    except MissingPackage:
        return False
    return True


def backend_of(choice: Choice) -> str:
    """What integers run on here: ONNX Runtime, unless it is missing or a GPU is borrowed."""
    if choice.runs_as == "integer" and has_onnx() and not can_borrow():
        return "onnx"
    return choice.runs_as


def running(backend: Backend, choice: Choice, transformer: nn.Module) -> nn.Module:
    """A quantized copy, which computes from now on as the bar says.

    The first of a checkpoint's shape on ONNX Runtime takes seconds, its graph is traced.
    """
    return run_on_(backend.checkpoint(choice.model), transformer, backend_of(choice))


def key_of(choice: Choice, full: bool) -> tuple[object, ...]:
    own = () if full else (choice.bits, choice.convention, backend_of(choice))
    return ("speed", choice.model, *own)


def keep_speed(
    backend: Backend, choice: Choice, run: Trajectory, transformer: nn.Module, full: bool
) -> None:
    """Of the last run with these settings; what the bar tells and ``fastest`` goes by."""
    speed = Speed(run.ms_per_step, stored_bytes(transformer) / 1e6)
    backend.cache.put(key_of(choice, full), speed)


def engine_name(choice: Choice) -> str:
    return {"simulated": "simulated", "integer": "in integers (PyTorch)"}.get(
        backend_of(choice), "in integers (ONNX Runtime)"
    )


def speed_line(backend: Backend, choice: Choice) -> str:
    """What runs, with the figures of this machine beside those of full precision."""
    quantized: Speed | None = backend.cache.get(key_of(choice, full=False))
    full: Speed | None = backend.cache.get(key_of(choice, full=True))
    if quantized is None or full is None:
        return f"runs {engine_name(choice)}, not timed here yet"
    return f"runs {engine_name(choice)}: {quantized} (full precision {full}), timed here"


def fastest(backend: Backend, choice: Choice) -> Choice:
    """The choice on the backend that was faster here; in integers where neither was timed."""
    either = [replace(choice, backend=name) for name in ("integer", "simulated")]
    known = [(backend.cache.get(key_of(each, full=False)), each) for each in either]
    timed = [(speed.ms, each) for speed, each in known if speed is not None]
    return min(timed, key=lambda pair: pair[0])[1] if len(timed) == len(either) else either[0]
