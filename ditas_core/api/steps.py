"""The steps of ``quantize``, apart: calibrate, search, convert."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..calibration import Calibration, check_together, measure_influence
from ..calibration import calibrate as run_calibration
from ..checkpoints import Checkpoint, Prompts, is_pipeline, remember_
from ..conversion import quantize_transformer
from ..onnx_runtime import check_backend, run_on_
from ..search import BitsProgress, CandidateDone, LayerDone, Searching, layer_bits_steps
from ..search import predicted_errors as error_events
from ..search import search as run_search
from ..specs import (
    INFLUENCE_SAMPLES,
    MOST_SAMPLES,
    BitWidths,
    LowRankSpec,
    Recipe,
    check_whole,
)
from .drawing import pipeline_with
from .models import Model, full_checkpoint
from .progress import Progress, check_progress, ended, told
from .settings import Trajectory, Wanted, check_calibration, check_is_recipe, what_to_search


def calibrate(
    model: Model,
    *,
    samples: int = 8,
    steps: int = 20,
    guidance_scale: float | None = None,
    seed: int = 0,
    influence: int = 0,
    captions: Prompts = None,
    progress: Progress = True,
) -> Calibration:
    """Statistics of every layer's input over one guided trajectory, in float32.

    Of a quantized model they are of what its layers get: where the division by s was folded,
    divided already. They show what smoothing did; a search starts from the full-precision ones.

    samples         images, spread over all classes or captions
    steps           of DDIM, on the model's own betas
    guidance_scale  of classifier-free guidance; None: 1.5 of classes, 4.5 of captions
    seed            image i starts from the noise of seed + i
    influence       images on which to measure as well how far errors of each step reach, which
                    searches with the objective "influence" read; 0: not, 4: about twice the time
    captions        of a text-conditioned model: see ``load``
    progress        a bar; a function of (what, done, total), which may raise to stop; or False

    Raises:
        CheckpointError: a model that is not understood.
        SpecError: a setting out of its range.

    >>> import ditas_core as ditas
    >>> calibration = ditas.calibrate("assets/fluent-emoji-dit", samples=1, steps=2,
    ...                               progress=False)
    >>> calibration.groups["0.qkv"].absmax.shape  # steps, halves of guidance, channels
    torch.Size([2, 2, 256])
    """
    check_progress(progress)
    wanted = Trajectory(samples, steps, guidance_scale, seed)
    check_whole("influence", influence, 0, MOST_SAMPLES)
    checkpoint = full_checkpoint(model, captions, progress, or_quantized=not influence)
    found = calibrated(checkpoint, wanted, progress)
    return with_influence(checkpoint, found, progress, influence) if influence else found


def calibrated(checkpoint: Checkpoint, wanted: Trajectory, progress: Progress) -> Calibration:
    spec = wanted.of(checkpoint)
    total = spec.sampling.steps * -(-spec.samples // spec.batch)
    with told(progress, "calibrating", total) as tell:
        return run_calibration(checkpoint, spec, progress=lambda event: tell(event.done))


def with_influence(
    checkpoint: Checkpoint,
    calibration: Calibration,
    progress: Progress,
    samples: int = INFLUENCE_SAMPLES,
) -> Calibration:
    """The calibration with how far errors reach on trajectories of its settings and seed."""
    spec = calibration.spec
    batch = min(spec.batch, samples)
    total = 2 * spec.sampling.steps * -(-samples // batch)
    with told(progress, "measuring influence", total) as tell:
        found = measure_influence(
            checkpoint, spec.sampling, samples, spec.seed, batch, lambda event: tell(event.done)
        )
    return replace(calibration, influence=found)


def search(
    model: Model,
    calibration: Calibration,
    bits: str | BitWidths = "W4A8",
    *,
    method: str = "ditas",
    convention: str = "integer",
    alpha: float | Sequence[float] | None = None,
    rank: int | LowRankSpec | None = None,
    objective: str = "output",
    budget: float | None = None,
    captions: Prompts = None,
    progress: Progress = True,
) -> Recipe:
    """Every layer's strength of smoothing, by grid search on a calibration; nothing is sampled.

    bits        of weights and activations: "W8A8", "W4A8", "W4A6", "W4A4" ...; or number formats,
                "W:nvfp4 A:fp8", each a key of ``ditas_core.specs.FORMATS`` or a width
    method      a key of ``METHODS``: "plain", "smoothing" (alpha 0.5), "search" (the grid), "ditas"
                (and the branch), "gptq" ...
    convention  "integer", "integer-gN" (N weights a scale), "integer-tensor" (one scale of all
                tokens), "paper" or "released"
    alpha       None: the grid 0, 0.05, ... 1; a sequence: that grid; a number: fixed everywhere
    rank        of the low-rank branch; None: 32 in proportion to the width, as the paper's; or
                a whole LowRankSpec
    objective   what is minimised: "output", the error of the layer's output (DiTAS); "influence",
                what it does to the final latents, which is measured first unless the calibration
                holds it
    budget      bits per weight as stored, of the methods that choose each layer's bits, "mixed"
                and those that begin with "mixed+"; None: as many as DiTAS takes at ``bits``

    Raises:
        SpecError: a setting out of its range, or a calibration of another checkpoint.

    >>> import ditas_core as ditas
    >>> model = ditas.load("assets/fluent-emoji-dit")
    >>> calibration = ditas.calibrate(model, samples=1, steps=2, progress=False)
    >>> recipe = ditas.search(model, calibration, "W4A8", method="search", alpha=(0.4, 0.6),
    ...                       progress=False)
    >>> str(recipe.layers["0.qkv"].bits)
    'W4A8'
    """
    check_progress(progress)
    wanted = what_to_search(bits, method, convention, alpha, rank, objective, budget)
    check_calibration(calibration)
    checkpoint = full_checkpoint(model, captions, progress)
    if wanted.spec.reads_influence and calibration.influence is None:
        check_together(checkpoint, calibration)
        calibration = with_influence(checkpoint, calibration, progress)
    return searched(checkpoint, calibration, wanted, progress)[0]


def searched(
    checkpoint: Checkpoint, calibration: Calibration, wanted: Wanted, progress: Progress
) -> tuple[Recipe, list[LayerDone]]:
    """The recipe, and every layer's curve; none of a method that smooths nothing."""
    spec, layers = wanted.spec, list[LayerDone]()
    total = len(checkpoint.groups) * spec.candidates
    total += layer_bits_steps(checkpoint, calibration, spec)
    done = itertools.count(1)
    with told(progress, f"searching {spec.bits}", total) as tell:

        def listen(event: Searching) -> None:
            if isinstance(event, CandidateDone | BitsProgress):
                tell(next(done))
            elif isinstance(event, LayerDone):
                layers.append(event)

        recipe = run_search(checkpoint, calibration, spec, progress=listen)
    if wanted.fixed is not None:  # whatever the identity would have been
        layers = [replace(layer, alpha=wanted.fixed) for layer in layers]
        fixed = {g: replace(each, alpha=wanted.fixed) for g, each in recipe.layers.items()}
        recipe = replace(recipe, layers=fixed)
    return recipe, layers


