"""The map of the rooms from their docstrings: ``python tests/rooms.py``.

    python tests/rooms.py           the table of docs/design.md
    python tests/rooms.py --lines   lines of each room, of all and of the tests
    python tests/rooms.py --write   put the table into docs/design.md

A room is a folder of the package; what a row says is the first line of its ``__init__``.
The last rows are folders beside the package, which are not installed with it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ditas_core"
DESIGN = ROOT / "docs" / "design.md"
LEVELS = {
    "specs": 0,
    "quantizer": 1,
    "smoothing": 1,
    "models": 1,
    "fidelity": 1,
    "checkpoints": 2,
    "sampling": 2,
    "lowrank": 2,
    "methods": 3,
    "layers": 3,
    "calibration": 3,
    "drawing": 3,
    "search": 4,
    "conversion": 4,
    "artifact": 4,
    "evaluation": 4,
    "comparison": 5,
    "exports": 5,
    "onnx_runtime": 5,
    "contest": 6,
    "api": 6,
    "figures": 6,
    "site": 6,
    "cli": 7,
    "ui": 7,
    "bench": 8,
    "results": 9,
}
APART = ("training",)
"""Beside the package: imports nothing of the command line and the page, and nothing imports it."""
HEAD = "| level | room of `ditas_core` | what lives there |\n|---|---|---|\n"


def rooms_in(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/__init__.py"))


def said(room: Path) -> str:
    """The first line of the room's docstring."""
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
    return text.splitlines()[0].rstrip(".").replace("``", "`")


def table() -> str:
    """A row per room, from the lowest level up; rooms within rooms below theirs."""
    rows = []
    for room in sorted(rooms_in(PACKAGE), key=lambda room: LEVELS[room.name]):
        rows.append(f"| {LEVELS[room.name]} | `{room.name}` | {said(room)} |")
        rows += [f"| | `{room.name}/{inner.name}` | {said(inner)} |" for inner in rooms_in(room)]
    rows += [f"| apart | `{name}`, beside it | {said(ROOT / name)} |" for name in APART]
    return HEAD + "\n".join(rows) + "\n"


def lines_of(paths: Iterable[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def lines() -> str:
    """Lines of Python, per room."""
    found = {room.name: lines_of(room.rglob("*.py")) for room in rooms_in(PACKAGE)}
    found |= {name: lines_of((ROOT / name).rglob("*.py")) for name in APART}
    found["the package"] = lines_of(PACKAGE.rglob("*.py"))
    tests = [path for path in (ROOT / "tests").rglob("*.py") if "node_modules" not in path.parts]
    found["the tests"] = lines_of(tests)
    share = found["the tests"] / found["the package"]
    return "\n".join(f"{count:6d}  {name}" for name, count in found.items()) + f" ({share:.0%})"


def main(words: list[str]) -> int:
    if words == ["--write"]:
        text = DESIGN.read_text(encoding="utf-8")
        start = text.index(HEAD)
        end = text.index("\n\n", start) + 1
        DESIGN.write_text(text[:start] + table() + text[end:], encoding="utf-8")
    elif words in ([], ["--lines"]):
        print(lines() if words else table())
    else:
        sys.exit(f"rooms: expected nothing, --lines or --write, got {' '.join(words)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
