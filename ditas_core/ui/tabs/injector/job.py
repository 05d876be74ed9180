"""Injected outliers at one strength, or a ladder of strengths: full precision, plain, repaired."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ....calibration import Calibration
from ....checkpoints import Checkpoint
from ....comparison import Trajectory, compare, preserved
from ....conversion import inject_outliers, injected_factors, quantize_transformer
from ....evaluation import rescaled_calibration
from ....figures import difference, to_uint8
from ....onnx_runtime import run_on_
from ....search import LayerDone, SearchSpec, iterate_search, plain_recipe
from ....specs import BitWidths, CalibrationSpec, Recipe, SamplingSpec
from ...serving.zerogpu import iterate_trajectory
from ...stored.catalogue import showcase
from ...stored.ladder import Ladder, Rung
from ...stored.results import DITAS, PLAIN, REFERENCE, SEARCHED
from ...visitors.backend import INJECTED_CHANNELS, Backend, Model
from ...visitors.copies import INJECTED, QUANTIZED, make_room
from ...visitors.engine import waiting_for_graph

STRENGTHS = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0, 100.0, 200.0)
GAIN = 1000.0
METHODS = {DITAS: "ditas", SEARCHED: "search"}
INJECTION_SEED = 0
SHOWN_SAMPLES = 4
PARTS = 6
"""Calibrate, sample as trained, sample injected, search, sample plain, sample repaired."""
Report = Callable[[str], None]


@dataclass(frozen=True)
class Setting:
    """What is injected and how it is rounded; everything has been checked.

    channels  loud channels in every layer that can be rescaled exactly
    repair    DITAS or SEARCHED
    """

    bits: BitWidths
    convention: str
    channels: int = INJECTED_CHANNELS
    repair: str = DITAS
    sampling: SamplingSpec = SamplingSpec(steps=20)
    seed: int = 0
    backend: str = "simulated"


LADDER_SETTING = Setting(BitWidths(8, 8), "paper")


@dataclass(frozen=True)
class Stage:
    """Where the job is; ``fraction`` is that of part ``part`` of PARTS."""

    text: str
    fraction: float
    part: int


def sampled(
    checkpoint: Checkpoint,
    transformer: torch.nn.Module,
    labels: torch.Tensor,
    setting: Setting,
    text: str,
    part: int,
) -> Iterator[Stage | Trajectory]:
    """One guided run with progress."""
    events = iterate_trajectory(checkpoint, transformer, labels, setting.sampling, setting.seed)
    with closing(events):  # type: ignore[type-var]
        for event in events:
            if isinstance(event, Trajectory):
                yield event
            else:
                said = f"{text}: step {event.step} of {event.steps}"
                yield Stage(said, event.step / event.steps, part)


def injected(
    base: Checkpoint, calibration: Calibration, strength: float, setting: Setting
) -> tuple[Checkpoint, Calibration]:
    """The rescaled checkpoint and what calibrating it would give."""
    chosen = (strength, setting.channels, INJECTION_SEED)
    changed = replace(base, transformer=inject_outliers(base.transformer, *chosen))
    factors = injected_factors(base.transformer, *chosen)
    return changed, rescaled_calibration(calibration, factors, changed.fingerprint)


@dataclass
class Begun:
    """What of one strength is done, for going on after Cancel."""

    runs: dict[str, Trajectory] = field(default_factory=dict)
    layers: dict[str, LayerDone] = field(default_factory=dict)


def run_of(events: Iterator[Stage | Trajectory]) -> Generator[Stage, None, Trajectory]:
    """Pass the stages on; returns the run."""
    run: Trajectory | None = None
    for event in events:
        if isinstance(event, Trajectory):
            run = event
        else:
            yield event
    assert run is not None
    return run


def climb(
    base: Checkpoint,
    calibration: Calibration,
    natural: Trajectory,
    labels: torch.Tensor,
    strength: float,
    setting: Setting,
    begun: Begun | None = None,
) -> Iterator[Stage | Rung]:
    """One strength: the rung grows with every part, the last event is the whole one.

    Runs and layers in ``begun`` are not computed again; this run's are added to it.
    """
    begun = Begun() if begun is None else begun
    checkpoint, measured = injected(base, calibration, strength, setting)
    if REFERENCE not in begun.runs:
        events = sampled(
            checkpoint, checkpoint.transformer, labels, setting, "full precision, injected", 3
        )
        begun.runs[REFERENCE] = yield from run_of(events)
    full = begun.runs[REFERENCE]
    rung = Rung(
        strength,
        preserved(natural, full),
        {REFERENCE: to_uint8(full.images)},
        amplified=amplified(natural, full),
    )
    yield rung
    recipe: Recipe | None = None
    spec = SearchSpec(setting.bits, setting.convention, METHODS[setting.repair])
    layers, done = len(checkpoint.groups), 0
    searching = iterate_search(checkpoint, measured, spec, finished=dict(begun.layers))
    with closing(searching):  # type: ignore[type-var]
        for found in searching:
            if isinstance(found, Recipe):
                recipe = found
                continue
            if isinstance(found, LayerDone):
                begun.layers[found.group] = found
                done += 1
            yield Stage(f"searching: {done} of {layers} layers done", done / layers, 4)
    assert recipe is not None
    plain = plain_recipe(checkpoint, setting.bits, setting.convention)
    for part, (name, each) in enumerate({PLAIN: plain, setting.repair: recipe}.items(), start=5):
        if name not in begun.runs:
            quantized = quantize_transformer(checkpoint, each, measured)
            if setting.backend == "onnx":
                for waiting in waiting_for_graph(checkpoint):
                    yield Stage(waiting.text, 0.0, part)
            run_on_(checkpoint, quantized, setting.backend)
            events = sampled(checkpoint, quantized, labels, setting, name, part)
            begun.runs[name] = yield from run_of(events)
        run = begun.runs[name]
        rung = replace(
            rung,
            images={**rung.images, name: to_uint8(run.images)},
            sqnr={**rung.sqnr, name: compare(natural, run).latent_sqnr.tolist()},
        )
        if name == PLAIN:
            yield rung
    yield replace(rung, recipe=recipe)


def amplified(natural: Trajectory, full: Trajectory) -> np.ndarray:
    """GAIN times the difference of two full-precision runs' pictures, before any rounding."""
    pixels = [255 * run.images.permute(0, 2, 3, 1).numpy() for run in (natural, full)]
    return difference(pixels[0], pixels[1], GAIN)


