"""What a quantizer does: bits, symmetry, granularity, levels; the branch; the conventions."""

from __future__ import annotations

import re
from collections.abc import Iterable
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
from .formats import NumberFormat, get_format
from .methods import Part
from .widths import FULL_PRECISION_BITS, BitWidths, Width


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

    With a ``format`` codes are its elements' bit patterns, ``x_hat = element * scale`` and no zero
    point; ``bits`` are an element's, and a block that the format prescribes is the group.
    """

    bits: int
    symmetric: bool
    granularity: Granularity
    group_size: int = 0
    power_of_two_steps: bool = False
    include_zero: bool = True
    ties_to_even: bool = False
    offset_form: bool = False
    format: NumberFormat | None = None

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
        if self.format is not None and (not self.symmetric or self.bits != self.format.bits):
            raise SpecError("format: expected a symmetric quantizer of the format's bits")

    @property
    def signed(self) -> bool:
        """Whether codes lie around 0; bit patterns, like codes with a zero point, begin there."""
        return self.symmetric and self.format is None

    @property
    def qmin(self) -> int:
        return -(2 ** (self.bits - 1)) + 1 if self.signed else 0

    @property
    def qmax(self) -> int:
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1

    @property
    def steps(self) -> int:
        """Intervals between the lowest and the highest representable value."""
        return 2**self.bits if self.power_of_two_steps else self.qmax - self.qmin

    @property
    def tensor_scale(self) -> bool:
        """Whether one number of the whole tensor enters every scale."""
        shared = self.format is not None and self.format.tensor_scale
        return shared or self.granularity is Granularity.PER_TENSOR

    def with_bits(self, width: Width) -> QuantizerSpec:
        """The same quantizer at other bits, or of a format."""
        if not isinstance(width, str):
            return replace(self, bits=width)
        found = get_format(width)
        granularity, size = self.granularity, self.group_size
        if found.block:
            granularity, size = Granularity.PER_GROUP, found.block
        return QuantizerSpec(found.bits, True, granularity, size, format=found)


def why_not_integer(weight: QuantizerSpec, activation: QuantizerSpec) -> str:
    """One line why products of these cannot run as integers; "" where they can.

    Weight scales must not vary along a sum, but for whole groups of inputs, nor activation scales
    within a token, and zero points must be codes.
    """
    for what, spec, fits in (("weights", weight, SUMMED), ("activations", activation, SHARED)):
        if spec.format is not None:
            return f"its {what} are {spec.format.title}, of which no runtime here has a product"
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

    def check_rotation(self, rotation: Part) -> None:
        """Raise SpecError for one where scales lie within input channels, which it mixes."""
        if rotation.acts and self.smoothing_commutes:
            raise SpecError(
                f"rotation: expected none with the convention {self.name}, whose scales of weights "
                f"belong to single inputs, got {rotation.name}; choose integer, integer-gN or "
                "integer-tensor"
            )

    def check_bits(self, bits: BitWidths) -> None:
        """Raise SpecError for formats and group sizes, where the convention repeats a description
        of integers that share their scales otherwise."""
        if (bits.formats or bits.group_size) and self.smoothing_commutes:
            raise SpecError(
                f"bits: expected whole numbers with the convention {self.name}, which repeats what "
                f"was described of integers, got {bits}; choose integer, integer-gN or "
                "integer-tensor"
            )

    def why_simulated(self, bits: Iterable[BitWidths]) -> str:
        """One line why its products at all of these bits cannot run as integers; "" where they
        can."""
        found = (why_not_integer(*self.quantizers(each)) for each in bits if each.formats)
        return self.only_simulated or next(found, "")

    def check_backend(self, backend: str, bits: Iterable[BitWidths] = ()) -> None:
        """Raise SpecError where this is no backend, or one that the convention cannot run on at
        some of these bits."""
        check_choice("backend", backend, BACKENDS)
        formats = [each for each in bits if each.formats]
        reason = self.why_simulated(formats)
        if backend != "simulated" and reason:
            asked, remedy = f"the convention {self.name}", "integer, integer-gN or integer-tensor"
            if not self.only_simulated:
                asked, remedy = str(formats[0]), "whole numbers of bits"
            raise SpecError(
                f"backend: expected simulated with {asked}, got {backend}: {reason}; search again "
                f"with {remedy}"
            )

    def quantizers(self, bits: BitWidths) -> tuple[QuantizerSpec, QuantizerSpec]:
        """The weight and the activation quantizer at these bits."""
        weight = self.weight.with_bits(bits.weight)
        if bits.group_size:
            size = bits.group_size
            weight = replace(weight, granularity=Granularity.PER_GROUP, group_size=size)
        return weight, self.activation.with_bits(bits.activation)


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
