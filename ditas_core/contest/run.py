"""A contest: one calibration, one reference, and every contender from the same noise.

All contenders are simulated in floating point (``multiply_numbers_``): what is compared is what
rounding does, and products of codes come to the same but for the order of sums.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..artifact import whole_model_bits
from ..calibration import Calibration, check_together
from ..checkpoints import Checkpoint
from ..comparison import Trajectory, TrajectoryProgress, compare, iterate_trajectory
from ..conversion import iterate_conversion
from ..evaluation import transformer_flops
from ..events import result_of
from ..fidelity import Stages, feature_distance
from ..layers import effective_bits, multiply_numbers_
from ..models import Transformer
from ..sampling import spread_labels
from ..search import iterate_search, layer_bits_steps
from ..specs import Recipe, SpecError
from .contenders import Contender, ContestSpec, LeftOut, contenders
from .table import Contest, Row, rows_with

REFERENCE = "full precision"
Runs = Callable[
    [Checkpoint, nn.Module, Tensor, ContestSpec], Iterator[TrajectoryProgress | Trajectory]
]
"""How a transformer is sampled for these labels."""
SEARCHING, CONVERTING, SAMPLING = "searching", "converting", "sampling"


@dataclass(frozen=True)
class ContestProgress:
    """``done`` of ``total`` of one thing is finished for one contender.

    what   "searching", "converting" or "sampling"
    place  the contender's number from 1 of ``of``; 0 of the reference
    """

    what: str
    label: str
    done: int
    total: int
    place: int
    of: int

    @property
    def fraction(self) -> float:
        """Of the whole contest, every contender counted alike."""
        parts = {SEARCHING: (0.0, 0.3), CONVERTING: (0.3, 0.1), SAMPLING: (0.4, 0.6)}
        start, share = parts[self.what] if self.place else (0.0, 1.0)
        return (self.place + start + share * self.done / max(1, self.total)) / (self.of + 1)


@dataclass(frozen=True)
class RowDone:
    """One contender is measured; ``found`` is its row, or why it could not take part."""

    found: Row | LeftOut


def run_contest(
    checkpoint: Checkpoint,
    calibration: Calibration,
    spec: ContestSpec,
    stages: Stages | None = None,
    finished: Mapping[str, Row | LeftOut] | None = None,
    outside: Sequence[Row] = (),
    progress: Callable[[ContestProgress | RowDone], object] | None = None,
) -> Contest:
    """What ``iterate_contest`` comes to; ``progress`` gets each step and may raise to stop."""
    events = iterate_contest(checkpoint, calibration, spec, stages, finished, outside)
    return result_of(events, Contest, progress)


def iterate_contest(
    checkpoint: Checkpoint,
    calibration: Calibration,
    spec: ContestSpec,
    stages: Stages | None = None,
    finished: Mapping[str, Row | LeftOut] | None = None,
    outside: Sequence[Row] = (),
    runs: Runs | None = None,
) -> Iterator[ContestProgress | RowDone | Contest]:
    """Yields progress and a ``RowDone`` per contender, last the Contest.

    Contenders that are ``finished`` (from an interrupted run of the same contest, see
    ``ContestJournal``) are not run again. One that cannot be built, because a part refuses the
    model's sizes, is left out with its reason. ``stages`` are the features of the feature
    distance, which is left out without them; ``outside`` are rows from elsewhere, over the same
    samples; ``runs`` samples elsewhere, by default here.

    Raises:
        SpecError: a calibration of another checkpoint; nobody whom the budget admits.
    """
    check_together(checkpoint, calibration)
    entered, barred = contenders(checkpoint, spec)
    known = dict(finished or {})
    labels = spread_labels(spec.samples, len(checkpoint.class_names))
    flops = transformer_flops(checkpoint.transformer, checkpoint.conditions)
    reference: Trajectory | None = None
    found: list[Row] = []
    refused = list(barred)
    for place, contender in enumerate(entered, 1):
        result = known.get(contender.label)
        if result is None:
            if reference is None:
                full = sampled(checkpoint, checkpoint.transformer, labels, spec, REFERENCE, runs)
                for event in full:
                    if isinstance(event, Trajectory):
                        reference = event
                    else:
                        yield replace(event, of=len(entered))
            assert reference is not None
            try:
                for step in measured(
                    checkpoint, calibration, spec, contender, labels, reference, stages, flops, runs
                ):
                    if isinstance(step, Row):
                        result = step
                    else:
                        yield replace(step, place=place, of=len(entered))
            except ValueError as error:
                result = LeftOut(contender.label, " ".join(str(error).split()))
            assert result is not None
            yield RowDone(result)
        if isinstance(result, Row):
            found.append(result)
        else:
            refused.append(result)
    if not found:
        raise SpecError(
            "contest: expected a contender that can be built, got none: "
            + "; ".join(f"{each.label}: {each.reason}" for each in refused)
        )
    rows = rows_with(found, outside)
    settings = settings_of(checkpoint, calibration, spec)
    yield Contest(settings, rows, tuple((each.label, each.reason) for each in refused))


def settings_of(
    checkpoint: Checkpoint, calibration: Calibration, spec: ContestSpec
) -> dict[str, Any]:
    """What reproduces a contest."""
    return {
        "checkpoint": checkpoint.name,
        "fingerprint": checkpoint.fingerprint,
        "bits": str(spec.bits),
        "budget": spec.budget,
        "samples": spec.samples,
        "steps": spec.sampling.steps,
        "guidance_scale": spec.sampling.guidance_scale,
        "guided_channels": spec.sampling.guided_channels,
        "scheduler": spec.sampling.scheduler,
        "seed": spec.seed,
        "calibration": calibration.sha256,
    }


def measured(
    checkpoint: Checkpoint,
    calibration: Calibration,
    spec: ContestSpec,
    contender: Contender,
    labels: Tensor,
    reference: Trajectory,
    stages: Stages | None,
    flops: int,
    runs: Runs | None,
) -> Iterator[ContestProgress | Row]:
    """One contender: searched, converted, sampled, compared. ``flops`` are full precision's."""
    begun = time.perf_counter()
    recipe: Recipe | None = None
    total, done = contender.search.candidates * len(checkpoint.groups), 0
    total += layer_bits_steps(checkpoint, calibration, contender.search)
    for event in iterate_search(checkpoint, calibration, contender.search):
        if isinstance(event, Recipe):
            recipe = event
        else:
            done = min(total, done + 1)
            yield ContestProgress(SEARCHING, contender.label, done, total, 0, 0)
    assert recipe is not None
    search_s, begun = time.perf_counter() - begun, time.perf_counter()
    made: Transformer | None = None
    for step in iterate_conversion(checkpoint, recipe, calibration):
        if isinstance(step, nn.Module):
            made = step
        else:
            yield ContestProgress(CONVERTING, contender.label, step.index, step.total, 0, 0)
    assert made is not None
    convert_s = time.perf_counter() - begun
    bits, whole = effective_bits(made), whole_model_bits(made)
    multiply_numbers_(made)
    extra = transformer_flops(made, checkpoint.conditions) / flops - 1
    run: Trajectory | None = None
    for each in sampled(checkpoint, made, labels, spec, contender.label, runs):
        if isinstance(each, Trajectory):
            run = each
        else:
            yield each
    assert run is not None
    yield Row(
        label=contender.label,
        method=contender.search.method,
        weights=str(contender.search.bits.weight),
        effective_bits=bits,
        samples=samples_of(reference, run, stages),
        group_size=contender.group_size,
        rank=contender.search.branch(checkpoint.width).rank,
        whole_model_bits=whole,
        search_s=search_s,
        convert_s=convert_s,
        seconds_per_sample=run.seconds / len(labels),
        extra_operations=max(0.0, extra),
        recipe=recipe.to_json(),
    )


