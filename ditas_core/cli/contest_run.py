"""The ``contest`` verb: every method at equal bits from one calibration, as tables and a figure."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..calibration import Calibration, CalibrationJournal
from ..checkpoints import Checkpoint
from ..contest import (
    Contest,
    ContestJournal,
    ContestProgress,
    ContestSpec,
    Row,
    RowDone,
    contenders,
    formats_of,
    outside_row,
    predicted_seconds,
    read_outside,
    reference_run,
    run_contest,
    summary,
)
from ..evaluation import ModelShape, measure_speed
from ..fidelity import Stages, load_stages
from ..specs import BitWidths, CalibrationSpec, Recipe
from ..writing import check_new_folder, whole_folder, write_text
from .commands import Report, calibrated, place_, sampling_spec, say
from .compare import injected
from .contest import NONE, SAME
from .loading import load
from .parsing import split_names
from .progress import stages as shown_stages

CALIBRATION_SEED = 1_000_000
"""Far from the compared samples'."""


def contest_spec(args: argparse.Namespace) -> ContestSpec:
    bits = BitWidths.parse(args.bits)
    chosen = args.formats.strip()
    formats = formats_of(bits) if chosen == SAME else tuple(split_names(chosen, ()))
    return ContestSpec(
        bits,
        args.budget or None,
        args.methods,
        () if chosen in (NONE, "") else formats,
        args.samples,
        sampling_spec(args),
        args.seed,
        args.batch,
    )


def features_of(args: argparse.Namespace) -> Stages | None:
    """Of the feature distance; None where its network is not installed or not wanted."""
    if args.features == NONE:
        return None
    try:
        return load_stages()
    except ImportError:
        say(args, "no feature distance: efficientnet-lite-pytorch is not installed")
        return None


def calibration_for(args: argparse.Namespace, checkpoint: Checkpoint, work: Path) -> Calibration:
    """The one that was given; or one that is made, step by step, and kept in ``work``."""
    if args.calibration is not None:
        return Calibration.load(args.calibration)
    spec = CalibrationSpec(sampling_spec(args), seed=CALIBRATION_SEED)
    kept = work / "calibration.safetensors"
    if kept.is_file():
        found = Calibration.load(kept)
        if found.checkpoint == checkpoint.fingerprint and found.spec == spec:
            return found
    journal = CalibrationJournal(
        work / "calibration", checkpoint.fingerprint, spec, (0, spec.samples)
    )
    resumed = sum(1 for _ in journal.steps())
    found = calibrated(checkpoint, spec, journal, resumed=resumed)
    found.save(kept)
    journal.remove()
    return found


