"""Measures of outlier strength, the atlas and its file."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ditas_core.calibration import Calibration
from ditas_core.checkpoints import Checkpoint
from ditas_core.evaluation import AtlasError
from ditas_core.evaluation.atlas_file import deflate, inflate
from ditas_core.evaluation.outliers import (
    GroupOutliers,
    Measure,
    OutlierAtlas,
    outlier_atlas,
    outlier_strength,
)
from ditas_core.evaluation.strength import loudest_channels, step_factors
from ditas_core.smoothing import smoothing_factor

pytestmark = pytest.mark.numeric


@pytest.fixture()
def atlas(random_checkpoint: Checkpoint, random_calibration: Calibration) -> OutlierAtlas:
    return outlier_atlas(random_checkpoint, random_calibration)


def test_measures_of_known_channels():
    channels = torch.tensor([1.0, 2.0, 30.0])
    assert float(outlier_strength(channels, "ratio")) == 15.0
    assert float(outlier_strength(channels, "absmax")) == 30.0
    # two points of equal weight have the lowest kurtosis there is: 1 - 3
    assert float(outlier_strength(torch.tensor([1.0, 1.0, 5.0, 5.0]), "kurtosis")) == -2.0
    normal = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    assert float(outlier_strength(normal, "kurtosis")) == pytest.approx(0, abs=0.06)
    assert float(outlier_strength(torch.full((3, 8), 0.3), "kurtosis").abs().max()) == 0
    with pytest.raises(ValueError, match="loud"):
        outlier_strength(channels, "loud")


def test_kurtosis_ignores_the_unit():
    channels = torch.rand(512, generator=torch.Generator().manual_seed(1)) ** 8
    a, b = (outlier_strength(channels * unit, Measure.KURTOSIS) for unit in (1.0, 1e4))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("measure", list(Measure))
def test_halves_differ_and_both_is_their_maximum(atlas, random_calibration, measure):
    group = atlas.groups["0.fc1"]
    recorded = random_calibration.groups["0.fc1"].absmax
    torch.testing.assert_close(group.half("conditional"), recorded[:, 0])
    torch.testing.assert_close(group.half("unconditional"), recorded[:, 1])
    torch.testing.assert_close(group.half(), recorded.amax(1))
    maps = [atlas.overview(None, measure, half) for half in ("conditional", "unconditional")]
    assert maps[0].shape == (len(atlas.timesteps), len(atlas.groups))
    assert not torch.equal(maps[0], maps[1])


def test_ranking_names_the_loudest_place(atlas):
    alphas = dict.fromkeys(atlas.groups, 0.5)
    rows = atlas.ranking(alphas, "absmax")
    assert [row.strength for row in rows] == sorted((r.strength for r in rows), reverse=True)
    assert {row.layer for row in rows} == set(atlas.groups)
    for row in rows:
        absmax = atlas.groups[row.layer].absmax
        place = absmax[atlas.timesteps.index(row.timestep), row.channel]
        assert float(place) == float(absmax.max()) == pytest.approx(row.strength)
        assert row.alpha == 0.5


def test_step_factors_are_those_of_each_steps_maxima(atlas):
    group = atlas.groups["0.fc2"]
    for alpha in (None, 0.0, 0.4, 1.0):
        rows = group.step_factors(alpha)
        for row, absmax in zip(rows, group.absmax, strict=True):
            torch.testing.assert_close(row, smoothing_factor(absmax, group.weight_absmax, alpha))
        # the aggregated factor is their envelope, for s grows with the maxima
        torch.testing.assert_close(rows.amax(0), group.factor(alpha))
    with pytest.raises(ValueError, match=r"expected \(T, C\)"):
        step_factors(group.act_absmax, group.weight_absmax, 0.5)


def test_loudest_channels_come_first():
    assert loudest_channels(torch.tensor([1.0, 9.0, 3.0]), 2).tolist() == [1, 2]
    assert loudest_channels(torch.ones(2), 5).shape == (2,)


def test_round_trip_keeps_both_halves(atlas, tmp_path):
    atlas.save(tmp_path / "a.safetensors")
    back = OutlierAtlas.load(tmp_path / "a.safetensors")
    assert back.checkpoint == atlas.checkpoint
    for name, group in atlas.groups.items():
        torch.testing.assert_close(back.groups[name].halves, group.halves, rtol=0.03, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 1, 7), (5, 2, 33)])
def test_codes_survive_deflation(shape):
    codes = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(2))
    codes = codes.to(torch.uint8)
    assert torch.equal(inflate(deflate(codes), shape), codes)
    steps, halves, channels = shape
    for other in ((steps + 1, halves, channels), (steps, halves, channels + 1)):
        with pytest.raises(ValueError, match="expected"):
            inflate(deflate(codes), other)


def test_a_bomb_is_refused():
    bomb = deflate(torch.zeros(1, 1, 1 << 20, dtype=torch.uint8))
    with pytest.raises(ValueError, match="expected 32 values"):
        inflate(bomb, (4, 2, 4))


def large_group(steps: int, channels: int, seed: int) -> GroupOutliers:
    """Drifting channels with noise of 5 % per step, both halves alike but not equal."""
    draw = torch.Generator().manual_seed(seed)
    drift = torch.randn(steps, 1, channels, generator=draw) * 0.05
    start = torch.randn(1, 1, channels, generator=draw)
    apart = torch.randn(steps, 2, channels, generator=draw) * 0.02
    halves = (start + drift.cumsum(0) + apart).exp()
    ones = torch.ones(channels)
    return GroupOutliers("layer", halves, halves.amax((0, 1)), ones)


def test_the_demos_atlas_stays_below_a_megabyte(tmp_path):
    """Eight blocks of width 256, 50 steps."""
    groups = {
        f"{block}.{kind}": large_group(50, 1024 if kind == "fc2" else 256, block)
        for block in range(8)
        for kind in ("qkv", "proj", "fc1", "fc2")
    }
    path = tmp_path / "a.safetensors"
    OutlierAtlas("0" * 64, tuple(range(50)), groups).save(path)
    assert path.stat().st_size < 1_000_000


def write_small(path, steps: int, channels: int, times: int) -> None:
    """Eight channels whatever the file says."""
    halves = torch.arange(steps * 2 * 8).reshape(steps, 2, 8).to(torch.uint8)
    save_file(
        {
            "0.fc1.halves": deflate(halves),
            "0.fc1.act": torch.ones(8),
            "0.fc1.weight": torch.ones(8),
        },
        path,
        metadata={
            "format": "ditas-atlas-2",
            "checkpoint": "0" * 64,
            "timesteps": json.dumps(list(range(times))),
            "groups": json.dumps({"0.fc1": ["layer", -1.0, 2.0, [steps, 2, channels]]}),
        },
    )


@pytest.mark.parametrize(("steps", "channels", "times"), [(3, 8, 2), (3, 7, 3)])
def test_parts_that_do_not_fit_are_refused(tmp_path, steps, channels, times):
    path = tmp_path / "bad.safetensors"
    write_small(path, steps, channels, times)
    with pytest.raises(AtlasError, match=r"bad\.safetensors: expected an atlas"):
        OutlierAtlas.load(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("timesteps", "[1e999, 1, 2]"),
        ("timesteps", "[" * 100_000),
        ("timesteps", "[0.5, 1, 2]"),
        ("groups", "[" * 100_000),
        ("groups", "[]"),
        ("groups", '{"0.fc1": 3}'),
        ("groups", '{"0.fc1": ["x", 0, 1, [3, 9, 8]]}'),
        ("groups", '{"0.fc1": ["layer", -1.0, 1e999, [3, 2, 8]]}'),
        ("groups", '{"0.fc1": ["layer", %s, 2.0, [3, 2, 8]]}' % ("9" * 400)),
        ("groups", '{"0.fc1": ["layer", 99.0, 2.0, [3, 2, 8]]}'),
        ("groups", '{"0.fc1": ["layer", -1.0, -2.0, [3, 2, 8]]}'),
        ("act", "nan"),
    ],
    ids=range(12),
)
def test_numbers_out_of_range_are_refused(tmp_path, key, value):
    good, path = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    write_small(good, 3, 8, 3)
    tensors = load_file(good)
    with safe_open(good, framework="pt") as file:
        metadata = file.metadata()
    if key in metadata:
        metadata[key] = value
    else:
        tensors[f"0.fc1.{key}"][3] = float(value)
    save_file(tensors, path, metadata=metadata)
    OutlierAtlas.load(good)
    with pytest.raises(AtlasError, match="expected an atlas") as caught:
        OutlierAtlas.load(path)
    assert len(str(caught.value)) < 300


def test_other_files_are_refused(tmp_path):
    with pytest.raises(AtlasError, match="found no"):
        OutlierAtlas.load(tmp_path / "none")
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(AtlasError, match="format ditas-atlas-2"):
        OutlierAtlas.load(tmp_path / "x.safetensors")
