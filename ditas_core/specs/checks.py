"""Checks that every specification shares: type first, then range."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Collection
from dataclasses import field, fields
from typing import Any

SHORT = reprlib.Repr()
SHORT.maxlevel, SHORT.maxstring, SHORT.maxother = 3, 60, 60


class SpecError(ValueError):
    """A setting outside its range: says what was expected and what came."""


class RecipeError(SpecError):
    """A recipe that does not fit the checkpoint or the calibration."""


def check_whole(name: str, value: object, low: int, high: int) -> None:
    """A whole number (no bool, no float) from low to high."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise SpecError(f"{name}: expected a whole number from {low} to {high}, got {brief(value)}")


def check_number(name: str, value: object, low: float, high: float) -> None:
    """A finite number (no bool) from low to high."""
    real = isinstance(value, int | float) and not isinstance(value, bool)
    least, most = max(low, -sys.float_info.max), min(high, sys.float_info.max)
    if not real or not least <= value <= most:  # type: ignore[operator]  # NaN is nowhere between
        raise SpecError(f"{name}: expected a number from {low:g} to {high:g}, got {brief(value)}")


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """One of the given words."""
    if not isinstance(value, str) or value not in choices:
        raise SpecError(f"{name}: expected one of {', '.join(choices)}, got {brief(value)}")


def check_text(name: str, value: object, longest: int = 4096) -> None:
    """A text of bounded length."""
    if not isinstance(value, str) or len(value) > longest:
        raise SpecError(f"{name}: expected a text of at most {longest}, got {brief(value)}")


def check_flag(name: str, value: object) -> None:
    """True or False."""
    if not isinstance(value, bool):
        raise SpecError(f"{name}: expected true or false, got {brief(value)}")


def whole(default: int, low: int, high: int) -> Any:
    """A field of a specification: see ``check_whole``."""
    return field(default=default, metadata={"check": check_whole, "limits": (low, high)})


def number(default: float, low: float, high: float) -> Any:
    """A field of a specification: see ``check_number``."""
    return field(default=default, metadata={"check": check_number, "limits": (low, high)})


def choice(default: str, choices: Collection[str]) -> Any:
    """A field of a specification: see ``check_choice``."""
    return field(default=default, metadata={"check": check_choice, "limits": (choices,)})


def check_fields(spec: Any) -> None:
    """Raise SpecError unless each field is within the limits that it was made with."""
    for each in fields(spec):
        if each.metadata:
            each.metadata["check"](each.name, getattr(spec, each.name), *each.metadata["limits"])


def brief(value: object) -> str:
    """A representation of at most 60 characters, whatever it is."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**18:
        return "a much larger number"
    text = SHORT.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
