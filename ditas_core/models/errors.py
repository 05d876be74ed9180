"""The one error of this room, and how it shows what came."""

from __future__ import annotations

from typing import Any


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: what was expected, what came, what to do."""


def shown(value: Any) -> str:
    """Something from a file, short enough for a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
