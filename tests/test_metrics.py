"""Metrics on values known beforehand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ditas_core.evaluation import interval, psnr_db, sqnr_db, ssim
from ditas_core.evaluation.metrics import student_t

pytestmark = pytest.mark.numeric

# two-sided 95 % quantiles of Student's t, as tabulated
TABLE = [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (31, 2.040),
         (120, 1.980), (1000, 1.962)]  # fmt: skip


def images(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("error", "decibel"), [(1.0, 0), (0.1, 20), (0.01, 40), (0.001, 60)])
def test_psnr_of_a_constant_error(error: float, decibel: float) -> None:
    black = torch.zeros(2, 3, 8, 8)
    assert psnr_db(black, black + error).tolist() == pytest.approx([decibel] * 2, abs=1e-3)


@pytest.mark.parametrize("decibel", [-20, 0, 20, 40, 100])
def test_sqnr_of_a_proportional_error(decibel: float) -> None:
    x = images(0, 2, 4, 8, 8).double() - 0.5
    y = x * (1 + 10 ** (-decibel / 20))
    assert sqnr_db(x, y).tolist() == pytest.approx([decibel] * 2, abs=1e-3)


def test_metrics_are_per_sample() -> None:
    x = images(1, 3, 3, 16, 16)
    y = x.clone()
    y[1] += 0.1
    for metric in (psnr_db, sqnr_db, ssim):
        whole = metric(x, y)
        assert whole.shape == (3,)
        assert whole[1] < whole[0] == whole[2]
        assert metric(x[1:2], y[1:2])[0] == pytest.approx(float(whole[1]), rel=1e-6)


def test_equal_inputs_reach_the_ceiling() -> None:
    x = images(2, 2, 3, 16, 16)
    assert psnr_db(x, x).tolist() == [200, 200]
    assert sqnr_db(x, x).tolist() == [200, 200]
    assert ssim(x, x).tolist() == pytest.approx([1, 1], abs=1e-6)


def test_a_zero_reference_stays_finite() -> None:
    zero, one = torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    for metric in (psnr_db, sqnr_db, ssim):
        for a, b in ((zero, zero), (zero, one), (one, zero)):
            assert torch.isfinite(metric(a, b)).all()


def test_ssim_equals_its_definition_window_by_window() -> None:
    x, y = images(3, 1, 2, 13, 12).double(), images(4, 1, 2, 13, 12).double()
    weights = [math.exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11)]
    total = sum(a * b for a in weights for b in weights)
    scores = []
    for c in range(2):
        for top in range(3):
            for left in range(2):
                sums = [0.0] * 5
                for i in range(11):
                    for j in range(11):
                        w = weights[i] * weights[j] / total
                        p, q = float(x[0, c, top + i, left + j]), float(y[0, c, top + i, left + j])
                        for k, value in enumerate((p, q, p * p, q * q, p * q)):
                            sums[k] += w * value
                mx, my, xx, yy, xy = sums
                scores.append(
                    (2 * mx * my + 1e-4)
                    * (2 * (xy - mx * my) + 9e-4)
                    / ((mx**2 + my**2 + 1e-4) * (xx - mx**2 + yy - my**2 + 9e-4))
                )
    assert float(ssim(x, y)) == pytest.approx(sum(scores) / len(scores), abs=1e-6)


def test_ssim_falls_with_noise_and_turns_negative_for_the_negative() -> None:
    x = images(5, 1, 3, 32, 32)
    noisy = [float(ssim(x, x + s * (images(6, 1, 3, 32, 32) - 0.5))) for s in (0.0, 0.1, 0.5, 1.0)]
    assert noisy == sorted(noisy, reverse=True)
    assert float(ssim(x, 1 - x)) < 0


def test_ssim_refuses_small_or_unequal_images() -> None:
    for a, b in (((1, 3, 10, 16), (1, 3, 10, 16)), ((1, 3, 16, 16), (1, 3, 16, 17))):
        with pytest.raises(ValueError, match="11 x 11"):
            ssim(torch.zeros(a), torch.zeros(b))


@pytest.mark.parametrize(("freedom", "tabulated"), TABLE)
def test_student_t_as_tabulated(freedom: int, tabulated: float) -> None:
    assert student_t(freedom) == pytest.approx(tabulated, rel=2e-3)


def test_student_t_falls_towards_the_normal_quantile() -> None:
    values = [student_t(n) for n in range(1, 200)]
    assert values == sorted(values, reverse=True)
    assert student_t(10**6) == pytest.approx(1.95996, abs=1e-4)


def test_interval_of_known_values() -> None:
    got = interval(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert (got.mean, got.n) == (pytest.approx(2.5, rel=1e-6), 4)
    assert got.half_width == pytest.approx(3.1824 * math.sqrt(5 / 3) / 2, rel=1e-4)
    assert str(got) == "2.50 ± 2.05"
    assert interval(torch.tensor([7.0, 7.0, 7.0])).half_width == pytest.approx(0, abs=1e-5)
    one = interval(torch.tensor([3.0]))
    assert one.mean == pytest.approx(3, rel=1e-6) and math.isinf(one.half_width)
