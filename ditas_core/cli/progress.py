"""Progress with an estimate of the time left, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from tqdm import tqdm

from ..checkpoints import Checkpoint
from ..comparison import Trajectory, run_trajectory
from ..specs import SamplingSpec


class Lines:
    """Plain lines on stderr where there is no terminal: the first after two seconds."""

    FIRST_S = 2.0
    EVERY_S = 15.0

    def __init__(self, label: str, total: int, initial: int = 0) -> None:
        self.label, self.total, self.initial = label, total, initial
        self.done: float = initial
        self.started = time.monotonic()
        self.next = self.started + self.FIRST_S

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, count: float = 1) -> None:
        self.done += count
        now = time.monotonic()
        if now < self.next or self.done <= self.initial or self.done >= self.total:
            return
        self.next = now + self.EVERY_S
        elapsed = now - self.started
        left = elapsed / (self.done - self.initial) * (self.total - self.done)
        sys.stderr.write(
            f"{self.label}: {100 * self.done / self.total:.0f} %, "
            f"{elapsed:.0f} s elapsed, about {left:.0f} s left\n"
        )
        sys.stderr.flush()


def bar(label: str, total: int, initial: int = 0) -> Any:
    """Elapsed time and ETA on stderr: a bar on a terminal, a line now and then elsewhere."""
    if sys.stderr.isatty():
        return tqdm(total=total, desc=label, initial=initial, file=sys.stderr, leave=False)
    return Lines(label, total, initial)


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """A callback of (what, done, total): a bar for each thing that is done."""
    with ExitStack() as stack:
        shown: dict[str, Any] = {"what": None}

        def tell(what: str, done: int, total: int) -> None:
            if what != shown["what"]:
                stack.close()
                shown.update(what=what, bar=stack.enter_context(bar(what, total)), done=0)
            shown["bar"].update(max(0, done - shown["done"]))
            shown["done"] = max(shown["done"], done)

        yield tell


def trajectory(
    label: str,
    checkpoint: Checkpoint,
    transformer: nn.Module,
    labels: Tensor,
    spec: SamplingSpec,
    seed: int,
    batch: int = 16,
) -> Trajectory:
    """``run_trajectory`` under a bar."""
    rounds = -(-len(labels) // batch)
    with bar(label, rounds * spec.steps) as progress:
        return run_trajectory(
            checkpoint, transformer, labels, spec, seed, batch, lambda _: progress.update(1)
        )
