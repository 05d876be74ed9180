"""What weights and activations are rounded to: a number of bits, or a format by its name."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

from .checks import SpecError, brief, check_whole
from .formats import ALIASES, NumberFormat, get_format

WEIGHT_BITS = range(2, 9)
ACTIVATION_BITS = range(2, 17)
FULL_PRECISION_BITS = 16
"""From this many bits on a tensor is left alone."""

BIT_PRESETS = ("W8A8", "W4A8", "W4A6", "W4A4")

Width = int | str
"""Bits of an integer, or a key of ``FORMATS``."""

PART = r"([0-9]{1,2}|:[a-z][a-z0-9-]{0,31})"
GROUP_SIZES = range(4, 4097)
INTEGERS = re.compile(r"w([0-9]{1,2})(?:g([0-9]{1,4}))?a([0-9]{1,2})")
FORMATTED = re.compile(rf"(?=.*:)w{PART}\s+a{PART}")  # at least one of them a name


@dataclass(frozen=True)
class BitWidths:
    """WxAy: weight bits (2 to 8) and activation bits (2 to 16), 16 = left alone; or formats.

    group_size  inputs that share a scale of the weights, WxgNAy; 0: as the convention has it

    >>> from ditas_core.specs import BitWidths
    >>> BitWidths.parse("w:nvfp4 a:fp8-e4m3")
    BitWidths(weight='nvfp4', activation='fp8')
    >>> str(BitWidths("mxfp4", 8)), str(BitWidths(4, 8))
    ('W:mxfp4 A8', 'W4A8')
    >>> BitWidths.parse("w4g64a8")
    BitWidths(weight=4, activation=8, group_size=64)
    """

    weight: Width
    activation: Width
    group_size: int = 0

    def __post_init__(self) -> None:
        for what, width, bits in (
            ("weight", self.weight, WEIGHT_BITS),
            ("activation", self.activation, ACTIVATION_BITS),
        ):
            if isinstance(width, str):
                if get_format(width).weights_only and what != "weight":
                    raise SpecError(
                        f"activation format: expected another than {width}, which is of weights "
                        "only; leave activations at 16 bits or choose fp8"
                    )
            elif width != FULL_PRECISION_BITS or isinstance(width, float):
                check_whole(f"{what} bits", width, bits[0], bits[-1])
        if isinstance(self.group_size, bool) or self.group_size != 0:
            check_whole("group size", self.group_size, GROUP_SIZES[0], GROUP_SIZES[-1])
            if isinstance(self.weight, str) or self.weight >= FULL_PRECISION_BITS:
                raise SpecError(
                    "group size: expected one of weights in 2 to 8 bits, got one beside "
                    f"{width_title(self.weight)}"
                )

    @staticmethod
    def parse(text: str) -> BitWidths:
        """``"W4A8"`` -> ``BitWidths(4, 8)``, ``"W:nvfp4 A8"`` -> ``BitWidths("nvfp4", 8)``."""
        given = str(text).strip().lower()
        whole = INTEGERS.fullmatch(given)
        if whole is not None:
            return BitWidths(int(whole[1]), int(whole[3]), int(whole[2] or 0))
        found = FORMATTED.fullmatch(given)
        if found is None:
            raise SpecError(
                f"bits: expected something like W4A8 or W:nvfp4 A:fp8, got {brief(text)}"
            )
        weight, activation = (read_width(part.removeprefix(":")) for part in found.groups())
        return BitWidths(weight, activation)

    @property
    def weight_format(self) -> NumberFormat | None:
        """None of integers."""
        return get_format(self.weight) if isinstance(self.weight, str) else None

    @property
    def activation_format(self) -> NumberFormat | None:
        """None of integers."""
        return get_format(self.activation) if isinstance(self.activation, str) else None

    @property
    def weight_bits(self) -> int:
        """Of one code, whatever it stands for."""
        return width_bits(self.weight)

    @property
    def activation_bits(self) -> int:
        """Of one code, whatever it stands for."""
        return width_bits(self.activation)

    @property
    def formats(self) -> tuple[str, ...]:
        """The names in it; empty where both are integers."""
        return tuple(each for each in (self.weight, self.activation) if isinstance(each, str))

    def document(self) -> dict[str, Width]:
        """As JSON has it, a group size only where there is one."""
        found = asdict(self)
        return found if self.group_size else {k: found[k] for k in ("weight", "activation")}

    def __str__(self) -> str:
        if not self.formats:
            group = f"g{self.group_size}" if self.group_size else ""
            return f"W{self.weight}{group}A{self.activation}"
        return f"W{width_text(self.weight)} A{width_text(self.activation)}"


def read_width(text: str) -> Width:
    """Digits or a name -> bits or a format's own name."""
    return int(text) if text.isdigit() else ALIASES.get(text, text)


def width_bits(width: Width) -> int:
    """Bits of one code."""
    return get_format(width).bits if isinstance(width, str) else width


def width_title(width: Width) -> str:
    """For people: ``8 bits``, ``FP8 E4M3``."""
    return get_format(width).title if isinstance(width, str) else f"{width} bits"


def width_text(width: Width) -> str:
    return f":{width}" if isinstance(width, str) else str(width)
