"""Checks of everything that comes from a browser; components alone do not enforce them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TypeGuard

from ...specs import brief
from .errors import refuse


def is_plain(word: object) -> TypeGuard[str]:
    """Whether a name that a visitor gave may look so."""
    return isinstance(word, str) and word.isprintable() and not set(word) & set("<>&")


def real(value: object, name: str, low: float, high: float) -> float:
    """A finite number from low to high."""
    low, high = max(low, -sys.float_info.max), min(high, sys.float_info.max)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not low <= value <= high  # NaN is nowhere between
    ):
        raise refuse(f"{name}: expected a number from {low:g} to {high:g}, got {brief(value)}")
    return float(value)


def whole(value: object, name: str, low: int, high: int) -> int:
    """A whole number from low to high."""
    number = real(value, name, low, high)
    if number != int(number):
        raise refuse(f"{name}: expected a whole number from {low} to {high}, got {brief(value)}")
    return int(number)


def flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise refuse(f"{name}: expected yes or no, got {brief(value)}")
    return value


def one_of(value: object, name: str, choices: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in choices:
        some = ", ".join(choices[:8]) + (" …" if len(choices) > 8 else "")
        raise refuse(f"{name}: expected one of {some}, got {brief(value)}")
    return value


def some_of(value: object, name: str, choices: Sequence[str], most: int) -> list[str]:
    """One to ``most`` of the choices."""
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= most:
        raise refuse(f"{name}: expected 1 to {most} choices, got {brief(value)}")
    return [one_of(item, name, choices) for item in value]
