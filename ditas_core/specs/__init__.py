"""Frozen settings, validated and JSON-round-tripping. Imports nothing of the package."""

from .checks import SpecError, check_choice
from .quantization import (
    ACTIVATION_BITS,
    BIT_PRESETS,
    CONVENTIONS,
    FULL_PRECISION_BITS,
    WEIGHT_BITS,
    BitWidths,
    Convention,
    Granularity,
    QuantizerSpec,
    get_convention,
)
from .recipe import (
    LEFT_ALONE,
    METHODS,
    RELEASED_BRANCH,
    WEIGHTINGS,
    LayerRecipe,
    LowRankSpec,
    Recipe,
    all_but,
    default_rank,
    only,
    summarize,
)
from .sampling import NULL_CLASS, SCHEDULERS, CalibrationSpec, SamplingSpec

__all__ = [
    "ACTIVATION_BITS",
    "BIT_PRESETS",
    "CONVENTIONS",
    "FULL_PRECISION_BITS",
    "LEFT_ALONE",
    "METHODS",
    "NULL_CLASS",
    "RELEASED_BRANCH",
    "SCHEDULERS",
    "WEIGHTINGS",
    "WEIGHT_BITS",
    "BitWidths",
    "CalibrationSpec",
    "Convention",
    "Granularity",
    "LayerRecipe",
    "LowRankSpec",
    "QuantizerSpec",
    "Recipe",
    "SamplingSpec",
    "SpecError",
    "all_but",
    "check_choice",
    "default_rank",
    "get_convention",
    "only",
    "summarize",
]
