"""Values of parameters that several tests have: thorough ones, and pairs that fit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from ditas_core.specs import METHODS, get_convention


def thorough(*values: object) -> list[Any]:
    """Each value with the mark: `make test` leaves it to `make thorough`."""
    return [pytest.param(value, marks=pytest.mark.thorough) for value in values]


def compatible(conventions: Iterable[str], methods: Iterable[str]) -> list[tuple[str, str]]:
    """Every convention with every method, but for rotations where scales belong to one input."""
    return [
        (convention, method)
        for convention in conventions
        for method in methods
        if not (METHODS[method].rotation.acts and get_convention(convention).smoothing_commutes)
    ]
