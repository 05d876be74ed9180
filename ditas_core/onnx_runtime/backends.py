"""What a quantized transformer computes with: chosen by name, for all who run one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..artifact import load_quantized
from ..checkpoints import Checkpoint, own_cache
from ..layers import run_as_
from ..models import Transformer
from ..specs import BACKENDS, BitWidths, Recipe, check_choice, get_convention
from .attached import leave_runtime_, run_on_onnx_
from .packages import check_installed


def graphs() -> Path:
    """Where in the package's own cache traced graphs are kept."""
    return own_cache() / "graphs"


def check_backend(convention: str, backend: str, bits: Iterable[BitWidths] = ()) -> None:
    """Before long work.

    Raises:
        SpecError: no such backend, or one that the convention cannot run on at some of the bits.
        MissingPackage: the extra ``[onnx]`` is not installed.
    """
    get_convention(convention).check_backend(backend, bits)
    if backend == "onnx":
        check_installed()


def run_on_(checkpoint: Checkpoint, quantized: Transformer, backend: str) -> Transformer:
    """The quantized transformer itself, which computes on the backend from now on.

    checkpoint  of its configuration, which is traced for ``onnx`` unless that was done before
    """
    if backend == "onnx":
        run_on_onnx_(checkpoint, quantized, graphs())
    else:
        leave_runtime_(quantized)
        run_as_(quantized, backend)
    return quantized


def load_on(path: Path, backend: str) -> tuple[Checkpoint, Recipe]:
    """``load_quantized``, running on ``backend``, which is looked at before the weights are read.

    Raises:
        CheckpointError, SpecError, MissingPackage: see there and ``check_backend``.
    """
    check_choice("backend", backend, BACKENDS)
    if backend == "onnx":
        check_installed()
    checkpoint, recipe = load_quantized(path, backend=backend)
    run_on_(checkpoint, checkpoint.transformer, backend)
    return checkpoint, recipe
