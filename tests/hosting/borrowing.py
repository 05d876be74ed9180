"""One calibration and four runs as the page starts them, once for each way of being hosted.

    python tests/hosting/borrowing.py MODE ...

Modes: "none" (no package ``spaces``), "off" (the package, no ZeroGPU), "on", "quota" (none left),
and "start" (ZeroGPU, but no visitor asks). Prints one JSON object per mode with digests of what
came out. In a process of its own, since the package is looked for at import and forks.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

import torch  # noqa: E402
from conftest import build_random_checkpoint  # noqa: E402
from gradio.context import LocalContext  # noqa: E402

from ditas_core.calibration import Calibration  # noqa: E402
from ditas_core.checkpoints import Checkpoint  # noqa: E402
from ditas_core.checkpoints.checkpoint import fingerprint  # noqa: E402
from ditas_core.comparison import Switching, Trajectory  # noqa: E402
from ditas_core.conversion import quantize_transformer  # noqa: E402
from ditas_core.search import plain_recipe  # noqa: E402
from ditas_core.specs import BitWidths, CalibrationSpec, SamplingSpec  # noqa: E402
from ditas_core.ui.serving import zerogpu  # noqa: E402

SPEC = SamplingSpec(steps=4)


def digest(run: Trajectory) -> str:
    pair = (run.latents, run.images)
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in pair)).hexdigest()


def work(checkpoint: Checkpoint, quantized: torch.nn.Module) -> dict[str, Any]:
    """Everything that the page's jobs start."""
    before = fingerprint(checkpoint.transformer)
    spec = CalibrationSpec(SPEC, samples=3, seed=5, tokens=6)
    *progress, found = zerogpu.iterate_calibration(checkpoint, spec)
    assert isinstance(found, Calibration)
    said = [repr(each) for each in progress]
    models = {
        "full": checkpoint.transformer,
        "quantized": quantized,
        "switching": Switching(checkpoint.transformer, quantized, 2),
    }
    runs, labels = {}, torch.tensor([0, 3])
    for name, model in models.items():
        *progress, run = zerogpu.iterate_trajectory(checkpoint, model, labels, SPEC, 7)
        runs[name] = digest(run)
        said += [repr(each) for each in progress]
    early = zerogpu.iterate_trajectory(checkpoint, quantized, labels, SPEC, 7)
    next(iter(early))
    early.close()  # a visitor who cancels
    return {
        "calibration": found.sha256,
        "runs": runs,
        "said": said,
        "unchanged": fingerprint(checkpoint.transformer) == before,
        "shared": [n for n, p in checkpoint.transformer.named_parameters() if p.is_shared()],
    }


def in_mode(mode: str, checkpoint: Checkpoint, quantized: torch.nn.Module) -> dict[str, Any]:
    """The work, with what was declared and what the visitor was told."""
    sys.modules.pop("spaces", None)
    if mode != "none":
        sys.path.insert(0, str(HERE / "fakes"))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        log = Path(folder) / "declared.jsonl"
        os.environ["FAKE_SPACES_LOG"] = str(log)
        os.environ["FAKE_SPACES_MODE"] = {"start": "on"}.get(mode, mode)
        importlib.reload(zerogpu)
        token = LocalContext.request.set(None if mode == "start" else object())  # type: ignore
        try:
            found = work(checkpoint, quantized)
        finally:
            LocalContext.request.reset(token)
            if mode != "none":
                sys.path.pop(0)
        lines = log.read_text().splitlines() if log.is_file() else []
    warned = [str(each.message) for each in told if "No GPU" in str(each.message)]
    return {"found": found, "declared": [json.loads(line) for line in lines], "told": warned}


def main() -> None:
    torch.set_num_threads(1)
    checkpoint = build_random_checkpoint()
    recipe = plain_recipe(checkpoint, BitWidths(4, 8), "integer")
    quantized = quantize_transformer(checkpoint, recipe, None)
    for mode in sys.argv[1:]:
        print(json.dumps(in_mode(mode, checkpoint, quantized)), flush=True)


if __name__ == "__main__":
    main()
