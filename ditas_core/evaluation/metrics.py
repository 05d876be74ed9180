"""Distances between paired results, with confidence intervals. Tensors in, numbers out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

CEILING_DB = 200.0


@dataclass(frozen=True)
class Interval:
    """Mean of n values and the half width of its 95 % confidence interval (Student's t)."""

    mean: float
    half_width: float
    n: int

    @property
    def low(self) -> float:
        """The interval's lower end; the value itself where there is only one."""
        return self.mean - self.half_width if self.n > 1 else self.mean

    @property
    def high(self) -> float:
        """The interval's upper end; the value itself where there is only one."""
        return self.mean + self.half_width if self.n > 1 else self.mean

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.half_width:.2f}"


def student_t(freedom: int) -> float:
    """Two-sided 95 % quantile of Student's t (Cornish-Fisher in 1/freedom; exact for 1 and 2)."""
    exact = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764}
    if freedom in exact:
        return exact[freedom]
    z, v = 1.959964, float(freedom)
    first = (z**3 + z) / (4 * v)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    return z + first + second + third


def interval(values: Tensor) -> Interval:
    """Mean and 95 % half width of a 1-D tensor; the half width of one value is infinite."""
    n = values.numel()
    mean = float(values.double().mean())
    if n < 2:
        return Interval(mean, math.inf, n)
    error = float(values.double().std()) / math.sqrt(n)
    return Interval(mean, student_t(n - 1) * error, n)


def sqnr_db(reference: Tensor, other: Tensor) -> Tensor:
    """10 log10(|x|^2 / |x - y|^2) per sample, (N, ...) -> (N,), capped at 200 dB."""
    signal = reference.double().flatten(1).square().sum(1)
    noise = (reference.double() - other.double()).flatten(1).square().sum(1)
    ratio = signal / noise.clamp(min=1e-300)
    return (10 * torch.log10(ratio.clamp(min=1e-30))).clamp(max=CEILING_DB).float()


def psnr_db(reference: Tensor, other: Tensor) -> Tensor:
    """10 log10(1 / MSE) per image in [0, 1], (N, 3, H, W) -> (N,), capped at 200 dB."""
    error = (reference.double() - other.double()).flatten(1).square().mean(1)
    return (-10 * torch.log10(error.clamp(min=1e-30))).clamp(max=CEILING_DB).float()


def gaussian_band(length: int, size: int = 11, sigma: float = 1.5) -> Tensor:
    """What takes normalised Gaussian means of ``size`` neighbours, (length - size + 1, length).

    The window of images is its own outer product, so that a mean over it is two products with
    this matrix: an order of magnitude faster than a convolution in double precision.
    """
    x = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weights = torch.exp(-x.square() / (2 * sigma**2))
    band = torch.zeros(length - size + 1, length, dtype=torch.float64)
    for row, line in enumerate(band):
        line[row : row + size] = weights / weights.sum()
    return band


def ssim(reference: Tensor, other: Tensor) -> Tensor:
    """Structural similarity per image in [0, 1], (N, C, H, W) -> (N,).

    Gaussian window 11 x 11, sigma 1.5, K1 = 0.01, K2 = 0.03, valid region
    (Wang et al., 2004), mean over channels.

    Raises:
        ValueError: images smaller than the window, or of different shapes.
    """
    if reference.shape != other.shape or min(reference.shape[-2:]) < 11:
        raise ValueError(
            "images: expected two equal shapes of at least 11 x 11, got "
            f"{tuple(reference.shape)} and {tuple(other.shape)}"
        )
    over_rows, over_columns = map(gaussian_band, reference.shape[-2:])

    def blur(x: Tensor) -> Tensor:
        return over_rows @ x @ over_columns.T

    x, y = reference.double(), other.double()
    mx, my = blur(x), blur(y)
    vx, vy = blur(x * x) - mx * mx, blur(y * y) - my * my
    cov = blur(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    score = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return score.flatten(1).mean(1).float()  # (N,)


def visible_differences(a: Tensor, b: Tensor) -> int:
    """How many values of two images in [0, 1] differ once rounded to 8 bits, any equal shapes."""
    codes = [torch.round(image.clamp(0, 1) * 255) for image in (a, b)]
    return int((codes[0] != codes[1]).sum())
