"""The bits of every layer within a size, at the smoothing strengths that one search found.

    minimise    sum over layers of R(layer) error(layer, bits)
    subject to  sum over layers of bits on disk <= budget per weight x weights

error is the relative output error of the layer that conversion would build, but for compensation
of errors (``SearchSpec.judged``), at the alpha that it has at the method's own bits: the range of
its inputs, which alpha trades against that of its weights, is the same at every width. R is how
far errors of its weights reach (see ``Reach``), so that what is minimised is the final latents'
error as far as single small errors make it up. A method costs one search, a few trajectories there
and back, and a fit per layer and width, where ``iterate_budget_search`` costs a search per layer
and width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..calibration import Calibration, InfluenceProgress, Reach, iterate_reach
from ..checkpoints import Checkpoint
from ..specs import INFLUENCE_SAMPLES, WEIGHT_BITS, BitWidths, Recipe, SpecError, get_convention
from .allocation import allocate
from .alpha import SearchSpec
from .sensitivity import SensitivityProgress, iterate_sensitivity
from .sensitivity_map import stacked_rows
from .totals import counted_bits

STEPS = (-1, 0, 1, 2)
"""Weight bits that a layer may have, from the method's own."""
FINER = (128, 32)
"""Inputs that share a scale, in the place of more than 8 bits."""


@dataclass(frozen=True)
class BitsProgress:
    """``done`` of ``total`` steps towards the bits of every layer are finished."""

    done: int
    total: int


def widths_around(spec: SearchSpec) -> tuple[BitWidths, ...]:
    """What the layers choose from, from few bits to many; activations have the method's own.

    Where more than 8 bits would be next the weights are rounded in groups instead.
    """
    convention, most, found = get_convention(spec.convention), WEIGHT_BITS[-1], []
    for step in STEPS:
        bits = spec.bits.weight_bits + step
        widths = replace(spec.bits, weight=min(max(bits, WEIGHT_BITS[0]), most))
        if bits > most:
            widths = replace(widths, group_size=FINER[bits - most - 1])
        try:
            convention.check_bits(widths)
        except SpecError:
            continue
        found.append(widths)
    return tuple(dict.fromkeys(found))


def budget_of(checkpoint: Checkpoint, spec: SearchSpec) -> float:
    """Bits per weight: the spec's, or what DiTAS takes at its bits."""
    if spec.budget is not None:
        return spec.budget
    return counted_bits(checkpoint, SearchSpec(spec.bits, spec.convention, "ditas"))


def layer_bits_range(checkpoint: Checkpoint, spec: SearchSpec) -> tuple[float, float]:
    """The fewest bits per weight that a method which chooses them can take, and the most it will:
    its budget, or all layers at the widest."""
    each = [counted_bits(checkpoint, replace(spec, bits=bits)) for bits in widths_around(spec)]
    return min(each), min(max(each), budget_of(checkpoint, spec))


def layer_bits_steps(checkpoint: Checkpoint, calibration: Calibration, spec: SearchSpec) -> int:
    """How many events come before the recipe; 0 where all layers have the same bits."""
    widths = widths_around(spec) if spec.chooses_bits else ()
    if len(widths) < 2:
        return 0
    return steps_of_reach(calibration) + len(checkpoint.groups) * len(widths)


def batch_of(calibration: Calibration) -> int:
    """Samples that go there and back at once: as many as were calibrated at once."""
    return min(calibration.spec.batch, INFLUENCE_SAMPLES)


def steps_of_reach(calibration: Calibration) -> int:
    batches = -(-INFLUENCE_SAMPLES // batch_of(calibration))
    return 2 * calibration.spec.sampling.steps * batches


def iterate_layer_bits(
    checkpoint: Checkpoint, calibration: Calibration, spec: SearchSpec, recipe: Recipe
) -> Iterator[BitsProgress | Recipe]:
    """Yields after every step of a trajectory and every fit, last the recipe with each layer at
    its bits.

    ``recipe`` has the alphas, all layers at the method's own bits.

    Raises:
        BudgetError: the budget is below the smallest possible size, which it names.
    """
    total = layer_bits_steps(checkpoint, calibration, spec)
    if not total:
        yield recipe
        return
    reach: Reach = {}
    widths, before = widths_around(spec), steps_of_reach(calibration)
    settings = calibration.spec
    for there in iterate_reach(
        checkpoint, settings.sampling, seed=settings.seed, batch=batch_of(calibration)
    ):
        if isinstance(there, InfluenceProgress):
            yield BitsProgress(there.done, total)
        else:
            reach = there
    for event in iterate_sensitivity(checkpoint, calibration, widths, spec, recipe):
        if isinstance(event, SensitivityProgress):
            yield BitsProgress(before + event.done, total)
        else:
            weighed = event.error * stacked_rows([[reach[name]] for name in event.groups])  # (L, B)
            chosen = allocate(replace(event, error=weighed), budget_of(checkpoint, spec))
            layers = {
                name: replace(recipe.layers[name], bits=bits) for name, bits in chosen.items()
            }
            yield replace(recipe, layers=layers)
