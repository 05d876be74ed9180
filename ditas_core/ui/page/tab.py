"""What a tab is to the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..visitors.backend import Backend
from .bar import Page, View


@dataclass(frozen=True)
class Tab:
    """``build`` lays it out inside its container, and says how it is drawn anew.

    key    in the page's address
    title  in the tab bar
    """

    key: str
    title: str
    build: Callable[[Backend, Page], View | None]
