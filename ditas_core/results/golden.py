"""``python -m ditas_core.results.golden``: the numbers that the golden tests expect."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..bench.machine import DEMO, ROOT
from ..calibration import calibrate
from ..checkpoints import Checkpoint, load_checkpoint
from ..comparison import Trajectory, compare, run_trajectory
from ..conversion import quantize_transformer
from ..sampling import spread_labels
from ..search import LayerDone, SearchSpec, iterate_search
from ..specs import BitWidths, CalibrationSpec, LowRankSpec, Recipe, SamplingSpec
from .reports import keep
from .steps import MEASUREMENTS

PATH = ROOT / MEASUREMENTS / "golden.json"
SAMPLING, SAMPLES, SEED = SamplingSpec(steps=20), 4, 100
GRID = (0.5, 0.75)
BRANCH = LowRankSpec(rank=32, iterations=2)
MODELS = (("W8A8", "plain"), ("W4A8", "plain"), ("W4A8", "ditas"))


def measure(checkpoint: Checkpoint) -> dict[str, Any]:
    """Fixed seeds from end to end.

    latents   mean |z| of every sample of full precision
    absmax    of every smoothing group the largest |X| of the calibration
    losses    model -> group -> the search's losses, the identity's first, over the output's energy
    sqnr      model -> mean latent SQNR in dB after half of the steps; at the end a code that falls
              otherwise on another processor has moved single pictures by several dB
    """

    def run(transformer: nn.Module) -> Trajectory:
        labels = spread_labels(SAMPLES, len(checkpoint.class_names))
        return run_trajectory(checkpoint, transformer, labels, SAMPLING, SEED)

    reference = run(checkpoint.transformer)
    calibration = calibrate(checkpoint, CalibrationSpec(SAMPLING, samples=SAMPLES))
    losses: dict[str, dict[str, list[float]]] = {}
    sqnr: dict[str, float] = {}
    for bits, method in MODELS:
        spec = SearchSpec(BitWidths.parse(bits), method=method, grid=GRID, low_rank=BRANCH)
        *events, recipe = iterate_search(checkpoint, calibration, spec)
        assert isinstance(recipe, Recipe)
        layers = [event for event in events if isinstance(event, LayerDone)]
        name = f"{bits} {method}"
        losses[name] = {
            each.group: [loss / each.energy for loss in (each.identity, *each.losses)]
            for each in layers
        }
        made = quantize_transformer(checkpoint, recipe, calibration)
        divergence = compare(reference, run(made)).divergence  # (S, N)
        sqnr[name] = float(divergence[SAMPLING.steps // 2 - 1].mean())
    return {
        "checkpoint": checkpoint.fingerprint,
        "latents": reference.latents[-1].abs().mean((1, 2, 3)).tolist(),
        "absmax": {
            name: float(each.high.abs().max().maximum(each.low.abs().max()))
            for name, each in calibration.groups.items()
        },
        "losses": losses,
        "sqnr": sqnr,
    }


def main() -> int:
    return keep(PATH, measure(load_checkpoint(str(DEMO))))


if __name__ == "__main__":
    raise SystemExit(main())
