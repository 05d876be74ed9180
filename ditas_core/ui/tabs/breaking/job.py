"""Where it breaks: partly quantized runs, and sweeps over layers and first steps."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import torch
from torch import nn

from ....calibration import Calibration
from ....checkpoints import Checkpoint
from ....comparison import Trajectory, compare, switching
from ....evaluation import interval
from ....figures import to_uint8
from ....sampling import TransformerAt
from ....specs import Recipe, SamplingSpec, SpecError, all_but, only
from ...serving.zerogpu import iterate_trajectory
from ...stored.catalogue import showcase
from ...visitors.backend import Backend, Choice
from ...visitors.engine import fastest, iterate_quantized
from ...visitors.session import Session
from .trials import LayerSweep, StepSweep, Trial, notes_of

GUIDANCE = 2.5
QUICK_STEPS, QUICK_SAMPLES = 8, 2
"""Of sweeps, which run the model many times."""
STARTS = 6


@dataclass(frozen=True)
class Step:
    """Where a job is; ``shown``: the visitor's notes have changed and may be drawn."""

    text: str
    fraction: float = 0.0
    part: tuple[int, int] = (1, 1)
    shown: bool = False


@dataclass(frozen=True)
class Ask:
    """What is sampled; everything has been checked."""

    choice: Choice
    samples: int
    steps: int
    seed: int

    @property
    def sampling(self) -> SamplingSpec:
        return SamplingSpec(steps=self.steps, guidance_scale=GUIDANCE)

    @property
    def settings(self) -> str:
        return f"{self.steps} steps, {self.samples} × seed {self.seed}"

    @property
    def quick(self) -> Ask:
        """For many runs in a row."""
        return replace(
            self, steps=min(self.steps, QUICK_STEPS), samples=min(self.samples, QUICK_SAMPLES)
        )

    def labels(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """The classes that are drawn."""
        chosen = showcase(checkpoint.class_names, self.samples)
        return tuple(chosen[i % len(chosen)] for i in range(self.samples))


def check_measured(backend: Backend, choice: Choice) -> None:
    """Raise SpecError for a hub checkpoint that nobody has measured: nothing is downloaded here."""
    if not backend.entries[choice.model.key].local and backend.atlas(choice.model) is None:
        raise SpecError(
            f"checkpoint: expected a measured one, got {choice.model.key}; open Outliers and "
            "press “Measure” first"
        )


def recipe_of(backend: Backend, session: Session, choice: Choice) -> tuple[str, Recipe]:
    """The bar's recipe.

    Raises:
        SpecError: there is none yet, or the checkpoint has not been measured.
    """
    check_measured(backend, choice)
    name, recipe = backend.recipe(session, choice)
    if recipe is None:
        raise SpecError(
            f"recipe: expected one that exists, got {name} at {choice.bits} · "
            f"{choice.convention}; search it in the Search tab or choose another recipe above"
        )
    return name, recipe


def measuring(
    backend: Backend, session: Session, choice: Choice, part: tuple[int, int]
) -> Generator[Step, None, Calibration]:
    """The visitor's calibration, measured unless it is there."""
    found: Calibration | None = None
    with closing(backend.calibrated(choice.model, session.spec or backend.spec)) as events:  # type: ignore[type-var]
        for event in events:
            if isinstance(event, Calibration):
                found = event
            else:
                text = f"calibrating: step {event.step} of {event.total}"
                yield Step(text, event.step / event.total, part)
    assert found is not None
    return found


def sampling(
    backend: Backend,
    ask: Ask,
    transformer: nn.Module | TransformerAt,
    name: str,
    part: tuple[int, int],
    span: tuple[float, float] = (0.0, 1.0),
) -> Generator[Step, None, Trajectory]:
    """One run; ``span`` is its place in the part."""
    checkpoint = backend.checkpoint(ask.choice.model)
    labels = torch.tensor([checkpoint.class_index(label) for label in ask.labels(checkpoint)])
    found: Trajectory | None = None
    events = iterate_trajectory(checkpoint, transformer, labels, ask.sampling, ask.seed)
    with closing(events):  # type: ignore[type-var]
        for event in events:
            if isinstance(event, Trajectory):
                found = event
            else:
                share = span[0] + (span[1] - span[0]) * event.step / event.steps
                yield Step(f"{name}: step {event.step} of {event.steps}", share, part)
    assert found is not None
    return found


def reference_of(
    backend: Backend, ask: Ask, part: tuple[int, int]
) -> Generator[Step, None, Trajectory]:
    """The full-precision run, once for all visitors."""
    key = ("breaking reference", ask.choice.model, ask.sampling, ask.samples, ask.seed)
    found: Trajectory | None = backend.cache.get(key)
    if found is None:
        transformer = backend.checkpoint(ask.choice.model).transformer
        found = yield from sampling(backend, ask, transformer, "full precision", part)
        backend.cache.put(key, found)
    return found


def quantizing(
    backend: Backend,
    choice: Choice,
    recipe: Recipe,
    calibration: Calibration,
    part: tuple[int, int],
    keep: bool = True,
) -> Generator[Step, None, nn.Module]:
    """The quantized transformer. The recipe's strengths act on the statistics just measured."""
    if recipe.needs_calibration:
        recipe = replace(recipe, calibration=calibration.sha256)
    found: nn.Module | None = None
    events = iterate_quantized(backend, fastest(backend, choice), recipe, calibration, keep)
    with closing(events):  # type: ignore[type-var]
        for event in events:
            if isinstance(event, nn.Module):
                found = event
            else:
                yield Step(f"quantizing: {event.text}", event.fraction, part)
    assert found is not None
    return found


def make_trial(
    backend: Backend,
    ask: Ask,
    what: str,
    about: str,
    runs: tuple[Trajectory, Trajectory],
    first: int,
) -> Trial:
    """The metrics of a run against its reference."""
    reference, run = runs
    found = compare(reference, run)
    return Trial(
        what,
        about,
        ask.settings,
        ask.labels(backend.checkpoint(ask.choice.model)),
        reference.timesteps,
        first,
        to_uint8(reference.images),
        to_uint8(run.images),
        interval(found.latent_sqnr),
        interval(found.psnr),
        tuple(found.latent_sqnr.tolist()),
        found.divergence.mean(1).tolist(),
    )


def run_part(
    backend: Backend, session: Session, ask: Ask, what: str, layer: str, first_step: int
) -> Iterator[Step]:
    """One experiment: ``what`` is "only", "but", "from" or "whole"."""
    name, recipe = recipe_of(backend, session, ask.choice)
    about = f"{ask.choice.title} · {name}"
    if what in ("only", "but"):
        recipe = (only if what == "only" else all_but)(recipe, [layer])
    title = {
        "only": f"only {layer}",
        "but": f"all but {layer}",
        "from": f"from step {first_step + 1} on",
    }.get(what, "whole model")
    calibration = yield from measuring(backend, session, ask.choice, (1, 4))
    reference = yield from reference_of(backend, ask, (2, 4))
    model = yield from quantizing(backend, ask.choice, recipe, calibration, (3, 4))
    full = backend.checkpoint(ask.choice.model).transformer
    start = first_step if what == "from" else 0
    run = yield from sampling(backend, ask, switching(full, model, start), title, (4, 4))
    notes = notes_of(session)
    notes.add(make_trial(backend, ask, title, about, (reference, run), start))
    notes.shown = "trial"
    yield Step(title, 1.0, (4, 4), shown=True)


def run_key(backend: Backend, session: Session, ask: Ask, *recipes: Recipe) -> Hashable:
    """What a run's outcome depends on."""
    texts = tuple(recipe.to_json() for recipe in recipes)
    sampled = (ask.choice.model, ask.samples, ask.steps, ask.seed)
    return (*sampled, session.spec or backend.spec, texts)


def sweep_layers(backend: Backend, session: Session, ask: Ask) -> Iterator[Step]:
    """Every layer alone, with short runs; what is done stays and is not done again."""
    ask = ask.quick
    name, recipe = recipe_of(backend, session, ask.choice)
    calibration = yield from measuring(backend, session, ask.choice, (1, 3))
    reference = yield from reference_of(backend, ask, (2, 3))
    layers = tuple(group.name for group in backend.checkpoint(ask.choice.model).groups)
    notes, key = notes_of(session), ("layers", run_key(backend, session, ask, recipe))
    about = f"{ask.choice.title} · {name}"
    sweep = notes.go_on(key, lambda: LayerSweep(about, ask.settings, layers))
    notes.layers = notes.sweeping = sweep
    notes.shown = "layers"
    for index, layer in enumerate(layers):
        if layer in sweep.sqnr:
            continue
        share = (index / len(layers), (index + 1) / len(layers))
        part = only(recipe, [layer])
        text = f"only {layer} ({index + 1} of {len(layers)})"
        yield Step(text, share[0], (3, 3))
        for_one = quantizing(backend, ask.choice, part, calibration, (3, 3), keep=False)
        model = yield from quietly(for_one, text, share[0])
        run = yield from sampling(backend, ask, model, text, (3, 3), share)
        trial = make_trial(backend, ask, f"only {layer}", sweep.about, (reference, run), 0)
        if sweep.breaking is None or trial.sqnr.mean < sweep.breaking.sqnr.mean:
            sweep.breaking = trial
        sweep.sqnr[layer] = trial.sqnr.mean
        yield Step(text, share[1], (3, 3), shown=True)
    worst = sweep.breaking
    assert worst is not None
    notes.begun.pop(key, None)
    notes.sweeping = None
    notes.add(replace(worst, what=f"{worst.what}, the worst of {len(layers)}"))
    yield Step("all layers", 1.0, (3, 3), shown=True)


def quietly(
    events: Generator[Step, None, nn.Module], text: str, fraction: float
) -> Generator[Step, None, nn.Module]:
    """The same work, told as part of a larger one."""
    while True:
        try:
            next(events)
        except StopIteration as done:
            model: nn.Module = done.value
            return model
        yield Step(text, fraction, (3, 3))


def starts(steps: int) -> list[int]:
    """Up to six loop indices from 0, evenly spread over the run."""
    return list(dict.fromkeys(round(i * (steps - 1) / (STARTS - 1)) for i in range(STARTS)))


def sweep_steps(backend: Backend, session: Session, ask: Ask) -> Iterator[Step]:
    """Quantized from step k on, for several k; what is done stays and is not done again."""
    ask = replace(ask, samples=min(ask.samples, QUICK_SAMPLES))
    name, recipe = recipe_of(backend, session, ask.choice)
    calibration = yield from measuring(backend, session, ask.choice, (1, 4))
    reference = yield from reference_of(backend, ask, (2, 4))
    model = yield from quantizing(backend, ask.choice, recipe, calibration, (3, 4))
    full = backend.checkpoint(ask.choice.model).transformer
    notes, key = notes_of(session), ("steps", run_key(backend, session, ask, recipe))
    sweep = notes.go_on(key, lambda: StepSweep(ask.steps))
    notes.steps = notes.sweeping = sweep
    notes.shown = "steps"
    firsts = starts(ask.steps)
    for index, first in enumerate(firsts):
        if first in sweep.trials:
            continue
        text = f"from step {first + 1} on"
        span = (index / len(firsts), (index + 1) / len(firsts))
        run = yield from sampling(backend, ask, switching(full, model, first), text, (4, 4), span)
        about = f"{ask.choice.title} · {name}"
        sweep.trials[first] = make_trial(backend, ask, text, about, (reference, run), first)
        if first == firsts[-1]:
            notes.begun.pop(key, None)
            notes.sweeping = None
        yield Step(text, span[1], (4, 4), shown=True)
