"""A checkpoint: transformer, autoencoder, schedule, class names or captions, licence, hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from ..models import (
    CheckpointError,
    Conditions,
    Family,
    SmoothingGroup,
    Transformer,
    family_of,
    null_class,
    smoothing_groups,
)
from ..specs import brief
from .captions import LONGEST_NAME, Captions, captions_for, check_captions
from .configurations import read_configurations
from .files.folders import licence_of_card, read_json, weight_files
from .loading import fill_
from .origin import find_origin
from .patches import NOTE as PATCHES_NOTE
from .patches import has_exact_patches, settle_patches_
from .pipelines import (
    NOWHERE,
    Prompts,
    captions_of,
    check_pipeline,
    class_names,
    name_of,
    schedule_of,
)
from .views import view_of, working_place


@dataclass(frozen=True)
class Checkpoint:
    """Immutable once loaded; nothing in the package writes to its modules.

    fingerprint  sha256 over the transformer's tensors (names, shapes, float32 bytes)
    scheduler    the scheduler's configuration as stored
    class_names  of a text-conditioned model its captions' names
    captions     what such a model is conditioned on; None of a class-conditioned one
    injected     how many times larger its outliers were made by hand, as its folder says

    >>> import ditas_core as ditas
    >>> checkpoint = ditas.load("assets/fluent-emoji-dit")
    >>> isinstance(checkpoint, ditas.Checkpoint), checkpoint.family.name, checkpoint.latent_shape
    (True, 'DiT', (4, 32, 32))
    """

    name: str
    path: Path
    transformer: Transformer
    vae: AutoencoderKL
    scheduler: dict[str, Any]
    class_names: tuple[str, ...]
    licence: str
    captions: Captions | None = None
    injected: float = 1.0

    @staticmethod
    def of_pipeline(pipeline: Any, captions: Prompts = None) -> Checkpoint:
        """A live diffusers pipeline's networks, in float32, on its GPU or else on the CPU; it stays
        as it is.

        Weights that are there in float32 already are shared, others copied (``view_of``). A
        pipeline that this package has quantized keeps its name, licence and captions.

        captions  of a text-conditioned pipeline: embedded, or their file; or prompts for its
                  own text encoder, a few general ones by default; None where there are classes

        Raises:
            CheckpointError: a pipeline that is not understood, offloaded, compiled, or sampled
                by no schedule of betas; captions that are missing or do not fit.

        >>> from diffusers import DiTPipeline
        >>> import ditas_core as ditas
        >>> pipeline = DiTPipeline.from_pretrained("assets/fluent-emoji-dit")
        >>> checkpoint = ditas.Checkpoint.of_pipeline(pipeline)
        >>> theirs, ours = pipeline.transformer, checkpoint.transformer
        >>> ours is theirs, ours.proj_out_2.weight.data_ptr() == theirs.proj_out_2.weight.data_ptr()
        (False, True)
        """
        check_pipeline(pipeline)
        origin = find_origin(pipeline)
        schedule = schedule_of(pipeline)
        if origin is not None and captions is None:
            captions = origin.captions
        found = captions_of(pipeline, captions)
        name, licence = name_of(pipeline)
        return Checkpoint(
            name=origin.name if origin else name,
            path=NOWHERE,
            transformer=view_of(pipeline.transformer, working_place(pipeline.transformer)),
            vae=view_of(pipeline.vae, working_place(pipeline.vae)),
            scheduler=schedule,
            class_names=found.names if found is not None else class_names(pipeline),
            licence=origin.licence if origin else licence,
            captions=found,
        )

    @property
    def family(self) -> Family:
        return family_of(self.transformer)

    @property
    def groups(self) -> tuple[SmoothingGroup, ...]:
        return smoothing_groups(self.transformer)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know before it is used, a line each."""
        sampler = str(self.scheduler.get("_class_name") or "DDIMScheduler")
        other = f"sampled with DDIM: the checkpoint's own sampler is {sampler}"
        notes = () if sampler == "DDIMScheduler" else (other,)
        if self.injected > 1:
            notes = (injected_note(self.injected), *notes)
        return (*notes, PATCHES_NOTE) if has_exact_patches(self.transformer) else notes

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.transformer)

    @property
    def origin(self) -> str:
        """What a trajectory depends on besides its settings: the weights, and the captions."""
        return self.fingerprint + (f"+{self.captions.sha256}" if self.captions else "")

    @property
    def conditions(self) -> Conditions | None:
        """From class numbers to the transformer's arguments; None where it takes the numbers."""
        if self.captions is None:
            return None
        return self.family.conditions(self.transformer, self.captions, self.image_size)

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
    def fewest_tokens(self) -> int:
        """Of one image, in the layer that sees fewest: of the image or of its caption."""
        if self.captions is None:
            return self.image_tokens
        return min(self.image_tokens, self.captions.tokens)

    @property
    def most_tokens(self) -> int:
        """Of one image, in the layer that sees most."""
        return max(self.image_tokens, 0 if self.captions is None else self.captions.tokens)

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
        names = tuple(labels[str(i)] for i in range(count))
    except (KeyError, TypeError):
        raise CheckpointError(
            'model_index.json: expected id2label with the keys "0", "1", ... without gaps'
        ) from None
    for name in names:
        if not isinstance(name, str | int) or len(str(name)) > LONGEST_NAME:
            raise CheckpointError(
                f"model_index.json: expected names of up to {LONGEST_NAME} characters in id2label, "
                f"got {brief(name)}"
            )
    return tuple(map(str, names))


