"""The shipped contests: a file per setting, each a ``Contest`` as the command line writes it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ...contest import Contest
from ...specs import SpecError, read_text
from ...writing import write_text

NATURAL = "natural"
"""In a contest's settings, of a twin: the fingerprint of the checkpoint that it was made of."""


def strength_of(contest: Contest) -> float:
    """How many times larger its checkpoint's outliers were made; 1 as they are."""
    found = contest.settings.get("injected", 1.0)
    return float(found) if isinstance(found, int | float) else 1.0


def title_of(contest: Contest) -> str:
    """``W4A8 · 5 bits``, and that outliers are injected."""
    settings, strength = contest.settings, strength_of(contest)
    budget = settings.get("budget")
    parts = [str(settings.get("bits"))]
    parts += [f"at most {budget:g} bits" if isinstance(budget, int | float) else "no budget"]
    parts += [f"injected outliers ×{strength:g}"] if strength > 1 else []
    return " · ".join(parts)


def load_contests(folder: Path, fingerprint: str) -> tuple[Contest, ...]:
    """Those of this checkpoint and of its twins, natural ones first; damaged ones are left out.

    Raises:
        ValueError: none.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        with suppress(SpecError, OSError):
            contest = Contest.from_json(read_text(path, "contest"))
            if fingerprint in (contest.settings.get("fingerprint"), contest.settings.get(NATURAL)):
                found.append(contest)
    if not found:
        raise ValueError("none found beside assets/precomputed")
    return tuple(sorted(found, key=strength_of))


def save_contest(contest: Contest, folder: Path, name: str) -> None:
    """As a document and as a table."""
    write_text(folder / f"{name}.json", contest.to_json())
    write_text(folder / f"{name}.csv", contest.to_csv())
