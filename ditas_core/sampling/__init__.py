"""The guided denoising loop."""

from .loop import (
    ForwardDone,
    Position,
    Step,
    TransformerAt,
    build_scheduler,
    decode_latents,
    forward_arguments,
    generators,
    guided_eps,
    initial_noise,
    iterate_forwards,
    iterate_latents,
    predict_eps,
    sample_latents,
    scheduler_step,
    spread_labels,
)
from .processes import batches_of, join_rows, process_group, wait_for_all
from .stopping import Asking, Stopped, until_stopped

__all__ = [
    "Asking",
    "ForwardDone",
    "Position",
    "Step",
    "Stopped",
    "TransformerAt",
    "batches_of",
    "build_scheduler",
    "decode_latents",
    "forward_arguments",
    "generators",
    "guided_eps",
    "initial_noise",
    "iterate_forwards",
    "iterate_latents",
    "join_rows",
    "predict_eps",
    "process_group",
    "sample_latents",
    "scheduler_step",
    "spread_labels",
    "until_stopped",
    "wait_for_all",
]
