"""What work costs before it starts: seconds and memory from a model's shape and a speed.

Everything is counted in operations of a forward pass (``transformer_flops``), so that one
measured speed gives the seconds. Work that moves numbers more than it multiplies them
(rounding, decompositions) enters with factors that were fitted on the demo and on one
block of DiT-XL/2, in one thread of an AMD EPYC. All is good to about a factor of two.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ..calibration import memory_of
from ..checkpoints import Checkpoint
from ..lowrank import OVERSAMPLING
from ..methods import rotation_of, roundings
from ..sampling import forward_arguments
from ..specs import (
    FULL_PRECISION_BITS,
    INFLUENCE_SAMPLES,
    NEAREST,
    NONE,
    BitWidths,
    CalibrationSpec,
    LayerRecipe,
    LowRankSpec,
    Part,
    Rounding,
    SamplingSpec,
    get_convention,
)
from .shape import ModelShape

RECORDING = 1.15
"""A recorded pass over a plain one."""
QUANTIZED = 1.3
"""A fake-quantized pass over a plain one: 1.2 to 1.5 on the demo, 1.0 to 1.15 at width 1152."""
ROUNDING = 400.0
"""Rounding one number, in operations of a matrix product."""
DECOMPOSITION = 30.0
"""An exact singular value decomposition in float64, per element and singular value."""
REFITTED = 3
"""Candidates that a search fits as conversion does, where its fits are quick."""
LAYERS = 3
"""Of one input, at most, each of which factors its moment where errors are made up for."""
MOMENTS = 6
"""Double-precision squares of the inputs that are alive at once then."""
LONG_S = 2.0
"""A pass this long is timed once."""
LIBRARIES = 400_000_000
"""Bytes of the process before anything is loaded."""
WORKSPACES = 128_000_000
"""Bytes that a GPU's libraries keep for themselves, of those that PyTorch counts."""
FITTING = 12
"""Float32 tensors of a group's weights that are alive at once while it is searched or fitted."""


