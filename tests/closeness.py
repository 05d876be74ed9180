"""How far two computations of one tensor may lie apart."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_close(got: Tensor, want: Tensor, terms: int = 1, dim: int = -1) -> None:
    """Assert that two computations of the same sums of ``terms`` products differ by rounding alone.

        |got - want| <= eps (4 |want| + terms max_dim |want|)

    A sum of K products a_k b_k that is added in any order, with or without fused
    multiplications, has an error of at most K u sum_k |a_k b_k|, u = eps / 2 (Higham,
    Accuracy and Stability of Numerical Algorithms, section 3.1), so two orders differ by
    twice that; in practice by sqrt(K) in place of K. The absolute part has to be in the
    size of the terms, not of what is left where they cancel; the largest |want| along
    ``dim``, which shares its inputs, stands for it. The relative part is for what is
    done to each element afterwards (a division, exp: one or two units in the last place).

    eps is that of the coarser of both dtypes; ``terms`` counts the products of all
    sums in a chain: two layers of 24 inputs each are 48.
    """
    assert got.shape == want.shape, f"shapes {tuple(got.shape)} and {tuple(want.shape)}"
    eps = max(torch.finfo(x.dtype).eps for x in (got, want))
    got, want = got.double(), want.double()
    size = want.abs().amax(dim, keepdim=True)
    bound = eps * (4 * want.abs() + terms * size)
    excess = (got - want).abs() / bound.clamp(min=torch.finfo(torch.float32).tiny)
    worst = float(excess.max())  # NaN where either is: no comparison holds then
    assert worst <= 1, f"differs by {worst:.3g} times what rounding of {terms} terms explains"
