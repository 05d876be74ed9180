"""The guided denoising loop, step by step.

Classifier-free guidance: ``eps = eps_u + g (eps_c - eps_u)`` on the first
``guided_channels`` latent channels (0 = all), the rest keep ``eps_c``.
(Ho & Salimans, 2022; the original DiT guides three channels.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler
from torch import Tensor, nn

from ..models import Conditions, class_conditions
from ..specs import SamplingSpec, SpecError
from .stopping import between

TransformerAt = Callable[[int], nn.Module]
"""Which transformer runs the step of this loop index (from 0)."""


@dataclass(frozen=True)
class Step:
    """One finished denoising step: loop index, diffusion time, latents after it (N, C, H, W).

    streams  state of every sample's random stream after it, uint8 (N, S)
    """

    index: int
    total: int
    timestep: int
    latents: Tensor
    streams: Tensor


@dataclass(frozen=True)
class Position:
    """Where an interrupted trajectory goes on: the next step's index, latents, streams."""

    index: int
    latents: Tensor
    streams: Tensor


@dataclass(frozen=True)
class ForwardDone:
    """One forward pass of a step is finished; ``step`` is set with the step's last one."""

    index: int
    done: int
    of: int
    step: Step | None


def build_scheduler(config: dict[str, Any], spec: SamplingSpec) -> DDIMScheduler | DDPMScheduler:
    """The spec's scheduler with the checkpoint's own schedule, timesteps set.

    Raises:
        SpecError: more steps than the schedule has times for.
    """
    cls = DDIMScheduler if spec.scheduler == "ddim" else DDPMScheduler
    known = {k: v for k, v in config.items() if not k.startswith("_")}
    known.pop("variance_type", None)
    scheduler = cls.from_config({**known, "clip_sample": bool(known.get("clip_sample", False))})
    times = int(scheduler.config.num_train_timesteps)
    if spec.steps <= times:
        scheduler.set_timesteps(spec.steps)
    # an offset of leading steps leads past the last time where every time is visited
    if spec.steps > times or int(scheduler.timesteps.max()) >= times:
        most = times - (spec.steps <= times)
        raise SpecError(f"steps: expected at most {most} with this schedule, got {spec.steps}")
    return scheduler


def generators(seed: int, count: int) -> list[torch.Generator]:
    """One generator per sample: sample i is the same whatever else is in the batch."""
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def initial_noise(shape: tuple[int, int, int], streams: list[torch.Generator]) -> Tensor:
    """Standard normal latents, (N, C, H, W), one stream per sample."""
    return torch.stack([torch.randn(shape, generator=g) for g in streams])


def guided_eps(eps: Tensor, spec: SamplingSpec) -> Tensor:
    """Combine the conditional and unconditional halves, (2N, C, H, W) -> (N, C, H, W)."""
    conditional, unconditional = eps.chunk(2)
    guided = unconditional + spec.guidance_scale * (conditional - unconditional)
    if 0 < spec.guided_channels < guided.shape[1]:
        keep = conditional[:, spec.guided_channels :]
        guided = torch.cat([guided[:, : spec.guided_channels], keep], dim=1)
    return guided


def placed(value: Any, there: Tensor) -> Any:
    """Tensors, also in a dict, where ``there`` is; floating-point ones in its precision."""
    if isinstance(value, Mapping):
        return {key: placed(part, there) for key, part in value.items()}
    if not isinstance(value, Tensor):
        return value
    return value.to(there.device, there.dtype if value.is_floating_point() else value.dtype)


def forward_arguments(
    transformer: nn.Module, labels: Tensor, conditions: Conditions | None = None
) -> dict[str, Any]:
    """What the transformer takes besides latents and timestep, for both halves (2N, ...)."""
    there = next(transformer.parameters())  # may be in half precision, on an accelerator
    found = class_conditions(transformer, labels) if conditions is None else conditions(labels)
    return {key: placed(value, there) for key, value in found.items()}


def predict_eps(
    transformer: nn.Module,
    latents: Tensor,
    timestep: int,
    labels: Tensor,
    spec: SamplingSpec,
    conditions: Conditions | None = None,
) -> Tensor:
    """Guided noise prediction, (N, C, H, W); the first half of the batch is conditional."""
    channels = latents.shape[1]
    both = torch.cat([latents, latents])  # (2N, C, H, W)
    times = torch.full((both.shape[0],), timestep, dtype=torch.long)
    there = next(transformer.parameters())
    arguments = forward_arguments(transformer, labels, conditions)
    with between(getattr(transformer, "transformer_blocks", ())):
        out = transformer(placed(both, there), timestep=placed(times, there), **arguments)
    out = out.sample.to(latents.device, torch.float32)
    return guided_eps(out[:, :channels], spec)  # a learned variance, if any, is dropped


