"""A bounded cache that all visitors share.

What it holds never exceeds its bound: a value larger than that is handed out and not
kept, and room for a large one can be made before it is built.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any

import torch

from ...calibration import Calibration
from ...checkpoints import Checkpoint
from ...evaluation import OutlierAtlas

CACHE_BYTES = 8 * 2**30
ALONE, DEEPEST = 1 << 20, 8


def usual_limit(free: int | None = None) -> int:
    """8 GiB, or half of the memory that is free where that is less."""
    return CACHE_BYTES if free is None else min(CACHE_BYTES, free // 2)


def size_of(value: Any, depth: int = 0) -> int:
    """Bytes of the tensors, arrays and texts in a value; others may say their ``nbytes``.

    What is none of these counts as 1 MiB where it stands alone.
    """
    if isinstance(value, torch.nn.Module):
        states = list(value.parameters()) + list(value.buffers())
        session = getattr(value, "nbytes", 0)  # of a transformer that runs in one
        return sum(tensor.nbytes for tensor in states) + int(session)
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


@dataclass
class Building:
    """A value that is being built: who wants it waits at the lock; forgotten after the last."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    users: int = 0
    value: Any = None


class Cache:
    """Least recently used, bounded by bytes, safe to use from many threads."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self.lock = threading.RLock()
        self.building: dict[Hashable, Building] = {}
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

    def take(self, key: Hashable) -> Any:
        """The value, which is not held any more, or None."""
        with self.lock:
            return self.entries.pop(key, (None, 0))[0]

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
        """The value, built once; only those who want the same one wait for it.

        They get it even where it is too large to be kept. After a build that failed the next
        of them tries.
        """
        with self.lock:
            own = self.building.setdefault(key, Building())
            own.users += 1
        try:
            with own.lock:
                found = self.get(key)
                if found is None:
                    found = own.value
                if found is None:
                    found = own.value = self.put(key, build())
            return found
        finally:
            with self.lock:
                own.users -= 1
                if not own.users:
                    self.building.pop(key, None)
