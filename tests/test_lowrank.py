"""The low-rank branch: optimal in its norm, never worse than plain rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from marks import thorough
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ditas_core.calibration import Calibration, calibrate
from ditas_core.checkpoints import Checkpoint
from ditas_core.lowrank import (
    InputMoment,
    LowRankFit,
    fit_branch,
    input_moment,
    leading_subspace,
    released_iterates,
)
from ditas_core.methods import fit_weight
from ditas_core.models import get_linear
from ditas_core.quantizer import fake_quantize
from ditas_core.specs import CalibrationSpec, Granularity, LowRankSpec, QuantizerSpec, SamplingSpec

pytestmark = pytest.mark.numeric

W4 = QuantizerSpec(4, False, Granularity.PER_CHANNEL)
W3_INPUT = QuantizerSpec(3, False, Granularity.PER_INPUT_CHANNEL)
WEIGHTINGS = ("none", "energy", "covariance")

# The excess over the exact optimum that ``leading_subspace`` states, by iterations.
BOUNDS = {2: 0.01, 4: 0.001}
DEMO_BOUND = 0.001


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def slow_matrix(weighting: str, tokens: Tensor, energy: Tensor) -> Tensor:
    """M from its formula, (C, C), float64."""
    if weighting == "none":
        return torch.eye(len(energy)).double()
    diagonal = torch.diag(energy.double())
    if weighting == "energy":
        return diagonal
    x = tokens.double().flatten(0, -2)
    return 0.95 * sum(torch.outer(row, row) for row in x) / len(x) + 0.05 * diagonal


def slow_root(matrix: Tensor) -> Tensor:
    """G with G G^T = M, float64; M may be singular."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt()


def slow_cost(error: Tensor, matrix: Tensor) -> float:
    return float(torch.trace(error.double() @ matrix @ error.double().T))


def optimum(error: Tensor, root: Tensor, rank: int) -> float:
    """What the best rank leaves of |E G|^2, by the exact svd in float64."""
    return float(torch.linalg.svdvals(error.double() @ root)[rank:].square().sum())


class Inputs(NamedTuple):
    """Tokens of channels of different size, and energies of more tokens than these."""

    tokens: Tensor
    energy: Tensor

    def moment(self, weighting: str) -> InputMoment:
        return input_moment(weighting, self.tokens, self.energy)

    def matrix(self, weighting: str) -> Tensor:
        return slow_matrix(weighting, self.tokens, self.energy)

    def divided(self, s: Tensor) -> Inputs:
        return Inputs(self.tokens / s, self.energy / s.square())


def make_inputs(seed: int, count: int, channels: int) -> Inputs:
    sizes = torch.exp(random(seed + 1, channels))
    energy = sizes.square() * (1 + 0.3 * random(seed + 2, channels).abs())
    return Inputs(random(seed, count, channels) * sizes, energy)


any_inputs = st.builds(
    make_inputs,
    seed=st.integers(0, 10_000),
    count=st.integers(1, 30),
    channels=st.just(12),
)
any_weighting = st.sampled_from(WEIGHTINGS)


@given(inputs=any_inputs, weighting=any_weighting)
def test_the_moment_is_the_documented_matrix(inputs: Inputs, weighting: str) -> None:
    moment, matrix = inputs.moment(weighting), inputs.matrix(weighting)
    rows = random(3, 5, 12)
    expected = (rows.double() @ matrix).float()
    torch.testing.assert_close(moment.apply(rows), expected, rtol=1e-4, atol=1e-4)
    assert moment.cost(rows) == pytest.approx(slow_cost(rows, matrix), rel=1e-5)
    assert (moment.apply(rows) is rows) == (weighting == "none")


@pytest.mark.parametrize("count", [11, 12])
def test_the_matrix_is_formed_only_where_tokens_abound(count: int) -> None:
    moment = make_inputs(0, count, 12).moment("covariance")
    assert (moment.dense is None) == (count < 12)
    assert (moment.factor is None) == (count >= 12)


