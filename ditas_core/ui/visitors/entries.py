"""An entry of the catalogue into memory, as far as there is room for it."""

from __future__ import annotations

from dataclasses import replace

from ...checkpoints import (
    Checkpoint,
    CheckpointError,
    Machine,
    check_fits,
    converted_folder,
    find_source,
    load_checkpoint,
    loading_need,
    own_cache,
    this_machine,
)
from ..stored.catalogue import Entry
from .cache import Cache


def load_entry(entry: Entry, cache: Cache) -> Checkpoint:
    """From this machine, never from the network; others leave the cache for it.

    Raises:
        CheckpointError: it is not here, unusable, or too large; said before any of it
            is read.
    """
    known = None if entry.local else find_source(entry.source)
    if known is not None and converted_folder(known) is None:
        raise CheckpointError(
            f"{entry.key}: expected it on this machine, got nothing yet; "
            + ("press “Load” under the bar" if entry.allowed else forbidden(entry))
        )
    lender = find_source(entry.like) if entry.like else None
    if lender is not None and converted_folder(lender) is None:
        raise CheckpointError(
            f"{entry.key}: expected {entry.like} on this machine, which lends it the "
            f"autoencoder; whoever runs the page gets it once: python -m ditas_core info "
            f"{entry.like}"
        )
    need, machine = loading_need(entry.source, entry.like or None), room(cache)
    check_fits(need, machine.memory, None, entry.dtype, machine.address_space)
    cache.make_room(need.memory(entry.dtype))
    return load_checkpoint(entry.source, like=entry.like or None, dtype=entry.dtype)


def room(cache: Cache) -> Machine:
    """What a checkpoint may take: all of the cache, as far as there is memory for it."""
    machine = this_machine(own_cache())
    if machine.memory is None:
        return replace(machine, memory=cache.limit)
    return replace(machine, memory=min(cache.limit, machine.memory + cache.nbytes))


def forbidden(entry: Entry) -> str:
    """What the operator would have to do."""
    return (
        "this page was started without it; whoever runs it may offer it with: "
        f"python app.py --checkpoint {entry.source}"
    )
