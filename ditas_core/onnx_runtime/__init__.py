"""Quantized transformers as ONNX graphs of integer products, run by ONNX Runtime on a CPU."""

from .linear import why_not_integer
from .packages import MissingPackage, check_installed, versions
from .rewrite import onnx_model
from .session import OnnxTransformer, open_session
from .trace import Traced, traced

__all__ = [
    "MissingPackage",
    "OnnxTransformer",
    "Traced",
    "check_installed",
    "onnx_model",
    "open_session",
    "traced",
    "versions",
    "why_not_integer",
]
