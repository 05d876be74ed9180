"""A checkpoint from an original DiT's weight file and the parts such a file lacks.

The autoencoder and the schedule come from another checkpoint's folder (``like``), or
are the ones that the original was published with: stabilityai/sd-vae-ft-ema, if it lies
in the hub's cache, and 1,000 steps of linear betas from 1e-4 to 0.02.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from ..models import CheckpointError
from ..specs import brief
from .checkpoint import Checkpoint, names_from_index
from .configurations import check_latents
from .files.folders import joined_headers, licence_of_card, read_json, weight_files
from .files.headers import Headers
from .files.weights import read_headers, read_weights, unwrap
from .foreign import not_original
from .loading import MAX_NUMBER, load_whole
from .machine import Machine
from .original import from_original
from .original_layout import Architecture, recognise
from .patches import settle_patches_
from .preflight import Need, check_machine, diffusers_parameters, need_of
from .schedule import read_schedule

STANDARD_VAE = "stabilityai/sd-vae-ft-ema"
STANDARD_SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 0,
}
OTHER = "pass another --like"
STANDARD_LATENTS = {32: 256, 64: 512}  # latent size: pixels


@dataclass(frozen=True)
class Parts:
    """What an original weight file lacks; ``folder`` holds the autoencoder's files."""

    name: str
    folder: Path
    scheduler: dict[str, Any]
    class_names: tuple[str, ...]
    licence: str
    norm_eps: float = 1e-5
    width: int = 0
    heads: int = 0

    def headers(self) -> Headers:
        return joined_headers(weight_files(self.folder))

    def load_vae(self) -> AutoencoderKL:
        model: AutoencoderKL = load_whole(AutoencoderKL, self.folder)
        return model


def parts_of(folder: Path, name: str = "", licence: str = "") -> Parts:
    """The parts of a diffusers folder; its transformer is not loaded."""
    config = read_json(folder / "transformer" / "config.json", folder)
    what = f"{folder.name}: transformer/config.json"
    keys = ("num_attention_heads", "attention_head_dim")
    heads, size = (whole_number(config.get(key) or 0, key, what) for key in keys)
    eps = config.get("norm_eps", 1e-5)
    if type(eps) not in (int, float) or not 0 <= eps <= 1:
        raise CheckpointError(f"{what}: expected norm_eps of 0 to 1, got {brief(eps)}; {OTHER}")
    return Parts(
        name or folder.name,
        folder / "vae",
        read_schedule(folder / "scheduler"),
        names_from_index(read_json(folder / "model_index.json", folder)),
        licence or licence_of_card(folder / "README.md"),
        float(eps),
        heads * size,
        heads,
    )


def whole_number(value: object, key: str, what: str) -> int:
    """A number of things in a configuration that nothing was built from yet.

    Raises:
        CheckpointError: it is none, or too large.
    """
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise CheckpointError(
            f"{what}: expected a whole number of at most {MAX_NUMBER} as {key}, "
            f"got {brief(value)}; {OTHER}"
        )
    return value


def standard_parts(found: Architecture, name: str) -> Parts:
    """The published autoencoder from the hub's cache, and the published schedule.

    Raises:
        CheckpointError: it is not there, or the model is not made for it.
    """
    ask = 'pass like= (--like): a diffusers folder or hub id with the "vae" it was trained on'
    if found.in_channels != 4 or found.latent_size not in STANDARD_LATENTS:
        raise CheckpointError(
            f"{name}: expected an autoencoder beside the weights, got none, and the published "
            f"one is for 4 channels of 32 x 32 or 64 x 64, not for {found.in_channels} of "
            f"{found.latent_size} x {found.latent_size}; {ask}"
        )
    from huggingface_hub import try_to_load_from_cache

    files = ("config.json", "diffusion_pytorch_model.safetensors")
    cached = [try_to_load_from_cache(STANDARD_VAE, file) for file in files]
    if not all(isinstance(path, str) for path in cached):
        raise CheckpointError(
            f"{name}: expected the autoencoder {STANDARD_VAE} in the hub's cache, found none; "
            f"{ask}, or download it once: hf download {STANDARD_VAE} {' '.join(files)}"
        )
    classes = tuple(str(i) for i in range(found.classes))
    return Parts(STANDARD_VAE, Path(str(cached[0])).parent, STANDARD_SCHEDULER, classes, "unknown")


def check_parts(found: Architecture, latent: int, name: str) -> None:
    """Raise a CheckpointError where autoencoder and transformer do not go together."""
    channels = (found.in_channels, found.out_channels)
    check_latents(channels, latent, "state dict", name, f"; {OTHER}")


def recognise_file(headers: Headers, heads: int | None = None) -> Architecture:
    """The original DiT that a weight file holds.

    Raises:
        CheckpointError: it holds something else, or the layout is not whole.
    """
    state = unwrap(headers.meta())
    own = ("x_embedder.", "t_embedder.", "y_embedder.", "final_layer.", "blocks.")
    if not any(name.startswith(own) for name in state):
        raise not_original(headers.name, state)
    try:
        recognise(state, heads=1)
    except CheckpointError as error:
        raise not_original(headers.name, state, str(error)) from None
    return recognise(state, heads)


def recognise_with(headers: Headers, heads: int | None, like: Parts | None) -> Architecture:
    """``recognise_file`` with the heads given, or those of ``like`` if it is as wide."""
    if heads is None and like is not None and like.width == recognise_file(headers, 1).width:
        heads = like.heads
    return recognise_file(headers, heads)


def choose_parts(found: Architecture, headers: Headers, like: Parts | None) -> Parts:
    """``like``, or the published parts; checked against the model."""
    parts = standard_parts(found, headers.name) if like is None else like
    config = read_json(parts.folder / "config.json")
    what = f"{parts.name}: vae/config.json"
    latent = whole_number(config.get("latent_channels", 4), "latent_channels", what)
    try:
        check_parts(found, latent, parts.name)
    except CheckpointError as error:
        raise CheckpointError(f"{headers.name}: {error}") from None
    return parts


def need_of_original(headers: Headers, found: Architecture, parts: Parts | None) -> Need:
    """What loading the file with these parts takes."""
    vae = None if parts is None else parts.headers()
    return need_of(headers.name, headers, vae, diffusers_parameters(found), headers.parameters)


def load_original(
    path: Path,
    like: Parts | None,
    dtype: torch.dtype,
    heads: int | None,
    machine: Machine,
) -> Checkpoint:
    """Load a ``.pt`` or ``.safetensors`` file of the original layout, converted in memory.

    Raises:
        CheckpointError: no such file, another layout, a part is missing, or too large.
    """
    headers = read_headers(path)
    found = recognise_with(headers, heads, like)
    parts = choose_parts(found, headers, like)
    check_machine(need_of_original(headers, found, parts), machine, dtype)
    vae = parts.load_vae()
    state = read_weights(path, dtype)
    try:
        transformer = settle_patches_(from_original(state, found.heads, parts.norm_eps, dtype))
    except CheckpointError as error:
        raise CheckpointError(f"{path.name}: {error}") from None
    names = parts.class_names
    return Checkpoint(
        name=path.stem,
        path=path,
        transformer=transformer,
        vae=vae,
        scheduler=parts.scheduler,
        class_names=names if len(names) == found.classes else tuple(map(str, range(found.classes))),
        licence=parts.licence,
    )
