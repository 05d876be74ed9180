"""Progress of long work: a bar, a function of the caller's, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

from tqdm.auto import tqdm

from ..checkpoints import Progress as Fetched
from ..specs import SpecError, brief

Told = Callable[[str, int, int], object]
"""Called with what is being done, how much of it is done, and how much there is."""
Progress = bool | Told


def check_progress(progress: object) -> None:
    """Raise SpecError unless it is a bool or can be called."""
    if not isinstance(progress, bool) and not callable(progress):
        raise SpecError(
            f"progress: expected True, False or a function of (what, done, total), got "
            f"{brief(progress)}"
        )


@contextmanager
def told(progress: Progress, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function to call with how much is done; a bar is closed however the block ends."""
    if callable(progress):
        call = progress
        call(what, 0, total)

        def pass_on(done: int) -> None:
            call(what, done, total)

        yield pass_on
        return
    with tqdm(total=total, desc=what, disable=not progress, leave=False) as bar:

        def move(done: int) -> None:
            bar.update(done - bar.n)

        yield move


@contextmanager
def each_told(progress: Progress) -> Iterator[Callable[[str, int, int], None]]:
    """A function of (what, done, total): a bar for each thing that is done."""
    with ExitStack() as stack:
        known: list[Any] = ["", 0, None]

        def tell(what: str, done: int, total: int) -> None:
            if known[:2] != [what, total]:
                stack.close()
                known[:] = [what, total, stack.enter_context(told(progress, what, total))]
            known[2](done)

        yield tell


@contextmanager
def fetching(progress: Progress) -> Iterator[Callable[[Fetched], None]]:
    """What a download is told to: a bar for all its files, another for their conversion."""
    with each_told(progress) as tell:
        yield lambda step: tell(step.doing.partition(" ")[0], step.done, step.total)


@contextmanager
def ended(events: Any) -> Iterator[Any]:
    """A generator's events; it is closed when the block ends.

    Whoever interrupts the work from a callback leaves the generator in the middle, and the
    traceback, which notebooks keep, holds it there: with its hooks, its tensors and its files.
    """
    with closing(events):
        yield events
