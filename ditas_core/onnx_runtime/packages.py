"""The packages of the extra ``[onnx]``, imported where they are used, never with this one."""

from __future__ import annotations

from importlib import import_module
from typing import Any

OPSET, IR_VERSION = 21, 10
"""UINT4 came with opset 21; IR 10 holds it."""


class MissingPackage(ModuleNotFoundError):
    """A package of the extra that is not installed; says how to install it."""


def imported(name: str) -> Any:
    """The module ``name`` of onnx, onnxruntime or onnxscript.

    Raises:
        MissingPackage: its package is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        if (error.name or package).partition(".")[0] != package:
            raise
        raise MissingPackage(
            f"onnx: expected the package {package}, found none; pip install 'ditas_core[onnx]'",
            name=package,
        ) from None


def check_installed() -> None:
    """Raise MissingPackage unless a model can be traced, written and run."""
    for name in ("onnx", "onnxruntime", "onnxscript"):
        imported(name)


def versions() -> dict[str, str]:
    """What wrote a file: opset and versions, as they are written into it."""
    found = {name: str(imported(name).__version__) for name in ("onnx", "onnxruntime")}
    return {"opset": str(OPSET), "ir_version": str(IR_VERSION), **found}
