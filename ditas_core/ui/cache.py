"""A bounded cache that all visitors share."""

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
        """Keep a value; the least recently used go until the limit is kept."""
        with self.lock:
            self.entries[key] = (value, size_of(value))
            self.entries.move_to_end(key)
            while len(self.entries) > 1 and sum(s for _, s in self.entries.values()) > self.limit:
                self.entries.popitem(last=False)
            return value

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
