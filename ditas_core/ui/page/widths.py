"""What weights and activations are rounded to, as the page offers it and reads it back."""

from __future__ import annotations

from ...specs import (
    ACTIVATION_BITS,
    FORMATS,
    FULL_PRECISION_BITS,
    WEIGHT_BITS,
    BitWidths,
    Width,
    brief,
    get_convention,
)
from ..serving.errors import refuse

Choices = list[tuple[str, Width]]


def offered(bits: range, activations: bool) -> Choices:
    """Whole numbers of bits, then formats, as a dropdown takes them."""
    formats = [f for f in FORMATS.values() if not (activations and f.weights_only)]
    return [*((str(b), b) for b in bits), *((f.title, f.name) for f in formats)]


WEIGHTS: Choices = offered(WEIGHT_BITS, activations=False)
ACTIVATIONS: Choices = offered(ACTIVATION_BITS, activations=True)
LAYER_WEIGHTS: Choices = [*WEIGHTS, (str(FULL_PRECISION_BITS), FULL_PRECISION_BITS)]
"""Of one layer in a recipe, which may also be left alone."""


def read_width(value: object, name: str, choices: Choices) -> Width:
    """One of the choices' values; raises a refusal."""
    known = [each for _, each in choices]
    kind = isinstance(value, int | str) and not isinstance(value, bool)
    if not kind or value not in known:
        whole = [each for each in known if isinstance(each, int)]
        raise refuse(
            f"{name}: expected {min(whole)} to {max(whole)} or a number format of the list, "
            f"got {brief(value)}"
        )
    assert isinstance(value, int | str)
    return value


def read_widths(
    weight: object, activation: object, convention: str, weights: Choices = WEIGHTS
) -> BitWidths:
    """Both, checked with the convention; raises a refusal or SpecError."""
    bits = BitWidths(
        read_width(weight, "weight bits", weights),
        read_width(activation, "activation bits", ACTIVATIONS),
    )
    get_convention(convention).check_bits(bits)
    return bits
