"""The contest's jobs: running one on the visitor's settings, and drawing two of its contenders."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import cycle, islice

from torch import Tensor, nn

from ....calibration import Calibration
from ....checkpoints import Checkpoint
from ....comparison import Trajectory, TrajectoryProgress
from ....contest import (
    Contest,
    ContestProgress,
    ContestSpec,
    LeftOut,
    Row,
    RowDone,
    contenders,
    iterate_contest,
)
from ....specs import CalibrationSpec, Recipe, SamplingSpec, SpecError
from ...serving.zerogpu import iterate_trajectory
from ...stored.catalogue import showcase
from ...stored.contests import strength_of, title_of
from ...stored.results import Result
from ...visitors.backend import Backend, Choice, Model
from ...visitors.copies import QUANTIZED, make_room
from ...visitors.measuring import measure
from ...visitors.running import Progress
from ...visitors.session import Session
from ..compare.job import CompareJob, run_comparison

MOST_METHODS, MOST_SAMPLES, MOST_STEPS = 8, 8, 20
"""Of one that runs here."""
DRAWN, SEED, GUIDANCE, STEPS = 4, 7, 2.5, 20
OURS = "Run here"
"""What the visitor's own is called."""


@dataclass
class Notes:
    """What a visitor has of contests.

    mine      the last one that ran here, perhaps in part; ``model`` is what it is about
    key       what its rows were measured with, ``finished`` those that are
    entered   how many take part
    """

    mine: Contest | None = None
    model: Model | None = None
    key: Hashable = None
    finished: dict[str, Row | LeftOut] = field(default_factory=dict)
    entered: int = 0


def notes_of(session: Session) -> Notes:
    found: Notes = session.notes.setdefault("contest", Notes())
    return found


@dataclass(frozen=True)
class LiveJob:
    """A contest that runs here; everything has been checked."""

    model: Model
    spec: ContestSpec
    calibration: CalibrationSpec


def sources(backend: Backend, session: Session) -> dict[str, tuple[Model, Contest]]:
    """Every contest that can be looked at, by its title: the visitor's own, then the shipped."""
    notes, found = notes_of(session), dict[str, tuple[Model, Contest]]()
    if notes.mine is not None and notes.model is not None:
        found[f"{OURS}: {title_of(notes.mine)}"] = (notes.model, notes.mine)
    for contest in backend.contests:
        model = replace(backend.default, strength=strength_of(contest))
        found[title_of(contest)] = (model, contest)
    return found


def run_live(backend: Backend, session: Session, job: LiveJob) -> Iterator[Progress | Contest]:
    """A Contest after every contender, each holding all so far; the last one is complete.

    Contenders that this visitor has measured with the same settings are not run again.
    """
    checkpoint = backend.checkpoint(job.model)
    entered, _ = contenders(checkpoint, job.spec)
    calibration: Calibration | None = None
    for event in measure(backend, job.model, job.calibration, (1, 2)):
        if isinstance(event, Calibration):
            calibration = event
        else:
            yield event
    assert calibration is not None
    make_room(backend.cache, checkpoint, QUANTIZED, "a quantized copy")
    same = replace(job.spec, methods=("plain",), formats=())
    key, notes = (job.model, calibration.sha256, same), notes_of(session)
    if notes.key != key:
        notes.key, notes.finished = key, {}
    notes.entered = len(entered)
    more = {"injected": job.model.strength} if job.model.injected else {}
    events = iterate_contest(
        checkpoint, calibration, job.spec, finished=dict(notes.finished), runs=run_there
    )
    before = (notes.finished.get(each.label) for each in entered)
    rows = [found for found in before if isinstance(found, Row)]
    settings = {"fingerprint": checkpoint.fingerprint, "checkpoint": job.model.title, **more}
    settings |= {"bits": str(job.spec.bits), "budget": job.spec.budget}
    with closing(events):  # type: ignore[type-var]
        for step in events:
            if isinstance(step, ContestProgress):
                number = f"{step.place} of {step.of}, " if step.place else ""
                text = f"{number}{step.label}: {step.what}, {step.done} of {step.total}"
                yield Progress(text, step.fraction, (2, 2))
                continue
            if isinstance(step, RowDone):
                notes.finished[step.found.label] = step.found
                if not isinstance(step.found, Row):
                    continue
                rows.append(step.found)
                made = Contest(settings, tuple(rows))
            else:
                made = replace(step, settings={**step.settings, **settings})
            notes.mine, notes.model = made, job.model
            yield made


def run_there(
    checkpoint: Checkpoint, transformer: nn.Module, labels: Tensor, spec: ContestSpec
) -> Iterator[TrajectoryProgress | Trajectory]:
    """On a borrowed GPU where there is one."""
    return iterate_trajectory(checkpoint, transformer, labels, spec.sampling, spec.seed)


def recipe_name(label: str) -> str:
    """What a contender's recipe is called on the page."""
    return f"{label} (contest)"


def choice_of(choice: Choice, model: Model, contest: Contest, label: str) -> Choice:
    """The bar at a contender: model, bits and recipe; products simulated, as in the contest."""
    recipe = Recipe.from_json(contest.row(label).recipe)
    return replace(
        choice,
        model=model,
        bits=recipe.bits[0],
        convention="integer",
        recipe=recipe_name(label),
        backend="simulated",
    )


def keep_recipes(
    backend: Backend, session: Session, model: Model, contest: Contest, labels: tuple[str, ...]
) -> None:
    """On the session, under their names, for the whole page.

    Raises:
        SpecError: a contender from outside, or a contest of another checkpoint.
    """
    for label in labels:
        text = contest.row(label).recipe
        if not text:
            raise SpecError(
                f"contender: expected one of this library's own, got {label}, which another "
                "library has rounded; choose one with a recipe"
            )
        recipe = Recipe.from_json(text)
        if recipe.checkpoint != backend.fingerprint(model):
            raise SpecError(
                f"contest: made for checkpoint {recipe.checkpoint[:12]}, {model.title} is "
                f"{backend.fingerprint(model)[:12]}; run one here"
            )
        session.keep(recipe_name(label), recipe)


def draw_two(
    backend: Backend,
    session: Session,
    choice: Choice,
    model: Model,
    contest: Contest,
    labels: tuple[str, ...],
) -> Iterator[Progress | Result]:
    """Full precision and the chosen contenders from the same noise, as Compare draws them."""
    keep_recipes(backend, session, model, contest, labels)
    at = choice_of(choice, model, contest, labels[-1])
    known = showcase(backend.checkpoint(model).class_names, DRAWN)
    return run_comparison(
        backend,
        session,
        CompareJob(
            at,
            tuple(dict.fromkeys(recipe_name(label) for label in labels)),
            tuple(islice(cycle(known), DRAWN)),
            SEED,
            SamplingSpec(steps=STEPS, guidance_scale=GUIDANCE),
            session.spec or backend.spec,
        ),
    )
