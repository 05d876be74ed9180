"""What each visitor has on the session. It stays on the server, under the session's id."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Container, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, is_dataclass
from typing import Any

from ...search import LayerDone
from ...specs import CalibrationSpec, Recipe
from .cache import size_of

KEPT_RECIPES = 12
KEPT_SEARCHES = 4
KEPT_DESKS = 200
KEPT_BYTES = 512 * 2**20
LASTING = ("blind", "breaking", "contest", "injector")
"""Notes with answers and results; the others say where the visitor was."""
EXPIRES_S = 3600.0
LEFT_S = 120.0
"""A closed tab's session stays so long: a phone that slept comes back."""


@dataclass
class Session:
    """One visitor's own things; small, what is large lies in the cache under a key.

    recipes   by name, oldest first
    spec      the calibration run that the visitor asked for; None = the page's own
    searches  layers that searches have found so far, for going on after Cancel
    result    cache key of the last comparison
    notes     what single tabs remember, each under its own name
    left      when the visitor's tab was closed; 0 while it is open
    closed    how often that was: a job of a closed tab ends, whatever is asked afterwards
    jobs      that run or wait for this visitor: the session is not cleared meanwhile
    nbytes    what the notes held when the last job ended: jobs leave pictures there
    """

    key: str
    recipes: dict[str, Recipe] = field(default_factory=dict)
    spec: CalibrationSpec | None = None
    searches: OrderedDict[Hashable, dict[str, LayerDone]] = field(default_factory=OrderedDict)
    result: str = ""
    notes: dict[str, Any] = field(default_factory=dict)
    touched: float = 0.0
    left: float = 0.0
    closed: int = 0
    jobs: set[object] = field(default_factory=set)
    nbytes: int = 0

    @property
    def empty(self) -> bool:
        """Nothing on it that its owner would miss."""
        kept = self.recipes or self.searches or self.result or self.spec
        return not kept and not any(has_content(self.notes.get(name)) for name in LASTING)

    @contextmanager
    def working(self) -> Iterator[None]:
        """While a job runs or waits."""
        job = object()
        self.jobs.add(job)
        try:
            yield
        finally:
            with suppress(RuntimeError):  # noted by another question meanwhile
                self.nbytes = size_of(self.notes)
            self.touched = time.monotonic()
            self.jobs.discard(job)

    def keep(self, name: str, recipe: Recipe) -> None:
        """Under this name from now on; the oldest recipes make room."""
        self.recipes.pop(name, None)
        self.recipes[name] = recipe
        while len(self.recipes) > KEPT_RECIPES:
            self.recipes.pop(next(iter(self.recipes)))

    def found(self, key: Hashable) -> dict[str, LayerDone]:
        """The layers of one search so far, to be added to."""
        layers = self.searches.setdefault(key, {})
        self.searches.move_to_end(key)
        while len(self.searches) > KEPT_SEARCHES:
            self.searches.popitem(last=False)
        return layers


def has_content(note: Any) -> bool:
    """Whether a note says more than nothing."""
    return bool(note) and (not is_dataclass(note) or any(vars(note).values()))


class Sessions:
    """All sessions: bounded, and cleared some time after the visitor was last seen."""

    def __init__(
        self,
        most: int = KEPT_DESKS,
        expires_s: float = EXPIRES_S,
        left_s: float = LEFT_S,
        most_bytes: int = KEPT_BYTES,
    ) -> None:
        self.most = most
        self.most_bytes = most_bytes
        self.expires_s = expires_s
        self.left_s = left_s
        self.lock = threading.Lock()
        self.sessions: OrderedDict[str, Session] = OrderedDict()
        self.watchers: list[Callable[[Container[str]], None]] = []
        """Are told who is still here, to let go of the others' things."""

    def of(self, key: str) -> Session:
        """The visitor's session, a new one on the first visit."""
        with self.lock:
            session = self.sessions.setdefault(key, Session(key))
            session.touched, session.left = time.monotonic(), 0.0
            self.sessions.move_to_end(key)
            while len(self.sessions) > self.most and self.make_room(session):
                pass
            self.make_light(session)
        self.sweep()
        return session

    def make_room(self, kept: Session) -> bool:
        """Remove the empty session seen longest ago, else the one seen longest ago; False if all
        others have work under way.
        """
        idle = [
            session
            for session in self.sessions.values()
            if not session.jobs and session is not kept
        ]
        gone = next((session for session in idle if session.empty), idle[0] if idle else None)
        if gone is not None:
            del self.sessions[gone.key]
        return gone is not None

    def make_light(self, kept: Session) -> None:
        """Who was seen longest ago loses the notes, until all together are small enough."""
        total = sum(session.nbytes for session in self.sessions.values())
        for session in self.sessions.values():
            if total <= self.most_bytes:
                return
            if session.nbytes and not session.jobs and session is not kept:
                total -= session.nbytes
                session.notes, session.nbytes = {}, 0

    def leave(self, key: str) -> None:
        """The visitor's tab was closed: running work stops, the session goes if nobody returns."""
        with self.lock:
            session = self.sessions.get(key)
            if session is not None:
                session.left = time.monotonic()
                session.closed += 1

    def sweep(self) -> int:
        """Remove the sessions whose time is over; how many there were."""
        now = time.monotonic()
        with self.lock:
            old = [
                key
                for key, session in self.sessions.items()
                if not session.jobs
                and (
                    session.touched < now - self.expires_s
                    or (session.left and session.left < now - self.left_s)
                )
            ]
            for key in old:
                del self.sessions[key]
            here = set(self.sessions)
        for watch in self.watchers:
            watch(here)
        return len(old)

    def clear(self, key: str) -> None:
        """Forget the visitor at once."""
        with self.lock:
            self.sessions.pop(key, None)
