"""What a generator of long work comes to, for callers that need none of its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, TypeVar

Result = TypeVar("Result")


def result_of(
    events: Iterator[Any], kind: type[Result], progress: Callable[[Any], object] | None = None
) -> Result:
    """The event that is a ``kind``, at the end of all others, which ``progress`` is told.

    ``progress`` may raise to stop: the generator is closed.
    """
    with closing(events) as steps:  # type: ignore[type-var]
        for event in steps:
            if isinstance(event, kind):
                return event
            if progress is not None:
                progress(event)
    raise RuntimeError(f"expected a {kind.__name__} at the end, got none")
