"""JSON and text that somebody else wrote: bounded in size and depth, every number finite."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from .checks import SpecError, brief

MOST_BYTES = 2_000_000
"""Twice what a recipe for 512 PixArt blocks takes, the most that is ever built."""
DEEPEST = 32


def parse_json(name: str, text: str, kind: type = dict) -> Any:
    """The JSON value in ``text``, a ``kind``.

    Raises:
        SpecError: no JSON, too much of it, nested too deeply, a number that is not finite,
            or another kind of value.
    """

    def number(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise SpecError(f"{name}: expected finite numbers, got {digits[:40]}")
        return value

    if len(text) > MOST_BYTES:
        raise SpecError(f"{name}: expected at most {MOST_BYTES} characters, got {len(text)}")
    try:
        value = json.loads(text, parse_float=number, parse_constant=number)
    except SpecError:
        raise
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]
        raise SpecError(f"{name}: expected JSON, got text that is not ({reason})") from None
    level = [value]
    for _ in range(DEEPEST):
        level = [child for parent in level for child in children(parent)]
    if level:
        raise SpecError(f"{name}: expected at most {DEEPEST} levels of JSON, got more")
    if not isinstance(value, kind):
        raise SpecError(f"{name}: expected a JSON {WORDS[kind]}, got {brief(value)}")
    return value


WORDS: dict[type, str] = {dict: "object", list: "list"}


def children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def read_text(path: Path, name: str) -> str:
    """A UTF-8 text file of bounded size.

    Raises:
        SpecError: no regular file, too large, or no text.
    """
    if not path.is_file():
        raise SpecError(f"{name}: expected a file, found none at {path}")
    with path.open("rb") as stream:
        raw = stream.read(MOST_BYTES + 1)
    if len(raw) > MOST_BYTES:
        raise SpecError(f"{name}: expected at most {MOST_BYTES} B, got more in {path.name}")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise SpecError(f"{name}: expected UTF-8 text, got other bytes in {path.name}") from None
