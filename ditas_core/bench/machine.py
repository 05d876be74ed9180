"""What a measurement ran on, and how long and how big it was."""

from __future__ import annotations

import datetime
import os
import platform
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ditas_core.checkpoints import ASSETS, processor_name, shipped_folders

ROOT = Path(__file__).resolve().parents[2]
DEMO = next(iter(shipped_folders()), ASSETS / "NAME")


def describe() -> dict[str, object]:
    """Processor, cores, threads, versions, load and date."""
    return {
        "cpu": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
        "load": [round(x, 2) for x in os.getloadavg()],
        "date": datetime.date.today().isoformat(),
    }


def peak_gb() -> float:
    """The process's largest resident memory so far, 10^9 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def peak_on_gpu_gb() -> float:
    """The most that tensors took of the current GPU since the last ``stage`` began, 10^9 bytes."""
    return torch.cuda.max_memory_allocated() / 1e9


@contextmanager
def stage(name: str, into: dict[str, float], on_gpu: bool = False) -> Iterator[None]:
    """Add the block's wall time to ``into[name]``; ``on_gpu``: until the GPU is done, too."""
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    try:
        yield
    finally:
        if on_gpu:
            torch.cuda.synchronize()
        into[name] = into.get(name, 0.0) + time.perf_counter() - started
