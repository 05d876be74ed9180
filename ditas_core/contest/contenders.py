"""Who takes part: every method at the bits, its group size and rank as large as the budget lets it.

A method without a low-rank branch spends what the budget leaves on scales: weights in the
smallest groups that fit. One with a branch spends it on rank, beside a scale per row and beside
groups. Each method without a branch also takes part with a scale per row alone, where that is
less: what a method gives at fewer bits is half of the front. Number formats have blocks of their
own and take part as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ..checkpoints import Checkpoint
from ..search import SearchSpec, counted_bits, layer_bits_range
from ..specs import (
    FORMATS,
    METHODS,
    BitWidths,
    LowRankSpec,
    SamplingSpec,
    SpecError,
    check_choice,
    check_number,
    check_whole,
    get_convention,
)

WHOLE_ROWS = 0
GROUP_SIZES = (256, 128, 96, 80, 64, 56, 48, 40, 32, 24, 16)
"""Inputs that share a scale, coarse to fine; a layer's last group may be smaller. Sizes between
powers of two leave less of a budget unused."""
LEAST_RANK, MOST_RANK = 4, 256
FORMAT_METHODS = ("plain", "gptq")
"""What is done to weights of number formats."""
SLACK = 1e-9


@dataclass(frozen=True)
class ContestSpec:
    """What is held against what.

    bits       of weights and activations, whole numbers; the activations are everybody's
    budget     the most effective bits per weight that a contender may take; None: no bound, and
               every method as it is by default
    methods    names of ``METHODS``
    formats    names of ``FORMATS`` for the weights, beside the methods
    samples    sample i starts from the noise of seed + i, for everybody
    batch      samples in one forward pass
    """

    bits: BitWidths = BitWidths(4, 8)
    budget: float | None = 5.0
    methods: tuple[str, ...] = field(default_factory=lambda: tuple(METHODS))
    formats: tuple[str, ...] = ()
    samples: int = 64
    sampling: SamplingSpec = field(default_factory=lambda: SamplingSpec(steps=20))
    seed: int = 0
    batch: int = 16

    def __post_init__(self) -> None:
        if self.bits.weight_format is not None:
            raise SpecError(
                f"bits: expected a whole number of weight bits, got {self.bits}; name formats "
                "with --formats"
            )
        if self.budget is not None:
            check_number("budget", self.budget, 2, 16)
        for name in self.methods:
            check_choice("methods", name, METHODS)
        for name in self.formats:
            check_choice("formats", name, FORMATS)
        if not self.methods and not self.formats:
            raise SpecError("methods: expected at least one, got none")
        check_whole("samples", self.samples, 1, 4096)
        check_whole("batch", self.batch, 1, 256)


@dataclass(frozen=True)
class Contender:
    """One of them: what is searched and converted.

    counted  effective bits per weight, of which conversion may find a few to be needless
    """

    label: str
    search: SearchSpec
    counted: float

    @property
    def group_size(self) -> int:
        """Inputs that share a scale; 0: as the convention or the format has it."""
        return get_convention(self.search.convention).weight.group_size


@dataclass(frozen=True)
class LeftOut:
    """One who does not take part, and why."""

    label: str
    reason: str


def formats_of(bits: BitWidths) -> tuple[str, ...]:
    """The number formats of weights whose elements have as many bits."""
    return tuple(name for name, each in FORMATS.items() if each.bits == bits.weight_bits)


def convention_name(size: int) -> str:
    return f"integer-g{size}" if size else "integer"


def contenders(
    checkpoint: Checkpoint, spec: ContestSpec
) -> tuple[tuple[Contender, ...], tuple[LeftOut, ...]]:
    """Those who take part, in the order of methods and formats, and those whom the budget bars.

    Raises:
        SpecError: the budget bars all of them.
    """
    found: list[Contender] = []
    barred: list[LeftOut] = []
    for name in spec.methods:
        before = len(found)
        found += of_method(checkpoint, spec, name)
        if len(found) == before:
            least = fewest(checkpoint, SearchSpec(spec.bits, "integer", name))
            barred.append(LeftOut(name, f"takes {least:.2f} bits at least"))
    for name in spec.formats:
        for method in FORMAT_METHODS:
            if method in METHODS:
                one = of_format(checkpoint, spec, name, method)
                if fits(one.counted, spec.budget):
                    found.append(one)
                else:
                    barred.append(LeftOut(one.label, f"takes {one.counted:.2f} bits"))
    if not found:
        raise SpecError(
            f"budget: expected at least what one of the contenders takes, got {spec.budget:g}: "
            + "; ".join(f"{each.label} {each.reason}" for each in barred)
        )
    return tuple(found), tuple(barred)


def fits(bits: float, budget: float | None) -> bool:
    return budget is None or bits <= budget + SLACK


def fewest(checkpoint: Checkpoint, spec: SearchSpec) -> float:
    """What a method takes at least: the smallest branch that it can have, a scale per row."""
    if spec.parts.allocates:
        return layer_bits_range(checkpoint, spec)[0]
    if spec.parts.branch != "none":
        spec = replace(spec, low_rank=LowRankSpec(LEAST_RANK))
    return counted_bits(checkpoint, spec)


def of_method(checkpoint: Checkpoint, spec: ContestSpec, method: str) -> Iterator[Contender]:
    """A method's contenders, coarse to fine. Bits of layers fill the budget as they are."""
    whole = SearchSpec(spec.bits, "integer", method)
    if whole.parts.allocates:
        whole = replace(whole, budget=spec.budget)
        fewest_bits, counted = layer_bits_range(checkpoint, whole)
        if fits(fewest_bits, spec.budget):
            yield Contender(method, whole, counted)
        return
    if spec.budget is None:
        yield Contender(method, whole, counted_bits(checkpoint, whole))
        return
    sizes = [WHOLE_ROWS, *GROUP_SIZES]
    specs = [replace(whole, convention=convention_name(size)) for size in sizes]
    least = [fewest(checkpoint, each) for each in specs]
    fitting = [index for index, bits in enumerate(least) if fits(bits, spec.budget)]
    if not fitting:
        return
    for index in dict.fromkeys((fitting[0], fitting[-1])):
        made = specs[index]
        words = [method] + ([f"g{sizes[index]}"] if sizes[index] else [])
        counted = least[index]
        if made.parts.branch != "none":
            made, counted = widest(checkpoint, made, spec.budget)
            words.append(f"r{made.branch(checkpoint.width).rank}")
        yield Contender(" ".join(words), made, counted)


def widest(checkpoint: Checkpoint, spec: SearchSpec, budget: float) -> tuple[SearchSpec, float]:
    """With the largest rank that fits, of which the smallest is known to fit; and its bits."""

    def at(rank: int) -> tuple[SearchSpec, float]:
        made = replace(spec, low_rank=get_convention(spec.convention).branch(0, rank))
        return made, counted_bits(checkpoint, made)

    low, high = LEAST_RANK, min(MOST_RANK, checkpoint.width) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(at(middle)[1], budget) else (low, middle)
    return at(low)


def of_format(checkpoint: Checkpoint, spec: ContestSpec, name: str, method: str) -> Contender:
    """Weights of a number format, activations as everybody's."""
    found = SearchSpec(BitWidths(name, spec.bits.activation), "integer", method)
    return Contender(f"{method} {name}", found, counted_bits(checkpoint, found))
