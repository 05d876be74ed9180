"""The figures: shared colour range, shapes, finite values, sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ditas_core.calibration import Calibration, calibrate
from ditas_core.checkpoints import Checkpoint
from ditas_core.conversion import inject_outliers, injected_factors
from ditas_core.evaluation.outliers import (
    OutlierAtlas,
    outlier_atlas,
    outlier_strength,
    rescaled_calibration,
)
from ditas_core.figures import (
    MAX_COLUMNS,
    channel_maps,
    contact_strip,
    difference,
    enlarge,
    loss_curves,
    pool_channels,
    relative_db,
    split_strip,
    to_uint8,
)
from ditas_core.specs import CalibrationSpec, SamplingSpec

pytestmark = pytest.mark.numeric


@pytest.fixture()
def atlas(random_checkpoint: Checkpoint, random_calibration: Calibration) -> OutlierAtlas:
    return outlier_atlas(random_checkpoint, random_calibration)


def panels(figure):
    return [trace for trace in figure.data if trace.type == "heatmap"]


def test_dead_channels_give_finite_figures():
    zeros = np.zeros((3, 8), np.float32)
    figure = channel_maps(zeros, zeros, (9, 5, 1))
    assert figure.layout.coloraxis.cmin < figure.layout.coloraxis.cmax
    assert all(np.isfinite(panel.z).all() for panel in panels(figure))
    assert torch.isfinite(outlier_strength(torch.zeros(3, 8))).all()


@pytest.mark.parametrize("channels", [1, 7, MAX_COLUMNS, MAX_COLUMNS + 1, 4608])
def test_pooling_keeps_the_loudest(channels):
    values = np.random.default_rng(0).random((2, channels)).astype(np.float32)
    pooled, width = pool_channels(values)
    assert pooled.shape[1] <= MAX_COLUMNS and pooled.shape[1] * width >= channels
    np.testing.assert_array_equal(pooled.max(1), values.max(1))


def test_injection_is_exact_in_the_atlas(random_checkpoint, random_calibration, atlas):
    """Rescaling the statistics equals calibrating the rescaled transformer."""
    from dataclasses import replace

    factors = injected_factors(random_checkpoint.transformer, 50.0, 3, 0)
    changed = replace(
        random_checkpoint, transformer=inject_outliers(random_checkpoint.transformer, 50.0)
    )
    spec = CalibrationSpec(SamplingSpec(steps=4), samples=3, seed=5, tokens=6)
    measured = calibrate(changed, spec)
    derived = rescaled_calibration(random_calibration, factors, changed.fingerprint)
    rescaled = atlas.rescaled(factors, changed)
    reference = outlier_atlas(changed, measured)
    for name, group in reference.groups.items():
        torch.testing.assert_close(rescaled.groups[name].absmax, group.absmax, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(
            rescaled.groups[name].weight_absmax, group.weight_absmax, rtol=1e-5, atol=1e-6
        )
        torch.testing.assert_close(
            derived.groups[name].low, measured.groups[name].low, rtol=1e-3, atol=1e-4
        )
        torch.testing.assert_close(
            derived.groups[name].energy, measured.groups[name].energy, rtol=1e-3, atol=1e-4
        )
    assert rescaled.groups["0.qkv"].strength > 10 * atlas.groups["0.qkv"].strength


def test_loss_curves_are_relative_to_no_smoothing():
    np.testing.assert_allclose(relative_db([1.0, 10.0, 0.1], 1.0), [0, 10, -10])
    grid = (0.0, 0.5, 1.0)
    figure = loss_curves([("0.qkv", grid, (2.0, 0.5, 4.0), 1.0), ("0.fc2", grid, (3.0,) * 3, 1.0)])
    assert [trace.name for trace in figure.data] == ["qkv", "fc2"]
    assert min(figure.data[0].y) == pytest.approx(-3.01, abs=0.01)
    assert loss_curves([]).data == ()


def test_images():
    images = torch.rand(3, 3, 16, 16)
    pixels = to_uint8(images)
    assert pixels.shape == (3, 16, 16, 3) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(split_strip(contact_strip(pixels), 3), pixels)
    assert (difference(pixels[0], pixels[0], 8) == 128).all()
    assert enlarge(pixels[0], 64).size == (64, 64)
    assert enlarge(pixels[0], 4).size == (16, 16)
    with pytest.raises(ValueError, match="expected 4 square images"):
        split_strip(contact_strip(pixels), 4)
