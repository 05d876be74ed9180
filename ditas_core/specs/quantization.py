"""What a quantizer does: bits, symmetry, granularity, levels; the branch; the conventions."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from .checks import (
    SpecError,
    brief,
    check_choice,
    check_fields,
    check_flag,
    check_whole,
    choice,
    whole,
)

WEIGHT_BITS = range(2, 9)
ACTIVATION_BITS = range(2, 17)
FULL_PRECISION_BITS = 16
"""From this many bits on a tensor is left alone."""


class Granularity(StrEnum):
    """Which elements share one scale.

    ======================  ==================  ===============================
    granularity             input shape         scale shape
    ======================  ==================  ===============================
    per_tensor              (...)               (1, ..., 1)
    per_token               (..., C)            (..., 1)
    per_channel             (C_out, C_in)       (C_out, 1)
    per_input_channel       (C_out, C_in)       (1, C_in)
    per_group               (C_out, C_in)       (C_out, ceil(C_in/G), 1)
    per_strided_group       (C_out, C_in)       (1, C_out*C_in/G), see quantizer
    ======================  ==================  ===============================
    """

    PER_TENSOR = "per_tensor"
    PER_TOKEN = "per_token"
    PER_CHANNEL = "per_channel"
    PER_INPUT_CHANNEL = "per_input_channel"
    PER_GROUP = "per_group"
    PER_STRIDED_GROUP = "per_strided_group"


SUMMED = (Granularity.PER_CHANNEL, Granularity.PER_GROUP)
SHARED = (Granularity.PER_TOKEN, Granularity.PER_TENSOR)
"""What weights and activations share a scale over in an integer product."""
GROUPED = (Granularity.PER_GROUP, Granularity.PER_STRIDED_GROUP)
WEIGHTINGS = ("none", "energy", "covariance")
KEPT = ("best", "last", "first")
WITHIN_INPUT_CHANNEL = (Granularity.PER_INPUT_CHANNEL, Granularity.PER_STRIDED_GROUP)


@dataclass(frozen=True)
class QuantizerSpec:
    """An affine quantizer ``q = clamp(round(x / scale) + zero_point, qmin, qmax)``.

    ``steps`` is the number of intervals that the range is cut into:
    ``2^b - 1`` (every level used) or ``2^b`` (the released code: the top level
    clips). ``group_size`` is the number of elements that share one scale and is
    used by the two group granularities only. ``include_zero`` widens an asymmetric
    range to hold 0, so that zeros stay exact and the zero point is a code; the
    released code takes the bare minimum and maximum.

    Two switches exist to repeat the released code to the bit: ``ties_to_even``
    rounds ties as ``torch.round`` does (otherwise upwards, which keeps both ends of
    a range on the grid), and ``offset_form`` evaluates
    ``q = round((x - offset) / scale)``, ``x_hat = q * scale + offset`` with
    ``offset = -zero_point * scale`` in that order.
    """

    bits: int
    symmetric: bool
    granularity: Granularity
    group_size: int = 0
    power_of_two_steps: bool = False
    include_zero: bool = True
    ties_to_even: bool = False
    offset_form: bool = False

    def __post_init__(self) -> None:
        check_whole("bits", self.bits, 2, FULL_PRECISION_BITS)
        check_flag("symmetric", self.symmetric)
        check_flag("power_of_two_steps", self.power_of_two_steps)
        check_flag("include_zero", self.include_zero)
        check_flag("ties_to_even", self.ties_to_even)
        check_flag("offset_form", self.offset_form)
        if not isinstance(self.granularity, Granularity):
            raise SpecError(f"granularity: expected a Granularity, got {brief(self.granularity)}")
        check_whole("group_size", self.group_size, int(self.granularity in GROUPED), 2**20)
        if self.symmetric and self.power_of_two_steps:
            raise SpecError("power_of_two_steps: expected an asymmetric quantizer")
        if self.offset_form and (self.symmetric or self.include_zero):
            raise SpecError("offset_form: expected an asymmetric quantizer of the bare range")

    @property
    def qmin(self) -> int:
        return -(2 ** (self.bits - 1)) + 1 if self.symmetric else 0

    @property
    def qmax(self) -> int:
        return 2 ** (self.bits - 1) - 1 if self.symmetric else 2**self.bits - 1

    @property
    def steps(self) -> int:
        """Intervals between the lowest and the highest representable value."""
        return 2**self.bits if self.power_of_two_steps else self.qmax - self.qmin

    def with_bits(self, bits: int) -> QuantizerSpec:
        return replace(self, bits=bits)


@dataclass(frozen=True)
class BitWidths:
    """WxAy: weight bits (2 to 8) and activation bits (2 to 16; 16 = left alone)."""

    weight: int
    activation: int

    def __post_init__(self) -> None:
        if self.weight != FULL_PRECISION_BITS or isinstance(self.weight, float):
            check_whole("weight bits", self.weight, WEIGHT_BITS[0], WEIGHT_BITS[-1])
        check_whole("activation bits", self.activation, ACTIVATION_BITS[0], ACTIVATION_BITS[-1])

    @staticmethod
    def parse(text: str) -> BitWidths:
        """``"W4A8"`` -> ``BitWidths(4, 8)``."""
        found = re.fullmatch(r"[Ww]([0-9]{1,2})[Aa]([0-9]{1,2})", str(text).strip())
        if found is None:
            raise SpecError(f"bits: expected something like W4A8, got {brief(text)}")
        return BitWidths(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"W{self.weight}A{self.activation}"


def why_not_integer(weight: QuantizerSpec, activation: QuantizerSpec) -> str:
    """One line why products of these cannot run as integers; "" where they can.

    Weight scales must not vary along a sum, but for whole groups of inputs, nor activation scales
    within a token, and zero points must be codes.
    """
    for what, spec, fits in (("weights", weight, SUMMED), ("activations", activation, SHARED)):
        if spec.granularity not in fits:
            return (
                f"its {what} have a scale {spec.granularity.replace('_', ' ')}, so that a sum's "
                "products cannot be added as integers"
            )
        if spec.symmetric or not spec.include_zero:
            return f"its {what} have zero points that are no codes"
    return ""


BACKENDS = ("simulated", "integer", "onnx")
"""How products run: in floating point; in bytes; in bytes, and the whole pass on ONNX Runtime."""

BIT_PRESETS = ("W8A8", "W4A8", "W4A6", "W4A4")


@dataclass(frozen=True)
class LowRankSpec:
    """The training-free low-rank branch ``W ~ Q + L R``.

    rank        columns of L; 0 = no branch
    iterations  alternations of quantize and SVD; the best iterate is kept
    weighting   the norm in which the residual is approximated: "none" (Frobenius),
                "energy" (each input channel weighted by its root mean square) or
                "covariance" (the full second moment of the input)
    keep        which iterate: the "best", never worse than plain rounding, or the
                "last" of an exact SVD alternation from L R = 0 (the released code), or the
                "first": the best rank of W itself, and no alternation (SVDQuant)
    """

    rank: int = whole(0, 0, 256)
    iterations: int = whole(4, 1, 50)
    weighting: str = choice("covariance", WEIGHTINGS)
    keep: str = choice("best", KEPT)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.keep == "last" and self.weighting != "none":
            raise SpecError(
                'weighting: expected "none" where the last iterate is kept, '
                f"got {brief(self.weighting)}"
            )


RELEASED_BRANCH = LowRankSpec(rank=32, iterations=10, weighting="none", keep="last")
"""What the authors' code does, whatever the layer's width."""


def default_rank(width: int) -> int:
    """The rank that costs as many bits per weight as the paper's 32 at DiT-XL/2's width 1152.

    At width 256 that is 8: rank 32 would add 3 bits to each 4-bit weight.
    """
    return max(4, 4 * round(32 * width / 1152 / 4))


@dataclass(frozen=True)
class Convention:
    """A named pair of quantizers; ``weight`` and ``activation`` hold placeholder bits.

    branch_input   what the low-rank branch multiplies: the full-precision input
                   ("full") or the quantized one ("quantized")
    fused_qkv      to_q, to_k and to_v are quantized as one weight (3 C_out, C_in)
    factor_from    the weight whose maxima enter the smoothing factor: the layer's
                   own ("weight") or the quantized one without its branch ("quantized")
    own_branch     the low-rank branch, whatever the layer's width; None: ``default_rank``
    """

    name: str
    summary: str
    weight: QuantizerSpec
    activation: QuantizerSpec
    branch_input: str
    fused_qkv: bool = False
    factor_from: str = "weight"
    own_branch: LowRankSpec | None = None

    @property
    def only_simulated(self) -> str:
        """One line why its products cannot run as integers; "" where they can."""
        return why_not_integer(self.weight, self.activation)

    @property
    def smoothing_commutes(self) -> bool:
        """Whether Q(W s) = Q(W) s: each scale lies within one input channel.

        Then s never changes the weight's error, and the weight is quantized once.
        """
        return self.weight.granularity in WITHIN_INPUT_CHANNEL

    def branch(self, width: int, rank: int | None = None) -> LowRankSpec:
        """The low-rank branch of a model of this width, with ``rank`` where one is asked for."""
        if self.own_branch is not None:
            return self.own_branch if rank is None else replace(self.own_branch, rank=rank)
        return LowRankSpec(default_rank(width) if rank is None else rank)

    def check_backend(self, backend: str) -> None:
        """Raise SpecError where this is no backend, or one that the convention cannot run on."""
        check_choice("backend", backend, BACKENDS)
        if backend != "simulated" and self.only_simulated:
            raise SpecError(
                f"backend: expected simulated with the convention {self.name}, got {backend}: "
                f"{self.only_simulated}; search again with integer, integer-gN or integer-tensor"
            )

    def quantizers(self, bits: BitWidths) -> tuple[QuantizerSpec, QuantizerSpec]:
        """The weight and the activation quantizer at these bits."""
        return self.weight.with_bits(bits.weight), self.activation.with_bits(bits.activation)


CONVENTIONS: dict[str, Convention] = {
    "integer": Convention(
        name="integer",
        summary="weights per output channel, activations per token: runs as an integer product",
        weight=QuantizerSpec(8, False, Granularity.PER_CHANNEL),
        activation=QuantizerSpec(8, False, Granularity.PER_TOKEN),
        branch_input="full",
    ),
    "integer-tensor": Convention(
        name="integer-tensor",
        summary="weights per output channel, activations per tensor and call: the fastest product",
        weight=QuantizerSpec(8, False, Granularity.PER_CHANNEL),
        activation=QuantizerSpec(8, False, Granularity.PER_TENSOR),
        branch_input="full",
    ),
    "paper": Convention(
        name="paper",
        summary="weights per input channel, activations per tensor and step, as described",
        weight=QuantizerSpec(8, False, Granularity.PER_INPUT_CHANNEL),
        activation=QuantizerSpec(8, False, Granularity.PER_TENSOR),
        branch_input="quantized",
    ),
    "released": Convention(
        name="released",
        summary="what the authors' code computes: strided groups of 32 weights, 2^b steps",
        weight=QuantizerSpec(
            8,
            False,
            Granularity.PER_STRIDED_GROUP,
            group_size=32,
            power_of_two_steps=True,
            include_zero=False,
            ties_to_even=True,
            offset_form=True,
        ),
        activation=QuantizerSpec(
            8,
            False,
            Granularity.PER_TENSOR,
            power_of_two_steps=True,
            include_zero=False,
            ties_to_even=True,
        ),
        branch_input="quantized",
        fused_qkv=True,
        factor_from="quantized",
        own_branch=RELEASED_BRANCH,
    ),
}


SYMMETRIC = replace(
    CONVENTIONS["integer"],
    name="integer-symmetric",
    summary="weights per output channel, symmetric, activations per token: torchao's int8 product",
    weight=QuantizerSpec(8, True, Granularity.PER_CHANNEL),
)
"""What ``export --to torchao`` stores of W8A8; no preset, as ``integer`` is finer."""


def get_convention(name: str) -> Convention:
    """The convention of that name; ``integer-gN`` has weights in groups of N inputs, and
    ``integer-symmetric`` is torchao's.

    Raises:
        SpecError: neither a preset nor ``integer-g`` with 4 to 4096.
    """
    if name == SYMMETRIC.name:
        return SYMMETRIC
    found = re.fullmatch(r"integer-g([0-9]{1,4})", name) if isinstance(name, str) else None
    if found is None:
        check_choice("convention", name, CONVENTIONS)
        return CONVENTIONS[name]
    size = int(found[1])
    check_whole("group size of the convention", size, 4, 4096)
    base = CONVENTIONS["integer"]
    return replace(
        base,
        name=name,
        summary=f"weights per group of {size} inputs, activations per token",
        weight=replace(base.weight, granularity=Granularity.PER_GROUP, group_size=size),
    )
