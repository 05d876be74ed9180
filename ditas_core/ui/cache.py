"""A bounded cache that all visitors share."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import is_dataclass
from typing import Any

import torch

from ..calibration import Calibration
from ..checkpoints import Checkpoint
from ..evaluation.outliers import OutlierAtlas

CACHE_BYTES = 8 * 2**30
ALONE = 1 << 20


DEEPEST = 8


def size_of(value: Any, depth: int = 0) -> int:
    """Bytes of the tensors, arrays and texts in a value; others may say their ``nbytes``.

    What is none of these counts as 1 MiB where it stands alone.
    """
    if isinstance(value, torch.nn.Module):
        states = list(value.parameters()) + list(value.buffers())
        return sum(tensor.nbytes for tensor in states)
    if isinstance(value, Checkpoint):
        return size_of(value.transformer) + size_of(value.vae)
    if isinstance(value, Calibration | OutlierAtlas):
        return sum(size_of(t, 1) for group in value.groups.values() for t in vars(group).values())
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if isinstance(value, str | bytes):
        return len(value)
    if depth > DEEPEST:
        return 0
    parts: list[Any]
    if isinstance(value, Mapping):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        parts = list(value)
    elif is_dataclass(value):
        parts = list(vars(value).values()) if hasattr(value, "__dict__") else []
    else:
        return ALONE if depth == 0 else 32
    return 64 + sum(size_of(part, depth + 1) for part in parts)


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
