"""What the page's sampler needs as numbers: the schedule, and a quick look at latents.

One DDIM step with a = alphas_cumprod at its time and b at the next one:

    x_0 = (x - sqrt(1 - a) eps) / sqrt(a),    x <- sqrt(b) x_0 + sqrt(1 - b) eps

The quick look is a linear map from the 3 x 3 latents around a place (and 1) to its block of
pixels, fitted to decoded images by least squares: thousands of numbers instead of a decoder.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..checkpoints import Checkpoint, CheckpointError
from ..sampling import build_scheduler
from ..specs import SamplingSpec

STEPS = (10, 20, 30, 50)
AROUND = 3


def schedule_tables(checkpoint: Checkpoint) -> dict[str, Any]:
    """The schedule of every number of steps that the page offers.

    Raises:
        CheckpointError: one that the page's sampler does not know.
    """
    config = build_scheduler(checkpoint.scheduler, SamplingSpec(STEPS[0])).config
    if config.thresholding:
        raise CheckpointError(
            "scheduler: expected one without thresholding, which the page does not know"
        )
    counts = [count for count in STEPS if count <= int(config.num_train_timesteps)]
    return {
        "prediction": config.prediction_type,
        "clip": float(config.clip_sample_range) if config.clip_sample else None,
        "steps": {str(count): table(checkpoint, count) for count in counts},
    }


def table(checkpoint: Checkpoint, count: int) -> dict[str, list[float]]:
    """Times, and alphas_cumprod at them and after them."""
    scheduler: Any = build_scheduler(checkpoint.scheduler, SamplingSpec(count))
    alphas = scheduler.alphas_cumprod.double()
    times = scheduler.timesteps.tolist()
    stride = int(scheduler.config.num_train_timesteps) // count
    after = [t - stride for t in times]  # as DDIMScheduler.step has it
    final = float(scheduler.final_alpha_cumprod)
    return {
        "times": times,
        "alphas": [float(alphas[t]) for t in times],
        "after": [float(alphas[t]) if t >= 0 else final for t in after],
    }


def look_of(latents: Tensor, images: Tensor) -> dict[str, Any]:
    """The quick look that fits these pairs best.

    latents  (N, C, h, w)
    images   (N, 3, f h, f w), in [0, 1]

    Returns block f, and weights: (C * 9 + 1) rows of f * f * 3 numbers, the rows as
    ``torch.nn.functional.unfold`` orders them.
    """
    block = images.shape[-1] // latents.shape[-1]
    inputs = patches(latents)  # (N h w, 9 C + 1)
    cut = functional.unfold(images, block, stride=block)  # (N, 3 f f, h w)
    outputs = cut.transpose(1, 2).reshape(len(inputs), 3, block * block)
    outputs = outputs.transpose(1, 2).reshape(len(inputs), -1)  # (N h w, f f 3)
    ridge = 1e-3 * len(inputs) * torch.eye(inputs.shape[1], dtype=torch.float64)
    left, right = inputs.double(), outputs.double()
    weights = torch.linalg.solve(left.T @ left + ridge, left.T @ right)
    return {"block": block, "weights": [[float(f"{v:.4g}") for v in row] for row in weights]}


def patches(latents: Tensor) -> Tensor:
    """The latents around every place and a one, (N h w, 9 C + 1); zeros beyond the edge."""
    around = functional.unfold(latents, AROUND, padding=AROUND // 2).transpose(1, 2)
    rows = around.reshape(-1, around.shape[-1])
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
