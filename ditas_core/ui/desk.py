"""What each visitor has on the desk. It stays on the server, under the session's id."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from ..search import LayerDone
from ..specs import CalibrationSpec, Recipe

KEPT_RECIPES = 12
KEPT_SEARCHES = 4
KEPT_DESKS = 200
EXPIRES_S = 3600.0


@dataclass
class Desk:
    """One visitor's own things; small, what is large lies in the cache under a key.

    recipes   by name, oldest first
    spec      the calibration run that the visitor asked for; None = the page's own
    searches  layers that searches have found so far, for going on after Cancel
    result    cache key of the last comparison
    notes     what single tabs remember, each under its own name
    """

    key: str
    recipes: dict[str, Recipe] = field(default_factory=dict)
    spec: CalibrationSpec | None = None
    searches: OrderedDict[Hashable, dict[str, LayerDone]] = field(default_factory=OrderedDict)
    result: str = ""
    notes: dict[str, Any] = field(default_factory=dict)
    touched: float = 0.0

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


class Desks:
    """All desks: bounded, and cleared some time after the visitor was last seen."""

    def __init__(self, most: int = KEPT_DESKS, expires_s: float = EXPIRES_S) -> None:
        self.most = most
        self.expires_s = expires_s
        self.lock = threading.Lock()
        self.desks: OrderedDict[str, Desk] = OrderedDict()

    def of(self, key: str) -> Desk:
        """The visitor's desk, a new one on the first visit."""
        now = time.monotonic()
        with self.lock:
            desk = self.desks.setdefault(key, Desk(key))
            desk.touched = now
            self.desks.move_to_end(key)
            oldest = next(iter(self.desks.values()))
            while len(self.desks) > self.most or oldest.touched < now - self.expires_s:
                self.desks.pop(oldest.key)
                oldest = next(iter(self.desks.values()))
            return desk

    def clear(self, key: str) -> None:
        """The visitor has left."""
        with self.lock:
            self.desks.pop(key, None)
