"""``python -m ditas_core.results.exports``: what the formats of other libraries cost."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..bench.machine import DEMO, ROOT
from ..calibration import calibrate
from ..checkpoints import load_checkpoint
from ..exports import export_stock
from ..search import SearchSpec, search
from ..specs import BitWidths, CalibrationSpec, SamplingSpec
from .reports import keep
from .steps import MEASUREMENTS

PATH = ROOT / MEASUREMENTS / "exports.json"
FORMS = (("torchao", ("branch", "divisor")), ("sdnq", ("divisor",)))
BITS = ("W8A8", "W4A8")
SAMPLES, STEPS, SEED = 8, 20, 1_000_000


def measure(folder: Path, samples: int = SAMPLES, steps: int = STEPS) -> dict[str, Any]:
    """A DiTAS recipe at each of ``BITS`` in each form, as the export itself measures it."""
    checkpoint = load_checkpoint(str(folder))
    calibration = calibrate(checkpoint, CalibrationSpec(SamplingSpec(steps=steps), seed=SEED))
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for bits in BITS:
            recipe = search(checkpoint, calibration, SearchSpec(BitWidths.parse(bits)))
            for form, left in FORMS:
                target = Path(work) / f"{form}-{bits}"
                made = export_stock(
                    target, checkpoint, recipe, calibration, form, left, samples, steps
                )
                row = asdict(made)
                row.pop("folder")
                rows.append({"bits_of_recipe": bits, **row, "left_out": sorted(made.left_out)})
    return {"rows": rows, "steps": steps}


def main() -> int:
    return keep(PATH, measure(DEMO))


if __name__ == "__main__":
    raise SystemExit(main())
