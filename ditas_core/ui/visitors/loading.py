"""A checkpoint from the hub: downloaded, converted, read into memory; once for all visitors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from ...checkpoints import Checkpoint, CheckpointError, fetch_steps, figure, find_source
from ..stored.catalogue import Entry
from .backend import Backend, Model
from .entries import forbidden, room
from .running import Progress

PARTS = 3
"""Download, conversion, reading."""


def load(backend: Backend, model: Model) -> Iterator[Progress | Checkpoint]:
    """Progress, then the checkpoint. Closing it cancels; what was downloaded is kept.

    Raises:
        CheckpointError: the operator does not offer it, the hub refuses, it is damaged,
            or it does not fit; see ``fetch_steps`` and ``load_entry``.
    """
    entry = backend.entries[model.key]
    if not backend.is_loaded(model):
        yield from fetch(backend, entry)
    yield Progress(f"Reading {entry.key} into memory", 0.0, (PARTS, PARTS))
    yield backend.checkpoint(Model(model.key))


def fetch(backend: Backend, entry: Entry) -> Iterator[Progress]:
    """Until the converted folder lies on this machine; at once if it does already."""
    source = find_source(entry.source)
    if source is None:
        return
    if not entry.allowed:
        raise CheckpointError(f"{entry.key}: expected one that is offered, {forbidden(entry)}")
    with closing(fetch_steps(source, machine=room(backend.cache), dtype=entry.dtype)) as steps:
        for step in steps:
            part = 2 if step.doing.startswith("converting") else 1
            text = step.doing
            if step.total > 1:
                text += f": {figure(step.done)} of {figure(step.total)}"
            yield Progress(
                text[:1].upper() + text[1:], step.done / max(1, step.total), (part, PARTS)
            )
