"""How far a small error of the prediction reaches: what it does to the final latents, step by step.

With the final latents z of a guided trajectory, the guided prediction p of step t (d elements) and
the derivative J of z by it,

    S_t = E |z' - z|^2 / (r^2 |z|^2) = |p|^2 |J|_F^2 / (d |z|^2)

is the final latents' relative squared deviation per relative noise on the prediction of step t: of
|p' - p|^2 = r^2 |p|^2, as r goes to 0; no unit.

The derivatives are taken backwards, from the last step to the first (the adjoint method), with
|J|_F^2 = E |J^T v|^2 for v ~ N(0, 1) (Hutchinson, 1990), one v per sample: two forward passes and
a backward pass for each step, where perturbing every step by itself takes half as many passes as
the square of their number. No data are needed. Of several samples it is the geometric mean: as
SQNR is averaged in dB, so that no sample whose picture tips over rules the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ..checkpoints import Checkpoint, find_origin
from ..events import result_of
from ..sampling import (
    build_scheduler,
    generators,
    initial_noise,
    iterate_latents,
    predict_eps,
    scheduler_step,
    spread_labels,
)
from ..specs import (
    INFLUENCE_SAMPLES,
    LARGEST_SEED,
    MOST_SAMPLES,
    SamplingSpec,
    SpecError,
    check_whole,
)

TINY = 1e-30


@dataclass(frozen=True)
class Influence:
    """Of trajectories with one spec's settings: S_t in ``steps``, (T,) float32."""

    samples: int
    seed: int
    steps: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        check_whole("influence: samples", self.samples, 1, MOST_SAMPLES)
        check_whole("influence: seed", self.seed, 0, LARGEST_SEED)

    @cached_property
    def sha256(self) -> str:
        """Hash over settings and S_t."""
        digest = hashlib.sha256(f"{self.samples} {self.seed} {len(self.steps)}".encode())
        digest.update(self.steps.contiguous().numpy().data)
        return digest.hexdigest()

    def check(self, steps: int) -> None:
        """Raise ValueError unless it is of so many steps, in finite numbers from 0."""
        if tuple(self.steps.shape) != (steps,) or self.steps.dtype != torch.float32:
            raise ValueError(f"influence: expected float32 ({steps},), got others")
        if not bool((torch.isfinite(self.steps) & (self.steps >= 0)).all()):
            raise ValueError("influence: expected finite numbers from 0")


@dataclass(frozen=True)
class InfluenceProgress:
    """``done`` of ``total`` steps are finished, there and back."""

    done: int
    total: int


def measure_influence(
    checkpoint: Checkpoint,
    spec: SamplingSpec,
    samples: int = INFLUENCE_SAMPLES,
    seed: int = 0,
    batch: int = INFLUENCE_SAMPLES,
    progress: Callable[[InfluenceProgress], object] | None = None,
) -> Influence:
    """What ``iterate_influence`` comes to; ``progress`` gets each step and may raise to stop."""
    events = iterate_influence(checkpoint, spec, samples, seed, batch)
    return result_of(events, Influence, progress)


def iterate_influence(
    checkpoint: Checkpoint,
    spec: SamplingSpec,
    samples: int = INFLUENCE_SAMPLES,
    seed: int = 0,
    batch: int = INFLUENCE_SAMPLES,
) -> Iterator[InfluenceProgress | Influence]:
    """Yields after every step there and back, last the Influence.

    Sample i starts from the noise of seed + i; labels are spread over all classes or captions.
    ``batch`` samples run at once: of them the activations of one step are kept for its backward
    pass. With 4 samples it takes about as long as calibrating with 12.

    Raises:
        SpecError: a number out of its range; or a quantized checkpoint, as rounding has no
            derivative.
    """
    check_whole("influence: samples", samples, 1, MOST_SAMPLES)
    check_whole("batch", batch, 1, MOST_SAMPLES)
    if find_origin(checkpoint) is not None:
        raise SpecError("influence: expected a checkpoint in full precision, got a quantized one")
    labels = spread_labels(samples, len(checkpoint.class_names))
    done, total = 0, 2 * spec.steps * -(-samples // batch)
    parts: list[Tensor] = []
    for first in range(0, samples, batch):
        for event in there_and_back(checkpoint, spec, labels[first : first + batch], seed + first):
            if event is None:
                done += 1
                yield InfluenceProgress(done, total)
            else:
                parts.append(event)
    every = torch.cat(parts, dim=1).clamp(min=TINY)  # (T, N)
    yield Influence(samples, seed, every.log().mean(1).exp().float())


class Gradients(Protocol):
    """What is added up on the way back beside S_t; ``reach`` has those of weights."""

    def recording(self) -> AbstractContextManager[None]: ...

    @property
    def outputs(self) -> list[Tensor]: ...

    def add_(self, slopes: list[Tensor]) -> None: ...


def there_and_back(
    checkpoint: Checkpoint,
    spec: SamplingSpec,
    labels: Tensor,
    seed: int,
    gradients: Gradients | None = None,
) -> Iterator[Tensor | None]:
    """One batch: None after each step of the trajectory and of the way back, last S_t (T, n).

    ``gradients`` record each forward pass, and get the gradients of v . z / |z| by their outputs.
    """
    scheduler = build_scheduler(checkpoint.scheduler, spec)
    noise = initial_noise(checkpoint.latent_shape, generators(seed, len(labels)))
    states = [noise * float(scheduler.init_noise_sigma)]  # (n, C, H, W) each
    for step in iterate_latents(
        checkpoint.transformer, checkpoint.scheduler, labels, checkpoint.latent_shape, spec, seed,
        checkpoint.conditions,
    ):  # fmt: skip
        states.append(step.latents)
        yield None
    adjoint = probes(states.pop(), seed)  # (n, C, H, W)
    found = torch.zeros(spec.steps, len(labels), dtype=torch.float64)
    for index, timestep in reversed(list(enumerate(scheduler.timesteps.tolist()))):
        latents = states.pop().requires_grad_(True)
        recording = nullcontext() if gradients is None else gradients.recording()
        with torch.enable_grad():
            with recording:
                prediction = predict_eps(
                    checkpoint.transformer, latents, timestep, labels, spec, checkpoint.conditions
                )
            streams = generators(0, len(labels))  # noise that is added has no derivative
            after = scheduler_step(scheduler, prediction, timestep, latents, streams)
            wanted = [latents, prediction, *(gradients.outputs if gradients is not None else ())]
            adjoint, slope, *others = torch.autograd.grad(after, wanted, adjoint)
        if gradients is not None:
            gradients.add_(others)
        found[index] = squares(prediction.detach()) / prediction[0].numel() * squares(slope)
        yield None
    yield found


def probes(final: Tensor, seed: int) -> Tensor:
    """v / |z|, (n, C, H, W): sample i's is drawn with 2^32 + seed + i, as no noise is."""
    drawn = [
        torch.randn(one.shape, generator=torch.Generator().manual_seed(2**32 + seed + i))
        for i, one in enumerate(final)
    ]
    sizes = squares(final).sqrt().clamp(min=TINY).float()  # (n,)
    return torch.stack(drawn) / sizes[:, None, None, None]


def squares(x: Tensor) -> Tensor:
    """|x|^2 of every sample, (n,) float64."""
    return x.double().square().flatten(1).sum(1)
