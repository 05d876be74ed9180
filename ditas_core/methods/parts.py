"""Parts found by the names that recipes give them, and rounding with them."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import Tensor

from ..lowrank import InputMoment
from ..quantizer import Coded, QParams, choose_qparams, quantize
from ..specs import (
    FULL_PRECISION_BITS,
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


def check_rounding(rounding: Rounding) -> None:
    """Raise SpecError unless its parts are known and their settings theirs."""
    for kind in ("clipping", "compensation"):
        part: Part = getattr(rounding, kind)
        if part.acts:
            find(kind, part)


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
