"""Room for copies of a model, injected or quantized: weighed before they are made.

They are float32 whatever the model is in, so they may take twice what it does.
"""

from __future__ import annotations

from ...checkpoints import WORKING, Checkpoint, Need, check_fits, own_cache, this_machine
from .cache import Cache

INJECTED = 4
"""Bytes for each number of the transformer."""
QUANTIZED = 5
"""The weight that it computes with, and its code."""


def make_room(cache: Cache, checkpoint: Checkpoint, each: int, what: str) -> None:
    """Let go of as much of the cache as copies need that take ``each`` bytes per number.

    The checkpoint itself stays: whoever copies it holds it.

    Raises:
        CheckpointError: they would not fit even then; nothing was let go.
    """
    tensors = checkpoint.transformer.state_dict().values()
    count = sum(tensor.numel() for tensor in tensors)
    size = each * count + WORKING
    machine = this_machine(own_cache())
    if machine.memory is None:
        return
    with cache.lock:
        own = {key: held for key, (kept, held) in cache.entries.items() if kept is checkpoint}
        others = cache.nbytes - sum(own.values())
        need = Need(f"{what} of {checkpoint.name}", 0, count, size, size)
        check_fits(need, machine.memory + others, None, address_space=machine.address_space)
        for key in own:
            cache.get(key)  # the last to go
        if size > machine.memory:
            cache.make_room(cache.limit - cache.nbytes + size - machine.memory)
