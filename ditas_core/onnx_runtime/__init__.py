"""Quantized transformers as ONNX graphs of integer products, run by ONNX Runtime on a CPU."""

from .attached import run_on_onnx_
from .backends import check_backend, graphs, load_on, run_on_
from .export import STEPS, Exported, export_onnx
from .exporter import Traced
from .packages import MissingPackage, check_installed, versions
from .rewrite import onnx_model
from .session import OnnxTransformer, open_session
from .trace import traced, traced_decoder

__all__ = [
    "STEPS",
    "Exported",
    "MissingPackage",
    "OnnxTransformer",
    "Traced",
    "check_backend",
    "check_installed",
    "export_onnx",
    "graphs",
    "load_on",
    "onnx_model",
    "open_session",
    "run_on_",
    "run_on_onnx_",
    "traced",
    "traced_decoder",
    "versions",
]
