"""A recipe: everything that decides how a transformer is quantized, as JSON."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from .checks import SpecError, brief, check_choice, check_number, check_text
from .document import parse_json, read_text
from .methods import NEAREST, NONE, Part, Rounding
from .quantization import LowRankSpec, get_convention
from .widths import FULL_PRECISION_BITS, BitWidths

RECIPE_FORMATS = (2, 3, 4)
"""The first is written of whole numbers that are rounded to the nearest, as it always was; the
second also names number formats and the parts of a method, the third what a search minimised."""
NO_PARTS = {"rounding": {}, "rotation": NONE.document(), "aggregation": NONE.document()}
"""Fields of a layer that are written where they act, as they stand for where they are not."""
OBJECTIVES = {
    "output": "the error of the layer's output, added up over steps (DiTAS)",
    "influence": "each step's error over its output, times what the step does to the final latents",
}
"""What a search minimises, see ``search.objective``."""
MODULATIONS: dict[str, tuple[BitWidths, str] | None] = {
    "none": None,
    "w8": (BitWidths(8, 16), "integer"),
    "w8a8": (BitWidths(8, 8), "integer"),
    "w4": (BitWidths(4, 16), "integer-g64"),
}
"""What becomes of the modulation, bits and convention: nothing, 8-bit weights, 8-bit activations
as well, or 4-bit weights in groups of 64."""


@dataclass(frozen=True)
class LayerRecipe:
    """One smoothing group: its bits, alpha (None = identity, s = 1), low-rank branch, how
    what is left of its weights is rounded, the rotation of its inputs, and how their maxima
    are aggregated over the steps, which alpha is the exponent of."""

    bits: BitWidths
    alpha: float | None = None
    low_rank: LowRankSpec = LowRankSpec()
    rounding: Rounding = NEAREST
    rotation: Part = NONE
    aggregation: Part = NONE

    def __post_init__(self) -> None:
        if self.alpha is not None:
            check_number("alpha (none is the identity)", self.alpha, 0, 1)

    @property
    def part_names(self) -> tuple[str, ...]:
        """Of the parts that act, in their order."""
        smoothing = NONE if self.alpha is None else self.aggregation
        before = (part.name for part in (smoothing, self.rotation) if part.acts)
        return (*before, *self.rounding.names)


LEFT_ALONE = LayerRecipe(BitWidths(FULL_PRECISION_BITS, FULL_PRECISION_BITS))
"""A group that nothing is done to: 16 bits, identity, no branch."""


@dataclass(frozen=True)
class Recipe:
    """Convention and per-group settings; equal recipes give bit-equal models.

    ``calibration`` is the sha256 of the Calibration that smoothing factors and
    the weighted branch are taken from ("" when none is needed);
    ``calibration_file`` is only a hint where to find it and is not compared. ``modulation`` is
    what becomes of the layers that compute shifts, scales and gates, a key of ``MODULATIONS``;
    ``objective``, a key of ``OBJECTIVES``, is what the search that made it minimised.

    >>> import ditas_core as ditas
    >>> _, report = ditas.quantize("assets/fluent-emoji-dit", "W4A8", method="plain",
    ...                            progress=False)
    >>> text = report.recipe.to_json()
    >>> ditas.Recipe.from_json(text) == report.recipe, report.recipe.needs_calibration
    (True, False)
    """

    name: str
    convention: str
    checkpoint: str
    layers: dict[str, LayerRecipe]
    calibration: str = ""
    calibration_file: str = field(default="", compare=False)
    modulation: str = "none"
    objective: str = "output"

    def __post_init__(self) -> None:
        get_convention(self.convention)
        for field_name in ("name", "checkpoint", "calibration", "calibration_file"):
            check_text(field_name, getattr(self, field_name))
        check_choice("modulation", self.modulation, MODULATIONS)
        check_choice("objective", self.objective, OBJECTIVES)
        if not isinstance(self.layers, dict) or not self.layers:
            raise SpecError(f"layers: expected at least one, got {brief(self.layers)}")
        for bits in self.bits:
            get_convention(self.convention).check_bits(bits)
        for layer in self.layers.values():
            get_convention(self.convention).check_rotation(layer.rotation)

    @property
    def bits(self) -> tuple[BitWidths, ...]:
        """What occurs in its layers, each once, in their order."""
        return tuple(dict.fromkeys(layer.bits for layer in self.layers.values()))

    @property
    def needs_calibration(self) -> bool:
        return any(
            layer.alpha is not None
            or layer.rounding.reads_inputs
            or (layer.low_rank.rank > 0 and layer.low_rank.weighting != "none")
            for layer in self.layers.values()
        )

    def with_layer(self, group: str, layer: LayerRecipe) -> Recipe:
        """A copy in which one group's settings are replaced."""
        if group not in self.layers:
            raise SpecError(f"layer: expected one of the recipe's groups, got {group!r}")
        return replace(self, layers={**self.layers, group: layer})

    def to_json(self) -> str:
        acting = any(getattr(x, part).acts for x in self.layers.values() for part in NO_PARTS)
        newer = acting or any(bits.formats or bits.group_size for bits in self.bits)
        named = self.objective != "output"
        document = {"format": RECIPE_FORMATS[2 if named else newer], **asdict(self)}
        for name, layer in self.layers.items():
            document["layers"][name]["bits"] = layer.bits.document()
            for part in NO_PARTS:
                del document["layers"][name][part]
                if getattr(layer, part).acts:
                    document["layers"][name][part] = getattr(layer, part).document()
        if self.modulation == "none":  # as it was written before there was a choice
            del document["modulation"]
        if not named:
            del document["objective"]
        return json.dumps(document, indent=1, sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: str) -> Recipe:
        """Inverse of ``to_json``; raises SpecError on anything unexpected."""
        document: dict[str, Any] = parse_json("recipe", text)
        if document.get("format") not in RECIPE_FORMATS:
            raise SpecError(
                f"recipe: expected a recipe of format {' or '.join(map(str, RECIPE_FORMATS))}, "
                f"got {brief(document.get('format'))}; search again to make one"
            )
        document.pop("format")
        layers = document.pop("layers", None)
        if not isinstance(layers, dict):
            raise SpecError(f"recipe: expected an object of layers, got {brief(layers)}")
        found = {name: layer_of(f"recipe: {brief(name)}", layer) for name, layer in layers.items()}
        return Recipe(**checked_fields(Recipe, "recipe", {**document, "layers": found}))

    @staticmethod
    def load(path: Path) -> Recipe:
        """From a file; raises SpecError where there is none, or it is no recipe."""
        return Recipe.from_json(read_text(path, "recipe"))