def samples_of(
    reference: Trajectory, run: Trajectory, stages: Stages | None
) -> dict[str, tuple[float, ...]]:
    """Every measure of every sample."""
    found = compare(reference, run)
    measures: dict[str, Tensor] = {
        "latent_sqnr_db": found.latent_sqnr,
        "psnr_db": found.psnr,
        "ssim": found.ssim,
    }
    if stages is not None:
        measures["feature_distance"] = feature_distance(stages, reference.images, run.images)
    return {name: tuple(values.tolist()) for name, values in measures.items()}


def run_here(
    checkpoint: Checkpoint, transformer: nn.Module, labels: Tensor, spec: ContestSpec
) -> Iterator[TrajectoryProgress | Trajectory]:
    """In batches, in this process."""
    with torch.no_grad():
        yield from iterate_trajectory(
            checkpoint, transformer, labels, spec.sampling, spec.seed, spec.batch
        )


def sampled(
    checkpoint: Checkpoint,
    transformer: nn.Module,
    labels: Tensor,
    spec: ContestSpec,
    label: str,
    runs: Runs | None,
) -> Iterator[ContestProgress | Trajectory]:
    """One guided run."""
    total = -(-len(labels) // spec.batch) * spec.sampling.steps
    for event in (runs or run_here)(checkpoint, transformer, labels, spec):
        if isinstance(event, TrajectoryProgress):
            done = event.done // spec.batch * event.steps + event.step
            yield ContestProgress(SAMPLING, label, min(done, total), total, 0, 0)
        else:
            yield event
