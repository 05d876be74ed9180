"""The low-rank branch: optimal in its norm, never worse than plain rounding."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ditas_core.lowrank import LowRankFit, best_rank, fit_low_rank, second_moment_root
from ditas_core.quantizer import fake_quantize
from ditas_core.specs import Granularity, QuantizerSpec

W4 = QuantizerSpec(4, False, Granularity.PER_CHANNEL)
W3_INPUT = QuantizerSpec(3, False, Granularity.PER_INPUT_CHANNEL)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_root(seed: int, channels: int) -> Tensor:
    """Lower triangular, well conditioned."""
    return torch.tril(random(seed, channels, channels)) * 0.3 + torch.diag(
        random(seed + 1, channels).abs() + 0.5
    )


def truncated(matrix: Tensor, rank: int) -> Tensor:
    """The best rank-r approximation, by the singular value decomposition in float64."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (9, 9)])
@pytest.mark.parametrize("rank", [1, 3, 9])
def test_identity_norm_is_the_truncated_svd(shape: tuple[int, int], rank: int) -> None:
    residual = random(0, *shape)
    up, down = best_rank(residual, rank, None)
    assert up.shape == (shape[0], rank) and down.shape == (rank, shape[1])
    assert torch.allclose((up @ down).double(), truncated(residual, rank), atol=2e-5)


@pytest.mark.parametrize("shape", [(12, 20), (20, 12)])
@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("diagonal", [False, True])
def test_weighted_norm_is_the_truncated_svd_seen_through_the_root(
    shape: tuple[int, int], rank: int, diagonal: bool
) -> None:
    residual = random(1, *shape)
    root = random(2, shape[1]).abs() + 0.2 if diagonal else random_root(2, shape[1])
    full = torch.diag(root) if diagonal else root
    up, down = best_rank(residual, rank, root)
    seen = (up @ down).double() @ full.double()
    assert torch.allclose(seen, truncated(residual @ full, rank), atol=5e-5)


@given(seed=st.integers(0, 10_000), rank=st.integers(1, 5))
def test_no_other_pair_is_better(seed: int, rank: int) -> None:
    residual, root = random(seed, 8, 6), random_root(seed + 7, 6)
    up, down = best_rank(residual, rank, root)
    best = float(((residual - up @ down) @ root).norm())
    for i in range(4):
        other_up = up + 0.03 * random(seed + i, *up.shape)
        other_down = down + 0.03 * random(seed + i + 50, *down.shape)
        assert float(((residual - other_up @ other_down) @ root).norm()) >= best * (1 - 1e-6)


def test_singular_values_are_split_as_square_roots() -> None:
    residual = random(3, 10, 14)
    up, down = best_rank(residual, 4, None)
    values = torch.linalg.svdvals(residual)[:4]
    assert torch.allclose(up.norm(dim=0), values.sqrt(), rtol=1e-4)
    assert torch.allclose(down.norm(dim=1), values.sqrt(), rtol=1e-4)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_a_residual_of_lower_rank_is_reached_exactly(shape: tuple[int, int]) -> None:
    exact = random(4, shape[0], 2) @ random(5, 2, shape[1])
    for residual, limit in ((exact, 1e-4), (torch.zeros(shape), 0.0)):
        up, down = best_rank(residual, 5, None)
        assert torch.isfinite(up).all() and torch.isfinite(down).all()
        assert float((up @ down - residual).abs().max()) <= limit


def test_root_of_the_second_moment() -> None:
    tokens = random(6, 3, 200, 5) * torch.tensor([1.0, 10.0, 0.1, 3.0, 1.0])
    rows = tokens.reshape(-1, 5).double()
    energy = rows.square().mean(0).float()
    root = second_moment_root(tokens, energy)
    assert torch.equal(root, root.tril())
    moment = rows.T @ rows / len(rows)
    got = root.double() @ root.double().T
    assert torch.allclose(got.diagonal(), moment.diagonal(), rtol=1e-4)
    off = moment - torch.diag(moment.diagonal())
    assert torch.allclose(got - torch.diag(got.diagonal()), 0.95 * off, atol=1e-3)


