"""What a contest will take, before it starts."""

from __future__ import annotations

from collections.abc import Sequence

from ..calibration import Calibration
from ..evaluation import ModelShape, Plan, estimate
from ..search import widths_around
from .contenders import Contender, ContestSpec


def predicted_seconds(
    shape: ModelShape,
    speed: float,
    calibration: Calibration,
    spec: ContestSpec,
    entered: Sequence[Contender],
) -> float:
    """Of those who take part, at ``speed`` operations per second (``measure_speed``), the
    calibration not counted; good to a factor of two, as ``estimate`` is."""
    total = 0.0
    for index, each in enumerate(entered):
        plan = Plan(
            calibration=calibration.spec,
            bits=each.search.bits,
            convention=each.search.convention,
            branch=each.search.branch(shape.width),
            candidates=each.search.candidates,
            images=spec.samples,
            sampling=spec.sampling,
            variants=2,
            rounding=each.search.parts.rounding,
            rotation=each.search.parts.rotation,
            widths=len(widths_around(each.search)) if each.search.chooses_bits else 0,
        )
        cost = estimate(shape, speed, plan)
        full = spec.samples * spec.sampling.steps * 2 * shape.flops / speed
        own = cost.search_s + cost.quantize_s + cost.compare_s
        total += own if index == 0 else own - full  # the reference is sampled once
    return total