@torch.no_grad()
def measure_speed(
    checkpoint: Checkpoint,
    flops: int,
    samples: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Operations per second of the checkpoint's own transformer, whose pass takes ``flops``.

    The median of three passes of ``samples`` guided samples, after one that is not
    counted; one that takes more than LONG_S is counted itself and not repeated.
    Wider models run at more operations per second than narrow ones.

    Raises:
        ValueError: no sample, or a clock that stands still.
    """
    if samples < 1:
        raise ValueError(f"samples: expected at least 1, got {samples}")
    there = next(checkpoint.transformer.parameters())
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((2 * samples, *checkpoint.latent_shape), generator=generator)
    latents = latents.to(there.device, there.dtype)  # (2 N, C, H, W)
    times = torch.full((2 * samples,), 500, device=there.device)
    labels = torch.zeros(samples, dtype=torch.long)
    arguments = forward_arguments(checkpoint.transformer, labels, checkpoint.conditions)

    def seconds() -> float:
        start = clock()
        out = checkpoint.transformer(latents, timestep=times, **arguments).sample
        float(out.sum())  # waits for an accelerator
        return clock() - start

    taken = seconds()
    if taken <= LONG_S:
        taken = sorted(seconds() for _ in range(3))[1]
    if not taken > 0:
        raise ValueError(f"clock: expected time to pass, got {taken} s")
    return 2 * samples * flops / taken


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    branch      the low-rank branch of every group (``SearchSpec.branch``)
    candidates  what a search tries per group: the grid's alphas and the identity; 0 = no search
    rounding, rotation   of every group
    widths      that each layer's bits are chosen from after the search; 0 where all have the same
    images      sampled with each of ``variants``, the first of them in full precision
    """

    calibration: CalibrationSpec = CalibrationSpec()
    bits: BitWidths = BitWidths(4, 8)
    convention: str = "integer"
    branch: LowRankSpec = LowRankSpec()
    candidates: int = 22
    images: int = 8
    sampling: SamplingSpec = SamplingSpec()
    variants: int = 3
    rounding: Rounding = NEAREST
    rotation: Part = NONE
    widths: int = 0

    def __post_init__(self) -> None:
        get_convention(self.convention).check_bits(self.bits)
        if min(self.candidates, self.images) < 0 or self.variants < 1:
            raise ValueError(
                "plan: expected candidates and images from 0 and at least one variant, "
                f"got {self.candidates}, {self.images} and {self.variants}"
            )

    @property
    def kept(self) -> int:
        """Tokens of each group that a search reads."""
        return self.calibration.sampling.steps * self.calibration.tokens

    @property
    def compensates(self) -> bool:
        """Whether rounding errors are made up for."""
        return self.rounding.compensation.acts

    def rotated(self, channels: int) -> int:
        """Operations per number of rotating inputs, or weights, of so many channels."""
        block = rotation_of(LayerRecipe(self.bits, rotation=self.rotation), channels)
        return 0 if block is None else 2 * len(block)

    @property
    def fits_branches(self) -> bool:
        """Whether there is a branch at these bits."""
        return self.branch.rank > 0 and self.bits.weight_bits < FULL_PRECISION_BITS


@dataclass(frozen=True)
class Cost:
    """Seconds of one calibration, one search, one conversion, and of all paired samples.

    memory_bytes   the most that the process holds at once
    """

    calibrate_s: float
    search_s: float
    quantize_s: float
    compare_s: float
    memory_bytes: int


def estimate(shape: ModelShape, speed: float, plan: Plan | None = None) -> Cost:
    """What a plan costs at ``speed`` operations per second (``measure_speed``).

    Of a shape that is not loaded take the speed of the most similar model that is.

    Raises:
        ValueError: no speed.
    """
    if not (math.isfinite(speed) and speed > 0):
        raise ValueError(f"speed: expected operations per second above 0, got {speed}")
    plan = plan or Plan()
    spec = plan.calibration
    guided = 2 * shape.flops  # of one sample's step
    recorded = spec.samples * spec.sampling.steps * guided * RECORDING
    turned = sum(shape.tokens * c * plan.rotated(c) for c, _ in shape.groups)
    runs = guided + (plan.variants - 1) * (QUANTIZED * guided + 2 * turned)
    sampled = plan.images * plan.sampling.steps * runs
    groups = shape.groups
    searched, chosen = plan, 0.0
    if plan.widths > 1:  # candidates are compared without compensation, see SearchSpec.judged
        searched = replace(plan, rounding=plan.rounding.uncompensated)
        chosen = choosing_flops(shape, searched)
    return Cost(
        calibrate_s=recorded / speed,
        search_s=(sum(group_search_flops(*group, searched) for group in groups) + chosen) / speed,
        quantize_s=sum(group_fit_flops(*group, plan) for group in groups) / speed,
        compare_s=sampled / speed,
        memory_bytes=memory_bytes(shape, plan),
    )


def group_search_flops(channels: int, outputs: int, plan: Plan) -> float:
    """Operations of one group's search: C inputs, all its layers' outputs together.

        candidates x (M C rounded + products of M tokens + the weight, rounded and fitted)

    Where rounding commutes with smoothing the weight is fitted once for all candidates;
    otherwise a few are fitted thoroughly on top.
    """
    weights, tokens = channels * outputs, plan.kept
    one = tokens * channels * (ROUNDING + plan.rotated(channels)) + 2.0 * tokens * weights
    if not plan.candidates:
        return 0.0
    if get_convention(plan.convention).smoothing_commutes:
        return plan.candidates * one + group_fit_flops(channels, outputs, plan)
    one += weights * (ROUNDING + plan.rotated(channels))
    if not plan.fits_branches and not plan.rounding.acts:
        return plan.candidates * one
    refitted = min(REFITTED, plan.candidates)
    fit = group_fit_flops(channels, outputs, plan)
    if not plan.fits_branches:
        return (plan.candidates + refitted) * one + refitted * fit
    # the branch's error and what passes it are two products; the weight is rounded twice
    one += weights * (2.0 * tokens + 12 * (plan.branch.rank + OVERSAMPLING) + ROUNDING)
    return (plan.candidates + refitted) * one + refitted * fit


def choosing_flops(shape: ModelShape, plan: Plan) -> float:
    """Operations of choosing every layer's bits: each fitted and tried at every width, and how far
    errors reach, on trajectories there and back, a pass back being two."""
    there = INFLUENCE_SAMPLES * plan.calibration.sampling.steps * 2 * shape.flops
    return 4 * there + plan.widths * sum(
        group_fit_flops(channels, outputs, plan)
        + plan.kept * channels * (ROUNDING + plan.rotated(channels) + 4.0 * outputs)
        for channels, outputs in shape.groups
    )


def group_fit_flops(channels: int, outputs: int, plan: Plan) -> float:
    """Operations of fitting one group's weights as conversion does."""
    weights, branch = channels * outputs, plan.branch
    if plan.rounding.acts or plan.rotation.acts:
        rest = group_fit_flops(channels, outputs, replace(plan, rounding=NEAREST, rotation=NONE))
        rest += weights * (roundings(plan.rounding) * ROUNDING + plan.rotated(channels))
        if plan.compensates:
            rest += weights * (3.0 * channels + 6 * ROUNDING) + LAYERS * 4.0 * channels**3
        return rest
    if not plan.fits_branches:
        return weights * 3 * ROUNDING
    if branch.keep == "last":
        each = DECOMPOSITION * min(channels, outputs) + ROUNDING
        return weights * branch.iterations * each
    scored = 2.0 * min(plan.kept, channels)  # a product with the moment
    each = 2.5 * ROUNDING + 16 * (branch.rank + OVERSAMPLING) + scored
    # two starts and the plain weight, which has no branch, before the alternations
    return weights * (branch.iterations + 2.5) * each


def memory_bytes(shape: ModelShape, plan: Plan) -> int:
    """Upper bound of what is held at once, in float32: the model, one calibration, all copies.

    While a copy is converted the weights it replaces are not given back yet.
    """
    c = [channels for channels, _ in shape.groups]
    need = memory_of(c, shape.tokens, shape.parameters, plan.calibration)
    linear = shape.linear_weights
    copies = (plan.variants - 1) * (4 * shape.parameters + linear)
    converting = 4 * linear if plan.variants > 1 else 0
    kept = need.tokens + need.statistics
    model = 4 * (shape.parameters + shape.autoencoder)
    widest = max(outputs * channels for channels, outputs in shape.groups)
    searching = 4 * (6 * widest + 4 * plan.kept * max(outputs for _, outputs in shape.groups))
    if plan.compensates or plan.rotation.acts:
        widest_input = max(channels for channels, _ in shape.groups)
        searching += MOMENTS * 8 * widest_input**2
        converting += MOMENTS * 8 * widest_input**2
    beside = max(need.call + need.model, searching, copies + converting + need.call)
    return LIBRARIES + model + kept + beside


def device_memory(shape: ModelShape, plan: Plan) -> dict[str, int]:
    """Upper bound of what lies on a GPU at once: bytes to calibrate, search, quantize, sample.

    The model is there in float32, its autoencoder too; of a calibration one group's statistics.
    The quantized copy is there beside the model, with codes and what the backend "simulated"
    computes with; "integer" takes 4 bytes a weight less.
    """
    spec = plan.calibration
    channels = [c for c, _ in shape.groups]
    need = memory_of(channels, shape.tokens, shape.parameters, spec)
    model = 4 * (shape.parameters + shape.autoencoder) + WORKSPACES
    widest = max(outputs * c for c, outputs in shape.groups)
    of_tokens = plan.kept * max(max(group) for group in shape.groups)
    moment = 0 if plan.kept < shape.width else 3 * max(channels) ** 2
    fitting = 4 * (FITTING * widest + 6 * of_tokens + moment)
    copied = 4 * shape.parameters + shape.linear_weights
    images = max(1, plan.images)
    sampled = memory_of(channels, shape.tokens, 0, replace(spec, samples=images, batch=images))
    return {
        "calibrate": model + need.model + need.call + need.statistics,
        "search": model + fitting,
        "quantize": model + copied + fitting,
        "sample": model + copied + sampled.call,
    }
