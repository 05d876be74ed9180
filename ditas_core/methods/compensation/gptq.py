"""GPTQ: column after column is rounded, and the columns that follow make up for its error.

    H      = M + damping mean(diag M) I,      R upper, R^T R = H^-1
    q_j    = round(w_j)
    e_j    = (w_j - q_j) / R_jj
    w_k   <- w_k - e_j R_jk                   for every later column k

which is, of all real values that the later columns could take, the one that leaves the least
``tr((W - Q) H (W - Q)^T)``: the elimination of OBQ, for all rows in one order of columns and by
one Cholesky factor (Frantar, Ashkboos, Hoefler & Alistarh, "GPTQ", ICLR 2023; Frantar & Alistarh,
"Optimal Brain Compression", NeurIPS 2022).

Of the paper's variants: loud columns first (``act_order``), corrections of far columns a block at
a time. Departures: M is of tokens from all denoising steps alike, with the exact mean squares of
the channels blended in (see ``input_moment``); the parameters of all groups are those of the weight
before any correction; and a row where the nearest codes leave less keeps them.

Costs one factorization of (C, C), C_out C^2 operations, and six (C, C) in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...lowrank import InputMoment
from ...quantizer import QParams, from_codes, of_elements, quantize, to_codes
from ...specs import QuantizerSpec, check_flag, check_number, check_whole


@dataclass(frozen=True)
class Settings:
    """
    damping    share of the mean of M's diagonal that is added to it
    act_order  columns by falling M_jj, or as they stand
    block      columns after which all later ones are corrected; changes no result but by rounding
    """

    damping: float
    act_order: bool
    block: int

    def __post_init__(self) -> None:
        check_number("damping", self.damping, 1e-6, 1)
        check_flag("act_order", self.act_order)
        check_whole("block", self.block, 1, 2**14)


def codes(
    target: Tensor, params: QParams, moment: InputMoment, spec: QuantizerSpec, settings: Settings
) -> Tensor:
    """int32 (C_out, C); no row is worse than with the nearest codes, in the damped norm."""
    damped = damp_(moment.matrix(), settings.damping)  # (C, C)
    found = eliminate(target, params, damped, spec, settings)
    nearest = quantize(target, spec, params).codes
    own = of_elements(params, target.shape, spec)

    def cost(chosen: Tensor) -> Tensor:
        left = (target - from_codes(chosen.to(target.dtype), own, spec)).double()  # (C_out, C)
        return (left @ damped).mul_(left).sum(1)  # (C_out,)

    return torch.where((cost(found) <= cost(nearest))[:, None], found, nearest)


def damp_(matrix: Tensor, damping: float) -> Tensor:
    """M with a share of its mean diagonal added; the unit matrix for inputs that are all zero."""
    mean = float(matrix.diagonal().mean())
    matrix.diagonal().add_(damping * mean if mean > 0 else 1.0)
    return matrix


def inverse_factor(damped: Tensor, order: Tensor) -> Tensor:
    """R (C, C), upper, with ``R^T R = H^-1`` of H with its columns in this order, without H^-1.

    H backwards is A A^T with A lower, so H is U U^T with U upper, and R = U^-1.
    """
    backwards = order.flip(0)
    lower = torch.linalg.cholesky(damped[backwards[:, None], backwards])
    unit = torch.eye(len(damped), dtype=damped.dtype, device=damped.device)
    return torch.linalg.solve_triangular(lower, unit, upper=False).flip(0, 1)


def eliminate(
    target: Tensor, params: QParams, damped: Tensor, spec: QuantizerSpec, settings: Settings
) -> Tensor:
    """int32 codes (C_out, C), in the target's precision; H is ``damped`` (C, C)."""
    channels = target.shape[1]
    order = torch.arange(channels, device=target.device)
    if settings.act_order:
        order = damped.diagonal().argsort(descending=True, stable=True)
    factor = inverse_factor(damped, order).to(target.dtype)  # (C, C)
    each = of_elements(params, target.shape, spec)
    scale, zero_point = (
        x[:, order].T.contiguous() for x in (each.scale, each.zero_point)
    )  # (C, C_out), so that a column lies in one piece
    left = target[:, order].T.contiguous()  # (C, C_out)
    chosen = torch.empty_like(left)
    for start in range(0, channels, settings.block):
        end = min(start + settings.block, channels)
        errors = torch.empty_like(left[start:end])  # (B, C_out)
        for j in range(start, end):
            own = QParams(scale[j], zero_point[j])
            chosen[j] = to_codes(left[j], own, spec)
            error = (left[j] - from_codes(chosen[j], own, spec)).div_(factor[j, j])  # (C_out,)
            left[j:end].addr_(factor[j, j:end], error, alpha=-1)
            errors[j - start] = error
        left[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    found = torch.empty(target.shape, dtype=torch.int32, device=target.device)
    found[:, order] = chosen.T.to(torch.int32)
    return found
