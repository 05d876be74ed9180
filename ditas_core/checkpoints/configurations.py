"""What the small files of a folder say of its model, checked before any of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL

from ..models import CheckpointError, Family, Transformer, check_config, family_of_index
from .files.folders import read_json
from .loading import build_empty
from .schedule import read_schedule


@dataclass(frozen=True)
class Configured:
    """``transformer`` and ``vae`` take no memory yet: ``loading.fill_`` gives them weights.

    index      ``model_index.json``
    scheduler  the scheduler's configuration as stored
    """

    index: dict[str, Any]
    family: Family
    transformer: Transformer
    vae: AutoencoderKL
    scheduler: dict[str, Any]


def read_configurations(folder: Path) -> Configured:
    """The model that a diffusers folder describes; its weights need not be there.

    Raises:
        CheckpointError: a file is missing, says something that cannot be, or two of them do
            not go together.
    """
    index = read_json(folder / "model_index.json", folder)
    family = family_of_index(index)
    config = read_json(folder / "transformer" / "config.json", folder)
    check_config(family, config)
    scheduler = read_schedule(folder / "scheduler")
    transformer = build_empty(family.cls, config, "transformer", positions=False)
    settings = read_json(folder / "vae" / "config.json", folder)
    vae = build_empty(AutoencoderKL, settings, "vae", positions=False)
    check_latents(
        (int(transformer.config.in_channels), int(transformer.out_channels)),
        int(vae.config.latent_channels),
    )
    return Configured(index, family, transformer, vae, scheduler)


def check_latents(
    channels: tuple[int, int],
    latent: int,
    what: str = "transformer",
    lender: str = "the folder",
    advice: str = "",
) -> None:
    """Raise a CheckpointError where autoencoder and transformer do not go together.

    channels  that the transformer takes and gives: noise alone, or with a learned variance
    latent    channels of the autoencoder of ``lender``
    """
    taken, given = channels
    if taken != latent or given not in (latent, 2 * latent):
        raise CheckpointError(
            f"{what}: expected {latent} latent channels in and {latent} or {2 * latent} out "
            f"for the autoencoder of {lender}, got {taken} and {given}{advice}"
        )
