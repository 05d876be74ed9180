"""What quantized copies run on, and how fast: as it was timed in this process, never assumed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from threading import Thread

from torch import nn

from ...artifact import stored_bytes
from ...calibration import Calibration
from ...checkpoints import Checkpoint
from ...comparison import Trajectory
from ...conversion import iterate_conversion
from ...onnx_runtime import MissingPackage, Traced, check_installed, graphs, run_on_, traced
from ...specs import Recipe
from ..serving.zerogpu import can_borrow
from .backend import Backend, Choice
from .copies import QUANTIZED, make_room

WAIT_S = 0.2


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


@dataclass(frozen=True)
class Making:
    """Where the making of a quantized copy is."""

    text: str
    fraction: float


def iterate_quantized(
    backend: Backend,
    choice: Choice,
    recipe: Recipe,
    calibration: Calibration | None,
    keep: bool = True,
) -> Iterator[Making | nn.Module]:
    """A quantized copy, which computes as the bar says; sessions stay in the cache.

    keep  whether the same copy may be asked for again
    """
    key = ("session", choice.model, recipe.to_json())
    known = backend.cache.get(key) if backend_of(choice) == "onnx" else None
    if known is not None:
        yield known
        return
    checkpoint, made = backend.checkpoint(choice.model), None
    make_room(backend.cache, checkpoint, QUANTIZED, "a quantized copy")
    with closing(iterate_conversion(checkpoint, recipe, calibration)) as steps:  # type: ignore[type-var]
        for step in steps:
            if isinstance(step, nn.Module):
                made = step
            else:
                text = f"layer {step.index} of {step.total} rounded"
                yield Making(text, step.index / step.total)
    assert made is not None
    if backend_of(choice) == "onnx":
        yield from waiting_for_graph(checkpoint)
    run_on_(checkpoint, made, backend_of(choice))
    if keep and backend_of(choice) == "onnx":
        backend.cache.put(key, made)
    yield made


def waiting_for_graph(checkpoint: Checkpoint) -> Iterator[Making]:
    """Until the graph of the checkpoint's shape is there. The first time that takes seconds; who
    cancels need not wait for it, and the next one finds it done."""
    graph: Future[Traced] = Future()

    def work() -> None:
        try:
            graph.set_result(traced(checkpoint, graphs()))
        except BaseException as error:
            graph.set_exception(error)

    Thread(target=work, name="trace", daemon=True).start()
    began = time.monotonic()
    while not graph.done():
        time.sleep(WAIT_S / 10)
        if time.monotonic() - began > WAIT_S:
            yield Making("tracing the model, once for all recipes", 1.0)
    graph.result()


def key_of(choice: Choice, full: bool) -> tuple[object, ...]:
    own = () if full else (choice.bits, choice.convention, backend_of(choice))
    return ("speed", choice.model, *own)


def keep_speed(
    backend: Backend, choice: Choice, run: Trajectory, transformer: nn.Module, recipe: Recipe | None
) -> None:
    """Of the last run with these settings; what the bar tells and ``fastest`` goes by.

    recipe  None: in full precision
    """
    weighed = ("stored bytes", choice.model, None if recipe is None else recipe.to_json())
    (size,) = backend.cache.make(weighed, lambda: (stored_bytes(transformer),))
    speed = Speed(run.ms_per_step, size / 1e6)
    backend.cache.put(key_of(choice, full=recipe is None), speed)


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
