"""The noise schedule of a checkpoint: read and checked before anything is sampled with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler

from .errors import CheckpointError
from .loading import read_json

FILE = "scheduler_config.json"
MAX_TIMES = 100_000


def read_schedule(folder: Path) -> dict[str, Any]:
    """``scheduler_config.json`` of a scheduler's folder.

    Raises:
        CheckpointError: no such file, or no schedule of betas that DDIM and DDPM can follow.
    """
    config = read_json(folder / FILE)
    check_schedule(config)
    return config


def check_schedule(config: dict[str, Any]) -> None:
    """Raise a CheckpointError where sampling would fail, or take memory without bound."""
    name = str(config.get("_class_name", ""))
    if name.startswith("FlowMatch"):
        raise CheckpointError(
            f"{FILE}: expected a noise schedule of betas, got {name[:60]}: a flow-matching model"
        )
    times, trained = config.get("num_train_timesteps", 1000), config.get("trained_betas")
    if type(times) is not int or not 1 <= times <= MAX_TIMES:
        raise CheckpointError(
            f"{FILE}: expected num_train_timesteps of 1 to {MAX_TIMES}, got {str(times)[:40]!r}"
        )
    if trained is not None and not (isinstance(trained, list) and len(trained) == times):
        got = f"{len(trained)}" if isinstance(trained, list) else str(trained)[:40]
        raise CheckpointError(f"{FILE}: expected {times} trained_betas, got {got}")
    known = {k: v for k, v in config.items() if not k.startswith("_") and k != "variance_type"}
    try:
        betas = DDIMScheduler.from_config(known).betas  # (T,)
        whole = bool(torch.isfinite(betas).all() and (betas >= 0).all() and (betas <= 1).all())
    except Exception as error:  # diffusers raises many types; each means an unusable file
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{FILE}: expected a noise schedule ({first[:200]})") from None
    if not whole:
        raise CheckpointError(f"{FILE}: expected betas between 0 and 1, got others")
