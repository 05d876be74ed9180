"""Several processes, each with its share of the samples, over torch.distributed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(days=7)
"""How long a process waits for the others, whose share may take hours longer; one that
died is noticed at once."""
FAREWELL_S, LEFT = 20.0, "ditas/left"


@contextmanager
def process_group() -> Iterator[tuple[int, int]]:
    """Rank and number of processes of this launch; (0, 1) without a launcher.

    ``accelerate launch``, ``torchrun`` and the like set RANK and WORLD_SIZE. Opens the
    default group (gloo: what is joined lives on the CPU) unless one is open already.
    """
    world = os.environ.get("WORLD_SIZE", "1")
    if world in ("", "0", "1") and not (dist.is_available() and dist.is_initialized()):
        yield 0, 1
        return
    opened = not dist.is_initialized()
    if not world.isdigit():
        raise ValueError(f"WORLD_SIZE: expected a number of processes, got {world!r}")
    if opened:
        dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield dist.get_rank(), dist.get_world_size()
        if opened:
            leave_together(dist.get_world_size())
    finally:
        if opened:
            dist.destroy_process_group()


def leave_together(world: int) -> None:
    """Until every process has all it needs: a connection that closes early takes along what
    another one has not read yet. Waits at most ``FAREWELL_S``.
    """
    store = dist.distributed_c10d._get_default_store()
    until = time.monotonic() + FAREWELL_S
    try:
        left = store.add(LEFT, 1)
        while left < world and time.monotonic() < until:
            time.sleep(0.01)
            left = store.add(LEFT, 0)
    except RuntimeError:  # whoever kept the count has gone: all were counted
        return


def wait_for_all() -> None:
    """Until every process has come this far; at once where there is only one.

    Raises:
        ConnectionError: another process ended.
    """
    if not dist.is_initialized():
        return
    try:
        dist.all_reduce(torch.zeros(1))
    except RuntimeError as error:
        raise ConnectionError(f"processes: another one ended ({error})") from error


def batches_of(count: int, batch: int, rank: int, world: int) -> tuple[int, int]:
    """First and last (exclusive) sample of a process: whole batches, as even as they come.

    Batches are never cut, so what runs together does not depend on the number of processes.
    """
    batches = -(-count // batch)
    first, last = (min(count, batches * i // world * batch) for i in (rank, rank + 1))
    return first, last


def join_rows(mine: Tensor, before: int, total: int) -> Tensor:
    """Rows (k, ...) of every process in one tensor (total, ...), the same in each.

    ``before`` is how many rows lie before this process's own. They are written into
    place and added as bytes to the others' zeros, so the result is exact. Alone,
    the rows themselves.

    Raises:
        ConnectionError: another process ended.
    """
    if not dist.is_initialized():
        return mine
    whole = torch.zeros(total, *mine.shape[1:], dtype=mine.dtype)
    whole[before : before + len(mine)] = mine
    try:
        dist.all_reduce(whole.view(torch.uint8), dist.ReduceOp.SUM)
    except RuntimeError as error:
        raise ConnectionError(f"samples: another process ended ({error})") from error
    return whole
