"""One calibration and three runs as the page starts them; prints digests of what came out.

In a process of its own: whether ``spaces`` is there is decided when the package is imported.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from conftest import build_random_checkpoint
from gradio.context import LocalContext

from ditas_core.calibration import Calibration
from ditas_core.checkpoints.checkpoint import fingerprint
from ditas_core.comparison import Switching, Trajectory
from ditas_core.conversion import quantize_transformer
from ditas_core.search import plain_recipe
from ditas_core.specs import BitWidths, CalibrationSpec, SamplingSpec
from ditas_core.ui import zerogpu

SPEC = SamplingSpec(steps=4)


def digest(run: Trajectory) -> str:
    pair = (run.latents, run.images)
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in pair)).hexdigest()


def events(generator: Any) -> tuple[list[str], Any]:
    *progress, last = generator
    return [repr(each) for each in progress], last


def main(visitor: bool) -> dict[str, Any]:
    torch.set_num_threads(1)
    if visitor:
        LocalContext.request.set(object())  # gradio sets it while it runs a listener
    checkpoint = build_random_checkpoint()
    before = fingerprint(checkpoint.transformer)
    said, found = events(
        zerogpu.calibrate(checkpoint, CalibrationSpec(SPEC, samples=3, seed=5, tokens=6))
    )
    assert isinstance(found, Calibration)
    labels = torch.tensor([0, 3])
    recipe = plain_recipe(checkpoint, BitWidths(4, 8), "integer")
    *_, quantized = quantize_transformer(checkpoint, recipe, None)
    models = {
        "full": checkpoint.transformer,
        "quantized": quantized,
        "switching": Switching(checkpoint.transformer, quantized, 2),
    }
    runs = {}
    for name, model in models.items():
        progress, run = events(zerogpu.run_trajectory(checkpoint, model, labels, SPEC, 7))
        runs[name], said = digest(run), said + progress
    early = zerogpu.run_trajectory(checkpoint, quantized, labels, SPEC, 7)
    next(iter(early))
    early.close()  # a visitor who cancels
    shared = [n for n, p in checkpoint.transformer.named_parameters() if p.is_shared()]
    return {
        "calibration": found.sha256,
        "runs": runs,
        "said": said,
        "unchanged": fingerprint(checkpoint.transformer) == before,
        "shared": shared,
    }


if __name__ == "__main__":
    print(json.dumps(main("visitor" in sys.argv[1:])))
