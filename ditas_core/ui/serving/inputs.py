"""What a listener reads, by name: components while the page is laid out, values when they come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Inputs:
    """Base of what is read together; the order of the fields is that of the endpoint.

    Declared with components in its fields, or further Inputs, or None: this page has no such
    component, or this listener does not ask for it. Every question brings a copy that holds the
    values in their places, not checked yet.
    """

    @property
    def parts(self) -> list[Any]:
        """What the fields hold."""
        return [getattr(self, each.name) for each in fields(self)]


def components(parts: Iterable[Any]) -> list[Any]:
    """The components of these components and Inputs, in the order of their values."""
    found: list[Any] = []
    for part in parts:
        if part is not None:
            found += components(part.parts) if isinstance(part, Inputs) else [part]
    return found


def filled(parts: Iterable[Any], values: Iterable[Any]) -> list[Any]:
    """A component's value, or the Inputs with their values, for every part."""
    left, found = iter(values), []
    for part in parts:
        if isinstance(part, Inputs):
            part = type(part)(*filled(part.parts, left))
        elif part is not None:
            part = next(left)
        found.append(part)
    return found