def layer_of(where: str, document: Any) -> LayerRecipe:
    """One layer of a recipe's JSON; raises SpecError."""
    if isinstance(document, dict):
        document = {**NO_PARTS, **document}
    layer = checked_fields(LayerRecipe, where, document, whole=True)
    bits = checked_fields(BitWidths, f"{where}: bits", layer["bits"])
    low_rank = checked_fields(LowRankSpec, f"{where}: low_rank", layer["low_rank"])
    branch = LowRankSpec(**low_rank)
    return LayerRecipe(BitWidths(**bits), layer["alpha"], branch, **read_parts(where, layer))


def read_parts(where: str, document: dict[str, Any]) -> dict[str, Any]:
    """The fields ``NO_PARTS`` of a layer or a map, from JSON; those of older ones do nothing.

    Raises:
        SpecError: anything unexpected, or a part that no method has.
    """
    given = {kind: document.get(kind, nothing) for kind, nothing in NO_PARTS.items()}
    rounding = Rounding.of_document(f"{where}: rounding", given.pop("rounding"))
    return {"rounding": rounding} | {
        kind: Part.of_document(where, kind, part) for kind, part in given.items()
    }


def checked_fields(cls: Any, where: str, document: Any, whole: bool = False) -> dict[str, Any]:
    """A JSON object whose names are the fields of ``cls``; ``whole``: those with defaults too.

    Raises:
        SpecError: no object, or a field that is missing or unknown.
    """
    if not isinstance(document, dict):
        raise SpecError(f"{where}: expected an object, got {brief(document)}")
    known = {f.name: whole or (f.default is MISSING) for f in fields(cls)}
    strange = sorted(set(document) - set(known))
    if strange:
        raise SpecError(f"{where}: expected the fields {', '.join(known)}, got {brief(strange[0])}")
    missing = [name for name, needed in known.items() if needed and name not in document]
    if missing:
        raise SpecError(f"{where}: expected the field {missing[0]}, found none")
    return document


def only(recipe: Recipe, groups: Collection[str]) -> Recipe:
    """``groups`` as in the recipe, all others left alone.

    Raises:
        SpecError: a group that the recipe does not have.
    """
    unknown = sorted(set(groups) - set(recipe.layers))
    if unknown:
        raise SpecError(f"groups: expected some of the recipe's, got {brief(unknown)}")
    layers = {n: layer if n in groups else LEFT_ALONE for n, layer in recipe.layers.items()}
    return replace(recipe, layers=layers)


def all_but(recipe: Recipe, groups: Collection[str]) -> Recipe:
    """``groups`` left alone, all others as in the recipe.

    Raises:
        SpecError: a group that the recipe does not have.
    """
    only(recipe, groups)
    return only(recipe, [name for name in recipe.layers if name not in groups])


def summarize(recipe: Recipe) -> str:
    """One line for people: bits, method, convention, parts that round, modulation where it is
    quantized, objective where it is not DiTAS's."""
    bits = sorted({str(layer.bits) for layer in recipe.layers.values()})
    ranks = {layer.low_rank.rank for layer in recipe.layers.values()}
    smoothed = sum(layer.alpha is not None for layer in recipe.layers.values())
    parts = dict.fromkeys(name for x in recipe.layers.values() for name in x.part_names)
    rounding = f" · {' + '.join(parts)}" if parts else ""
    modulation = "" if recipe.modulation == "none" else f" · modulation {recipe.modulation}"
    objective = "" if recipe.objective == "output" else f" · objective {recipe.objective}"
    return (
        f"{'/'.join(bits)} · {recipe.name} · {recipe.convention} · "
        f"{smoothed} of {len(recipe.layers)} layers smoothed · rank {max(ranks)}"
        f"{rounding}{modulation}{objective}"
    )
