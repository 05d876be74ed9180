"""``python -m ditas_core.results.contests``: the shipped contests, and what the pages tell of them.

With ``--inject K`` those of the twin with injected outliers. An interrupted run goes on after the
last contender that was finished.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..bench.machine import DEMO, ROOT
from ..calibration import Calibration, calibrate
from ..checkpoints import Checkpoint, injected_note, load_checkpoint
from ..contest import (
    Contest,
    ContestJournal,
    ContestProgress,
    ContestSpec,
    RowDone,
    contenders,
    formats_of,
    run_contest,
    summary,
)
from ..conversion import inject_outliers
from ..fidelity import load_stages
from ..figures import contest_drawing
from ..specs import BitWidths, CalibrationSpec, SamplingSpec, check_number
from ..ui.stored.contests import NATURAL, save_contest
from ..ui.visitors.backend import INJECTED_CHANNELS
from ..writing import write_text
from .reports import keep
from .steps import CONTESTS, MEASUREMENTS, SHIPPED_CONTESTS, contest_name

SAMPLES, STEPS, SEED = 8, 20, 0
CALIBRATION_SEED = 1_000_000
"""Far from the compared samples'."""
WITH_FORMATS = ("W4A8",)
"""Where number formats take part, too."""
Report = Callable[[str], None]


def settings_of(bits: str, budget: float) -> ContestSpec:
    """A shipped contest's."""
    widths = BitWidths.parse(bits)
    formats = formats_of(widths) if bits in WITH_FORMATS else ()
    sampling = SamplingSpec(steps=STEPS)
    return ContestSpec(widths, budget, formats=formats, samples=SAMPLES, sampling=sampling)


def twin(natural: Checkpoint, strength: float) -> Checkpoint:
    """As the page makes it."""
    changed = inject_outliers(natural.transformer, strength, INJECTED_CHANNELS)
    name = f"{natural.name} · {injected_note(strength)}"
    return replace(natural, transformer=changed, name=name)


def held(
    checkpoint: Checkpoint,
    calibration: Calibration,
    spec: ContestSpec,
    journal_path: Path,
    report: Report,
) -> Contest:
    """One contest, which goes on where an interrupted run was."""
    stages = load_stages()
    entered, _ = contenders(checkpoint, spec)
    journal = ContestJournal(journal_path, checkpoint, calibration, spec, entered, True)

    def listen(event: ContestProgress | RowDone) -> None:
        if isinstance(event, RowDone):
            journal.add(event.found)
            report(f"{spec.bits}: {event.found.label}")

    found = run_contest(checkpoint, calibration, spec, stages, journal.finished, progress=listen)
    journal.remove()
    return found


def told(contest: Contest) -> dict[str, Any]:
    """What the pages' table reads."""
    return {
        "bits": contest.settings["bits"],
        "budget": contest.settings["budget"],
        "rows": [summary(contest, row) for row in contest.standing],
    }


def measure(
    folder: Path,
    target: Path,
    strength: float,
    settings: Sequence[tuple[str, float]],
    report: Report,
) -> dict[str, Any]:
    """Every contest of a checkpoint, or of its twin, into ``target``."""
    natural = load_checkpoint(str(folder))
    checkpoint = natural if strength <= 1 else twin(natural, strength)
    report(f"calibrating {checkpoint.name}")
    spec = CalibrationSpec(SamplingSpec(steps=STEPS), seed=CALIBRATION_SEED)
    calibration = calibrate(checkpoint, spec)
    made = []
    for bits, budget in settings:
        name = contest_name(bits, strength)
        path = target / f"{name}.partial"
        found = held(checkpoint, calibration, settings_of(bits, budget), path, report)
        if strength > 1:
            more = {"injected": strength, NATURAL: natural.fingerprint}
            found = replace(found, settings={**found.settings, **more})
        save_contest(found, target, name)
        write_text(target / f"{name}.svg", contest_drawing(found.standings(), name))
        made.append(told(found))
    return {"contests": made, "samples": SAMPLES, "steps": STEPS, "injected": strength}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ditas_core.results.contests")
    parser.add_argument("--inject", type=float, default=1.0, metavar="K", help="of its twin")
    options = parser.parse_args(arguments)
    check_number("--inject", options.inject, 1, 1000)

    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    name = "contests" if options.inject <= 1 else "contests-injected"
    found = measure(DEMO, ROOT / CONTESTS, options.inject, SHIPPED_CONTESTS, report)
    return keep(ROOT / MEASUREMENTS / f"{name}.json", found)


if __name__ == "__main__":
    raise SystemExit(main())
