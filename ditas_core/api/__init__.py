"""The library in fourteen names: a pipeline, a folder or a hub id in, a quantized pipeline out."""

from ..calibration import Calibration
from ..checkpoints import Captions, Checkpoint
from ..specs import Recipe
from .comparing import Paired, compare
from .drawing import pipeline
from .exporting import export
from .files import save
from .models import Model, load
from .quantizing import quantize
from .report import LayerRow, Report
from .steps import calibrate, convert, search

__all__ = [
    "Calibration",
    "Captions",
    "Checkpoint",
    "LayerRow",
    "Model",
    "Paired",
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