@given(inputs=any_inputs, weighting=any_weighting)
def test_divided_is_the_moment_of_divided_inputs(inputs: Inputs, weighting: str) -> None:
    s = torch.exp(random(8, 12))
    divided = inputs.moment(weighting).divided(s)
    rebuilt = inputs.divided(s).moment(weighting)
    rows = random(3, 5, 12)
    torch.testing.assert_close(divided.apply(rows), rebuilt.apply(rows), rtol=1e-4, atol=1e-4)
    assert divided.cost(rows) == pytest.approx(rebuilt.cost(rows), rel=1e-5)
    assert (divided.apply(rows) is rows) == (weighting == "none")


def test_steps_and_tokens_are_one_list_and_half_precision_is_widened() -> None:
    inputs = make_inputs(4, 6, 12)
    tokens = inputs.tokens.half()
    rows = random(3, 5, 12)
    flat = input_moment("covariance", tokens.float(), inputs.energy)
    steps = input_moment("covariance", tokens.reshape(2, 3, 12), inputs.energy)
    assert torch.equal(flat.apply(rows), steps.apply(rows))


@pytest.mark.parametrize(
    ("weighting", "tokens", "energy", "message"),
    [
        ("spectral", torch.ones(3, 4), torch.ones(4), "weighting"),
        ("energy", None, None, "energy"),
        ("energy", None, torch.ones(2, 4), "energy"),
        ("covariance", None, torch.ones(4), "tokens"),
        ("covariance", torch.ones(3, 5), torch.ones(4), "tokens"),
        ("covariance", torch.ones(0, 4), torch.ones(4), "tokens"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    weighting: str, tokens: Tensor | None, energy: Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        input_moment(weighting, tokens, energy)


class LargestTensor(TorchDispatchMode):
    """Notes the largest tensor that any operation gives."""

    numel = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


def test_few_tokens_never_make_a_square_of_the_channels() -> None:
    inputs = make_inputs(0, 20, 200)
    weight = random(1, 30, 200)
    with LargestTensor() as largest:
        moment = inputs.moment("covariance").divided(torch.full((200,), 2.0))
        moment.cost(weight)
        fit_branch(weight, lambda w: fake_quantize(w, W4), 4, 2, moment, 0.1)
    assert largest.numel == weight.numel()


SHAPES = [(12, 20), (20, 12), (9, 9), (40, 12), (12, 40), (30, 60), (60, 30)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 3, 9])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("count", [5, 100])
def test_the_remaining_cost_is_the_truncated_svds(
    shape: tuple[int, int], rank: int, weighting: str, count: int
) -> None:
    error, inputs = random(1, *shape), make_inputs(2, count, shape[1])
    matrix = inputs.matrix(weighting)
    up, down = leading_subspace(error, inputs.moment(weighting), rank, 2)
    assert up.shape == (shape[0], rank) and down.shape == (rank, shape[1])
    assert up.dtype == down.dtype == torch.float32
    best = optimum(error, slow_root(matrix), rank)
    rounding = 1e-5 * slow_cost(error, matrix)
    assert slow_cost(error - up @ down, matrix) <= best * 1.01 + rounding


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (9, 9), (40, 12)])
def test_a_probe_as_wide_as_the_error_is_exact_without_iterations(shape: tuple[int, int]) -> None:
    error = random(1, *shape)
    up, down = leading_subspace(error, input_moment("none"), 4, 0)
    u, s, v = torch.linalg.svd(error.double(), full_matrices=False)
    expected = (u[:, :4] * s[:4]) @ v[:4]
    torch.testing.assert_close((up @ down).double(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_factors_are_orthogonal_and_balanced(weighting: str) -> None:
    error, inputs = random(3, 30, 40), make_inputs(5, 60, 40)
    up, down = leading_subspace(error, inputs.moment(weighting), 4, 4)
    lengths = up.norm(dim=0)
    torch.testing.assert_close(lengths, down.norm(dim=1), rtol=1e-4, atol=0.0)
    cosines = (up / lengths).T @ (up / lengths)
    torch.testing.assert_close(cosines, torch.eye(4), rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (40, 50), (50, 40)])
def test_an_error_of_lower_rank_is_reached_exactly(shape: tuple[int, int]) -> None:
    low = random(4, shape[0], 2) @ random(5, 2, shape[1])
    for error, limit in ((low, 1e-4), (torch.zeros(shape), 0.0)):
        up, down = leading_subspace(error, input_moment("none"), 5, 2)
        assert torch.isfinite(up).all() and torch.isfinite(down).all()
        assert float((up @ down - error).abs().max()) <= limit


@pytest.mark.parametrize("energy", [torch.zeros(40), torch.eye(40)[3]])
def test_a_singular_moment_is_no_obstacle(energy: Tensor) -> None:
    error = random(6, 30, 40)
    for moment in (
        input_moment("energy", None, energy),
        input_moment("covariance", energy.sqrt().expand(2, 40), energy),
    ):
        up, down = leading_subspace(error, moment, 3, 2)
        assert torch.isfinite(up).all() and torch.isfinite(down).all()
        assert moment.cost(error - up @ down) <= 1e-9 * moment.cost(error)


@pytest.mark.parametrize(
    ("rank", "iterations", "told"),
    [(0, 1, "rank"), (-1, 1, "rank"), (11, 1, "rank"), (2, -1, "iterations")],
)
def test_impossible_counts_are_refused(rank: int, iterations: int, told: str) -> None:
    weight, moment = random(0, 10, 12), input_moment("none")

    def quantize(w: Tensor) -> Tensor:
        return fake_quantize(w, W4)

    with pytest.raises(ValueError, match=told):
        leading_subspace(weight, moment, rank, iterations)
    if iterations > 0:
        with pytest.raises(ValueError, match="rank"):
            fit_branch(weight, quantize, rank, 1, moment)
    if rank:  # without rank it only rounds; see below
        with pytest.raises(ValueError, match=told):
            next(released_iterates(weight, quantize, rank, max(iterations, 0)))


def dit_like_tokens(seed: int, count: int, channels: int, decay: float, outlier: float) -> Tensor:
    """Spread i^-decay over random directions, and four channels ``outlier`` times as large."""
    spread = torch.arange(1.0, channels + 1) ** -decay
    directions = torch.linalg.qr(random(seed, channels, channels)).Q
    x = random(seed + 1, count, channels) * spread @ directions.T
    x[:, :4] *= outlier
    return x


def worst_excess(error: Tensor, inputs: Inputs, rank: int, iterations: int) -> float:
    """Of three probes: by how much the remaining cost exceeds the optimum, relative to it."""
    moment = inputs.moment("covariance")
    x = inputs.tokens.double().flatten(0, -2)
    matrix = 0.95 * x.T @ x / len(x) + 0.05 * torch.diag(inputs.energy.double())
    left = []
    for seed in range(3):
        up, down = leading_subspace(error, moment, rank, iterations, seed)
        left.append(slow_cost(error - up @ down, matrix))
    return max(left) / optimum(error, slow_root(matrix), rank) - 1


@pytest.mark.parametrize("shape", [(192, 256), *thorough((384, 192), (192, 512))])
@pytest.mark.parametrize("count", [120, 1200])
@pytest.mark.parametrize(("decay", "outlier"), [(0, 1), (0.25, 30), (0.5, 1), (0.5, 30), (1, 30)])
def test_the_probe_costs_no_more_than_stated(
    shape: tuple[int, int], count: int, decay: float, outlier: float
) -> None:
    weight = random(7, *shape) / shape[1] ** 0.5
    error = weight - fake_quantize(weight, W4)
    every = dit_like_tokens(11, 3000, shape[1], decay, outlier)
    inputs = Inputs(every[:count], every.square().mean(0))
    for rank in (8, 32):
        for iterations, bound in BOUNDS.items():
            assert worst_excess(error, inputs, rank, iterations) <= bound


@pytest.fixture(scope="module")
def demo_calibration(demo_checkpoint: Checkpoint) -> Calibration:
    spec = CalibrationSpec(SamplingSpec(steps=4), samples=2, tokens=120)
    return calibrate(demo_checkpoint, spec)


@pytest.mark.parametrize("name", ["0.qkv", "3.fc1", "5.proj", "7.fc2"])
def test_the_probe_costs_no_more_than_stated_on_the_demo(
    demo_checkpoint: Checkpoint, demo_calibration: Calibration, name: str
) -> None:
    group = next(g for g in demo_checkpoint.groups if g.name == name)
    weight = get_linear(demo_checkpoint.transformer, group.layers[0]).weight.detach().float()
    statistics = demo_calibration.groups[name]
    inputs = Inputs(statistics.tokens.float(), statistics.energy.mean(0))
    error = weight - fake_quantize(weight, W4)
    for rank in (8, 32):
        assert worst_excess(error, inputs, rank, 2) <= DEMO_BOUND


class Case(NamedTuple):
    weight: Tensor
    inputs: Inputs
    weighting: str
    variance: float
    spec: QuantizerSpec

    def fit(self, rank: int, alternations: int) -> LowRankFit:
        moment = self.inputs.moment(self.weighting)
        return fit_branch(self.weight, self.quantize, rank, alternations, moment, self.variance)

    def quantize(self, weight: Tensor) -> Tensor:
        return fake_quantize(weight, self.spec)

    def score(self, up: Tensor, down: Tensor) -> float:
        """The documented score, from its formula."""
        quantized = self.quantize(torch.addmm(self.weight, up, down, alpha=-1)).double()
        left = self.weight.double() - quantized - up.double() @ down.double()
        own = self.variance * float(quantized.square().sum())
        return slow_cost(left, self.inputs.matrix(self.weighting)) + own


def make_case(
    seed: int, shape: tuple[int, int], count: int, weighting: str, variance: float, spec: Any
) -> Case:
    outliers = 1 + 5 * (random(seed + 1, shape[1]).abs() > 1.5)
    inputs = make_inputs(seed + 2, count, shape[1])
    return Case(random(seed, *shape) * outliers, inputs, weighting, variance, spec)


any_case = st.builds(
    make_case,
    seed=st.integers(0, 10_000),
    shape=st.sampled_from([(10, 12), (8, 40), (40, 8), (24, 30)]),
    count=st.sampled_from([3, 50]),
    weighting=any_weighting,
    variance=st.sampled_from([0.0, 1e-4, 0.1]),
    spec=st.sampled_from([W4, W3_INPUT]),
)


@given(case=any_case, rank=st.integers(1, 6), alternations=st.integers(1, 4))
def test_never_worse_than_plain_rounding_and_the_best_iterate_is_kept(
    case: Case, rank: int, alternations: int
) -> None:
    before = case.weight.clone()
    fit = case.fit(rank, alternations)
    assert torch.equal(case.weight, before)
    starts = 2 if case.variance else 1
    assert len(fit.scores) == 1 + starts + alternations - 1
    plain = case.score(torch.zeros_like(fit.up), torch.zeros_like(fit.down))
    assert fit.scores[0] == pytest.approx(plain, rel=1e-4)
    assert fit.scores[fit.best] == min(fit.scores)
    assert case.score(fit.up, fit.down) == pytest.approx(fit.scores[fit.best], rel=1e-3)
    assert case.score(fit.up, fit.down) <= plain * (1 + 1e-5)
    if fit.best == 0:
        assert not fit.up.any() and not fit.down.any()


@given(case=any_case, rank=st.integers(1, 6))
def test_more_alternations_only_add_iterates(case: Case, rank: int) -> None:
    one, four = case.fit(rank, 1), case.fit(rank, 4)
    assert set(one.scores) <= set(four.scores)
    assert min(four.scores) <= min(one.scores)


@given(case=any_case, rank=st.integers(1, 6))
def test_equal_arguments_give_bit_equal_branches(case: Case, rank: int) -> None:
    first = case.fit(rank, 2)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    second = case.fit(rank, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.up, second.up) and torch.equal(first.down, second.down)
    assert first.scores == second.scores


def test_without_a_variance_only_the_moment_weighs() -> None:
    case = make_case(0, (24, 30), 50, "covariance", 0.0, W4)
    fit = fit_weight(case.weight, W4, LowRankSpec(4, 2), case.inputs.moment("covariance"))
    branch = case.fit(4, 2)
    assert torch.equal(fit.up, branch.up.half().float()) and fit.up.any()


@pytest.mark.parametrize("value", [0.0, 0.7])
@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (8, 6)])
def test_a_weight_that_rounds_exactly_needs_no_branch(value: float, shape: tuple[int, int]) -> None:
    weight = torch.full(shape, value)
    case = Case(weight, make_inputs(0, 9, shape[1]), "covariance", 0.0, W4)
    fit = case.fit(3, 2)
    assert fit.best == 0 and not fit.up.any() and not fit.down.any()
    *_, (rounded, up, down) = released_iterates(weight, case.quantize, 3, 3)
    torch.testing.assert_close(rounded + up @ down, weight)