def load_folder(
    path: Path,
    name: str = "",
    licence: str = "",
    dtype: torch.dtype = torch.float32,
    captions: Captions | None = None,
) -> Checkpoint:
    """Load a local diffusers DiT or PixArt folder; safetensors only, on the CPU.

    dtype     of the transformer; the autoencoder stays in float32
    captions  of a PixArt model, instead of those in the folder

    Raises:
        CheckpointError: no folder of such a pipeline, or a part of it is missing or damaged.
    """
    said = read_configurations(path)
    captions = captions_for(said.family, path, captions)
    weights = [weight_files(path / part, path) for part in ("transformer", "vae")]
    transformer = fill_(said.transformer, weights[0], "transformer", dtype)
    settle_patches_(transformer)
    vae = fill_(said.vae, weights[1], "vae")
    if captions is None:
        count = null_class(transformer)
        names = names_from_index(said.index) or tuple(str(i) for i in range(count))
        if len(names) > count:
            raise CheckpointError(
                f"model_index.json: expected id2label to name at most {count} classes, as many as "
                f"the transformer has, got {len(names)}"
            )
    else:
        check_captions(captions, transformer)
        names = captions.names
    return Checkpoint(
        name=name or path.name,
        path=path,
        transformer=transformer,
        vae=vae,
        scheduler=said.scheduler,
        class_names=names,
        licence=licence or licence_of_card(path / "README.md"),
        captions=captions,
        injected=injected_strength(path),
    )


def injected_note(strength: float) -> str:
    """What is said wherever such a model is named."""
    return f"injected outliers ×{strength:g} (function-preserving)"


def injected_strength(folder: Path) -> float:
    """What ``export --to injected`` wrote into ``export.json``; 1 where there is none.

    Raises:
        CheckpointError: the file cannot be read, or tells of no strength.
    """
    if not (folder / "export.json").is_file():
        return 1.0
    about = read_json(folder / "export.json", folder)
    if about.get("form") != "injected":
        return 1.0
    strength = about.get("strength")
    if not isinstance(strength, int | float) or not 1 <= strength <= 1000:
        raise CheckpointError(
            f"export.json: expected a strength of 1 to 1000, got {brief(strength)}"
        )
    return float(strength)
