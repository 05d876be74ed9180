"""Families of models: what a block consists of, what conditions it, what its layers are called."""

from .errors import CheckpointError, shown
from .families import (
    DIT,
    FAMILIES,
    PIXART,
    UNKNOWN,
    Family,
    Transformer,
    check_config,
    family_of,
    family_of_config,
    family_of_index,
    reason_of,
    smoothing_groups,
)
from .groups import Absorber, SmoothingGroup, get_linear, group_fed_by

__all__ = [
    "DIT",
    "FAMILIES",
    "PIXART",
    "UNKNOWN",
    "Absorber",
    "CheckpointError",
    "Family",
    "SmoothingGroup",
    "Transformer",
    "check_config",
    "family_of",
    "family_of_config",
    "family_of_index",
    "get_linear",
    "group_fed_by",
    "reason_of",
    "shown",
    "smoothing_groups",
]
