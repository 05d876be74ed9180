"""One module per tab of the page, in the order of the tab bar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..page.bar import Page, View
from ..visitors.backend import Backend
from .about.layout import build_about
from .blind.layout import build_blind
from .breaking.layout import build_breaking
from .compare.layout import build_compare
from .injector.layout import build_injector
from .lab.layout import build_lab
from .outliers.layout import build_outliers
from .overview.layout import build_overview
from .search.layout import build_search
from .takeaway.layout import build_takeaway


@dataclass(frozen=True)
class Tab:
    """A tab: ``build`` lays it out inside its container."""

    key: str
    title: str
    build: Callable[[Backend, Page], View | None]


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
