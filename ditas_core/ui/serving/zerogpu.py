"""Where the page's networks run: here, or for some seconds on a GPU that a Space borrows.

On Hugging Face's ZeroGPU a function marked ``spaces.GPU`` runs in a forked process that has a
GPU for as long as was declared; a visitor's daily quota pays for what is declared. Only the
network runs go there: calibration and sampling. Search, rounding and branches are arithmetic
on stored tokens and stay on the CPU; so does measured sensitivity, which converts a model before
each of its many short runs. Nothing the process changes comes back but what it yields.

Without the package ``spaces``, without ZeroGPU, without a visitor (at the start) or without
quota left everything runs here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, TypeVar

import gradio as gr
import torch
from gradio.context import LocalContext
from torch import Tensor, nn

from ... import calibration, comparison
from ...calibration import Begun, Calibration, CalibrationProgress
from ...checkpoints import Checkpoint
from ...comparison import Switching, Trajectory, TrajectoryProgress
from ...sampling import TransformerAt
from ...specs import CalibrationSpec, SamplingSpec, SpecError
from .sending import pack, unpack

SHORTEST_S, LONGEST_S = 10, 60
"""What is declared at least and at most."""
START_S, FORWARD_S, FLOPS = 5.0, 0.05, 8e12
"""Moving the weights, the least time of a forward pass, float32 operations per second; all on
the safe side of a third of an H200, which is what ZeroGPU lends."""
Task = TypeVar("Task", bound=Callable[..., Iterator[Any]])


def declared_seconds(checkpoint: Checkpoint, steps: int, samples: int, batch: int) -> int:
    """GPU seconds to ask for.

    2 operations per weight and token, both guidance halves: 4 W T per sample and step.

    Raises:
        SpecError: more than ``LONGEST_S``.
    """
    weights = sum(each.numel() for each in checkpoint.transformer.parameters())
    work = 4 * weights * checkpoint.image_tokens * steps * samples / FLOPS
    seconds = math.ceil(START_S + FORWARD_S * steps * math.ceil(samples / batch) + work)
    if seconds > LONGEST_S:
        raise SpecError(
            f"samples: expected a run of at most {LONGEST_S} s on the borrowed GPU, {samples} "
            f"samples of {steps} steps need about {seconds} s; ask for fewer"
        )
    return max(SHORTEST_S, seconds)


def on_gpu(module: nn.Module) -> Any:
    """A module that was sent, on the GPU where there is one."""
    return module.to("cuda" if torch.cuda.is_available() else "cpu")


def there(sent: Any) -> Checkpoint:
    """The checkpoint that was sent, on the GPU."""
    found: Checkpoint = unpack(sent)
    return replace(found, transformer=on_gpu(found.transformer), vae=on_gpu(found.vae))


def seconds_first(seconds: int, *_: Any) -> int:
    """The declared duration is the first argument of every borrowed task."""
    return seconds


def borrow(task: Task) -> Task:
    """``spaces.GPU`` where that package is installed; else, and off ZeroGPU, the task itself."""
    try:
        from spaces import GPU
    except ImportError:
        return task
    marked: Task = GPU(task, duration=seconds_first)
    return marked


def calibrate_there(seconds: int, sent: Any, spec: CalibrationSpec) -> Iterator[Any]:
    """In the process that has the GPU."""
    for event in calibration.iterate_calibration(there(sent), spec):
        yield pack(event)


def sample_there(
    seconds: int, sent: Any, later: Any, first: int, labels: Any, spec: SamplingSpec, seed: int
) -> Iterator[Any]:
    """In the process that has the GPU; ``later`` is the transformer of steps from ``first``."""
    checkpoint = there(sent)
    model: nn.Module | Switching = checkpoint.transformer
    if later is not None:
        model = Switching(checkpoint.transformer, on_gpu(unpack(later)), first)
    for event in comparison.iterate_trajectory(checkpoint, model, unpack(labels), spec, seed):
        yield pack(event)


calibrate_borrowed = borrow(calibrate_there)
sample_borrowed = borrow(sample_there)


def can_borrow() -> bool:
    """On ZeroGPU, and for a visitor whose quota pays."""
    return calibrate_borrowed is not calibrate_there and LocalContext.request.get(None) is not None


def there_or_here(events: Iterator[Any], here: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """The borrowed task's events; if no GPU is to be had, the same run here."""
    begun = False
    with closing(events):  # type: ignore[type-var]
        try:
            for event in events:
                begun = True
                yield unpack(event)
            return
        except gr.Error as error:  # no quota left, or no GPU within the time one waits for it
            if begun:
                raise
            gr.Warning(f"No GPU for this run ({error.message}); it runs here, slower.")
    yield from here()


def iterate_calibration(
    checkpoint: Checkpoint, spec: CalibrationSpec, begun: Begun | None = None
) -> Iterator[CalibrationProgress | Calibration]:
    """``calibration.iterate_calibration``, on a borrowed GPU if there is one: within a minute or
    not at all, so it starts anew where a run here goes on from what was ``begun``."""
    if not can_borrow():
        yield from calibration.iterate_calibration(checkpoint, spec, begun=begun)
        return
    seconds = declared_seconds(checkpoint, spec.sampling.steps, spec.samples, spec.batch)
    yield from there_or_here(
        calibrate_borrowed(seconds, pack(checkpoint), spec),
        lambda: calibration.iterate_calibration(checkpoint, spec, begun=begun),
    )


def iterate_trajectory(
    checkpoint: Checkpoint,
    transformer: nn.Module | TransformerAt,
    labels: Tensor,
    spec: SamplingSpec,
    seed: int,
) -> Iterator[TrajectoryProgress | Trajectory]:
    """``comparison.iterate_trajectory``, on a borrowed GPU if there is one."""

    def here() -> Iterator[TrajectoryProgress | Trajectory]:
        return comparison.iterate_trajectory(checkpoint, transformer, labels, spec, seed)

    if not can_borrow() or not isinstance(transformer, nn.Module | Switching):
        yield from here()
        return
    model, later, first = transformer, None, 0
    if isinstance(transformer, Switching):
        model, later, first = transformer.full, pack(transformer.quantized), transformer.first_step
    # the base transformer is not needed beside the one that runs
    sent = pack(replace(checkpoint, transformer=model))
    seconds = declared_seconds(checkpoint, spec.steps, len(labels), len(labels))
    borrowed = sample_borrowed(seconds, sent, later, first, pack(labels), spec, seed)
    yield from there_or_here(borrowed, here)
