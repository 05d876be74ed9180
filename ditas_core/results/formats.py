"""``python -m ditas_core.results.formats``: what number formats are worth on the demo."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from ..bench.machine import DEMO, ROOT
from ..calibration import calibrate
from ..checkpoints import load_checkpoint
from ..conversion import quantize_transformer
from ..layers import effective_bits
from ..search import plain_recipe, predicted_errors
from ..specs import BitWidths, CalibrationSpec, SamplingSpec
from .reports import keep
from .steps import MEASUREMENTS

PATH = ROOT / MEASUREMENTS / "formats.json"
SAMPLES, STEPS = 4, 20
INTEGER, GROUPED = "integer", "integer-g32"
WIDTHS = (
    ("W:mxfp4 A16", INTEGER), ("W4A16", INTEGER), ("W:fp4 A16", INTEGER), ("W:fp4 A16", GROUPED),
    ("W:nvfp4 A16", INTEGER), ("W:int4-b32 A16", INTEGER), ("W:nf4 A16", INTEGER),
    ("W4A16", GROUPED), ("W:mxfp6 A16", INTEGER), ("W6A16", INTEGER), ("W8A8", INTEGER),
    ("W:fp8 A:fp8", INTEGER), ("W:mxfp8 A:mxfp8", INTEGER), ("W:mxint8 A:mxint8", INTEGER),
    ("W:int8-b32 A:int8-b32", INTEGER), ("W4A8", INTEGER), ("W:nvfp4 A:fp8", INTEGER),
    ("W4A4", INTEGER), ("W:mxfp4 A:mxfp4", INTEGER), ("W:nvfp4 A:nvfp4", INTEGER),
)  # fmt: skip


def measure(folder: Path, widths: tuple[tuple[str, str], ...] = WIDTHS) -> dict[str, Any]:
    """Plain rounding: the mean over layers of the output's relative error, in dB; and the weights'
    effective bits."""
    checkpoint = load_checkpoint(str(folder))
    calibration = calibrate(checkpoint, CalibrationSpec(SamplingSpec(steps=STEPS), samples=SAMPLES))
    rows = []
    for text, convention in widths:
        recipe = plain_recipe(checkpoint, BitWidths.parse(text), convention)
        errors = [each.error for each in predicted_errors(checkpoint, calibration, recipe)]
        made = quantize_transformer(checkpoint, recipe, None)
        rows.append(
            {
                "widths": text,
                "convention": convention,
                "bits": round(effective_bits(made), 2),
                "error_db": round(10 * math.log10(statistics.fmean(errors)), 1),
            }
        )
    return {"rows": rows, "samples": SAMPLES, "steps": STEPS, "layers": len(checkpoint.groups)}


def main() -> int:
    return keep(PATH, measure(DEMO))


if __name__ == "__main__":
    raise SystemExit(main())
