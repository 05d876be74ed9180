"""Quantized transformers as ONNX graphs of integer products, run by ONNX Runtime on a CPU."""

from .attached import run_on_onnx_
from .backends import check_backend, graphs, load_on, run_on_
from .export import STEPS, Exported, check_transformer, export_onnx, write_model
from .exporter import Traced
from .packages import MissingPackage, check_installed, versions
from .rewrite import onnx_model, rewritten
from .session import OnnxTransformer, open_session
from .trace import traced, traced_decoder
from .watching import ABSMAX, watched

__all__ = [
    "ABSMAX",
    "STEPS",
    "Exported",
    "MissingPackage",
    "OnnxTransformer",
    "Traced",
    "check_backend",
    "check_installed",
    "check_transformer",
    "export_onnx",
    "graphs",
    "load_on",
    "onnx_model",
    "open_session",
    "rewritten",
    "run_on_",
    "run_on_onnx_",
    "traced",
    "traced_decoder",
    "versions",
    "watched",
    "write_model",
]
