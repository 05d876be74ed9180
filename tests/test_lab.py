"""The alpha lab: histograms, grids and errors of one group at one alpha."""

from __future__ import annotations

import math

import pytest
import torch
from marks import compatible

from ditas_core.calibration import Calibration
from ditas_core.checkpoints import Checkpoint
from ditas_core.models import get_linear
from ditas_core.quantizer import fake_quantize, fake_quantize_in_range
from ditas_core.search import AlphaLab, LabView, SearchSpec, search_group
from ditas_core.search.lab import BINS, FLOOR_DB
from ditas_core.smoothing import smoothing_factor
from ditas_core.specs import CONVENTIONS, METHODS, BitWidths, LowRankSpec

pytestmark = pytest.mark.numeric

W4A6 = BitWidths(4, 6)
DIFFERENT = [name for name in METHODS if "+" not in name or name == "ditas+gptq"]
"""The rest put the same parts together."""
GRID = (0.0, 0.5, 1.0)
RANK = LowRankSpec(rank=4, iterations=1)
NUMBERS = ("activation_db", "weight_db", "output_activation_db", "output_weight_db", "output_db")


def group_of(checkpoint: Checkpoint, name: str):
    return next(group for group in checkpoint.groups if group.name == name)


def lab_of(
    checkpoint: Checkpoint, calibration: Calibration, name: str, spec: SearchSpec
) -> AlphaLab:
    return AlphaLab(checkpoint, group_of(checkpoint, name), calibration, spec)


def decibels(error: torch.Tensor, signal: torch.Tensor) -> float:
    return float(20 * torch.log10(error.double().norm() / signal.double().norm()))


@pytest.mark.parametrize(
    ("convention", "method"), compatible([*CONVENTIONS, "integer-g8"], DIFFERENT)
)
@pytest.mark.parametrize("name", ["0.qkv", "1.fc2"])
def test_the_output_error_is_the_searchs_own(
    random_checkpoint: Checkpoint,
    random_calibration: Calibration,
    convention: str,
    method: str,
    name: str,
) -> None:
    low_rank = None if convention == "released" else RANK
    spec = SearchSpec(W4A6, convention, method, low_rank, GRID)
    group = group_of(random_checkpoint, name)
    done = search_group(random_checkpoint, group, random_calibration, spec)
    lab = AlphaLab(random_checkpoint, group, random_calibration, spec)
    curve = ((None, done.identity), *zip(done.grid, done.losses, strict=True))
    for alpha, loss in reversed(curve):
        view = lab(alpha)
        assert view.alpha == alpha
        assert view.output_db == pytest.approx(10 * math.log10(loss / done.energy), abs=1e-3)
        assert all(math.isfinite(getattr(view, n)) and getattr(view, n) < 10 for n in NUMBERS)
        assert int(view.activations.counts.sum()) == lab.loss.tokens.numel()
        assert int(view.weights.counts.sum()) == lab.loss.weight.numel()


@pytest.mark.parametrize("convention", ["integer", "paper"])
def test_numbers_by_hand(
    random_checkpoint: Checkpoint, random_calibration: Calibration, convention: str
) -> None:
    """No branch: every number and both histograms from plain tensors.

    Paper convention: Q(W) s, inputs in each step's recorded range.
    """
    spec = SearchSpec(W4A6, convention, "search")
    lab = lab_of(random_checkpoint, random_calibration, "0.fc1", spec)
    view = lab(0.6)
    stats = random_calibration.groups["0.fc1"]
    path = group_of(random_checkpoint, "0.fc1").layers[0]
    weight = get_linear(random_checkpoint.transformer, path).weight
    s = smoothing_factor(stats.aggregated_absmax(), weight.abs().amax(0), 0.6)
    x, w = stats.tokens.float() / s, weight * s
    weight_spec, activation_spec = lab.loss.weight_spec, lab.loss.activation_spec
    if convention == "integer":
        x_hat, w_hat = fake_quantize(x, activation_spec), fake_quantize(w, weight_spec)
        steps = (w.amax(1).clamp(min=0) - w.amin(1).clamp(max=0)) / 15
        spans = x.amax(-1).clamp(min=0) - x.amin(-1).clamp(max=0)
    else:
        low = (stats.low / s).amin((1, 2)).clamp(max=0)
        high = (stats.high / s).amax((1, 2)).clamp(min=0)
        ends = low[:, None, None], high[:, None, None]
        x_hat = fake_quantize_in_range(x, *ends, activation_spec)
        w_hat = fake_quantize(weight, weight_spec) * s
        steps = (weight.amax(0).clamp(min=0) - weight.amin(0).clamp(max=0)) / 15 * s
        spans = high - low
    y = x @ w.T
    expected = (
        *(decibels(x_hat - x, x), decibels(w_hat - w, w), decibels(x_hat @ w.T - y, y)),
        *(decibels(x @ w_hat.T - y, y), decibels(x_hat @ w_hat.T - y, y)),
    )
    assert [getattr(view, n) for n in NUMBERS] == pytest.approx(expected, abs=1e-3)
    for shown, tensor in ((view.activations, x), (view.weights, w)):
        assert shown.limit == pytest.approx(float(tensor.abs().max()))
        edges = torch.linspace(-shown.limit, shown.limit, BINS + 1)
        index = torch.bucketize(tensor.flatten(), edges, right=True).clamp(1, BINS) - 1
        counts = torch.bincount(index, minlength=BINS)
        assert int((shown.counts - counts).abs().sum()) <= 4, "ties at edges aside"
    assert view.weight_grid.step == pytest.approx(float(steps.median()), rel=1e-5)
    assert view.activation_grid.step == pytest.approx(float((spans / 63).median()), rel=1e-5)


