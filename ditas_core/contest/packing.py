"""A recipe as a short document: what its layers have in common once, what is their own by name."""

from __future__ import annotations

import json
from typing import Any

from ..specs import Recipe, SpecError, brief


def pack(recipe: Recipe) -> dict[str, Any]:
    """``layers`` becomes ``common``, the fields that all layers share, and ``own``, the others."""
    document: dict[str, Any] = json.loads(recipe.to_json())
    layers: dict[str, dict[str, Any]] = document.pop("layers")
    first = next(iter(layers.values()))
    common = {
        name: value
        for name, value in first.items()
        if all(name in layer and layer[name] == value for layer in layers.values())
    }
    own = {
        group: {name: value for name, value in layer.items() if name not in common}
        for group, layer in layers.items()
    }
    document.pop("calibration_file", None)  # a hint for files beside it
    return {**document, "common": common, "own": own}


def unpack(document: Any) -> Recipe:
    """Inverse of ``pack``.

    Raises:
        SpecError: anything else.
    """
    if not isinstance(document, dict):
        raise SpecError(f"recipe: expected an object, got {brief(document)}")
    rest = dict(document)
    common, own = rest.pop("common", None), rest.pop("own", None)
    if not isinstance(common, dict) or not isinstance(own, dict):
        raise SpecError("recipe: expected what layers have in common and what is their own")
    if not all(isinstance(each, dict) for each in own.values()):
        raise SpecError("recipe: expected an object of each layer's own")
    layers = {group: {**common, **each} for group, each in own.items()}
    return Recipe.from_json(json.dumps({**rest, "calibration_file": "", "layers": layers}))
