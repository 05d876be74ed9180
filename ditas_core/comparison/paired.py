"""Paired runs: the same seed, noise and classes through two transformers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..checkpoints import Checkpoint
from ..evaluation import Interval, interval, psnr_db, sqnr_db, ssim
from ..events import result_of
from ..sampling import TransformerAt, decode_latents, iterate_latents
from ..specs import SamplingSpec


@dataclass(frozen=True)
class Trajectory:
    """One run: latents after every step (S, N, C, H, W), timesteps, decoded images in [0, 1].

    seconds  of its steps, on a wall clock, without decoding
    """

    latents: Tensor
    timesteps: tuple[int, ...]
    images: Tensor
    seconds: float = 0.0

    @property
    def ms_per_step(self) -> float:
        """Of one picture: milliseconds of a step over the samples that it advances."""
        steps, samples = self.latents.shape[:2]
        return 1000 * self.seconds / (steps * samples)

    @property
    def final(self) -> Tensor:
        return self.latents[-1]  # (N, C, H, W)


@dataclass(frozen=True)
class TrajectoryProgress:
    """Samples ``first`` to ``last`` have finished step ``step`` of ``steps``."""

    step: int
    steps: int
    done: int
    samples: int


@dataclass(frozen=True)
class Comparison:
    """A quantized run against its full-precision reference, per sample, (N,) each.

    divergence  latent SQNR in dB after every step, (S, N)
    """

    latent_sqnr: Tensor
    psnr: Tensor
    ssim: Tensor
    divergence: Tensor

    def summary(self) -> dict[str, Interval]:
        """Mean and 95 % confidence interval of every metric."""
        return {
            "latent_sqnr_db": interval(self.latent_sqnr),
            "psnr_db": interval(self.psnr),
            "ssim": interval(self.ssim),
        }


@dataclass(frozen=True)
class Switching:
    """``full`` runs the steps before ``first_step`` (loop index), ``quantized`` that and all after.

    0 is the quantized run; the number of steps, or more, is the full-precision one.

    Raises:
        ValueError: a negative step.
    """

    full: nn.Module = field(repr=False)
    quantized: nn.Module = field(repr=False)
    first_step: int

    def __post_init__(self) -> None:
        if self.first_step < 0:
            raise ValueError(f"first_step: expected at least 0, got {self.first_step}")

    def __call__(self, index: int) -> nn.Module:
        """The transformer of one step."""
        return self.full if index < self.first_step else self.quantized


switching = Switching
"""As a verb."""


def run_trajectory(
    checkpoint: Checkpoint,
    transformer: nn.Module | TransformerAt,
    labels: Tensor,
    spec: SamplingSpec,
    seed: int,
    batch: int = 16,
    progress: Callable[[TrajectoryProgress], object] | None = None,
) -> Trajectory:
    """What ``iterate_trajectory`` comes to; ``progress`` gets each step and may raise to stop."""
    events = iterate_trajectory(checkpoint, transformer, labels, spec, seed, batch)
    return result_of(events, Trajectory, progress)


def iterate_trajectory(
    checkpoint: Checkpoint,
    transformer: nn.Module | TransformerAt,
    labels: Tensor,
    spec: SamplingSpec,
    seed: int,
    batch: int = 16,
) -> Iterator[TrajectoryProgress | Trajectory]:
    """Sample in batches with a given transformer; yields after every step, last the Trajectory.

    Sample i starts from the noise of seed + i whatever the batch size. ``transformer``
    may depend on the step, see ``switching``.
    """
    parts: list[Tensor] = []
    timesteps: tuple[int, ...] = ()
    seconds = 0.0
    for first in range(0, len(labels), batch):
        chunk = labels[first : first + batch]
        latents, times = [], []
        begun = time.perf_counter()
        for step in iterate_latents(
            transformer,
            checkpoint.scheduler,
            chunk,
            checkpoint.latent_shape,
            spec,
            seed + first,
            checkpoint.conditions,
        ):
            seconds += time.perf_counter() - begun
            latents.append(step.latents)
            times.append(step.timestep)
            yield TrajectoryProgress(step.index + 1, step.total, first, len(labels))
            begun = time.perf_counter()
        parts.append(torch.stack(latents))  # (S, n, C, H, W)
        timesteps = tuple(times)
    latents_all = torch.cat(parts, dim=1)  # (S, N, C, H, W)
    images = decode_latents(checkpoint.vae, latents_all[-1])
    yield Trajectory(latents_all, timesteps, images, seconds)


def check_shapes(reference: Trajectory, other: Trajectory) -> None:
    """Raise ValueError unless the two runs have the same steps and samples."""
    if reference.latents.shape != other.latents.shape:
        raise ValueError(
            f"runs: expected equal shapes, got {tuple(reference.latents.shape)} "
            f"and {tuple(other.latents.shape)}"
        )


def compare(reference: Trajectory, other: Trajectory) -> Comparison:
    """Every metric of two runs over the same noise and classes.

    Raises:
        ValueError: the runs differ in shape.
    """
    check_shapes(reference, other)
    steps = zip(reference.latents, other.latents, strict=True)
    return Comparison(
        latent_sqnr=sqnr_db(reference.final, other.final),
        psnr=psnr_db(reference.images, other.images),
        ssim=ssim(reference.images, other.images),
        divergence=torch.stack([sqnr_db(a, b) for a, b in steps]),
    )
