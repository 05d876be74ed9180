"""Recipe -> quantized transformer; function-preserving rescaling."""

from .fold import (
    get_affine,
    inject_outliers,
    injected_factors,
    rescaled_transformer,
    set_affine_,
)
from .quantized import (
    ConversionProgress,
    RecipeError,
    check_recipe,
    group_factor,
    quantize_transformer,
)

__all__ = [
    "ConversionProgress",
    "RecipeError",
    "check_recipe",
    "get_affine",
    "group_factor",
    "inject_outliers",
    "injected_factors",
    "quantize_transformer",
    "rescaled_transformer",
    "set_affine_",
]
