"""A DiT checkpoint: transformer, autoencoder, schedule, class names, licence, hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel

from .errors import CheckpointError
from .layers import SmoothingGroup, smoothing_groups
from .loading import load_whole, read_json

__all__ = ["Checkpoint", "CheckpointError", "fingerprint", "load_folder", "read_json"]
# before 0.29 diffusers had one class for all; the norm told which
TRANSFORMERS = ("DiTTransformer2DModel", "Transformer2DModel")


@dataclass(frozen=True)
class Checkpoint:
    """Immutable once loaded; nothing in the package writes to its modules.

    fingerprint  sha256 over the transformer's tensors (names, shapes, float32 bytes)
    scheduler    the scheduler's configuration as stored
    """

    name: str
    path: Path
    transformer: DiTTransformer2DModel
    vae: AutoencoderKL
    scheduler: dict[str, Any]
    class_names: tuple[str, ...]
    licence: str

    @property
    def groups(self) -> tuple[SmoothingGroup, ...]:
        return smoothing_groups(self.transformer)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.transformer)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        size = int(self.transformer.config.sample_size)
        return int(self.transformer.config.in_channels), size, size

    @property
    def width(self) -> int:
        config = self.transformer.config
        return int(config.num_attention_heads) * int(config.attention_head_dim)

    @property
    def image_tokens(self) -> int:
        """Tokens of one image."""
        config = self.transformer.config
        return (int(config.sample_size) // int(config.patch_size)) ** 2

    @property
    def image_size(self) -> int:
        down = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return int(self.transformer.config.sample_size) * down

    def class_index(self, name: str) -> int:
        """Index of a class given by name or number."""
        wanted = name.strip()
        if wanted in self.class_names:
            return self.class_names.index(wanted)
        if (
            wanted.isascii()
            and wanted.isdigit()
            and len(wanted) < 7
            and int(wanted) < len(self.class_names)
        ):
            return int(wanted)
        shown = ", ".join(self.class_names[:60]) + (", ..." if len(self.class_names) > 60 else "")
        raise CheckpointError(
            f"class: expected a name or number below {len(self.class_names)}, got {name!r}; "
            f"names are {shown}"
        )


def fingerprint(transformer: torch.nn.Module) -> str:
    """sha256 over sorted names, shapes and float32 bytes of all tensors."""
    digest = hashlib.sha256()
    for key, value in sorted(transformer.state_dict().items()):
        digest.update(f"{key}{tuple(value.shape)}".encode())
        digest.update(value.detach().float().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def names_from_index(index: dict[str, Any]) -> tuple[str, ...]:
    """``id2label`` of a DiTPipeline's ``model_index.json`` as a tuple."""
    labels = index.get("id2label") or {}
    try:
        count = len(labels)
        return tuple(str(labels[str(i)]) for i in range(count))
    except (KeyError, TypeError):
        raise CheckpointError(
            'model_index.json: expected id2label with the keys "0", "1", ... without gaps'
        ) from None


def load_folder(
    path: Path, name: str = "", licence: str = "", dtype: torch.dtype = torch.float32
) -> Checkpoint:
    """Load a local diffusers DiT folder; safetensors only, on the CPU.

    dtype  of the transformer; the autoencoder stays in float32

    Raises:
        CheckpointError: not a DiTPipeline folder, or a part of it is missing or damaged.
    """
    index = read_json(path / "model_index.json")
    if index.get("_class_name") != "DiTPipeline":
        raise CheckpointError(
            f"model_index.json: expected a DiTPipeline, got {index.get('_class_name')!r}"
        )
    config = read_json(path / "transformer" / "config.json")
    if config.get("_class_name") not in TRANSFORMERS:
        raise CheckpointError(
            f"transformer: expected a DiTTransformer2DModel, got {config.get('_class_name')!r}"
        )
    if config.get("norm_type", "ada_norm_zero") != "ada_norm_zero":
        raise CheckpointError(
            f"transformer: expected adaLN-Zero blocks, got norm_type {config['norm_type']!r}"
        )
    transformer = load_whole(DiTTransformer2DModel, path / "transformer", dtype)
    vae = load_whole(AutoencoderKL, path / "vae")
    return Checkpoint(
        name=name or path.name,
        path=path,
        transformer=transformer,
        vae=vae,
        scheduler=read_json(path / "scheduler" / "scheduler_config.json"),
        class_names=names_from_index(index)
        or tuple(str(i) for i in range(int(config.get("num_embeds_ada_norm", 1000)))),
        licence=licence or licence_of_card(path / "README.md"),
    )


def licence_of_card(path: Path) -> str:
    """The licence that a model card's front matter names, or "unknown"."""
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()[:40]:
            if line.startswith("license:"):
                return line.split(":", 1)[1].strip()
    return "unknown"