def test_weighting_pays_on_anisotropic_inputs() -> None:
    """Inputs that live in few directions: the weighted branch leaves less output error."""
    rows = random(21, 600, 4) @ random(20, 4, 24) * 3 + 0.1 * random(22, 600, 24)
    weight = random(23, 16, 24)
    inputs = Inputs(rows, rows.square().mean(0))

    def output_error(fit: LowRankFit) -> float:
        quantized = fake_quantize(weight - fit.up @ fit.down, W4)
        return float((rows @ (weight - quantized - fit.up @ fit.down).T).square().mean())

    plain = float((rows @ (weight - fake_quantize(weight, W4)).T).square().mean())
    blind = output_error(Case(weight, inputs, "none", 0.0, W4).fit(4, 4))
    seeing = output_error(Case(weight, inputs, "covariance", 0.0, W4).fit(4, 4))
    assert seeing < 0.1 * blind
    assert seeing < 0.1 * plain


def slow_released(
    weight: Tensor, spec: QuantizerSpec, rank: int, iterations: int
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Q, L, R of the released alternation: numpy, and the svd from it in float64."""
    w = weight.numpy()
    low = np.zeros_like(w)
    for _ in range(iterations):
        quantized = fake_quantize(torch.from_numpy(w - low), spec)
        u, s, v = np.linalg.svd((w - quantized.numpy()).astype(np.float64), full_matrices=False)
        up, down = np.zeros((len(w), rank)), np.zeros((rank, w.shape[1]))
        for i in range(rank):
            up[:, i], down[i] = u[:, i] * s[i] ** 0.5, s[i] ** 0.5 * v[i]
        low = (up @ down).astype(np.float32)
    return quantized, up, down


@given(
    seed=st.integers(0, 10_000),
    shape=st.sampled_from([(10, 12), (8, 40), (40, 8)]),
    rank=st.integers(1, 8),
    iterations=st.integers(1, 6),
    spec=st.sampled_from([W4, W3_INPUT]),
)
def test_the_released_alternation(
    seed: int, shape: tuple[int, int], rank: int, iterations: int, spec: QuantizerSpec
) -> None:
    weight = random(seed, *shape)
    before = weight.clone()
    *_, got = released_iterates(weight, lambda w: fake_quantize(w, spec), rank, iterations)
    expected, slow_up, slow_down = slow_released(weight, spec, rank, iterations)
    assert torch.equal(weight, before)
    # a difference in the last bit of L R moves the ends of a range by as little
    torch.testing.assert_close(got[0], expected, rtol=0.0, atol=2e-6)
    up, down = got[1].double().numpy(), got[2].double().numpy()
    np.testing.assert_allclose(up @ down, slow_up @ slow_down, rtol=0, atol=5e-6)
    signs = np.sign((up * slow_up).sum(0))
    np.testing.assert_allclose(up * signs, slow_up, rtol=0, atol=2e-4)
    np.testing.assert_allclose(signs[:, None] * down, slow_down, rtol=0, atol=2e-4)


def test_the_released_alternation_keeps_the_rounding_before_the_last_svd() -> None:
    weight = random(0, 16, 20)
    seen: list[Tensor] = []

    def quantize(w: Tensor) -> Tensor:
        seen.append(w.clone())
        return fake_quantize(w, W4)

    *_, (rounded, up, down) = released_iterates(weight, quantize, 4, 3)
    assert len(seen) == 3 and torch.equal(seen[0], weight)
    assert torch.equal(rounded, fake_quantize(seen[-1], W4))
    assert not torch.equal(rounded, fake_quantize(weight - up @ down, W4))

    # and without rank it only rounds
    *_, (rounded, up, down) = released_iterates(weight, lambda w: fake_quantize(w, W4), 0)
    assert torch.equal(rounded, fake_quantize(weight, W4))
    assert up.shape == (16, 0) and down.shape == (0, 20)
