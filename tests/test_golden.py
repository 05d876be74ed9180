"""End to end on the shipped checkpoint: fixed seeds, four samples, twenty steps."""

from __future__ import annotations

import pytest
from torch import nn

from ditas_core.calibration import Calibration, calibrate
from ditas_core.checkpoints import Checkpoint
from ditas_core.comparison import Trajectory, compare, run_trajectory
from ditas_core.conversion import quantize_transformer
from ditas_core.sampling import spread_labels
from ditas_core.search import SearchSpec, search
from ditas_core.specs import BitWidths, CalibrationSpec, LowRankSpec, SamplingSpec

pytestmark = pytest.mark.numeric

SAMPLING = SamplingSpec(steps=20)
SAMPLES = 4
SEED = 100
GRID = (0.5, 0.75)
BRANCH = LowRankSpec(rank=32, iterations=2)


def run(checkpoint: Checkpoint, transformer: nn.Module) -> Trajectory:
    labels = spread_labels(SAMPLES, len(checkpoint.class_names))
    return run_trajectory(checkpoint, transformer, labels, SAMPLING, SEED)


@pytest.fixture(scope="module")
def reference(demo_checkpoint: Checkpoint) -> Trajectory:
    return run(demo_checkpoint, demo_checkpoint.transformer)


@pytest.fixture(scope="module")
def calibration(demo_checkpoint: Checkpoint) -> Calibration:
    spec = CalibrationSpec(SAMPLING, samples=SAMPLES)
    return calibrate(demo_checkpoint, spec)


def sqnr(
    checkpoint: Checkpoint,
    calibration: Calibration,
    reference: Trajectory,
    bits: str,
    method: str,
) -> float:
    """Mean latent SQNR in dB against full precision."""
    spec = SearchSpec(BitWidths.parse(bits), method=method, grid=GRID, low_rank=BRANCH)
    recipe = search(checkpoint, calibration, spec)
    model = quantize_transformer(checkpoint, recipe, calibration)
    return compare(reference, run(checkpoint, model)).summary()["latent_sqnr_db"].mean


def test_eight_bits_stay_close_to_full_precision(
    demo_checkpoint: Checkpoint, calibration: Calibration, reference: Trajectory
) -> None:
    assert sqnr(demo_checkpoint, calibration, reference, "W8A8", "plain") > 25


def test_ditas_is_closer_than_plain_rounding_at_four_bits(
    demo_checkpoint: Checkpoint, calibration: Calibration, reference: Trajectory
) -> None:
    plain = sqnr(demo_checkpoint, calibration, reference, "W4A8", "plain")
    ditas = sqnr(demo_checkpoint, calibration, reference, "W4A8", "ditas")
    assert ditas >= plain + 2, f"{ditas:.1f} dB against {plain:.1f} dB"
