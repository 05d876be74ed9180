"""Functions of the tests in processes of their own, and the memory that they take.

A process with threads must not be forked: its child may wait for ever for a lock that one of
them held. These are forked from a server that has imported everything and computed nothing.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PRELOADED = ["ditas_core.cli.commands", "ditas_core.cli.compare"]
CHILD_S = 120.0
"""No child may take longer, however busy the machine is."""


def imported() -> ForkServerContext:
    """The context of processes that start with the library imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)  # sys.path does not reach the preloading process
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if path is not None:
            os.environ["PYTHONPATH"] = path
    return context


def in_child(work: Callable[..., object], *arguments: Any) -> BaseProcess:
    """``work``, a function of a module, with arguments that can be pickled; started."""
    process = imported().Process(target=work, args=arguments)
    process.start()
    return process


def exit_code(process: BaseProcess) -> int:
    """Of a child that has ended; negative: the signal that ended it."""
    process.join(CHILD_S)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"a child has not ended after {CHILD_S:g} s")
    return process.exitcode


def told_by_child(work: Callable[..., str], folder: Path, *arguments: Any) -> str:
    """What the work returns, done in a child."""
    path = folder / "told"
    assert exit_code(in_child(tell, path, work, *arguments)) == 0
    return path.read_text(encoding="utf-8")


def tell(path: Path, work: Callable[..., str], *arguments: Any) -> None:
    """In the child."""
    path.write_text(work(*arguments), encoding="utf-8")


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
