"""``python -m ditas_core.results``: what is made from the shipped checkpoint.

``model``, or ``make results``: all that the page opens on, exports, measurements and pictures.
``contests``, or ``make contests``: methods held against each other at equal bits.

Steps that are done for the same models by the same command are skipped; an interrupted run goes on
where it was. The tables of the documentation are written anew each time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..bench.machine import ROOT, describe
from ..checkpoints import shipped_folders
from .pages import write_pages
from .running import Ledger, chosen, identity, run_all
from .steps import PARTS, steps


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m ditas_core.results", description=__doc__)
    found.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: {PARTS[0]})"
    )
    found.add_argument("--list", action="store_true", help="what there is, and what it took last")
    found.add_argument("--only", default="", metavar="STEP,...", help="these alone")
    found.add_argument("--force", action="store_true", help="also what is done")
    found.add_argument("--pages", action="store_true", help="only write the tables of the pages")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    shipped = shipped_folders()
    if not shipped:
        print("assets: expected a folder with a checkpoint, found none", file=sys.stderr)
        return 2

    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    ledger = Ledger.read(ROOT, identity(shipped))
    every = steps([folder.relative_to(ROOT) for folder in shipped])
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        report(f"expected some of {', '.join(PARTS)}; got {min(unknown)}")
        return 2
    parts = options.parts or PARTS[:1]
    if options.list:
        for step in every:
            took = ledger.seconds(step)
            state = "done" if ledger.done(step) else "to do"
            last = "?" if took is None else f"{took:.0f} s"
            print(f"{step.part:8} {step.name:20} {state:6} {last:>7}  {step.makes}")
        return 0
    failed: list[str] = []
    if not options.pages:
        only = [name for name in options.only.split(",") if name]
        wanted = every if only else [step for step in every if step.part in parts]
        try:
            run, done = chosen(wanted, ledger, only, options.force)
        except ValueError as error:
            report(str(error))
            return 2
        if done:
            report("done already: " + ", ".join(step.name for step in done))
        failed = run_all(run, ledger, describe(), report)
    for path in write_pages(ROOT, [folder.name for folder in shipped]):
        report(f"wrote {path}")
    for each in failed:
        report(each)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
