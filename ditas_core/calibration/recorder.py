"""Record the inputs of every smoothing group while a transformer runs.

Hooks live inside ``with`` only; the recorder changes nothing. Of each call it
keeps exact per-channel extremes and the drawn tokens, never the whole activation:
one call's input is all that is ever alive of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..models import SmoothingGroup
from .calibration import GroupStatistics
from .draw import TokenDraw

HALF_MAX = 65504.0
DTYPES = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class StepStatistics:
    """One group's inputs at one step, of the samples recorded so far.

    low, high   (2, C); squares: sum of x^2, float64 (C,); rows: how many were summed
    tokens      (k, C) in the order of their row numbers
    """

    low: Tensor
    high: Tensor
    squares: Tensor
    rows: int
    tokens: Tensor

    def joined(self, later: StepStatistics) -> StepStatistics:
        """Together with the statistics of later samples.

        Each batch's sums are single-precision numbers; adding a few of them in double
        precision loses nothing, so the order of the batches does not matter.
        """
        return StepStatistics(
            low=torch.minimum(self.low, later.low),
            high=torch.maximum(self.high, later.high),
            squares=self.squares + later.squares,
            rows=self.rows + later.rows,
            tokens=torch.cat([self.tokens, later.tokens]),
        )


def reduce_call(
    x: Tensor, draw: TokenDraw, group: int, step: int, first: int, dtype: torch.dtype
) -> StepStatistics:
    """One call's input (2n, T, C), conditional half first, to its statistics."""
    x = x.detach().float()
    halves = x.reshape(2, -1, x.shape[-1])  # (2, n*T, C)
    low, high = torch.aminmax(halves, dim=1)  # (2, C) each
    low, high = low + 0.0, high + 0.0  # no -0, whose minimum with 0 depends on the order
    picked = draw.pick(x, group, step, first)  # (k, C)
    if dtype == torch.float16:
        picked = picked.clamp(-HALF_MAX, HALF_MAX)
    squares = torch.linalg.vector_norm(halves.flatten(0, 1), dim=0).square().double()  # (C,)
    return StepStatistics(
        low.cpu(), high.cpu(), squares.cpu(), halves.shape[1] * 2, picked.to(dtype).cpu()
    )


@dataclass
class StepRecorder:
    """Collects the statistics of one step, call by call; see ``record_inputs``."""

    groups: tuple[SmoothingGroup, ...]
    draw: TokenDraw
    dtype: torch.dtype = torch.float16
    step: int = 0
    first: int = 0
    found: dict[str, StepStatistics] = field(default_factory=dict)

    def begin(self, step: int, first: int) -> None:
        """The next forward pass is of this step and starts with this sample."""
        self.step, self.first = step, first

    def add(self, index: int, x: Tensor) -> None:
        """One call's input of group number ``index``."""
        new = reduce_call(x, self.draw, index, self.step, self.first, self.dtype)
        name = self.groups[index].name
        self.found[name] = self.found[name].joined(new) if name in self.found else new

    def finish(self) -> dict[str, StepStatistics]:
        """The step's statistics; the recorder is empty afterwards."""
        found, self.found = self.found, {}
        return found


@contextmanager
def record_inputs(
    transformer: nn.Module,
    groups: tuple[SmoothingGroup, ...],
    draw: TokenDraw,
    dtype: torch.dtype = torch.float16,
) -> Iterator[StepRecorder]:
    """Within the block, every forward pass is added to the recorder's current step.

    Of quantized layers it is the input as they get it: divided by s already, unless they divide
    it themselves.
    """
    recorder = StepRecorder(groups, draw, dtype)
    handles = []
    try:
        for index, group in enumerate(groups):

            def hook(_module: nn.Module, args: tuple[Tensor, ...], index: int = index) -> None:
                recorder.add(index, args[0])

            layer = transformer.get_submodule(group.layers[0])
            handles.append(layer.register_forward_pre_hook(hook))
        yield recorder
    finally:
        for handle in handles:
            handle.remove()


class StepTable:
    """This process's statistics of all steps, in the tensors that the Calibration gets.

    Every tensor is allocated once, with the first step: what many small ones leave
    between the activations that come and go would nearly double the memory.
    Of a group: low, high (T, 2, C), squares (T, C), tokens (T, K, C), K that of all processes.
    Rows are counted group by group: text and image differ in length.
    """

    def __init__(self, steps: int, kept: int) -> None:
        self.steps, self.kept = steps, kept
        self.groups: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]] = {}
        self.rows: list[dict[str, int]] = []
        self.counts: list[dict[str, int]] = []

    def __len__(self) -> int:
        """Steps that are there."""
        return len(self.rows)

    def add(self, step: dict[str, StepStatistics]) -> None:
        """The next step."""
        index = len(self)
        for name, one in step.items():
            if name not in self.groups:
                channels = one.low.shape[1]
                self.groups[name] = (
                    one.low.new_empty(self.steps, 2, channels),
                    one.high.new_empty(self.steps, 2, channels),
                    one.squares.new_empty(self.steps, channels),
                    one.tokens.new_empty(self.steps, self.kept, channels),
                )
            low, high, squares, tokens = self.groups[name]
            low[index], high[index], squares[index] = one.low, one.high, one.squares
            tokens[index, : len(one.tokens)] = one.tokens
        self.rows.append({name: one.rows for name, one in step.items()})
        self.counts.append({name: len(one.tokens) for name, one in step.items()})

    def statistics(self, name: str) -> GroupStatistics:
        """One group's, of all steps."""
        low, high, squares, tokens = self.groups[name]
        rows = torch.tensor([r[name] for r in self.rows], dtype=torch.float64)[:, None]  # (T, 1)
        return GroupStatistics(low, high, tokens, energy=(squares / rows).float())
