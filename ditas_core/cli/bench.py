"""The ``bench`` verb: runs the benchmarks of a source checkout (tests/benchmarks)."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from .parsing import Parser

BENCHES = {
    "search": "the released procedure, one sampling loop per layer, against one pass",
    "scale": "the whole pipeline on a model of a known shape: seconds and peak memory",
    "tokens": "how many stored tokens the search needs",
    "busy": "one program and two at once on the same cores, threads spinning and sleeping",
    "load": "many visitors, cancels, closed tabs, long days, killed writers: what stays as it was",
    "page": "how quickly the page answers in a browser",
    "conventions": "the three conventions at several bit-widths: SQNR and effective bits",
}


def benchmark(name: str) -> Any:
    """The module tests/benchmarks/NAME.py of this checkout.

    Raises:
        ValueError: the package was installed without its tests.
    """
    folder = Path(__file__).resolve().parents[2] / "tests"
    if not (folder / "benchmarks" / f"{name}.py").is_file():
        raise ValueError(
            "bench: expected a source checkout with tests/benchmarks, found none beside the package"
        )
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return importlib.import_module(f"benchmarks.{name}")


def add_bench(parser: argparse.ArgumentParser) -> None:
    """Everything after the benchmark's name belongs to the benchmark."""
    listed = "; ".join(f"{name}: {text}" for name, text in BENCHES.items())
    parser.add_argument("name", choices=sorted(BENCHES), help=listed)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="its own options; NAME --help")


def run_bench(args: argparse.Namespace) -> dict[str, Any]:
    """Run one; its lines go where people look, its report is returned."""
    rest = [word for word in args.rest if word != "--json"]
    args.json = args.json or len(rest) != len(args.rest)
    module = benchmark(args.name)
    parser = Parser(
        prog=f"ditas bench {args.name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    report: dict[str, Any] = module.run(parser.parse_args(rest))
    stream = sys.stderr if args.json else sys.stdout
    stream.write("\n".join(module.lines(report)) + "\n")
    return report
