"""The same noise through the model and its quantized copy."""

from __future__ import annotations

import base64
import html
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import make_image_grid
from diffusers.utils.pil_utils import numpy_to_pil
from PIL.Image import Image
from torch import Tensor

from ..checkpoints import Checkpoint, CheckpointError, origin_of
from ..comparison import Comparison, Trajectory, run_trajectory
from ..comparison import compare as compare_runs
from ..evaluation import Interval
from ..sampling import spread_labels
from ..specs import LARGEST_SEED, SamplingSpec, check_whole
from .models import Model, checkpoint_of, full_checkpoint, load
from .progress import Progress, check_progress, told
from .settings import guidance_of

BATCH = 8
MOST_SHOWN = 8


@dataclass(frozen=True)
class Paired:
    """Both runs; with both rows of images in a notebook.

    full, quantized  images in [0, 1], (N, 3, H, W)
    names            the class or caption of each
    metrics          per sample, and per step
    """

    full: Tensor
    quantized: Tensor
    names: tuple[str, ...]
    metrics: Comparison

    @property
    def summary(self) -> dict[str, Interval]:
        """Mean and 95 % confidence interval: latent_sqnr_db, psnr_db, ssim."""
        return self.metrics.summary()

    @property
    def images(self) -> list[tuple[Image, Image]]:
        """One pair a sample: full precision, quantized."""
        rows = [numpy_to_pil(x.permute(0, 2, 3, 1).numpy()) for x in (self.full, self.quantized)]
        return list(zip(*rows, strict=True))

    def sheet(self) -> Image:
        """The first samples side by side: full precision above, quantized below."""
        pairs = self.images[:MOST_SHOWN]
        return make_image_grid(
            [one for row in zip(*pairs, strict=True) for one in row], 2, len(pairs)
        )

    def __str__(self) -> str:
        found = self.summary
        units = {"latent_sqnr_db": "latent SQNR {} dB", "psnr_db": "PSNR {} dB", "ssim": "SSIM {}"}
        one = len(self.names) == 1  # no interval
        return ", ".join(
            text.format(f"{found[key].mean:.2f}" if one else found[key])
            for key, text in units.items()
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        file = io.BytesIO()
        self.sheet().save(file, "PNG")
        data = base64.b64encode(file.getvalue()).decode()
        shown = html.escape(", ".join(self.names[:MOST_SHOWN]))
        return (
            f"<p>{html.escape(str(self))}</p>"
            f'<img alt="full precision above, quantized below" src="data:image/png;base64,{data}">'
            f"<p>{shown}</p>"
        )


def compare(
    model: Model,
    quantized: Any,
    classes: Sequence[str | int] | None = None,
    *,
    samples: int = 8,
    steps: int = 20,
    guidance_scale: float | None = None,
    seed: int = 0,
    progress: Progress = True,
) -> Paired:
    """Draw the same noise with a model and with its quantized copy, and measure how far they part.

    model           what ``quantized`` was made of
    quantized       a pipeline of ``quantize``, what ``convert`` gave or ``load`` read; or the
                    folder that ``save`` wrote
    classes         names, captions or numbers, one a sample; None: ``samples`` spread over all
    guidance_scale  None: 1.5 of classes, 4.5 of captions

    Both run in float32, so that what differs is the quantization.

    Raises:
        CheckpointError: an unknown class, or a copy of another model.

    >>> import ditas_core as ditas
    >>> model = ditas.load("assets/fluent-emoji-dit")
    >>> quantized, _ = ditas.quantize(model, "W8A8", method="plain", progress=False)
    >>> paired = ditas.compare(model, quantized, [0], steps=2, progress=False)
    >>> bool(paired.summary["latent_sqnr_db"].mean > 10), len(paired.images)
    (True, 1)
    """
    check_progress(progress)
    # checked before a model is loaded
    SamplingSpec(steps, SamplingSpec.guidance_scale if guidance_scale is None else guidance_scale)
    check_whole("samples", samples, 1, 256)
    check_whole("seed", seed, 0, LARGEST_SEED)
    if isinstance(quantized, str | Path):
        quantized = load(quantized, progress=progress)
    origin = origin_of(quantized)
    captions = None if isinstance(model, Checkpoint) else origin.captions
    checkpoint = full_checkpoint(model, captions, progress)
    if origin.recipe.checkpoint != checkpoint.fingerprint:
        raise CheckpointError(
            f"quantized: expected a copy of {checkpoint.name}, got one of another model, "
            f"{origin.name}"
        )
    spec = SamplingSpec(steps=steps, guidance_scale=guidance_of(checkpoint, guidance_scale))
    labels = chosen(checkpoint, classes, samples)
    other = checkpoint_of(quantized)
    second = replace(checkpoint, transformer=other.transformer, vae=other.vae)
    runs = [
        run(one, labels, spec, seed, what, progress)
        for one, what in ((checkpoint, "full precision"), (second, "quantized"))
    ]
    names = tuple(checkpoint.class_names[i] for i in labels.tolist())
    return Paired(runs[0].images, runs[1].images, names, compare_runs(*runs))


def chosen(checkpoint: Checkpoint, classes: Sequence[str | int] | None, samples: int) -> Tensor:
    """Numbers of classes, one a sample."""
    if classes is None:
        return spread_labels(samples, len(checkpoint.class_names))
    if isinstance(classes, str) or not len(classes):
        raise CheckpointError(f"classes: expected a list of at least one, got {classes!r:.60}")
    return torch.tensor([checkpoint.class_index(str(name)) for name in classes])


def run(
    checkpoint: Checkpoint,
    labels: Tensor,
    spec: SamplingSpec,
    seed: int,
    what: str,
    progress: Progress,
) -> Trajectory:
    """Where and with what the checkpoint lies."""
    total = spec.steps * -(-len(labels) // BATCH)
    done = itertools.count(1)
    with told(progress, f"sampling, {what}", total) as tell:
        return run_trajectory(
            checkpoint,
            checkpoint.transformer,
            labels,
            spec,
            seed,
            BATCH,
            lambda _: tell(next(done)),
        )
