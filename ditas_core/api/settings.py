"""What is asked for, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..calibration import Calibration
from ..checkpoints import Checkpoint
from ..search import SearchSpec
from ..specs import (
    BitWidths,
    CalibrationSpec,
    LowRankSpec,
    Recipe,
    SamplingSpec,
    SpecError,
    brief,
    check_choice,
    check_number,
    get_convention,
)


def guidance_of(checkpoint: Checkpoint, given: float | None) -> float:
    """What was given, or the family's own."""
    return checkpoint.family.guidance_scale if given is None else given


@dataclass(frozen=True)
class Trajectory:
    """How to calibrate, before it is known what; ``guidance_scale`` None: the family's own."""

    samples: int
    steps: int
    guidance_scale: float | None
    seed: int

    def __post_init__(self) -> None:
        given = self.guidance_scale
        self.spec(SamplingSpec.guidance_scale if given is None else given, CalibrationSpec.tokens)

    def of(self, checkpoint: Checkpoint) -> CalibrationSpec:
        available = self.samples * 2 * checkpoint.fewest_tokens
        scale = guidance_of(checkpoint, self.guidance_scale)
        return self.spec(scale, min(CalibrationSpec.tokens, available))

    def spec(self, scale: float, tokens: int) -> CalibrationSpec:
        sampling = SamplingSpec(steps=self.steps, guidance_scale=scale)
        return CalibrationSpec(sampling, self.samples, self.seed, tokens)


@dataclass(frozen=True)
class Wanted:
    """What to search; ``fixed`` is every layer's alpha where it is given and not searched."""

    spec: SearchSpec
    fixed: float | None = None


def what_to_search(
    bits: str | BitWidths,
    method: str,
    convention: str,
    alpha: float | Sequence[float] | None,
    rank: int | LowRankSpec | None,
    objective: str,
    budget: float | None,
) -> Wanted:
    """Checked before anything is loaded.

    Raises:
        SpecError: what cannot be searched.
    """
    widths = bits if isinstance(bits, BitWidths) else BitWidths.parse(bits)
    branch = branch_of(rank, convention)
    # checks all but the grid
    spec = SearchSpec(widths, convention, method, branch, objective=objective, budget=budget)
    if rank is not None and spec.parts.branch == "none":
        raise SpecError(f"rank: expected none of the method {method}, which has no branch")
    if alpha is None:
        return Wanted(spec)
    if spec.parts.smoothing == "none":
        raise SpecError(f"alpha: expected none of the method {method}, got {brief(alpha)}")
    if isinstance(alpha, tuple | list):
        if spec.parts.smoothing == "fixed":
            raise SpecError(
                f"alpha: expected one number of the method {method}, got {brief(alpha)}"
            )
        for one in alpha:
            check_number("alpha", one, 0, 1)
        return Wanted(replace(spec, grid=tuple(alpha)))
    check_number("alpha", alpha, 0, 1)
    assert isinstance(alpha, int | float)
    return Wanted(replace(spec, grid=(float(alpha),)), float(alpha))


def branch_of(rank: int | LowRankSpec | None, convention: str) -> LowRankSpec | None:
    """The branch of a rank as the convention has it; None: the search's own choice."""
    if rank is None or isinstance(rank, LowRankSpec):
        return rank
    check_choice("rank", type(rank).__name__, ("int", "LowRankSpec"))
    return get_convention(convention).branch(0, rank)


def check_calibration(calibration: object) -> None:
    """Raise SpecError unless it is one."""
    if not isinstance(calibration, Calibration):
        raise SpecError(
            f"calibration: expected a Calibration, got {type(calibration).__name__}; "
            "Calibration.load(PATH) reads one"
        )


def check_is_recipe(recipe: object) -> None:
    """Raise SpecError unless it is one."""
    if not isinstance(recipe, Recipe):
        raise SpecError(
            f"recipe: expected a Recipe, got {type(recipe).__name__}; Recipe.load(PATH) reads one"
        )
