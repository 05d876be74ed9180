"""What the files of a quantized folder must hold, known from its configuration and recipe alone.

Of each layer of a smoothing group, C_out x C_in with a branch of rank r:

    codes               uint8 (C_out, C_in), two to a byte up to 4 bits; floats from 16 bits on
    scale, zero_point   as the convention's granularity has them; (1,) from 16 bits on
    bias, up, down      (C_out,), (C_out, r), (r, C_in); r up to the recipe's rank
    smoothing           (C_in,), where the layer divides its input itself
    row_scale           (C_out, 1), where the rows of V were divided and no scale took it
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints import CheckpointError, Need, need_of
from ..checkpoints.files import Headers, check_inside
from ..layers import QuantizedLinear, empty_layers
from ..methods import check_parts, rotation_of
from ..models import Absorber, Transformer, family_of, get_linear, null_class, smoothing_groups
from ..quantizer import PACKED_BITS, from_patterns, scale_values
from ..specs import (
    FULL_PRECISION_BITS,
    MODULATIONS,
    LayerRecipe,
    NumberFormat,
    Recipe,
    brief,
    check_text,
    get_convention,
    parse_json,
    read_text,
)

MAX_NAMES = 100_000


@dataclass(frozen=True)
class Stored:
    """One tensor of the file.

    bits      of unsigned codes; 0 where it holds floating-point numbers
    form      the number format whose elements the codes are, or None
    scales    whether they are that format's scales
    positive  every number is above 0
    weight    elements of the weight that is derived from it, on top of what is stored
    """

    shape: tuple[int, ...]
    bits: int = 0
    positive: bool = False
    weight: int = 0
    form: NumberFormat | None = None
    scales: bool = False

    @property
    def bytes_loaded(self) -> int:
        """A byte for one code or two, four for every other number and derived weight."""
        return (1 if self.bits else 4) * math.prod(self.shape) + 4 * self.weight


def inside(folder: Path, name: str) -> Path:
    """A file of the folder, which no link leads out of it.

    Raises:
        CheckpointError: there is none, or it lies elsewhere.
    """
    path = folder / name
    if not path.is_file():
        raise CheckpointError(f"{name}: expected this file in {folder.name}, found none")
    return check_inside(path, folder)


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object from a file of the folder; see ``inside`` and ``parse_json``."""
    found: dict[str, Any] = parse_json(name, read_text(inside(folder, name), name))
    return found


def check_marker(marker: dict[str, Any]) -> None:
    """Raise ValueError unless class names and texts are such."""
    names = marker.get("class_names")
    if not isinstance(names, list) or not 0 < len(names) <= MAX_NAMES:
        raise CheckpointError(f"ditas.json: expected a list of class_names, got {brief(names)}")
    for name in names:
        check_text("ditas.json: class_names", name)
    for key in ("base", "fingerprint", "licence"):
        check_text(f"ditas.json: {key}", marker.get(key))


def check_count(names: tuple[str, ...], transformer: Transformer) -> None:
    """Raise CheckpointError where there are more names than the transformer has classes."""
    count = null_class(transformer)
    if len(names) > count:
        raise CheckpointError(
            f"ditas.json: expected at most {count} class_names, as many as the transformer has "
            f"classes, got {len(names)}"
        )


def install_empty_layers_(transformer: Transformer, recipe: Recipe, headers: Headers) -> None:
    """Put quantized layers on the meta device where the recipe has them; ``headers`` only say the
    rank of each branch.

    Raises:
        CheckpointError: the recipe is for other groups, or its groups of weights do not
            divide the layers.
    """
    groups = smoothing_groups(transformer)
    unlike = set(recipe.layers) ^ {group.name for group in groups}
    if unlike:
        raise CheckpointError(
            f"recipe.json: expected the {len(groups)} groups of the transformer, got "
            f"{len(recipe.layers)}; {brief(min(unlike))} is only in one of them"
        )
    convention = get_convention(recipe.convention)
    divided = {
        group.absorber_path
        for group in groups
        if group.absorber is Absorber.VALUE_ROWS and recipe.layers[group.name].alpha is not None
    }
    for group in groups:
        linears = [get_linear(transformer, path) for path in group.layers]
        shapes = [(linear.out_features, linear.in_features) for linear in linears]
        layer = recipe.layers[group.name]
        rows = [index for index, path in enumerate(group.layers) if path in divided]
        check_parts(layer)
        rotation = rotation_of(layer, shapes[0][1])
        try:
            made = empty_layers(
                shapes, layer, convention, group.absorber is Absorber.ON_THE_FLY, rows, rotation
            )
        except ValueError:
            raise CheckpointError(
                "recipe.json: expected weights that its convention divides, got "
                f"{sum(c_out for c_out, _ in shapes)} rows in {convention.weight.granularity} of "
                f"{convention.weight.group_size}"
            ) from None
        for path, (c_out, c_in), quantized in zip(group.layers, shapes, made, strict=True):
            rank = rank_of(headers, path, layer, sum(c_out for c_out, _ in shapes))
            quantized.up = quantized.up.new_empty(c_out, rank)
            quantized.down = quantized.down.new_empty(rank, c_in)
            put_(transformer, path, quantized)
    chosen = MODULATIONS[recipe.modulation]
    if chosen is None:
        return
    for path in family_of(transformer).modulations(transformer):
        linear = get_linear(transformer, path)
        shape = (linear.out_features, linear.in_features)
        layer = LayerRecipe(chosen[0])
        put_(transformer, path, empty_layers([shape], layer, get_convention(chosen[1]))[0])


