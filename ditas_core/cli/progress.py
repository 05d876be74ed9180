"""Progress bars on a terminal; silent elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from tqdm import tqdm

from ..checkpoints import Checkpoint
from ..comparison import Trajectory, TrajectoryProgress, run_trajectory
from ..specs import SamplingSpec


def bar(label: str, total: int) -> Any:
    """A bar with elapsed time and ETA on stderr, shown only where that is a terminal."""
    return tqdm(total=total, desc=label, file=sys.stderr, disable=None, leave=False)


def finish(events: Iterator[Any], progress: Any) -> Any:
    """Run a generator to its end, one tick per event; its last event."""
    result = None
    for event in events:
        result = event
        progress.update(1)
    return result


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
        for event in run_trajectory(checkpoint, transformer, labels, spec, seed, batch):
            if isinstance(event, TrajectoryProgress):
                progress.update(1)
            else:
                return event
    raise RuntimeError("sampling ended without a result")
