"""Values of a parameter that only the thorough suite tries."""

from __future__ import annotations

from typing import Any

import pytest


def thorough(*values: object) -> list[Any]:
    """Each value with the mark: `make test` leaves it to `make thorough`."""
    return [pytest.param(value, marks=pytest.mark.thorough) for value in values]
