"""Captions: prompts that a text encoder has embedded, the classes of a text-conditioned model.

This package ships no text encoder. A checkpoint folder carries the embeddings of a few
prompts as ``captions.safetensors``, or the caller passes them:

    embeds       (K, L, D), floating point, as the pipeline's ``encode_prompt`` returns them
    mask         (K, L), 1 where a token counts
    null_embeds  (L, D), null_mask (L,): the unconditional prompt
    metadata     format, and names: the K prompts as a JSON list
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..models import CheckpointError, Family, Transformer, family_of
from ..writing import whole_file
from .files.folders import check_inside
from .files.weights import read_headers, read_weights

FILE = "captions.safetensors"
FORMAT = "ditas-captions-1"
MOST = 2_000  # captions
LONGEST = 4_096  # tokens of a caption
LONGEST_NAME = 300  # characters
TENSORS = ("embeds", "mask", "null_embeds", "null_mask")
ADVICE = (
    f"write {FILE} once, where the text encoder fits: Captions.of_pipeline(pipeline, prompts)"
    ".save(FOLDER), or pass captions= (--captions FILE)"
)


@dataclass(frozen=True, eq=False)
class Captions:
    """K embedded prompts and the unconditional one; the module says which tensor is which.

    Raises:
        CheckpointError: tensors that do not fit together, are not finite, or a caption
            without a token.

    >>> import torch
    >>> import ditas_core as ditas
    >>> embeds, mask = torch.randn(2, 5, 8), torch.ones(2, 5)  # as a text encoder gives them
    >>> captions = ditas.Captions(("a fox", "an owl"), embeds, mask, embeds[0], mask[0])
    >>> captions.tokens, captions.width
    (5, 8)
    """

    names: tuple[str, ...]
    embeds: Tensor
    mask: Tensor
    null_embeds: Tensor
    null_mask: Tensor

    def __post_init__(self) -> None:
        check_names(self.names)
        k, shape = len(self.names), tuple(self.embeds.shape)
        if len(shape) != 3 or shape[0] != k or not 0 < shape[1] <= LONGEST or shape[2] < 1:
            raise CheckpointError(
                f"captions: expected embeds of ({k}, up to {LONGEST}, D), got {shape}"
            )
        wanted = {"mask": shape[:2], "null_embeds": shape[1:], "null_mask": shape[1:2]}
        for part, expected in wanted.items():
            got = tuple(getattr(self, part).shape)
            if got != expected:
                raise CheckpointError(f"captions: expected {part} of {expected}, got {got}")
        for part in ("embeds", "null_embeds"):
            value: Tensor = getattr(self, part)
            if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
                raise CheckpointError(f"captions: expected finite floating-point {part}")
            object.__setattr__(self, part, value.detach().cpu())
        for part in ("mask", "null_mask"):
            object.__setattr__(self, part, as_bool(getattr(self, part), part))

    @property
    def tokens(self) -> int:
        """L, padding included."""
        return int(self.embeds.shape[1])

    @property
    def width(self) -> int:
        return int(self.embeds.shape[2])

    @cached_property
    def sha256(self) -> str:
        """Over names, shapes, dtypes and bytes."""
        digest = hashlib.sha256(json.dumps(self.names).encode())
        for part in TENSORS:
            value: Tensor = getattr(self, part).contiguous()
            digest.update(f"{part}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def save(self, folder: Path) -> Path:
        """Write ``captions.safetensors`` into a folder: beside it, then renamed."""
        target = Path(folder) / FILE
        metadata = {"format": FORMAT, "names": json.dumps(self.names)}
        tensors = {name: getattr(self, name).contiguous().clone() for name in TENSORS}
        for name in ("mask", "null_mask"):
            tensors[name] = tensors[name].to(torch.uint8)
        with whole_file(target) as part:
            save_file(tensors, part, metadata=metadata)
            part.chmod(0o644)  # safetensors makes files that only their owner can read
        return target

    @staticmethod
    def load(path: Path) -> Captions:
        """Inverse of ``save``; ``path`` is the file or its folder.

        Raises:
            CheckpointError: no such file, damaged, or something else.
        """
        path = path / FILE if path.is_dir() else path
        if not path.is_file():
            raise CheckpointError(f"captions: expected a file, found none at {path}; {ADVICE}")
        headers = read_headers(path)
        if headers.metadata.get("format") != FORMAT or set(headers.tensors) != set(TENSORS):
            raise CheckpointError(
                f"{path.name}: expected a file of {FORMAT} with {', '.join(TENSORS)}, got "
                f"{headers.metadata.get('format', 'another')}; {ADVICE}"
            )
        try:
            names = json.loads(headers.metadata.get("names", ""))
        except (ValueError, RecursionError):
            names = None
        if not isinstance(names, list):
            raise CheckpointError(f"{path.name}: expected the names as a JSON list in its metadata")
        tensors = read_weights(path)
        return Captions(tuple(names), *(tensors[name] for name in TENSORS))

    @staticmethod
    def of_pipeline(pipeline: Any, prompts: list[str], negative: str = "") -> Captions:
        """Encode prompts with a whole diffusers PixArt pipeline, one after the other.

        negative  the unconditional prompt
        """
        embeds, masks = [], []
        with torch.no_grad():
            for prompt in prompts:
                one = pipeline.encode_prompt(
                    prompt, do_classifier_free_guidance=True, negative_prompt=negative
                )
                embeds.append(one[0][0].float().cpu())  # (L, D)
                masks.append(one[1][0].cpu())  # (L,)
        if not prompts:
            raise CheckpointError("captions: expected at least one prompt, got none")
        null, null_mask = one[2][0].float().cpu(), one[3][0].cpu()
        return Captions(tuple(prompts), torch.stack(embeds), torch.stack(masks), null, null_mask)


def check_names(names: tuple[str, ...]) -> None:
    """Raise CheckpointError unless they can be chosen from."""
    if not 0 < len(names) <= MOST:
        raise CheckpointError(f"captions: expected 1 to {MOST} names, got {len(names)}")
    for name in names:
        if not isinstance(name, str) or not name.strip() or name != name.strip():
            raise CheckpointError(
                f"captions: expected names without outer spaces, got {name!r:.80}"
            )
        if len(name) > LONGEST_NAME or not name.isprintable():
            raise CheckpointError(
                f"captions: expected printable names of up to {LONGEST_NAME} characters, "
                f"got {name!r:.80}"
            )
    if len(set(names)) < len(names):
        raise CheckpointError("captions: expected every name once, got one twice")


def as_bool(mask: Tensor, part: str) -> Tensor:
    """The mask's ones; every caption needs one."""
    found = mask.detach().cpu()
    if not bool(((found == 0) | (found == 1)).all()):
        raise CheckpointError(f"captions: expected {part} of zeros and ones, got other numbers")
    found = found == 1
    if not bool(found.any(-1).all()):
        raise CheckpointError(f"captions: expected at least one token per caption in {part}")
    return found


def captions_for(family: Family, path: Path, given: Captions | None) -> Captions | None:
    """What was given, or the folder's; None of a class-conditioned model.

    Raises:
        CheckpointError: captions are missing, or given where there are classes.
    """
    if not family.text:
        if given is not None:
            raise CheckpointError(
                f"captions: expected none, {path.name} is a {family.name} with classes"
            )
        return None
    if given is not None:
        return given
    if not (path / FILE).is_file():
        raise CheckpointError(
            f"{path.name}: expected {FILE} beside the model, found none: a {family.name} needs "
            f"embedded captions, and this package has no text encoder; {ADVICE}"
        )
    return Captions.load(check_inside(path / FILE, path))


def check_captions(captions: Captions, transformer: Transformer) -> None:
    """Raise CheckpointError unless the transformer takes embeddings of this width."""
    width = family_of(transformer).caption_width(transformer)
    if captions.width != width:
        raise CheckpointError(
            f"captions: expected embeddings of width {width}, as the transformer takes them, "
            f"got {captions.width}; encode them with the model's own text encoder"
        )
