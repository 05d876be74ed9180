"""What the formats of torchao and sdnq hold of a recipe, and what has to be left out of it.

    format   weights, activations           stored as                    branch  divisor
    torchao  W8 per channel, A8             Int8Tensor                   no      yes
    torchao  up to 8 bits, A8 or A16        IntxUnpackedToInt8Tensor     no      no
    sdnq     up to 8 bits per channel, A8   uintN, products of bytes     yes     no
    sdnq     up to 8 bits, A16              uintN                        yes     no

*Divisor*: what a layer divides its input by itself, where no layer before it absorbs the division
(fc2 of a DiT). Weights are per channel or in groups, asymmetric; those of an Int8Tensor symmetric,
as its product knows no zero point of the weight. Activations are asymmetric per token everywhere.

A recipe's modulation is held by both.

Sources: torchao 0.18 (``quantize_/workflows``), sdnq 0.2.8 (``layers/linear``, ``dequantizer``),
diffusers 0.42.1 (``quantizers``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from ..models import Absorber, SmoothingGroup, Transformer, family_of, get_linear
from ..specs import (
    FULL_PRECISION_BITS,
    MODULATIONS,
    BitWidths,
    Granularity,
    LayerRecipe,
    LowRankSpec,
    Recipe,
    SpecError,
    check_choice,
    get_convention,
)

QUANTIZED = ("torchao", "sdnq")
LEAVABLE = {
    "branch": "low-rank branches",
    "divisor": "divisors of inputs that no layer before absorbs",
}
WHOLE = BitWidths(8, 8)


@dataclass(frozen=True)
class Stored:
    """What a format is given of a recipe.

    recipe    as it is stored; alphas still those of the recipe that was given
    left_out  of what was left out, the groups that had it
    again     groups that are stored otherwise than they were searched
    """

    recipe: Recipe
    left_out: dict[str, tuple[str, ...]]
    again: tuple[str, ...]


def fit_recipe(
    recipe: Recipe,
    groups: tuple[SmoothingGroup, ...],
    transformer: Transformer,
    form: str,
    leave_out: Collection[str] = (),
) -> Stored:
    """The recipe as ``form`` holds it.

    leave_out  keys of ``LEAVABLE``: what may be missing from the export

    Raises:
        SpecError: a recipe that the format cannot hold, with the reason; or cannot hold without
            leaving out what ``leave_out`` does not name.
    """
    check_choice("to", form, QUANTIZED)
    for word in leave_out:
        check_choice("leave_out", word, LEAVABLE)
    on_the_fly = {group.name for group in groups if group.absorber is Absorber.ON_THE_FLY}
    recipe = replace(
        recipe, layers={n: settled(layer, n in on_the_fly) for n, layer in recipe.layers.items()}
    )
    check_bits(recipe, form)
    check_rotations(recipe, form)
    check_convention(recipe, groups, transformer, form)
    bytes_times_bytes = form == "torchao" and is_w8a8(recipe)
    held = {"branch": form == "sdnq", "divisor": bytes_times_bytes}
    had = {
        "branch": tuple(n for n, layer in recipe.layers.items() if layer.low_rank.rank),
        "divisor": tuple(
            n for n, layer in recipe.layers.items() if n in on_the_fly and layer.alpha is not None
        ),
    }
    for word, names in had.items():
        if names and not held[word] and word not in leave_out:
            kinds = dict.fromkeys(group.kind for group in groups if group.name in names)
            raise SpecError(
                f"{form}: expected a recipe without {LEAVABLE[word]}, which the format has no "
                f"place for, got some in {len(names)} groups ({', '.join(kinds)}); leave out "
                f"{word!r}, and the rest is searched for what is then stored"
            )
    left = {word: names for word, names in had.items() if names and word in leave_out}
    layers = dict(recipe.layers)
    for name in left.get("branch", ()):
        layers[name] = replace(layers[name], low_rank=LowRankSpec())
    for name in left.get("divisor", ()):
        layers[name] = replace(layers[name], alpha=None)
    stored = replace(recipe, layers=layers)
    again = [name for name in left.get("branch", ()) if name not in left.get("divisor", ())]
    if bytes_times_bytes and recipe.convention != "integer-symmetric":
        stored = replace(stored, convention="integer-symmetric")
        again = [n for n, layer in layers.items() if not is_left_alone(layer.bits)]
    smooths = any(layer.alpha is not None for layer in layers.values())
    fixed = set() if held["divisor"] else on_the_fly
    return Stored(stored, left, tuple(n for n in again if smooths and n not in fixed))


def settled(layer: LayerRecipe, on_the_fly: bool) -> LayerRecipe:
    """Without what does nothing in a layer of 16 bits."""
    if not is_left_alone(layer.bits):
        return layer
    alpha = None if on_the_fly else layer.alpha
    return LayerRecipe(layer.bits, alpha, aggregation=layer.aggregation)


def is_left_alone(bits: BitWidths) -> bool:
    return bits.weight_bits >= FULL_PRECISION_BITS and bits.activation_bits >= FULL_PRECISION_BITS


def is_w8a8(recipe: Recipe) -> bool:
    """Whether all that is quantized is a product of bytes with one scale a row and token."""
    bits = {layer.bits for layer in recipe.layers.values() if not is_left_alone(layer.bits)}
    spec = get_convention(recipe.convention).weight
    return bits == {WHOLE} and spec.granularity is Granularity.PER_CHANNEL


def check_bits(recipe: Recipe, form: str) -> None:
    """Raise SpecError for bits that the format cannot hold, or where nothing is quantized."""
    bits = [layer.bits for layer in recipe.layers.values() if not is_left_alone(layer.bits)]
    if not bits:
        raise SpecError(f"{form}: expected a recipe that quantizes, got 16 bits everywhere")
    named = [b for b in bits if b.formats]
    if named:
        raise SpecError(
            f"{form}: expected weights and activations in whole numbers of bits, as the export "
            f"stores codes with a zero point, got {named[0]}; search again with W4A8 or the like"
        )
    grouped = [b for b in bits if b.group_size]
    if grouped:
        raise SpecError(
            f"{form}: expected one group size for all layers, a convention's, got {grouped[0]}; "
            "search with integer-gN"
        )
    wrong = [b for b in bits if b.activation not in (8, 16) or b.weight_bits >= FULL_PRECISION_BITS]
    if wrong:
        raise SpecError(
            f"{form}: expected weights of up to 8 bits and activations of 8 or 16, as the library "
            f"rounds to no others, got {wrong[0]}"
        )


def check_rotations(recipe: Recipe, form: str) -> None:
    """Raise SpecError for a rotated input."""
    rotated = [layer.rotation.name for layer in recipe.layers.values() if layer.rotation.acts]
    if rotated:
        raise SpecError(
            f"{form}: expected a recipe without rotations of inputs, which the format has no place "
            f"for, got {rotated[0]} in {len(rotated)} groups; search with another method"
        )


def check_convention(
    recipe: Recipe, groups: tuple[SmoothingGroup, ...], transformer: Transformer, form: str
) -> None:
    """Raise SpecError for scales that the format cannot hold."""
    convention = get_convention(recipe.convention)
    weight, activation = convention.weight, convention.activation
    search = "search with integer or integer-gN"
    if weight.granularity not in (Granularity.PER_CHANNEL, Granularity.PER_GROUP):
        raise SpecError(
            f"{form}: expected scales per output channel or group of inputs, got the convention "
            f"{convention.name}: {convention.only_simulated}; {search}"
        )
    if weight.symmetric and (form == "sdnq" or not is_w8a8(recipe)):
        raise SpecError(
            f"{form}: expected {convention.name} for torchao at W8A8 only, got another; {search}"
        )
    rounds = any(layer.bits.activation == 8 for layer in recipe.layers.values())
    if rounds and activation.granularity is not Granularity.PER_TOKEN:
        raise SpecError(
            f"{form}: expected activations per token, as the library rounds them, got the "
            f"convention {convention.name}; {search}"
        )
    if weight.granularity is Granularity.PER_GROUP:
        if form == "sdnq" and rounds:
            raise SpecError(
                "sdnq: expected weights per channel, or 16 bits for activations: its products of "
                f"bytes know no groups, got {convention.name} with 8; search with integer, or "
                "with groups and A16"
            )
        for path, inputs in widths(groups, transformer):
            check_groups(form, path, inputs, weight.group_size)
    modulation = MODULATIONS[recipe.modulation]
    size = 0 if modulation is None else get_convention(modulation[1]).weight.group_size
    for path in family_of(transformer).modulations(transformer):
        check_groups(form, path, get_linear(transformer, path).in_features, size)


def check_groups(form: str, path: str, inputs: int, size: int) -> None:
    """Raise SpecError unless groups of so many inputs (0: no groups) are all of one size."""
    if 0 < size < inputs and inputs % size:
        raise SpecError(
            f"{form}: expected groups that divide the inputs, got {inputs} of {path} in groups of "
            f"{size}"
        )


def widths(
    groups: tuple[SmoothingGroup, ...], transformer: Transformer
) -> Iterator[tuple[str, int]]:
    """Every layer with the number of its inputs."""
    for group in groups:
        for path in group.layers:
            yield path, get_linear(transformer, path).in_features
