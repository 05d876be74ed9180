"""Recipe -> quantized transformer; function-preserving rescaling."""

from .fold import (
    get_affine,
    inject_outliers,
    injected_factors,
    rescaled_transformer,
    set_affine_,
)
from .modulation import quantize_modulation
from .quantized import (
    ConversionProgress,
    iterate_conversion,
    quantize_transformer,
    smoothing_factors,
)

__all__ = [
    "ConversionProgress",
    "get_affine",
    "inject_outliers",
    "injected_factors",
    "iterate_conversion",
    "quantize_modulation",
    "quantize_transformer",
    "rescaled_transformer",
    "set_affine_",
    "smoothing_factors",
]
