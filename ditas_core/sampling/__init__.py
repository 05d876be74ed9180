"""The guided denoising loop."""

from .loop import (
    NULL_CLASS,
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
    "NULL_CLASS",
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
