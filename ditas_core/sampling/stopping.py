"""Ending a network's run between two of its blocks.

A forward pass of a large model on a CPU takes longer than anybody who cancels would wait.
Whoever takes an iterator's events through ``until_stopped`` says how to find out whether to
go on; the networks ask before every block.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import nn

Event = TypeVar("Event")
LOCAL = threading.local()


class Stopped(Exception):
    """The run was ended before its next block."""


def until_stopped(events: Iterator[Event], wanted: Callable[[], bool]) -> Iterator[Event]:
    """The same events; ``wanted`` is asked before every block that runs for the next one.

    Raises:
        Stopped: it said yes. The iterator has come to its end.
    """
    while True:
        before = getattr(LOCAL, "wanted", None)
        LOCAL.wanted = wanted
        try:
            event = next(events)
        except StopIteration:
            return
        finally:
            LOCAL.wanted = before
        yield event


@contextmanager
def between(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """While these modules run in this thread, each of them asks first whether it should.

    Raises:
        Stopped: what ``until_stopped`` was given said so.
    """
    wanted, thread = getattr(LOCAL, "wanted", None), threading.get_ident()
    if wanted is None:
        yield
        return

    def ask(*_: Any) -> None:
        if threading.get_ident() == thread and wanted():
            raise Stopped

    handles = [block.register_forward_pre_hook(ask) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
