"""Forked children: a process of its own without importing torch again."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from pathlib import Path


def in_child(work: Callable[[], object]) -> int:
    """Fork, work, and leave; the child's process id."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return child


def told_by_child(work: Callable[[], str], folder: Path) -> str:
    """What the work returns, done in a child."""
    path = folder / "told"
    child = in_child(lambda: path.write_text(work(), encoding="utf-8"))
    assert os.waitpid(child, 0)[1] == 0
    return path.read_text(encoding="utf-8")


def memory_field(key: str) -> int:
    """A figure of this process in bytes: VmRSS, VmHWM (the most there was), VmSize."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def growth_of(work: Callable[[], object]) -> int:
    """Bytes by which the resident memory rose at most, above what it was."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not hide what is taken
    Path("/proc/self/clear_refs").write_text("5")  # the most there was is what there is
    before = memory_field("VmRSS")
    work()
    return memory_field("VmHWM") - before
