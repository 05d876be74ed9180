"""DiTAS: data-free post-training quantization of Diffusion Transformers.

    import ditas_core as ditas

    quantized, report = ditas.quantize(pipeline, "W4A8")

The names below are loaded when they are first used: importing the package imports nothing else.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import (
        Calibration,
        Captions,
        Checkpoint,
        Recipe,
        Report,
        calibrate,
        compare,
        convert,
        export,
        load,
        pipeline,
        quantize,
        save,
        search,
    )

__version__ = "0.1.0"
__all__ = [
    "Calibration",
    "Captions",
    "Checkpoint",
    "Recipe",
    "Report",
    "calibrate",
    "compare",
    "convert",
    "export",
    "load",
    "pipeline",
    "quantize",
    "save",
    "search",
]


class Package(ModuleType):
    """The verb ``search`` is also a room: importing the room must not take the verb's place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = Package


def __getattr__(name: str) -> Any:
    """A public name, out of ``ditas_core.api``, which loads torch and diffusers."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(".api", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
