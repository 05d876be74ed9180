"""What becomes of memory that is given back; imports nothing heavy, torch least of all."""

import ctypes
import os
from collections.abc import Mapping

__all__ = ["CHOSEN_BY_USER", "keep_freed_memory"]

TRIM_THRESHOLD, MMAP_THRESHOLD = (-1, 128 << 20), (-3, 32 << 20)
"""glibc's numbers of the two, from malloc.h, and bytes."""
CHOSEN_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory(environment: Mapping[str, str] | None = None) -> bool:
    """Let glibc keep what is freed for the next tensor, unless the user has said what to do.

    A forward pass makes and drops tensors of some megabytes by the hundred. glibc gives
    each back to the system, which clears every page again when the next one is
    written. It now keeps up to 128 MB at each heap's end; tensors of 32 MB and more go
    back as before.

    Called by what a person starts, never by ``import ditas_core``. Other C libraries are
    left as they are.

    Args:
        environment: where a user's choice is looked for; the process's own by default.

    Returns:
        Whether anything was set.
    """
    found = os.environ if environment is None else environment
    if any(name in found for name in CHOSEN_BY_USER):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return any([mallopt(*TRIM_THRESHOLD), mallopt(*MMAP_THRESHOLD)])
