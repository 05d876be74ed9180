"""Predicted errors weighted by how much of each reaches the picture.

A group's own relative error says nothing about what the rest of the model makes of it.
One measured width tells: error(group, bits) x measured(group) / predicted(group at that
width), in units of the measured map.
"""

from __future__ import annotations

from dataclasses import replace

from ..specs import BitWidths, SpecError
from .sensitivity_map import SensitivityMap

TINY = 1e-30


def at_width(sensitivities: SensitivityMap, bits: BitWidths) -> SensitivityMap:
    """The map's column of one width, as a map.

    Raises:
        SpecError: the map does not have it.
    """
    column = sensitivities.column(bits)
    one = slice(column, column + 1)
    return replace(
        sensitivities,
        bits=(bits,),
        alphas=tuple(row[one] for row in sensitivities.alphas),
        error=sensitivities.error[:, one].clone(),
        stored=sensitivities.stored[:, one].clone(),
        division=sensitivities.division[:, one].clone(),
    )


def weighted(predicted: SensitivityMap, measured: SensitivityMap) -> SensitivityMap:
    """``predicted`` in units of ``measured``, which has one of its widths and the same groups.

    Raises:
        SpecError: other groups, or not one width of the predicted map.
    """
    if predicted.groups != measured.groups or len(measured.bits) != 1:
        raise SpecError(
            f"measured: expected one width of the same {len(predicted.groups)} groups, got "
            f"{len(measured.bits)} of {len(measured.groups)}"
        )
    column = predicted.column(measured.bits[0])
    reaches = measured.error[:, 0] / predicted.error[:, column].clamp(min=TINY)  # (L,)
    return replace(predicted, error=predicted.error * reaches[:, None], measured=True)
