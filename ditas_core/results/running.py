"""Runs steps: two at once where none measures time, each whole or not at all, done ones skipped."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..writing import write_text
from .steps import MEASUREMENTS, Step

MADE = MEASUREMENTS / "made.json"
SIDE_BY_SIDE = 2
WEIGHED = ("model_index.json", "scheduler/*", "transformer/*", "vae/*")
"""What of a checkpoint's folder is the model; the rest is written about it."""
Report = Callable[[str], None]


def identity(folders: Iterable[Path]) -> str:
    """sha256 over the names and files of the models."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(each for pattern in WEIGHED for each in folder.glob(pattern)):
            digest.update(f"{folder.name}/{path.relative_to(folder)}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@dataclass
class Ledger:
    """Which steps were done for which models, and what they took; lies in ``root / MADE``.

    models  ``identity`` of the models that are shipped now
    """

    root: Path
    models: str
    entries: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path, models: str) -> Ledger:
        path = root / MADE
        entries = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        return cls(root, models, entries)

    def done(self, step: Step) -> bool:
        """Made for these models by this command, and still there."""
        entry = self.entries.get(step.name, {})
        there = all((self.root / path).exists() for path in step.outputs)
        return there and (entry.get("models"), entry.get("command")) == (self.models, told(step))

    def seconds(self, step: Step) -> float | None:
        """What it took last, of whatever models."""
        entry = self.entries.get(step.name)
        return None if entry is None else float(entry["seconds"])

    def add(self, step: Step, seconds: float, processor: str) -> None:
        self.entries[step.name] = {
            "models": self.models,
            "command": told(step),
            "seconds": round(seconds, 1),
            "processor": processor,
            "date": datetime.date.today().isoformat(),
        }
        write_text(self.root / MADE, json.dumps(self.entries, indent=1, sort_keys=True) + "\n")


def told(step: Step) -> str:
    """The command as people type it."""
    return " ".join(["python", *step.words[1:]])


def carry_out(step: Step, root: Path, machine: dict[str, object]) -> float:
    """Run its command; seconds.

    Raises:
        RuntimeError: it failed, or its outputs are not there; with the end of what it said.
    """
    threads = {} if step.alone else {"OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **threads, "PYTHONPATH": os.pathsep.join((".", "tests"))}
    if step.fresh is not None:
        shutil.rmtree(root / step.fresh, ignore_errors=True)
    started = time.perf_counter()
    done = subprocess.run(
        step.words, cwd=root, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
        text=True,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    said = "\n".join(done.stderr.strip().splitlines()[-20:])
    if done.returncode:
        raise RuntimeError(f"{step.name}: {told(step)} ended with {done.returncode}:\n{said}")
    if step.report:
        try:
            report = json.loads(done.stdout.strip().splitlines()[-1])
        except (ValueError, IndexError) as error:
            raise RuntimeError(f"{step.name}: expected a report as JSON, got none") from error
        report = {"command": told(step), "machine": machine, **report}
        write_text(root / step.outputs[0], json.dumps(report, indent=1) + "\n")
    missing = [str(path) for path in step.outputs if not (root / path).exists()]
    if missing:
        raise RuntimeError(f"{step.name}: expected {', '.join(missing)}, found none\n{said}")
    return seconds


def chosen(
    steps: Sequence[Step], ledger: Ledger, only: Sequence[str], force: bool
) -> tuple[list[Step], list[Step]]:
    """Those to run, and those that are done.

    A step whose forerunner is run again is run again.

    Raises:
        ValueError: no step has this name.
    """
    unknown = set(only) - {step.name for step in steps}
    if unknown:
        names = ", ".join(step.name for step in steps)
        raise ValueError(f"only: expected some of {names}; got {min(unknown)}")
    wanted = [step for step in steps if not only or step.name in only]
    run: list[Step] = []
    for step in wanted:
        behind = {each.name for each in run} & set(step.after)
        if force or behind or not ledger.done(step):
            run.append(step)
    return run, [step for step in wanted if step not in run]


def longest_first(steps: Sequence[Step], ledger: Ledger) -> list[Step]:
    """In the order to begin them: by what they and the longest chain behind them took last, so
    that no long one is left over when the others are done.

    Those that were never run come first, those that run alone last, each as they are listed.
    """

    def chain(step: Step) -> float:
        behind = [each for each in steps if step.name in each.after and not each.alone]
        own = ledger.seconds(step)
        return (float("inf") if own is None else own) + max(map(chain, behind), default=0.0)

    return sorted(steps, key=lambda step: 0.0 if step.alone else -chain(step))


def run_all(
    steps: Sequence[Step],
    ledger: Ledger,
    machine: dict[str, object],
    report: Report,
) -> list[str]:
    """Run them, see ``longest_first``; what failed, in words. What depends on a failed step is not
    begun.

    Steps that are ``alone`` come when all others are done.
    """
    failed: dict[str, str] = {}
    waiting, going = longest_first(steps, ledger), dict[Future[float], Step]()
    total, begun = len(steps), 0

    def ready(step: Step) -> bool:
        unfinished = {each.name for each in [*waiting, *going.values()]}
        if set(step.after) & unfinished:
            return False
        if step.alone:
            return not going and all(each.alone for each in waiting)
        return len(going) < SIDE_BY_SIDE

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        while waiting or going:
            for step in list(waiting):
                broken = set(step.after) & set(failed)
                if broken:
                    waiting.remove(step)
                    failed[step.name] = f"{step.name}: not begun, it needs {min(broken)}"
                elif ready(step):
                    waiting.remove(step)
                    begun += 1
                    report(f"{begun} of {total}: {step.name}, {step.makes}")
                    going[pool.submit(carry_out, step, ledger.root, machine)] = step
            for future in wait(going, return_when=FIRST_COMPLETED).done:
                step = going.pop(future)
                try:
                    seconds = future.result()
                except (RuntimeError, OSError) as error:
                    failed[step.name] = str(error)
                    report(f"{step.name}: failed")
                else:
                    ledger.add(step, seconds, str(machine["cpu"]))
                    report(f"{step.name}: {seconds:.0f} s")
    return list(failed.values())