def ladder(
    checkpoint: Checkpoint,
    calibration: Calibration,
    report: Report,
    setting: Setting = LADDER_SETTING,
    strengths: Sequence[float] = STRENGTHS,
    samples: int = SHOWN_SAMPLES,
) -> Ladder:
    """What is shipped: every strength over the same noise."""
    names = tuple(showcase(checkpoint.class_names, samples))
    labels = torch.tensor([checkpoint.class_index(name) for name in names])
    report("ladder: sampling in full precision")
    *_, natural = sampled(checkpoint, checkpoint.transformer, labels, setting, "", 2)
    assert isinstance(natural, Trajectory)
    rungs = []
    for strength in strengths:
        report(f"ladder: injected ×{strength:g}")
        *_, rung = climb(checkpoint, calibration, natural, labels, strength, setting)
        assert isinstance(rung, Rung)
        rungs.append(rung)
    return Ladder(
        checkpoint.fingerprint,
        names,
        to_uint8(natural.images),
        tuple(rungs),
        {
            "bits": str(setting.bits),
            "convention": setting.convention,
            "channels": setting.channels,
            "repair": setting.repair,
            "steps": setting.sampling.steps,
            "guidance": setting.sampling.guidance_scale,
            "seed": setting.seed,
            "calibration": calibration.sha256,
        },
    )


@dataclass(frozen=True)
class Live:
    """What a live job shows: the pictures as trained, and the rung as far as it is."""

    model: Model
    labels: tuple[str, ...]
    natural: np.ndarray
    rung: Rung
    setting: Setting


def inject_live(
    backend: Backend, model: Model, spec: CalibrationSpec, setting: Setting, samples: int
) -> Iterator[Stage | Live]:
    """Exactly this strength; a ``Live`` after every part that adds pictures."""
    base = backend.checkpoint(Model(model.key))
    names = tuple(showcase(base.class_names, samples))
    calibration: Calibration | None = None
    events = backend.calibrated(Model(model.key), spec)
    with closing(events):  # type: ignore[type-var]
        for event in events:
            if isinstance(event, Calibration):
                calibration = event
            else:
                text = f"calibrating: step {event.step} of {event.total}"
                yield Stage(text, event.step / event.total, 1)
    assert calibration is not None
    make_room(backend.cache, base, INJECTED + QUANTIZED, "an injected and a quantized copy")
    labels = torch.tensor([base.class_index(name) for name in names])
    key = ("injector", model.key, setting.sampling, setting.seed, names)
    natural: Trajectory | None = backend.cache.get(key)
    if natural is None:
        drawing = sampled(base, base.transformer, labels, setting, "full precision", 2)
        natural = backend.cache.put(key, (yield from run_of(drawing)))
    assert natural is not None
    shown = to_uint8(natural.images)
    unfinished = ("injector begun", model, spec, setting, names)
    begun, ended = backend.cache.take(unfinished) or Begun(), False
    try:
        parts = climb(base, calibration, natural, labels, model.strength, setting, begun)
        with closing(parts):  # type: ignore[type-var]
            for part in parts:
                yield part if isinstance(part, Stage) else Live(model, names, shown, part, setting)
        ended = True
    finally:
        if not ended:  # stopped: the next start goes on there
            backend.cache.put(unfinished, begun)
