"""Ending a network's run between two of its blocks.

A forward pass of a large model on a CPU takes longer than anybody who cancels would wait.
``until_stopped`` drives an iterator and takes a function that says whether to stop;
``between`` asks it before every block that runs, through a hook, and raises ``Stopped``.
Both know each other by the thread they run in, so that nothing is passed through the network.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import nn

Event = TypeVar("Event")
LOCAL = threading.local()
"""``stop``: the function of the innermost ``until_stopped`` of this thread."""


class Stopped(Exception):
    """The run was ended before its next block."""


def until_stopped(events: Iterator[Event], stop: Callable[[], bool]) -> Iterator[Event]:
    """The same events; ``stop`` is asked before every block that runs for the next one.

    Raises:
        Stopped: it said yes. The iterator has come to its end.
    """
    while True:
        before = getattr(LOCAL, "stop", None)
        LOCAL.stop = stop
        try:
            event = next(events)
        except StopIteration:
            return
        finally:
            LOCAL.stop = before
        yield event


class Asking:
    """The hook of ``between``: it looks at nothing and changes nothing, but may raise."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        self.stop, self.thread = stop, threading.get_ident()

    def __call__(self, *_: Any) -> None:
        if threading.get_ident() == self.thread and self.stop():
            raise Stopped


@contextmanager
def between(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """Within the block, each of these modules asks first whether to stop, if it runs in this
    thread, and if ``until_stopped`` drives it.

    Raises:
        Stopped: the answer was yes.
    """
    stop = getattr(LOCAL, "stop", None)
    if stop is None:
        yield
        return

    asking = Asking(stop)
    handles = [block.register_forward_pre_hook(asking) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
