"""The guided denoising loop."""

from .loop import (
    Step,
    build_scheduler,
    decode_latents,
    generators,
    guided_eps,
    initial_noise,
    iterate_latents,
    sample_latents,
    spread_labels,
)

__all__ = [
    "Step",
    "build_scheduler",
    "decode_latents",
    "generators",
    "guided_eps",
    "initial_noise",
    "iterate_latents",
    "sample_latents",
    "spread_labels",
]