def put_(transformer: Transformer, path: str, layer: QuantizedLinear) -> None:
    parent, _, child = path.rpartition(".")
    transformer.get_submodule(parent)._modules[child] = layer


def repeated(transformer: Transformer) -> dict[str, str]:
    """Names of the tensors that every block has its own copy of, and the first block's of each."""
    within = family_of(transformer).repeated
    found = {}
    for name in transformer.state_dict() if within else ():
        head, _, rest = name.partition(".")
        block, _, inner = rest.partition(".")
        if head == "transformer_blocks" and block != "0" and inner.startswith(within):
            found[name] = f"{head}.0.{inner}"
    return found


def expected_tensors(transformer: Transformer) -> dict[str, Stored]:
    """All tensors of the file, of a transformer with (empty) quantized layers."""
    found = {key: Stored(tuple(value.shape)) for key, value in transformer.state_dict().items()}
    for path, layer in quantized_layers(transformer):
        bits = layer.weight_spec.bits
        form = layer.weight_spec.format
        for name in ("scale", "tensor_scale", "smoothing", "row_scale"):
            if f"{path}.{name}" in found:
                found[f"{path}.{name}"] = replace(found[f"{path}.{name}"], positive=True)
        if bits < FULL_PRECISION_BITS:
            shape = tuple(layer.codes.shape)
            found[f"{path}.codes"] = Stored(shape, bits, weight=layer.weights, form=form)
        if layer.scale.dtype == torch.uint8:
            found[f"{path}.scale"] = Stored(tuple(layer.scale.shape), 8, form=form, scales=True)
    return found


def quantized_layers(transformer: Transformer) -> Iterator[tuple[str, QuantizedLinear]]:
    """All of them, by path."""
    for path, module in transformer.named_modules():
        if isinstance(module, QuantizedLinear):
            yield path, module


def rank_of(headers: Headers, path: str, layer: LayerRecipe, rows: int) -> int:
    """Of the stored branch, at most what the recipe allows: one that did not pay was dropped."""
    most = 0 if layer.bits.weight_bits >= FULL_PRECISION_BITS else min(layer.low_rank.rank, rows)
    up = headers.tensors.get(f"{path}.up")
    return min(up.shape[1], most) if up is not None and len(up.shape) == 2 else most


def check_names(
    found: Mapping[str, object], wanted: Mapping[str, Stored], optional: Mapping[str, str]
) -> None:
    """Raise CheckpointError unless every tensor is there but for ``optional``, none besides."""
    missing = wanted.keys() - found - optional.keys()
    for kind, keys in (("missing", missing), ("unexpected", found.keys() - wanted)):
        if keys:
            raise CheckpointError(
                f"expected the tensors that configuration and recipe say, got {len(keys)} {kind} "
                f"keys: {min(keys)}"
            )


def check_tensor(name: str, shape: tuple[int, ...], dtype: torch.dtype, stored: Stored) -> None:
    """Raise CheckpointError unless shape and dtype are as expected."""
    if shape != stored.shape:
        raise CheckpointError(f"{name}: expected shape {stored.shape}, got {shape}")
    fits = dtype == torch.uint8 if stored.bits else dtype.is_floating_point
    if not fits:
        wanted = "uint8" if stored.bits else "floating point"
        raise CheckpointError(f"{name}: expected {wanted}, got {dtype}")


def check_numbers(name: str, value: Tensor, stored: Stored) -> None:
    """Raise CheckpointError unless the numbers are finite and as far as they go in range."""
    if value.numel() == 0:
        return
    if 0 < stored.bits <= PACKED_BITS:
        value = torch.maximum(value & 15, value >> 4)
    low, high = (float(end) for end in value.aminmax())  # NaN, if there is one, is both
    if stored.bits:
        most = 2**stored.bits - 1
        if high > most:
            raise CheckpointError(f"{name}: expected codes up to {most}, got {high:.0f}")
        if stored.form is not None:
            there = torch.bincount(value.flatten()).nonzero()
            if stored.scales:
                numbers = scale_values(there, stored.form)
            else:
                numbers = from_patterns(there, stored.form.element)
            if not bool(torch.isfinite(numbers).all()):
                raise CheckpointError(f"{name}: expected numbers of {stored.form.title}, got none")
    elif not (low > -float("inf") and high < float("inf")):
        raise CheckpointError(f"{name}: expected finite numbers, got {low:g} to {high:g}")
    elif stored.positive and low <= 0:
        raise CheckpointError(f"{name}: expected numbers above 0, got {low:g}")


def need_of_quantized(
    name: str, file: Headers, vae: Headers, expected: Mapping[str, Stored]
) -> Need:
    """What loading takes: codes as stored, the rest and their weights in single precision."""
    loaded = sum(stored.bytes_loaded for stored in expected.values())
    # three copies of a weight stand beside each other while it is derived
    loaded += 12 * max(stored.weight for stored in expected.values())
    need = need_of(name, file, vae, -(-loaded // 4), 0)
    return replace(need, bfloat16=need.float32)
