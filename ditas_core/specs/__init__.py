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
    METHODS,
    RELEASED_BRANCH,
    WEIGHTINGS,
    LayerRecipe,
    LowRankSpec,
    Recipe,
    default_rank,
    summarize,
)
from .sampling import NULL_CLASS, SCHEDULERS, CalibrationSpec, SamplingSpec

__all__ = [
    "ACTIVATION_BITS",
    "BIT_PRESETS",
    "CONVENTIONS",
    "FULL_PRECISION_BITS",
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
    "check_choice",
    "default_rank",
    "get_convention",
    "summarize",
]
