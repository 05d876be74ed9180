"""Freed memory goes back to the system: glibc keeps it otherwise, a heap for every thread."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any


@cache
def trimmer() -> Any:
    """glibc's ``malloc_trim``, where there is one."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> bool:
    """Whether anything was given back."""
    trim = trimmer()
    return bool(trim(0)) if trim is not None else False
