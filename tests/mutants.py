"""Seeded faults in the core, and which of them the tests notice: ``python tests/mutants.py``.

    python tests/mutants.py --count 160 --seed 0     the table of docs/testing.md
    python tests/mutants.py --count 20 --room lowrank

A fault is one change of one place: a comparison turned or moved by its border, + for -,
* for /, a number one higher, min for max, a condition or a flag inverted. Places are drawn
evenly from all places of the rooms below; annotations, texts, what raises errors, zip's strict
and a field's repr are left out. Each fault is put into a copy of the package, and the tests of
``make test`` that import its room (in tests/ itself; the page's and the browser's would only add
to what is caught) run until one fails. What survives meets those that ``make thorough`` adds. A
fault that changes nothing that anybody could see counts as not caught like any other.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("quantizer", "smoothing", "lowrank", "layers", "search", "conversion", "calibration",
         "artifact")  # fmt: skip
QUICK = "not thorough and not slow and not gpu and not browser and not journey"
THOROUGH = "thorough and not slow and not gpu and not browser and not journey"
LIMIT = 400
"""Seconds of a run of tests; a fault that makes it longer counts as caught, and is told."""
SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
NAMES = {
    "amax": "amin", "amin": "amax", "max": "min", "min": "max", "maximum": "minimum",
    "minimum": "maximum", "mean": "sum", "sum": "mean", "floor": "ceil", "ceil": "floor",
    "round": "floor", "any": "all", "all": "any", "square": "abs", "sqrt": "square",
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """The n-th place of a module, and what stands there instead."""

    module: str
    place: int
    line: int
    told: str

    @property
    def room(self) -> str:
        return self.module.split("/")[1]


def places(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Each place that can be changed, and the node that would take it, in the order of the text."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        parts: list[ast.AST | None] = []
        if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Assert)):
            parts = [node]
        elif isinstance(node, ast.AnnAssign):
            parts = [node.annotation]
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            parts = [node.returns, *node.decorator_list]
        elif isinstance(node, ast.ClassDef):
            parts = [*node.decorator_list]
        elif isinstance(node, ast.arg):
            parts = [node.annotation]
        elif isinstance(node, ast.keyword) and node.arg in ("strict", "repr"):
            parts = [node.value]
        skipped |= {id(inner) for part in parts if part for inner in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        new = copy.copy(node)
        if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
            new.ops = [SWAPS[type(node.ops[0])](), *node.ops[1:]]
        elif isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in SWAPS:
            if any(
                isinstance(x, ast.Constant) and isinstance(x.value, str) for x in ast.walk(node)
            ):
                continue
            new.op = SWAPS[type(node.op)]()
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            new.value = node.value + 1
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            new.value = not node.value
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
            new = node.operand
        elif isinstance(node, ast.If):
            new.test = ast.UnaryOp(ast.Not(), node.test)
        elif isinstance(node, ast.Attribute) and node.attr in NAMES:
            new.attr = NAMES[node.attr]
        elif isinstance(node, ast.Name) and node.id in NAMES and isinstance(node.ctx, ast.Load):
            new.id = NAMES[node.id]
        else:
            continue
        yield node, new


class Exchange(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else super().generic_visit(node)


def told(node: ast.AST) -> str:
    text = ast.unparse(node.test if isinstance(node, ast.If) else node)
    return " ".join(text.split())[:60]


def faults_of(module: str) -> list[Fault]:
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    return [
        Fault(module, place, getattr(old, "lineno", 0), f"{told(old)}  ->  {told(new)}")
        for place, (old, new) in enumerate(places(tree))
    ]


def changed(fault: Fault) -> str:
    tree = ast.parse((ROOT / fault.module).read_text(encoding="utf-8"))
    old, new = list(places(tree))[fault.place]
    return ast.unparse(ast.fix_missing_locations(Exchange(old, new).visit(tree)))


def draw(count: int, seed: int, rooms: list[str]) -> list[Fault]:
    modules = [
        str(path.relative_to(ROOT))
        for room in rooms
        for path in sorted((ROOT / "ditas_core" / room).glob("*.py"))
    ]
    known = [fault for module in modules for fault in faults_of(module)]
    return random.Random(seed).sample(known, min(count, len(known)))


def tests_of(room: str) -> list[str]:
    """The test files that import the room, those named after it first, slow ones last."""
    files = sorted((ROOT / "tests").glob("test_*.py"))
    users = [f for f in files if re.search(rf"ditas_core(\.| import .*){room}\b", f.read_text())]
    users += [f for f in files if f.stem == "test_golden" and f not in users]
    slow = (
        "test_golden",
        "test_engine",
        "test_pixart",
        "test_sensitivity",
    )
    users.sort(key=lambda f: (f.stem in slow, room[:7] not in f.stem, f.stat().st_size))
    return [str(f.relative_to(ROOT)) for f in users]


def caught(folder: Path, fault: Fault, marks: str) -> bool:
    """Whether a test fails in the copy that has the fault; in a fork that has torch at hand."""
    target = folder / fault.module
    whole = target.read_text(encoding="utf-8")
    target.write_text(changed(fault), encoding="utf-8")
    child = os.fork()
    if not child:
        run_tests(folder, tests_of(fault.room), marks)
    try:
        until = time.monotonic() + LIMIT
        while time.monotonic() < until:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status != 0
            time.sleep(0.05)  # of a process there is nothing else to wait for with a limit
        os.kill(child, 9)
        os.waitpid(child, 0)
        print(f"too long: {fault.module}:{fault.line}: {fault.told}", flush=True)
        return True
    finally:
        target.write_text(whole, encoding="utf-8")


def run_tests(folder: Path, files: list[str], marks: str) -> None:
    import pytest

    os.chdir(folder)
    sys.path[:0] = [str(folder)]
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    code = 70
    try:
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", marks, *files])
    finally:
        os._exit(0 if code in (0, 5) else 1)


def make_copy() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    skip = shutil.ignore_patterns("node_modules", "__pycache__")
    for name in ("ditas_core", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=skip)
    for name in ("pyproject.toml", "README.md", "Makefile", "requirements.txt", "app.py"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "assets").symlink_to(ROOT / "assets")
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--room", choices=ROOMS, action="append")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    sys.dont_write_bytecode = True  # a changed file may have the time and size of the old one
    os.environ.update(OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
    import diffusers  # noqa: F401  what every fork would load
    import hypothesis  # noqa: F401
    import torch

    torch.set_num_threads(1)
    faults = draw(options.count, options.seed, options.room or list(ROOMS))
    folders: SimpleQueue[Path] = SimpleQueue()
    copies = [make_copy() for _ in range(options.workers)]
    for folder in copies:
        folders.put(folder)

    def judge(fault: Fault) -> tuple[Fault, str]:
        folder = folders.get()
        try:
            by = "quick" if caught(folder, fault, QUICK) else ""
            by = by or ("thorough" if caught(folder, fault, THOROUGH) else "")
        finally:
            folders.put(folder)
        if by == "quick":
            print(".", end="", flush=True)
        else:
            where = f"{fault.module}:{fault.line}"
            print(f"{by or 'nothing'}: {where}: {fault.told}", flush=True)
        return fault, by

    try:
        with ThreadPoolExecutor(options.workers) as pool:
            found = list(pool.map(judge, faults))
    finally:
        for folder in copies:
            shutil.rmtree(folder, ignore_errors=True)
    print("\n\n| room | faults | make test | make thorough |\n|---|---|---|---|")
    for room in [*(options.room or ROOMS), "all"]:
        by = [b for fault, b in found if room in (fault.room, "all")]
        quick, whole = by.count("quick"), len(by) - by.count("")
        share = [f"{n} ({n / len(by):.0%})" if by else "0" for n in (quick, whole)]
        print(f"| {room} | {len(by)} | {share[0]} | {share[1]} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
