"""One module per tab of the page, in the order of the tab bar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..bench import Bench
from ..parts.setup import Page, View
from .about import build_about
from .blind import build_blind
from .breaking import build_breaking
from .compare import build_compare
from .injector import build_injector
from .lab import build_lab
from .outliers import build_outliers
from .overview import build_overview
from .search import build_search
from .takeaway import build_takeaway


@dataclass(frozen=True)
class Tab:
    """A tab: ``build`` lays it out inside its container."""

    key: str
    title: str
    build: Callable[[Bench, Page], View | None]


TABS = (
    Tab("overview", "Overview", build_overview),
    Tab("outliers", "Outliers", build_outliers),
    Tab("lab", "Alpha lab", build_lab),
    Tab("search", "Search", build_search),
    Tab("compare", "Compare", build_compare),
    Tab("blind", "Blind test", build_blind),
    Tab("breaking", "Where it breaks", build_breaking),
    Tab("injector", "Injector", build_injector),
    Tab("takeaway", "Take away", build_takeaway),
    Tab("about", "About", build_about),
)
