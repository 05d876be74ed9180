"""A folder per tab of the page: layout (components), job (what Start runs), draw (what is shown).

A new tab is a folder whose ``layout`` has a ``TAB``, and its name below.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from ..page.tab import Tab

ORDER = (
    "overview",
    "outliers",
    "lab",
    "search",
    "compare",
    "contest",
    "blind",
    "breaking",
    "injector",
    "takeaway",
    "about",
)
"""As in the tab bar."""


def found(names: Sequence[str]) -> tuple[Tab, ...]:
    """The tabs of these folders."""
    return tuple(import_module(f".{name}.layout", __name__).TAB for name in names)


TABS = found(ORDER)
