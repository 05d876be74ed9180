"""What work would cost before it starts, at the speed that this machine just showed."""

from __future__ import annotations

import html
from functools import lru_cache

import torch

from ....evaluation import Cost, ModelShape, Plan, estimate, measure_speed, shape_of
from ....models import DIT
from ....search import SearchSpec
from ....specs import SamplingSpec
from ...page.glossary import explained
from ...serving.errors import clock
from ...stored.results import DITAS, PLAIN, SEARCHED, SMOOTHED
from ...visitors.backend import Backend, Choice, Model

METHODS = {PLAIN: "plain", SMOOTHED: "smoothing", SEARCHED: "search", DITAS: "ditas"}
COMPARED = SamplingSpec(steps=30)
KNOWN = {"facebook/DiT-XL-2-256": 32, "facebook/DiT-XL-2-512": 64}
"""Sizes of the latents of models that are known and often not loaded."""


def speed(backend: Backend) -> float:
    """Operations per second of the default checkpoint; 0 where there is none.

    Measured once, and never beside a job: what a job records must be its own passes.
    """
    found: float | None = backend.cache.get(("speed",))
    if found is not None or not backend.entries[backend.default.key].local:
        return found or 0.0
    with backend.queue.join() as ticket:
        if backend.queue.ahead_of(ticket):
            return 0.0
        checkpoint, shape = backend.checkpoint(backend.default), loaded(backend, backend.default)
        found = backend.cache.make(("speed",), lambda: measure_speed(checkpoint, shape.flops))
    return found or 0.0


def loaded(backend: Backend, model: Model) -> ModelShape:
    """Of a checkpoint that is here, counted once."""
    found: ModelShape = backend.cache.make(
        ("shape", model), lambda: ModelShape.of(backend.checkpoint(model))
    )
    return found


@lru_cache
def published(size: int) -> ModelShape:
    """DiT-XL/2's, built without memory."""
    with torch.device("meta"):
        transformer = DIT.cls(sample_size=size, out_channels=8)
    return shape_of(transformer, (size // 2) ** 2)


def shape_at_hand(backend: Backend, choice: Choice) -> ModelShape | None:
    """Of a checkpoint that is here, or of one that is known and not loaded."""
    if backend.is_loaded(choice.model):
        return loaded(backend, Model(choice.model.key))
    size = KNOWN.get(backend.entries[choice.model.key].repo)
    return None if size is None else published(size)


def cost_of(backend: Backend, choice: Choice, images: int = 4) -> Cost | None:
    """One calibration, one search and one comparison of four recipes at the page's defaults."""
    shape, measured = shape_at_hand(backend, choice), speed(backend)
    if shape is None or not measured:
        return None
    spec = SearchSpec(choice.bits, choice.convention, METHODS.get(choice.recipe, "ditas"))
    plan = Plan(
        backend.spec,
        choice.bits,
        choice.convention,
        spec.branch(shape.width),
        images=images,
        sampling=COMPARED,
        variants=5,
        rounding=spec.parts.rounding,
        rotation=spec.parts.rotation,
    )
    return estimate(shape, measured, plan)


def cost_table(backend: Backend, choice: Choice) -> str:
    """As rows; good to about a factor of two."""
    cost = cost_of(backend, choice)
    if cost is None:
        return ""
    steps, samples = backend.spec.sampling.steps, backend.spec.samples
    rows = {
        f"[[calibration|measure]], {samples} images × {steps} steps": clock(cost.calibrate_s),
        f"[[grid search]] at {choice.bits}": clock(cost.search_s),
        f"compare four recipes, 4 images × {COMPARED.steps} steps": clock(cost.compare_s),
        "memory": f"{cost.memory_bytes / 1e9:.1f} GB",
    }
    body = "".join(
        f"<dt>{explained(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in rows.items()
    )
    return (
        f'<h3 class="card-title">Before you start: about</h3><dl class="card figures">{body}</dl>'
    )
