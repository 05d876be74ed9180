"""Which input tokens are kept: decided before the first forward pass.

The number of tokens of a step is known in advance, so a uniform draw without
replacement needs no running reservoir: the rows are drawn from the seed, the
group and the step alone. Whoever sees a row (whatever batch, process or machine)
keeps it, and the union over all of them is the same draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MIX = 1_000_003


@dataclass(frozen=True)
class TokenDraw:
    """``kept`` of the rows of every group and step.

    Rows are numbered ``(sample * 2 + half) * T + position`` for T tokens per image;
    half 0 is conditional.
    """

    seed: int
    samples: int
    kept: int

    def rows(self, group: int, step: int, tokens: int) -> Tensor:
        """Sorted row numbers, int64 (min(kept, samples * 2 * tokens),)."""
        mixed = (self.seed * MIX + group) * MIX + step
        generator = torch.Generator().manual_seed(mixed % 2**63)  # torch takes no more
        total = self.samples * 2 * tokens
        return torch.randperm(total, generator=generator)[: self.kept].sort().values

    def pick(self, x: Tensor, group: int, step: int, first: int) -> Tensor:
        """The drawn rows among those of samples ``first`` to ``first + n``.

        x (2n, T, C), conditional half first -> (k, C) in the order of their numbers.
        """
        n, tokens = x.shape[0] // 2, x.shape[1]
        rows = self.rows(group, step, tokens) - first * 2 * tokens
        rows = rows[(rows >= 0) & (rows < n * 2 * tokens)]
        sample, rest = rows.div(2 * tokens, rounding_mode="floor"), rows % (2 * tokens)
        half, position = rest.div(tokens, rounding_mode="floor"), rest % tokens
        return x[half * n + sample, position]  # (k, C)
