"""The ``bench`` verb: a module of the room ``bench`` is found by its name and run."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Any

from .parsing import Parser

BENCHES = {
    "search": "the released procedure, one sampling loop per layer, against one pass",
    "scale": "the whole pipeline on a model of a known shape: seconds and peak memory",
    "tokens": "how many stored tokens the search needs",
    "busy": "one program and two at once on the same cores, threads spinning and sleeping",
    "load": "many visitors, cancels, closed tabs, long days: what stays as it was",
    "page": "how quickly the page answers in a browser",
    "forward": "one forward pass in every way a CPU offers: milliseconds, SQNR, sizes",
    "stock": "what smoothing does for torchao, sdnq and quanto: SQNR of plain and smoothed, paired",
    "peers": "torchao, sdnq and quanto over a contest's noise, as files for contest --outside",
    "site": "the static site in a browser: what it weighs, how soon it draws",
    "ranking": "which objective of the search predicts the final latents, over 52 recipes",
    "conventions": "the three conventions at several bit-widths: SQNR and effective bits",
}


def add_bench(parser: argparse.ArgumentParser) -> None:
    """Everything after the benchmark's name belongs to the benchmark."""
    listed = "; ".join(f"{name}: {text}" for name, text in BENCHES.items())
    parser.add_argument("name", choices=sorted(BENCHES), help=listed)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="its own options; NAME --help")


def run_bench(args: argparse.Namespace) -> dict[str, Any]:
    """Run one; its lines go where people look, its report is returned."""
    rest = [word for word in args.rest if word != "--json"]
    args.json = args.json or len(rest) != len(args.rest)
    module = importlib.import_module(f"ditas_core.bench.{args.name}")
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
