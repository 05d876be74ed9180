"""One compute job at a time; the others wait in a queue and know their place.

What a question needs at once (a checkpoint, a copy of one) is made one by one, too.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator

from ..serving.limits import PLACES

POLL_S = 0.2
PATIENCE_S = 10.0
"""So long a question waits for a checkpoint, and holds a thread that others need, too."""


class QueueFull(RuntimeError):
    """Nobody else can wait."""


class Ticket:
    """A place in the queue, held inside ``with``."""

    def __init__(self, queue: JobQueue) -> None:
        self.queue = queue

    def __enter__(self) -> Ticket:
        return self

    def __exit__(self, *_: object) -> None:
        self.queue.leave(self)

    def waits(self) -> Iterator[int]:
        """How many are ahead, again and again until there is nobody."""
        while ahead := self.queue.ahead_of(self):
            yield ahead
            time.sleep(POLL_S)


class JobQueue:
    """First come, first served; at most ``places`` jobs, the running one included."""

    def __init__(self, places: int = PLACES) -> None:
        self.places = places
        self.lock = threading.Lock()
        self.tickets: deque[Ticket] = deque()

    def join(self) -> Ticket:
        """The last place.

        Raises:
            LineFull: all places are taken.
        """
        with self.lock:
            if len(self.tickets) >= self.places:
                raise QueueFull(
                    f"Busy: {len(self.tickets)} jobs run or wait already, expected fewer than "
                    f"{self.places} jobs; nothing was started. Try again in a minute"
                )
            ticket = Ticket(self)
            self.tickets.append(ticket)
            return ticket

    def leave(self, ticket: Ticket) -> None:
        with self.lock:
            if ticket in self.tickets:
                self.tickets.remove(ticket)

    def ahead_of(self, ticket: Ticket) -> int:
        """Jobs before this one; 0 while it may work."""
        with self.lock:
            return self.tickets.index(ticket) if ticket in self.tickets else 0

    def locked(self) -> bool:
        """Whether anything runs or waits."""
        return bool(self.tickets)


class OneByOne:
    """A lock that nobody waits for very long; whoever holds it may take it again."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self.patience_s = patience_s
        self.lock = threading.RLock()

    def __enter__(self) -> OneByOne:
        if not self.lock.acquire(timeout=self.patience_s):
            raise QueueFull(
                f"Busy: another checkpoint is being read, expected it to take less than "
                f"{self.patience_s:g} s; nothing was changed. Try again in a minute"
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.lock.release()
