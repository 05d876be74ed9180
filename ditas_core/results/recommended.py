"""``python -m ditas_core.results.recommended``: the recommended method against DiTAS, equal bits.

With ``--inject K`` on the twin with injected outliers. Samples start from other noise than those
that the method was chosen on, which are the contests'; the first setting has ingredient upon
ingredient and a figure of them. Beside what was measured stands what the layers' errors predict:
their mean, and their sum weighed by how far each reaches.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..bench.machine import DEMO, ROOT
from ..calibration import Calibration, Reach, calibrate, measure_reach
from ..checkpoints import Checkpoint, load_checkpoint
from ..contest import (
    Contender,
    Contest,
    ContestJournal,
    ContestProgress,
    ContestSpec,
    LeftOut,
    RowDone,
    contenders,
    run_contest,
)
from ..evaluation import Interval
from ..figures import ablation_drawing
from ..search import mean_error, predicted_errors
from ..specs import (
    METHODS,
    RECOMMENDED,
    BitWidths,
    CalibrationSpec,
    Recipe,
    SamplingSpec,
    check_number,
)
from ..writing import write_text
from .contests import CALIBRATION_SEED, STEPS, twin
from .reports import keep
from .steps import MEASUREMENTS, recommended_name

SEED = 10_000
"""Far from the contests' samples and from the calibration's."""
RIVAL = "ditas"
INGREDIENTS = ("plain", "search", "search+gptq", RIVAL, "mixed", "mixed+gptq", RECOMMENDED)
RIVALS = ("search", RIVAL, RECOMMENDED)
"""The first where the budget bars the second."""
Report = Callable[[str], None]


@dataclass(frozen=True)
class Setting:
    """Bits, the most effective bits per weight, how many samples, and who takes part."""

    bits: str
    budget: float
    samples: int
    methods: tuple[str, ...] = RIVALS

    @property
    def name(self) -> str:
        return f"{self.bits}, at most {self.budget:g} bits"


SETTINGS = (
    Setting("W4A8", 5.0, 32, INGREDIENTS),
    Setting("W4A8", 4.25, 8),
    Setting("W4A8", 5.5, 8),
    Setting("W4A4", 5.0, 8),
    Setting("W8A8", 9.0, 8),
)


def entered(checkpoint: Checkpoint, spec: ContestSpec) -> list[Contender]:
    """One of each method: a branch takes all that the budget leaves, where there is one, and
    groups do where there is none; and who stands for DiTAS where it does not fit."""
    found: dict[str, Contender] = {}
    for each in contenders(checkpoint, spec)[0]:
        method = each.search.method
        if method not in found or METHODS[method].branch == "none":
            found[method] = each
    if RIVAL in found and spec.methods == RIVALS:
        del found[RIVALS[0]]
    return list(found.values())


def held(
    checkpoint: Checkpoint,
    calibration: Calibration,
    setting: Setting,
    journal_path: Path,
    report: Report,
) -> Contest:
    """One setting's contest, of those only; it goes on where an interrupted run was."""
    spec = ContestSpec(
        BitWidths.parse(setting.bits), setting.budget, setting.methods, samples=setting.samples,
        sampling=SamplingSpec(steps=STEPS), seed=SEED,
    )  # fmt: skip
    everybody = contenders(checkpoint, spec)[0]
    wanted = {each.label for each in entered(checkpoint, spec)}
    journal = ContestJournal(journal_path, checkpoint, calibration, spec, everybody, False)
    known = dict(journal.finished)
    for each in everybody:
        if each.label not in wanted:
            known[each.label] = LeftOut(each.label, "not asked for")

    def listen(event: ContestProgress | RowDone) -> None:
        if isinstance(event, RowDone):
            journal.add(event.found)
            report(f"{setting.name}: {event.found.label}")

    found = run_contest(checkpoint, calibration, spec, finished=known, progress=listen)
    journal.remove()
    return found


