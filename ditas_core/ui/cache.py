"""A bounded cache that all visitors share.

What it holds never exceeds its bound: a value larger than that is handed out and not
kept, and room for a large one can be made before it is built.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch

from ..calibration import Calibration
from ..checkpoints import Checkpoint
from ..evaluation.outliers import OutlierAtlas

CACHE_BYTES = 8 * 2**30


def usual_limit(free: int | None = None) -> int:
    """8 GiB, or half of the memory that is free where that is less."""
    return CACHE_BYTES if free is None else min(CACHE_BYTES, free // 2)


def size_of(value: Any) -> int:
    """Bytes of the tensors in a value; others may say their ``nbytes``."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, torch.nn.Module):
        states = list(value.parameters()) + list(value.buffers())
        return sum(size_of(tensor) for tensor in states)
    if isinstance(value, Checkpoint):
        return size_of(value.transformer) + size_of(value.vae)
    if isinstance(value, Calibration | OutlierAtlas):
        return sum(size_of(t) for group in value.groups.values() for t in vars(group).values())
    return int(getattr(value, "nbytes", 1 << 20))


class Cache:
    """Least recently used, bounded by bytes, safe to use from many threads."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self.lock = threading.RLock()
        self.building: dict[Hashable, threading.RLock] = {}
        self.entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable) -> Any:
        """The value, or None."""
        with self.lock:
            if key not in self.entries:
                return None
            self.entries.move_to_end(key)
            return self.entries[key][0]

    def put(self, key: Hashable, value: Any) -> Any:
        """Keep a value unless it is larger than the limit; the least recently used make room."""
        size = size_of(value)
        with self.lock:
            self.entries.pop(key, None)
            if size <= self.limit:
                self.make_room(size)
                self.entries[key] = (value, size)
            return value

    def make_room(self, size: int) -> None:
        """Let the least recently used go until ``size`` more bytes keep the limit."""
        with self.lock:
            while self.entries and self.nbytes + size > self.limit:
                self.entries.popitem(last=False)

    @property
    def nbytes(self) -> int:
        """What is held now."""
        with self.lock:
            return sum(size for _, size in self.entries.values())

    def make(self, key: Hashable, build: Callable[[], Any]) -> Any:
        """The value, built once; only those who want the same one wait for it."""
        with self.lock:
            own = self.building.setdefault(key, threading.RLock())
        with own:
            found = self.get(key)
            if found is None:
                found = self.put(key, build())
        with self.lock:
            self.building.pop(key, None)
        return found