@pytest.mark.parametrize("dead", [False, True])
def test_root_exists_with_fewer_tokens_than_channels(dead: bool) -> None:
    tokens = random(7, 2, 3, 16)
    if dead:
        tokens[..., 4] = 0
    root = second_moment_root(tokens, tokens.reshape(-1, 16).square().mean(0))
    assert torch.isfinite(root).all()
    assert (root.diagonal() > 0).all()


class Case(NamedTuple):
    weight: Tensor
    root: Tensor | None
    variance: float
    spec: QuantizerSpec

    def fit(self, rank: int, iterations: int) -> LowRankFit:
        return fit_low_rank(self.weight, self.quantize, rank, iterations, self.root, self.variance)

    def quantize(self, weight: Tensor) -> Tensor:
        return fake_quantize(weight, self.spec)

    def score(self, up: Tensor, down: Tensor) -> float:
        """The documented score, from its formula."""
        quantized = self.quantize(self.weight - up @ down).double()
        left = self.weight.double() - quantized - up.double() @ down.double()
        if self.root is not None:
            full = torch.diag(self.root) if self.root.ndim == 1 else self.root
            left = left @ full.double()
        return float(left.square().sum() + self.variance * quantized.square().sum())


cases = st.builds(
    lambda seed, kind, variance, spec: Case(
        random(seed, 10, 12) * (1 + 5 * (random(seed + 1, 12).abs() > 1.5)),
        {"none": None, "energy": random(seed + 2, 12).abs() + 0.1}.get(
            kind, random_root(seed + 2, 12)
        ),
        variance,
        spec,
    ),
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(["none", "energy", "covariance"]),
    variance=st.sampled_from([0.0, 1e-4, 0.1]),
    spec=st.sampled_from([W4, W3_INPUT]),
)


@given(case=cases, rank=st.integers(1, 6), iterations=st.integers(1, 4))
def test_never_worse_than_plain_rounding_and_the_best_iterate_is_kept(
    case: Case, rank: int, iterations: int
) -> None:
    before = case.weight.clone()
    fit = case.fit(rank, iterations)
    assert torch.equal(case.weight, before)
    zero = torch.zeros(10, rank), torch.zeros(rank, 12)
    plain = case.score(*zero)
    assert fit.scores[0] == pytest.approx(plain, rel=1e-4)
    assert fit.scores[fit.best] == min(fit.scores)
    assert case.score(fit.up, fit.down) == pytest.approx(fit.scores[fit.best], rel=1e-3)
    assert case.score(fit.up, fit.down) <= plain * (1 + 1e-5)
    if fit.best == 0:
        assert not fit.up.any() and not fit.down.any()


@given(case=cases, rank=st.integers(1, 6))
def test_more_iterations_are_never_worse(case: Case, rank: int) -> None:
    one, four = case.fit(rank, 1), case.fit(rank, 4)
    assert min(four.scores) <= min(one.scores) * (1 + 1e-9)


def test_weighting_pays_on_anisotropic_inputs() -> None:
    """Inputs that live in few directions: the weighted branch leaves less output error."""
    directions = random(20, 4, 24) * 3
    tokens = random(21, 2, 300, 4) @ directions + 0.1 * random(22, 2, 300, 24)
    rows = tokens.reshape(-1, 24)
    weight = random(23, 16, 24)
    root = second_moment_root(tokens, rows.square().mean(0))

    def output_error(fit: LowRankFit) -> float:
        quantized = fake_quantize(weight - fit.up @ fit.down, W4)
        return float((rows @ (weight - quantized - fit.up @ fit.down).T).square().mean())

    plain = float((rows @ (weight - fake_quantize(weight, W4)).T).square().mean())
    blind = output_error(Case(weight, None, 0.0, W4).fit(4, 4))
    seeing = output_error(Case(weight, root, 0.0, W4).fit(4, 4))
    assert seeing < 0.1 * blind
    assert seeing < 0.1 * plain


@pytest.mark.parametrize("rank", [0, -1, 11])
def test_a_rank_that_does_not_fit_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match="rank"):
        Case(random(0, 10, 12), None, 0.0, W4).fit(rank, 1)