def predicted(
    checkpoint: Checkpoint, calibration: Calibration, recipe: Recipe, progress: Progress
) -> dict[str, float]:
    """The relative errors of a recipe that was not searched just now, by group."""
    found: dict[str, float] = {}
    with (
        told(progress, "measuring", len(checkpoint.groups)) as tell,
        ended(error_events(checkpoint, calibration, recipe)) as events,
    ):
        for event in events:
            found[event.group] = event.error
            tell(event.done)
    return found


def convert(
    model: Model,
    recipe: Recipe,
    calibration: Calibration | None = None,
    *,
    backend: str = "simulated",
    captions: Prompts = None,
    progress: Progress = True,
) -> Any:
    """A copy of the model whose transformer is quantized as the recipe says.

    Of a pipeline it is a pipeline, of anything else a Checkpoint, which ``pipeline`` draws with;
    ``model`` stays as it is.

    calibration  that the recipe was searched with; None where it needs none
    backend      how its products run: "simulated", in floating point; "integer", in bytes;
                 "onnx", in bytes with the whole pass on ONNX Runtime

    Raises:
        RecipeError: the three do not belong together.
        SpecError: a backend that the recipe's convention cannot run on.

    >>> import ditas_core as ditas
    >>> model = ditas.load("assets/fluent-emoji-dit")
    >>> calibration = ditas.calibrate(model, samples=1, steps=2, progress=False)
    >>> recipe = ditas.search(model, calibration, "W8A8", method="plain", progress=False)
    >>> quantized = ditas.convert(model, recipe, progress=False)
    >>> type(quantized).__name__, quantized.fingerprint == model.fingerprint
    ('Checkpoint', False)
    """
    check_progress(progress)
    check_is_recipe(recipe)
    check_backend(recipe.convention, backend, recipe.bits)
    if calibration is not None:
        check_calibration(calibration)
    checkpoint = full_checkpoint(model, captions, progress)
    quantized = apply_recipe(checkpoint, recipe, calibration, progress, backend)
    if is_pipeline(model):
        return pipeline_with(model, checkpoint, quantized)
    return replace(checkpoint, transformer=quantized)


def apply_recipe(
    checkpoint: Checkpoint,
    recipe: Recipe,
    calibration: Calibration | None,
    progress: Progress,
    backend: str,
) -> Any:
    """The quantized transformer, which remembers its origin."""
    check_together(checkpoint, calibration if recipe.needs_calibration else None, recipe)
    with told(progress, "quantizing", len(checkpoint.groups)) as tell:
        quantized = quantize_transformer(
            checkpoint, recipe, calibration, lambda event: tell(event.index)
        )
    run_on_(checkpoint, quantized, backend)
    return remember_(quantized, checkpoint, recipe)
