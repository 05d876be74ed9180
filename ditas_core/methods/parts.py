"""Parts found by the names that recipes give them; what each kind of them does."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import Tensor

from ..lowrank import InputMoment
from ..quantizer import Coded, QParams, choose_qparams, quantize
from ..smoothing import temporal_aggregate
from ..specs import (
    FULL_PRECISION_BITS,
    LayerRecipe,
    Part,
    QuantizerSpec,
    Rounding,
    SpecError,
    brief,
    check_choice,
    parts,
)


def find(kind: str, part: Part) -> tuple[ModuleType, Any]:
    """The module of a part and its settings, checked.

    Raises:
        SpecError: a part that no method has, or settings that are not its own.
    """
    check_choice(kind, part.name, parts(kind))
    module = import_module(f"{__package__}.{kind}.{part.name}")
    given, known = dict(part.settings), sorted(each.name for each in fields(module.Settings))
    if sorted(given) != known:
        raise SpecError(
            f"{kind} {part.name}: expected the settings {', '.join(known)}, got "
            f"{', '.join(map(brief, given)) or 'none'}; search again to make a recipe"
        )
    return module, module.Settings(**given)


def check_parts(layer: LayerRecipe) -> None:
    """Raise SpecError unless its parts are known and their settings theirs."""
    rounding = layer.rounding
    for kind, part in {
        "aggregation": layer.aggregation,
        "rotation": layer.rotation,
        "clipping": rounding.clipping,
        "compensation": rounding.compensation,
    }.items():
        if part.acts:
            find(kind, part)


def aggregated(layer: LayerRecipe, act_absmax: Tensor, w_absmax: Tensor) -> Tensor:
    """What smoothing reads of the channel maxima (T, 2, C) of all steps and halves, (C,).

    w_absmax  (C,) of the weights that share the input
    """
    if not layer.aggregation.acts:
        return temporal_aggregate(act_absmax)
    aggregation, settings = find("aggregation", layer.aggregation)
    found: Tensor = aggregation.aggregate(act_absmax.amax(1), w_absmax, settings)
    return found


def roundings(rounding: Rounding) -> int:
    """How often a clipping search rounds a weight before it is rounded; 0 without one."""
    if not rounding.clipping.acts:
        return 0
    clipping, settings = find("clipping", rounding.clipping)
    found: int = clipping.roundings(settings)
    return found


def rotation_of(layer: LayerRecipe, channels: int) -> Tensor | None:
    """What every block of a layer's inputs is multiplied by, (B, B), on the CPU; None: nothing."""
    if not layer.rotation.acts:
        return None
    rotation, settings = find("rotation", layer.rotation)
    found: Tensor = rotation.block(channels, settings)
    return found


def round_weight(
    target: Tensor, spec: QuantizerSpec, rounding: Rounding, moment: InputMoment
) -> Coded | None:
    """The codes of a target (C_out, C); None where they are the nearest of all its range.

    moment  of the input, read by a compensation
    """
    if not rounding.acts or spec.bits >= FULL_PRECISION_BITS:
        return None
    params: QParams
    if rounding.clipping.acts:
        clipping, settings = find("clipping", rounding.clipping)
        params = clipping.ranges(target, spec, settings)
    else:
        params = choose_qparams(target, spec)
    if not rounding.compensation.acts:
        return quantize(target, spec, params)
    compensation, settings = find("compensation", rounding.compensation)
    return Coded(compensation.codes(target, params, moment, spec, settings), params)
