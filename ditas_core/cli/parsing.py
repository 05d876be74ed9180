"""Argument parsing with one-line errors."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line and exits with 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; see {self.prog} --help\n")


def number(kind: type[int] | type[float], low: float, high: float) -> Any:
    """An argparse type: a finite number within bounds."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except (ValueError, OverflowError):
            raise argparse.ArgumentTypeError(
                f"expected a number from {low:g} to {high:g}, got {text!r}"
            ) from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"expected a number from {low:g} to {high:g}, got {text}"
            )
        return value

    return parse


def several(choices: Collection[str]) -> Any:
    """An argparse type: some of these, with commas, in the order given."""

    def parse(text: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
        if not set(found) <= set(choices):
            raise argparse.ArgumentTypeError(
                f"expected some of {', '.join(choices)}, with commas, got {text!r}"
            )
        return found

    return parse


def setting(spec: type, name: str) -> dict[str, Any]:
    """``type`` and ``default`` of an argument that is a number of a specification."""
    (found,) = (each for each in fields(spec) if each.name == name)
    low, high = found.metadata["limits"]
    default: Any = found.default
    return {"type": number(type(default), low, high), "default": default}


def split_names(text: str, known: Sequence[str]) -> list[str]:
    """``a,b`` as ``["a", "b"]``; names with commas of their own stay whole.

    From left to right the longest run of pieces that is a known name; any other piece is
    left for the caller to find, or to refuse.
    """
    names, pieces = set(known), text.split(",")
    longest = 1 + max((name.count(",") for name in names), default=0)
    found: list[str] = []
    at = 0
    while at < len(pieces):
        for end in range(min(at + longest, len(pieces)), at, -1):
            name = ",".join(pieces[at:end]).strip()
            if name in names:
                break
        found.append(name)  # at the end of the loop that is the one piece
        at = end
    return found