def predicted(
    checkpoint: Checkpoint, calibration: Calibration, recipe: Recipe, reach: Reach
) -> dict[str, float]:
    """SQNRs in dB that the layers' relative output errors stand for: of their mean, and of their
    sum weighed by reach."""
    errors = {each.group: each.error for each in predicted_errors(checkpoint, calibration, recipe)}
    weighed = math.fsum(reach[name] * error for name, error in errors.items())
    return {
        name: round(-10 * math.log10(max(value, 1e-30)), 2)
        for name, value in (("layers_db", mean_error(errors.values())), ("reach_db", weighed))
    }


def brief(found: Interval) -> dict[str, float]:
    """As reports have it."""
    return {"mean": round(found.mean, 4), "ci95": round(found.half_width, 4)}


def told(
    checkpoint: Checkpoint, calibration: Calibration, setting: Setting, contest: Contest,
    reach: Reach,
) -> dict[str, Any]:  # fmt: skip
    """What the pages' table reads."""
    rival = next(row for row in contest.rows if row.method in (RIVAL, RIVALS[0]))
    rival = next((row for row in contest.rows if row.method == RIVAL), rival)
    rows = []
    for row in contest.rows:
        quality = row.mean("latent_sqnr_db")
        found: dict[str, Any] = {
            "label": row.label,
            "effective_bits": round(row.effective_bits, 3),
            "latent_sqnr_db": brief(quality),
            "psnr_db": round(row.mean("psnr_db").mean, 4),
            "conversion_s": round(row.conversion_s, 1),
            "extra_operations": round(row.extra_operations, 4),
            **predicted(checkpoint, calibration, Recipe.from_json(row.recipe), reach),
        }
        if row.label != rival.label:
            pair = contest.pair(row.label, rival.label)
            gain = pair.difference.mean * (1 if pair.first == row.label else -1)
            found["gain_db"] = brief(replace(pair.difference, mean=gain))
            found["tie"] = pair.tie
        rows.append(found)
    return {
        "bits": setting.bits, "budget": setting.budget, "samples": setting.samples,
        "rival": rival.label, "rows": rows,
    }  # fmt: skip


def measure(folder: Path, strength: float, report: Report) -> dict[str, Any]:
    """Every setting of a checkpoint, or of its twin, and the figure of the first."""
    natural = load_checkpoint(str(folder))
    checkpoint = natural if strength <= 1 else twin(natural, strength)
    report(f"calibrating {checkpoint.name}")
    spec = CalibrationSpec(SamplingSpec(steps=STEPS), seed=CALIBRATION_SEED)
    calibration = calibrate(checkpoint, spec)
    reach = measure_reach(checkpoint, spec.sampling, seed=spec.seed)
    made = []
    for index, setting in enumerate(SETTINGS):
        path = ROOT / MEASUREMENTS / f"{recommended_name(strength)}-{index}.partial"
        contest = held(checkpoint, calibration, setting, path, report)
        made.append(told(checkpoint, calibration, setting, contest, reach))
        if index == 0:
            rows = [replace(s, chosen=s.kind == RECOMMENDED) for s in contest.standings()]
            drawn = ablation_drawing(rows, f"{checkpoint.name}, {setting.name}")
            write_text(ROOT / MEASUREMENTS / f"{recommended_name(strength)}.svg", drawn)
    return {"settings": made, "steps": STEPS, "seed": SEED, "injected": strength}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ditas_core.results.recommended")
    parser.add_argument("--inject", type=float, default=1.0, metavar="K", help="of its twin")
    options = parser.parse_args(arguments)
    check_number("--inject", options.inject, 1, 1000)
    found = measure(DEMO, options.inject, lambda line: print(line, file=sys.stderr, flush=True))
    return keep(ROOT / MEASUREMENTS / f"{recommended_name(options.inject)}.json", found)


if __name__ == "__main__":
    raise SystemExit(main())
