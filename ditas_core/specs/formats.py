"""Number formats beside integers: what an element can hold, and which elements share a scale.

    x_hat = e * scale            e: the element nearest to x / scale

OCP    Microscaling Formats (MX) Specification v1.0, Open Compute Project 2023: elements FP8, FP6,
       FP4 and INT8, blocks of 32 with a power of two (E8M0) as their scale
OFP8   8-bit Floating Point Specification (OFP8) v1.0, Open Compute Project 2023: E4M3 and E5M2
NVFP4  Pretraining Large Language Models with NVFP4, NVIDIA 2025 (arXiv 2509.25149), appendix
QLoRA  Efficient Finetuning of Quantized LLMs, Dettmers et al. 2023 (arXiv 2305.14314): NF4
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .checks import SpecError, brief


@dataclass(frozen=True)
class Element:
    """A number of 1 + exponent + mantissa bits, or one of a table.

        (-1)^s 2^(E - bias) (1 + M / 2^mantissa)       E > 0
        (-1)^s 2^(1 - bias) M / 2^mantissa             E = 0: subnormal

    Without exponent bits it is a whole number of ``step``, in two's complement.

    largest  the largest magnitude; what is beyond it saturates
    table    all values, ascending, in place of the equations
    """

    name: str
    exponent: int
    mantissa: int
    bias: int
    largest: float
    table: tuple[float, ...] = ()

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa

    @property
    def step(self) -> float:
        """The distance of neighbours around zero, 2^(1 - bias - mantissa)."""
        return 2.0 ** (1 - self.bias - self.mantissa)

    @property
    def largest_exponent(self) -> int:
        """floor(log2(largest)): the specification's emax."""
        return math.frexp(self.largest)[1] - 1


E4M3 = Element("E4M3", 4, 3, 7, 448.0)
E5M2 = Element("E5M2", 5, 2, 15, 57344.0)
E2M3 = Element("E2M3", 2, 3, 1, 7.5)
E3M2 = Element("E3M2", 3, 2, 3, 28.0)
E2M1 = Element("E2M1", 2, 1, 1, 6.0)
INT4 = Element("INT4", 0, 3, -2, 7.0)
INT8 = Element("INT8", 0, 7, -6, 127.0)
INT8_SIXTY_FOURTHS = Element("INT8/64", 0, 7, 0, 127 / 64)
"""OCP's INT8, whose step is 2^-6; its -2 stays unused, which the specification allows."""
NF4 = Element(
    "NF4",
    0,
    3,
    0,
    1.0,
    (
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ),
)
"""Quantiles of the normal distribution, as QLoRA's appendix E lists them."""

SCALE_BITS = {"float32": 32, "float16": 16, "e8m0": 8, "e4m3": 8}


@dataclass(frozen=True)
class NumberFormat:
    """A named format of weights or activations.

    block         inputs that share a scale; 0: whatever the convention lets share one
    scale         what a scale is: float32 or float16; e8m0, a power of two; e4m3, an FP8 number
    tensor_scale  whether one float32 of the whole tensor multiplies all scales
    weights_only  whether activations cannot have it
    source        a key of the module's list, or "here": of this project
    """

    name: str
    title: str
    element: Element
    block: int = 0
    scale: str = "float32"
    tensor_scale: bool = False
    weights_only: bool = False
    source: str = "OCP"

    @property
    def bits(self) -> int:
        """Of one element."""
        return self.element.bits

    @property
    def bits_with_scale(self) -> float:
        """Bits per element, a block's scale counted; scales of rows, tokens and tensors not."""
        return self.bits + (SCALE_BITS[self.scale] / self.block if self.block else 0.0)


FORMATS: dict[str, NumberFormat] = {
    each.name: each
    for each in (
        NumberFormat("fp8", "FP8 E4M3", E4M3, source="OFP8"),
        NumberFormat("fp8-e5m2", "FP8 E5M2", E5M2, source="OFP8"),
        NumberFormat("fp6", "FP6 E2M3", E2M3),
        NumberFormat("fp6-e3m2", "FP6 E3M2", E3M2),
        NumberFormat("fp4", "FP4 E2M1", E2M1),
        NumberFormat("int8-b32", "INT8 in blocks of 32", INT8, 32, "float16", source="here"),
        NumberFormat("int4-b32", "INT4 in blocks of 32", INT4, 32, "float16", source="here"),
        NumberFormat("mxfp8", "MXFP8 E4M3", E4M3, 32, "e8m0"),
        NumberFormat("mxfp8-e5m2", "MXFP8 E5M2", E5M2, 32, "e8m0"),
        NumberFormat("mxfp6", "MXFP6 E2M3", E2M3, 32, "e8m0"),
        NumberFormat("mxfp6-e3m2", "MXFP6 E3M2", E3M2, 32, "e8m0"),
        NumberFormat("mxfp4", "MXFP4 E2M1", E2M1, 32, "e8m0"),
        NumberFormat("mxint8", "MXINT8", INT8_SIXTY_FOURTHS, 32, "e8m0"),
        NumberFormat("nvfp4", "NVFP4", E2M1, 16, "e4m3", tensor_scale=True, source="NVFP4"),
        NumberFormat("nf4", "NF4", NF4, 64, weights_only=True, source="QLoRA"),
    )
}

ALIASES = {
    "fp8-e4m3": "fp8",
    "fp6-e2m3": "fp6",
    "fp4-e2m1": "fp4",
    "mxfp8-e4m3": "mxfp8",
    "mxfp6-e2m3": "mxfp6",
    "mxfp4-e2m1": "mxfp4",
}
"""A format with its element spelled out, and the name it is printed with."""


def get_format(name: str) -> NumberFormat:
    """The format of that name.

    Raises:
        SpecError: there is none.
    """
    if not isinstance(name, str) or name not in FORMATS:
        raise SpecError(f"format: expected one of {', '.join(FORMATS)}, got {brief(name)}")
    return FORMATS[name]
