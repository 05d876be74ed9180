"""Record the inputs of every smoothing group while a transformer runs.

Hooks live inside ``with`` only; the recorder changes nothing. Of each call it
keeps exact per-channel extremes and a seeded draw of tokens, never the whole
activation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..checkpoints import Checkpoint, SmoothingGroup, get_linear
from ..sampling import iterate_latents, spread_labels
from ..specs import CalibrationSpec
from .calibration import Calibration, GroupStatistics


@dataclass
class Recording:
    """What has been recorded so far of one group; one entry per step."""

    low: list[Tensor] = field(default_factory=list)
    high: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)
    energy: list[Tensor] = field(default_factory=list)

    def add(self, x: Tensor, keep: int, generator: torch.Generator) -> None:
        """Reduce one call's input, (2N, T, C), to its statistics."""
        halves = x.detach().float().reshape(2, -1, x.shape[-1])  # (2, N*T, C)
        self.low.append(halves.amin(1))  # (2, C)
        self.high.append(halves.amax(1))  # (2, C)
        rows = halves.reshape(-1, x.shape[-1])  # (2*N*T, C)
        self.energy.append(rows.square().mean(0))  # (C,)
        picked = torch.randperm(len(rows), generator=generator)[:keep]
        self.tokens.append(rows[picked].clamp(-65504, 65504).half())  # (K, C)

    def finish(self) -> GroupStatistics:
        return GroupStatistics(
            low=torch.stack(self.low),
            high=torch.stack(self.high),
            tokens=torch.stack(self.tokens),
            energy=torch.stack(self.energy),
        )


@contextmanager
def record_inputs(
    transformer: nn.Module, groups: tuple[SmoothingGroup, ...], keep: int, seed: int
) -> Iterator[dict[str, Recording]]:
    """Within the block, every forward pass adds one step to each group's recording."""
    recordings = {group.name: Recording() for group in groups}
    generator = torch.Generator().manual_seed(seed)
    handles = []
    try:
        for group in groups:

            def hook(
                _module: nn.Module,
                args: tuple[Tensor, ...],
                recording: Recording = recordings[group.name],
            ) -> None:
                recording.add(args[0], keep, generator)

            handles.append(get_linear(transformer, group.layers[0]).register_forward_pre_hook(hook))
        yield recordings
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class CalibrationProgress:
    """One finished step of the calibration trajectory."""

    step: int
    total: int


def calibrate(
    checkpoint: Checkpoint, spec: CalibrationSpec
) -> Iterator[CalibrationProgress | Calibration]:
    """One guided full-precision trajectory; yields progress, then the Calibration.

    Labels are spread over all classes; noise and token draws follow ``spec.seed``.
    """
    labels = spread_labels(spec.samples, len(checkpoint.class_names))
    transformer = checkpoint.transformer
    timesteps = []
    with record_inputs(transformer, checkpoint.groups, spec.tokens, spec.seed) as recordings:
        for step in iterate_latents(
            transformer,
            checkpoint.scheduler,
            labels,
            checkpoint.latent_shape,
            spec.sampling,
            spec.seed,
        ):
            timesteps.append(step.timestep)
            yield CalibrationProgress(step.index + 1, step.total)
    yield Calibration(
        checkpoint=checkpoint.fingerprint,
        spec=spec,
        timesteps=tuple(timesteps),
        groups={name: recording.finish() for name, recording in recordings.items()},
    )