@pytest.mark.parametrize("convention", [*CONVENTIONS, "integer-g8"])
def test_grids_have_as_many_levels_as_the_bits_and_hold_the_rounded_values(
    random_checkpoint: Checkpoint, random_calibration: Calibration, convention: str
) -> None:
    lab = lab_of(
        random_checkpoint,
        random_calibration,
        "1.proj",
        SearchSpec(W4A6, convention, method="search"),
    )
    for alpha in (None, *GRID):
        view = lab(alpha)
        for grid, bits in ((view.weight_grid, 4), (view.activation_grid, 6)):
            assert grid is not None and grid.step > 0
            assert (grid.high - grid.low) / grid.step == pytest.approx(2**bits - 1)
        s = smoothing_factor(lab.loss.act_absmax, lab.loss.w_absmax, alpha)
        x = lab.loss.tokens / s
        rounded = lab.loss.round_activations(x, s)
        levels = rounded / view.activation_grid.step  # at least one token lies on this grid
        off = (levels - levels.round()).abs().reshape(lab.loss.steps * lab.loss.kept, -1).amax(1)
        assert float(off.min()) < 1e-3


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_what_is_left_alone_has_no_grid_and_no_error(
    random_checkpoint: Checkpoint, random_calibration: Calibration, convention: str
) -> None:
    def view(bits: str) -> LabView:
        spec = SearchSpec(BitWidths.parse(bits), convention, method="search")
        return lab_of(random_checkpoint, random_calibration, "0.qkv", spec)(0.5)

    inputs_whole = view("W4A16")
    assert inputs_whole.activation_grid is None and inputs_whole.weight_grid is not None
    assert inputs_whole.activation_db == inputs_whole.output_activation_db == FLOOR_DB
    assert inputs_whole.output_db == inputs_whole.output_weight_db > FLOOR_DB
    weights_whole = view("W16A6")
    assert weights_whole.weight_grid is None and weights_whole.activation_grid is not None
    assert weights_whole.weight_db == weights_whole.output_weight_db == FLOOR_DB
    assert weights_whole.output_db == pytest.approx(weights_whole.output_activation_db, abs=1e-3)
    assert view("W16A16").output_db == FLOOR_DB


def test_calls_do_not_depend_on_each_other(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    """Any order gives the same; the branch's start is settled when the lab is made."""
    spec = SearchSpec(W4A6, low_rank=RANK)
    lab = lab_of(random_checkpoint, random_calibration, "0.proj", spec)
    first = [lab(alpha) for alpha in GRID]
    fresh = lab_of(random_checkpoint, random_calibration, "0.proj", spec)
    again = [fresh(alpha) for alpha in reversed(GRID)][::-1]
    for a, b in zip(first, again, strict=True):
        assert all(getattr(a, n) == getattr(b, n) for n in NUMBERS)
        assert torch.equal(a.weights.counts, b.weights.counts)
        assert (a.activation_grid, a.weight_grid) == (b.activation_grid, b.weight_grid)
