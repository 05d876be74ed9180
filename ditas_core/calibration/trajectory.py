"""Calibrate: one guided full-precision trajectory, recorded step by step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..checkpoints import Checkpoint, find_origin, settle_patches_
from ..events import result_of
from ..sampling import Position, batches_of, iterate_forwards, spread_labels
from ..specs import CalibrationSpec, SpecError
from .calibration import Calibration
from .draw import TokenDraw
from .journal import CalibrationJournal
from .recorder import DTYPES, StepTable, record_inputs

Exchange = Callable[[StepTable], None]


@dataclass(frozen=True)
class CalibrationProgress:
    """``step`` of ``total`` steps are finished, ``done`` of ``of`` forward passes."""

    step: int
    total: int
    done: int
    of: int


@dataclass
class Begun:
    """What the finished steps of a run that was stopped have left, in memory.

    table       as the Calibration gets it, no copy
    position    where to go on
    """

    table: StepTable | None = None
    timesteps: list[int] = field(default_factory=list)
    position: Position | None = None

    @property
    def nbytes(self) -> int:
        if self.table is None:
            return 0
        return sum(tensor.nbytes for group in self.table.groups.values() for tensor in group)


@dataclass(frozen=True)
class Shard:
    """The samples of one process: numbers ``first`` to ``last`` (exclusive)."""

    first: int
    last: int


def shard_of(spec: CalibrationSpec, rank: int, world: int) -> Shard:
    """Whole batches, as even as they come.

    Raises:
        SpecError: fewer batches than processes.
    """
    batches = -(-spec.samples // spec.batch)
    if batches < world:
        raise SpecError(
            f"batch: expected at least one batch for each of {world} processes, got "
            f"{batches} ({spec.samples} samples in batches of {spec.batch})"
        )
    return Shard(*batches_of(spec.samples, spec.batch, rank, world))


def working_copy(transformer: nn.Module, precision: str) -> nn.Module:
    """The transformer itself, or a copy in bfloat16, without a float32 copy on the way."""
    if precision == "float32":
        return transformer
    replaced: dict[int, Any] = {}
    for parameter in transformer.parameters():
        replaced[id(parameter)] = nn.Parameter(parameter.to(torch.bfloat16), requires_grad=False)
    for buffer in transformer.buffers():
        if buffer.is_floating_point():
            replaced[id(buffer)] = buffer.to(torch.bfloat16)
    return settle_patches_(copy.deepcopy(transformer, replaced))


def calibrate(
    checkpoint: Checkpoint,
    spec: CalibrationSpec,
    journal: CalibrationJournal | None = None,
    shard: Shard | None = None,
    exchange: Exchange | None = None,
    progress: Callable[[CalibrationProgress], object] | None = None,
) -> Calibration:
    """What ``iterate_calibration`` comes to; ``progress`` gets each step and may raise to stop."""
    events = iterate_calibration(checkpoint, spec, journal, shard, exchange)
    return result_of(events, Calibration, progress)


def iterate_calibration(
    checkpoint: Checkpoint,
    spec: CalibrationSpec,
    journal: CalibrationJournal | None = None,
    shard: Shard | None = None,
    exchange: Exchange | None = None,
    begun: Begun | None = None,
) -> Iterator[CalibrationProgress | Calibration]:
    """One guided trajectory; yields progress, then the Calibration.

    Labels are spread over all classes (or captions); noise and token draws follow ``spec.seed``.
    With a ``journal`` every finished step is kept on disk, and steps found there are
    not run again; ``begun`` does the same in memory, for one checkpoint and spec and one run
    at a time. With a ``shard`` only its samples are run; ``exchange`` then joins the steps of
    all shards (``exchange_steps`` over torch.distributed).

    A quantized checkpoint is calibrated as it is: what its layers are given.

    Raises:
        SpecError: more tokens asked for than a step has; or a copy in another precision of
            layers that are quantized.
    """
    if spec.precision != "float32" and find_origin(checkpoint) is not None:
        raise SpecError(
            f"precision: expected float32, in which quantized layers compute, got {spec.precision}"
        )
    shard = shard or Shard(0, spec.samples)
    available = spec.samples * 2 * checkpoint.fewest_tokens
    if spec.tokens > available:
        raise SpecError(
            f"tokens: expected at most {available} (of {spec.samples} samples), got {spec.tokens}"
        )
    labels = spread_labels(spec.samples, len(checkpoint.class_names))[shard.first : shard.last]
    total = spec.sampling.steps
    begun = Begun() if begun is None else begun
    if begun.table is None:
        begun.table = StepTable(total, spec.tokens)
    table, timesteps, start = begun.table, begun.timesteps, begun.position
    if journal is not None:
        for statistics, timestep, position in journal.steps():
            table.add(statistics)
            timesteps.append(timestep)
            begun.position = start = position
    per_step = -(-len(labels) // spec.batch)
    if len(table) < total:
        transformer = working_copy(checkpoint.transformer, spec.precision)
        draw = TokenDraw(spec.seed, spec.samples, spec.tokens)
        with record_inputs(
            transformer, checkpoint.groups, draw, DTYPES[spec.token_dtype]
        ) as recorder:
            for event in iterate_forwards(
                transformer,
                checkpoint.scheduler,
                labels,
                checkpoint.latent_shape,
                spec.sampling,
                spec.seed + shard.first,
                batch=spec.batch,
                start=start,
                before=lambda step, first: recorder.begin(step, shard.first + first),
                conditions=checkpoint.conditions,
            ):
                if event.step is not None:
                    statistics = recorder.finish()
                    table.add(statistics)
                    timesteps.append(event.step.timestep)
                    begun.position = Position(len(table), event.step.latents, event.step.streams)
                    if journal is not None:
                        journal.add(statistics, event.step)
                    del statistics
                done = event.index * per_step + event.done
                yield CalibrationProgress(len(table), total, done, total * per_step)
        del transformer
    if exchange is not None:
        exchange(table)
    yield Calibration(
        checkpoint=checkpoint.fingerprint,
        spec=spec,
        timesteps=tuple(timesteps),
        groups={group.name: table.statistics(group.name) for group in checkpoint.groups},
    )