@torch.no_grad()
def iterate_forwards(
    transformer: nn.Module | TransformerAt,
    scheduler_config: dict[str, Any],
    labels: Tensor,
    shape: tuple[int, int, int],
    spec: SamplingSpec,
    seed: int | list[torch.Generator],
    batch: int | None = None,
    start: Position | None = None,
    before: Callable[[int, int], None] | None = None,
    conditions: Conditions | None = None,
) -> Iterator[ForwardDone]:
    """Denoise ``len(labels)`` samples from seeded noise; yields after every forward pass.

    ``seed`` gives sample i the stream of seed + i; or pass one generator per sample.
    ``batch`` samples run at once (all by default); ``before`` is called with the step's
    index and the batch's first sample before each pass. ``start`` continues a trajectory.
    ``transformer`` is one for all steps, or a function that names each step's.
    ``conditions`` tells what a label stands for where that is no class of the transformer.

    Raises:
        ValueError: another number of generators than of labels.
    """
    scheduler = build_scheduler(scheduler_config, spec)
    streams = generators(seed, len(labels)) if isinstance(seed, int) else seed
    if len(streams) != len(labels):
        raise ValueError(f"generators: expected {len(labels)}, got {len(streams)}")
    if start is None:
        latents = initial_noise(shape, streams) * float(scheduler.init_noise_sigma)
    else:
        latents = start.latents
        for stream, state in zip(streams, start.streams, strict=True):
            stream.set_state(state.clone())  # it ignores the offset of a view such as a row
    begin = 0 if start is None else start.index
    edges = range(0, len(labels), batch or len(labels))
    size = edges.step
    for index, t in list(enumerate(scheduler.timesteps.tolist()))[begin:]:
        model = transformer if isinstance(transformer, nn.Module) else transformer(index)
        parts = []
        for number, first in enumerate(edges):
            if before is not None:
                before(index, first)
            rows = slice(first, first + size)
            parts.append(predict_eps(model, latents[rows], t, labels[rows], spec, conditions))
            if number + 1 < len(edges):
                yield ForwardDone(index, number + 1, len(edges), None)
        latents = scheduler_step(scheduler, torch.cat(parts), t, latents, streams)
        states = torch.stack([stream.get_state() for stream in streams])  # (N, S)
        done = Step(index, spec.steps, t, latents, states)
        yield ForwardDone(index, len(edges), len(edges), done)


def iterate_latents(
    transformer: nn.Module | TransformerAt,
    scheduler_config: dict[str, Any],
    labels: Tensor,
    shape: tuple[int, int, int],
    spec: SamplingSpec,
    seed: int | list[torch.Generator],
    conditions: Conditions | None = None,
) -> Iterator[Step]:
    """``iterate_forwards`` with all samples at once: yields after every step."""
    for event in iterate_forwards(
        transformer, scheduler_config, labels, shape, spec, seed, conditions=conditions
    ):
        if event.step is not None:
            yield event.step


def scheduler_step(
    scheduler: DDIMScheduler | DDPMScheduler,
    eps: Tensor,
    timestep: int,
    latents: Tensor,
    streams: list[torch.Generator],
) -> Tensor:
    """One scheduler step; DDPM's noise is drawn from each sample's own stream."""
    if isinstance(scheduler, DDIMScheduler):
        return scheduler.step(eps, timestep, latents, eta=0.0).prev_sample
    stepped = [
        scheduler.step(eps[i : i + 1], timestep, latents[i : i + 1], generator=g).prev_sample
        for i, g in enumerate(streams)
    ]
    return torch.cat(stepped)


def sample_latents(
    transformer: nn.Module | TransformerAt,
    scheduler_config: dict[str, Any],
    labels: Tensor,
    shape: tuple[int, int, int],
    spec: SamplingSpec,
    seed: int | list[torch.Generator],
    conditions: Conditions | None = None,
) -> Tensor:
    """Run ``iterate_latents`` to its end; the final latents, (N, C, H, W)."""
    steps = iterate_latents(transformer, scheduler_config, labels, shape, spec, seed, conditions)
    for step in steps:
        latents = step.latents
    return latents


@torch.no_grad()
def decode_latents(vae: AutoencoderKL, latents: Tensor, batch: int = 16) -> Tensor:
    """Images in [0, 1], (N, 3, H, W)."""
    scaled = latents.to(vae.device) / float(vae.config.scaling_factor)
    with between([*vae.decoder.up_blocks, vae.decoder.conv_out]):
        parts = [vae.decode(chunk).sample.cpu() for chunk in scaled.split(batch)]
    return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)  # (N, 3, H, W)


def spread_labels(count: int, classes: int) -> Tensor:
    """``count`` labels spread evenly over all classes, repeatable, (count,)."""
    if count >= classes:
        return torch.arange(count) % classes
    return torch.div(torch.arange(count) * classes, count, rounding_mode="floor")