def run_contest_verb(args: argparse.Namespace) -> Report:
    spec = contest_spec(args)
    name = f"contest-{spec.bits}" + (f"-injected-{args.inject:g}" if args.inject > 1 else "")
    out = args.out or Path(name)
    check_new_folder(out)
    checkpoint = load(args)
    if args.inject > 1:
        checkpoint = injected(checkpoint, args.inject)
    place_(checkpoint, args.device)
    started = time.perf_counter()
    entered, _ = contenders(checkpoint, spec)
    peers = [read_outside(path) for path in args.outside]
    features = features_of(args)
    work = out.with_name(out.name + ".partial")
    work.mkdir(parents=True, exist_ok=True)
    calibration = calibration_for(args, checkpoint, work)
    journal = ContestJournal(
        work / "rows.jsonl", checkpoint, calibration, spec, entered, features is not None
    )
    if journal.finished:
        say(args, f"going on after {len(journal.finished)} contenders that an earlier run finished")
    elif journal.discards:
        say(args, "finished contenders of a contest with other settings are dropped")
    left = [each for each in entered if each.label not in journal.finished]
    shape = ModelShape.of(checkpoint)
    if left:
        speed = measure_speed(checkpoint, shape.flops)
        seconds = predicted_seconds(shape, speed, calibration, spec, left)
        say(args, f"{len(left)} contenders, about {seconds / 60:.0f} minutes")
    outside = []
    if peers:
        reference = reference_run(checkpoint, spec)
        outside = [outside_row(checkpoint, spec, reference, peer, features) for peer in peers]
    with shown_stages() as tell:

        def listen(event: ContestProgress | RowDone) -> None:
            if isinstance(event, ContestProgress):
                number = f"{event.place}/{event.of} " if event.place else ""
                tell(f"{number}{event.label}, {event.what}", event.done, event.total)
                return
            journal.add(event.found)
            if isinstance(event.found, Row):
                say(args, line_of(event.found))
            else:
                say(args, f"{event.found.label:>24}  left out: {event.found.reason}")

        found = run_contest(
            checkpoint, calibration, spec, features, journal.finished, outside, listen
        )
    seconds = round(time.perf_counter() - started, 1)
    if args.inject > 1:
        found = replace(found, settings={**found.settings, "injected": args.inject})
    write(out, found, work / "calibration.safetensors", args.calibration is None)
    journal.remove()
    (work / "calibration.safetensors").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        work.rmdir()
    say(args, verdict(found))
    say(args, f"wrote {out}: {len(found.rows)} contenders, {seconds:.0f} s")
    return {
        **found.settings,
        "out": str(out),
        "results": [json_row(found, row) for row in found.standing],
        "front": list(found.front),
        "tied_with_best": list(found.leaders),
        "left_out": dict(found.left_out),
        "seconds": seconds,
    }


def json_row(contest: Contest, row: Row) -> dict[str, Any]:
    """A row as JSON has it: None where the table is empty."""
    return {name: None if value == "" else value for name, value in summary(contest, row).items()}


def write(out: Path, contest: Contest, calibration: Path, own: bool) -> None:
    """The folder: the contest itself, two tables, the figure, recipes and their calibration."""
    with whole_folder(out) as folder:
        write_text(folder / "contest.json", contest.to_json())
        write_text(folder / "contest.csv", contest.to_csv())
        write_text(folder / "pairs.csv", contest.pairs_csv())
        drawing = figure(contest)
        if drawing is not None:
            write_text(folder / "front.svg", drawing)
        for row in contest.rows:
            if row.recipe:
                recipe = Recipe.from_json(row.recipe)
                if own and recipe.calibration:
                    recipe = replace(recipe, calibration_file="../calibration.safetensors")
                write_text(folder / "recipes" / f"{file_name(row.label)}.json", recipe.to_json())
        if own:
            shutil.copyfile(calibration, folder / "calibration.safetensors")


def file_name(label: str) -> str:
    return "".join(c if c.isalnum() or c in "+-" else "-" for c in label)


def figure(contest: Contest) -> str | None:
    """The front as SVG; None without plotly, whose colours it has."""
    try:
        from ..figures import contest_drawing
    except ModuleNotFoundError:
        return None
    title = f"{contest.settings['checkpoint']}, {contest.settings['bits']}"
    return contest_drawing(contest.standings(), title)


def line_of(row: Row) -> str:
    """One result for people."""
    sqnr, psnr = (row.mean(name) for name in ("latent_sqnr_db", "psnr_db"))
    text = f"{row.label:>24}  {row.effective_bits:.2f} bits  latent SQNR {sqnr} dB  PSNR {psnr} dB"
    if "feature_distance" in row.samples:
        text += f"  features {row.mean('feature_distance').mean:.3f}"
    return (
        f"{text}  {row.conversion_s:.1f} s to convert  "
        f"{100 * row.extra_operations:.1f} % more operations"
    )


def verdict(contest: Contest) -> str:
    """Who won, and who is not told apart."""
    first, *tied = contest.leaders
    text = f"closest: {first} ({contest.row(first).quality:.2f} dB)"
    if tied:
        text += f"; tied with it: {', '.join(tied)}"
    return f"{text}; front: {', '.join(contest.front)}"
