"""Families of models: what a block consists of, what conditions it, what its layers are called."""

from .dit import NULL_CLASS, class_conditions, null_class
from .errors import CheckpointError
from .families import (
    DIT,
    FAMILIES,
    KINDS,
    PIXART,
    UNKNOWN,
    Transformer,
    check_config,
    family_of,
    family_of_config,
    family_of_index,
    reason_of,
    smoothing_groups,
)
from .family import Conditions, Family
from .groups import Absorber, SmoothingGroup, get_linear, group_fed_by, input_channels

__all__ = [
    "DIT",
    "FAMILIES",
    "KINDS",
    "NULL_CLASS",
    "PIXART",
    "UNKNOWN",
    "Absorber",
    "CheckpointError",
    "Conditions",
    "Family",
    "SmoothingGroup",
    "Transformer",
    "check_config",
    "class_conditions",
    "family_of",
    "family_of_config",
    "family_of_index",
    "get_linear",
    "group_fed_by",
    "input_channels",
    "null_class",
    "reason_of",
    "smoothing_groups",
]
