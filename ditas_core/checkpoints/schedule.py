"""The noise schedule of a checkpoint: read and checked before anything is sampled with it."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler

from ..models import CheckpointError
from ..specs import brief
from .files.folders import read_json

FILE = "scheduler_config.json"
MAX_TIMES = 100_000
PREDICTIONS = ("epsilon", "sample", "v_prediction")
SPACINGS = ("leading", "linspace", "trailing")
TRIED_STEPS = (50, 4, 1)
# schedulers that follow no betas, by the beginning of their names
OTHERS = {
    "FlowMatch": "a flow-matching model",
    "EDM": "a model of continuous noise levels",
    "ScoreSde": "a model of continuous noise levels",
    "CMStochastic": "a consistency model",
}


def read_schedule(folder: Path) -> dict[str, Any]:
    """``scheduler_config.json`` of a scheduler's folder.

    Raises:
        CheckpointError: no such file, or no schedule of betas that DDIM and DDPM can follow.
    """
    config = read_json(folder / FILE, folder.parent)
    check_schedule(config)
    return config


def check_schedule(config: dict[str, Any]) -> None:
    """Raise a CheckpointError where sampling would fail, or take memory without bound."""
    check_kind(config)
    times, trained = config.get("num_train_timesteps", 1000), config.get("trained_betas")
    if type(times) is not int or not 1 <= times <= MAX_TIMES:
        raise CheckpointError(
            f"{FILE}: expected num_train_timesteps of 1 to {MAX_TIMES}, got {brief(times)}"
        )
    if trained is not None and not (isinstance(trained, list) and len(trained) == times):
        got = f"{len(trained)}" if isinstance(trained, list) else brief(trained)
        raise CheckpointError(f"{FILE}: expected {times} trained_betas, got {got}")
    for cls in (DDIMScheduler, DDPMScheduler):
        check_steps(cls, config, times)


def check_kind(config: dict[str, Any]) -> None:
    """Raise CheckpointError for what is no schedule of betas, or a prediction unknown here."""
    name, predicted = str(config.get("_class_name", "")), config.get("prediction_type", "epsilon")
    kind = next((kind for start, kind in OTHERS.items() if name.startswith(start)), "")
    if predicted == "flow_prediction" or config.get("use_flow_sigmas"):
        kind = OTHERS["FlowMatch"]
    if kind:
        raise CheckpointError(
            f"{FILE}: expected a noise schedule of betas, got {brief(name or predicted)}: {kind}"
        )
    for key, allowed in (("prediction_type", PREDICTIONS), ("timestep_spacing", SPACINGS)):
        value = config.get(key, allowed[0])
        if value not in allowed:
            raise CheckpointError(
                f"{FILE}: expected {key} to be one of {', '.join(allowed)}, got {brief(value)}"
            )


def check_steps(cls: Any, config: dict[str, Any], times: int) -> None:
    """Raise CheckpointError unless ``cls`` makes the schedule and steps along it, on one number."""
    known = inspect.signature(cls.__init__).parameters
    options = {k: v for k, v in config.items() if k in known and k != "variance_type"}
    options["clip_sample"] = config.get("clip_sample") or False
    for key, value in options.items():
        check_option(key, value, known[key].default)
    x, noise = torch.ones(1, 1, 1, 1), torch.Generator()  # the process's own stays as it is
    try:
        scheduler = cls(**options)
        betas = scheduler.betas  # (T,)
        whole = bool(torch.isfinite(betas).all() and (betas >= 0).all() and (betas <= 1).all())
        blind = scheduler.config.prediction_type == "epsilon"
        if whole and blind and not bool((scheduler.alphas_cumprod > 0).all()):
            # x_0 = (x - noise) / 0
            raise ValueError(
                "its last time has a signal-to-noise ratio of zero, where a noise prediction says "
                "nothing of the image: expected prediction_type v_prediction or sample"
            )
        for steps in {min(steps, times): 0 for steps in TRIED_STEPS} if whole else ():
            scheduler.set_timesteps(steps)
            places = scheduler.timesteps.tolist()
            if not all(0 <= place < times for place in places):
                raise ValueError(
                    f"with {steps} steps it visits time {max(places, key=abs)} of {times}: "
                    f"steps_offset {brief(config.get('steps_offset', 0))}"
                )
            for place in {places[0], places[-1]}:  # all and no noise: between, nothing vanishes
                after = scheduler.step(x, place, x, generator=noise).prev_sample
                if not bool(torch.isfinite(after).all()):
                    raise ValueError(f"its step from time {place} is not finite")
    except Exception as error:  # diffusers raises many types; each means an unusable file
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{FILE}: expected a noise schedule ({first[:200]})") from None
    if not whole:
        raise CheckpointError(f"{FILE}: expected betas between 0 and 1, got others")


def check_option(key: str, value: Any, default: Any) -> None:
    """Raise CheckpointError unless an option is of its default's type."""
    if isinstance(default, bool):
        if value is not None and not isinstance(value, bool):
            raise CheckpointError(f"{FILE}: expected {key} true or false, got {brief(value)}")
    elif isinstance(default, int | float):
        whole = type(value) is int and abs(value) <= MAX_TIMES
        part = isinstance(default, float) and type(value) is float and math.isfinite(value)
        if not (whole or part):
            kind = "a number" if isinstance(default, float) else "a whole number"
            raise CheckpointError(f"{FILE}: expected {kind} as {key}, got {brief(value)}")
