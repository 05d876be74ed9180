"""The families that are understood: which one a model is of, and why another is not taken."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch.nn as nn
from diffusers import DiTTransformer2DModel, PixArtTransformer2DModel

from ..specs import brief
from .dit import DiT
from .errors import CheckpointError
from .family import Family
from .groups import SmoothingGroup
from .pixart import PixArt

Transformer: TypeAlias = DiTTransformer2DModel | PixArtTransformer2DModel
# before 0.29 diffusers had one class for all; the norm told which
OLD_CLASS = "Transformer2DModel"
MAX_TOKENS = 65_536
"""Patches of an image of 4096 pixels."""
JOINT = "text and image run through joint blocks, and it is sampled by flow matching"
# of transformers and pipelines, by what their names contain; the first that fits
REASONS = (
    ("UNet|StableDiffusion(?!3)|LatentDiffusion|Kandinsky(?!5)", "it is a convolutional U-Net"),
    (
        "3DModel|Video|Wan|Latte|Mochi|Allegro|LTX|EasyAnimate|SkyReels|ConsisID|Cosmos|Kandinsky5",
        "it makes video, and its tokens run over frames, too",
    ),
    ("1DModel|Audio|Music|AceStep", "it makes sound"),
    ("SD3|StableDiffusion3|Flux|AuraFlow|CogView4|Chroma|QwenImage|HiDream|Bria", JOINT),
    ("CogView3Plus", "text and image run through joint blocks"),
    ("HunyuanDiT", "skip connections join its blocks, and q and k are normalised"),
    ("Lumina", "its feed-forward part is gated, and q and k are normalised"),
    ("Sana", "its attention is linear and its feed-forward part convolutional"),
)
UNKNOWN = "which of its layers share an input is not known here"


DIT, PIXART = DiT(), PixArt()
FAMILIES: tuple[Family, ...] = (DIT, PIXART)
KINDS = {name: kind for family in FAMILIES for name, kind in family.kinds.items()}


def family_of(transformer: nn.Module) -> Family:
    """The family of a built transformer.

    Raises:
        CheckpointError: of none that is understood.
    """
    for family in FAMILIES:
        if isinstance(transformer, family.cls):
            return family
    raise other_class(type(transformer).__name__)


def family_of_index(index: dict[str, Any]) -> Family:
    """The family whose pipeline a ``model_index.json`` names.

    Raises:
        CheckpointError: none that is understood; with the reason.
    """
    name = index.get("_class_name")
    for family in FAMILIES:
        if name in family.pipelines:
            return family
    *before, last = (pipeline for family in FAMILIES for pipeline in family.pipelines)
    part = index.get("transformer") or index.get("unet")
    cls = part[-1] if isinstance(part, list) and part else None
    reason = reason_of(cls) or reason_of(name) or UNKNOWN
    if reason == UNKNOWN and cls in [family.cls.__name__ for family in FAMILIES]:
        reason = "its transformer is known, but not how this pipeline samples with it"
    got = brief(name) if cls is None else f"{brief(name)} with {brief(cls)}"
    raise CheckpointError(
        f"model_index.json: expected a {', '.join(before)} or {last}, got {got}: {reason}"
    )


def reason_of(name: Any) -> str:
    """Why a class cannot be taken, by its name; "" where that does not tell."""
    if not isinstance(name, str):
        return ""
    return next((reason for words, reason in REASONS if re.search(words, name[:200])), "")


def family_of_config(config: dict[str, Any]) -> Family:
    """The family of a transformer's own configuration.

    Raises:
        CheckpointError: of none that is understood.
    """
    for family in FAMILIES:
        if config.get("_class_name") == family.cls.__name__:
            check_config(family, config)
            return family
    raise other_class(config.get("_class_name"))


def check_config(family: Family, config: Mapping[str, Any]) -> None:
    """Raise unless a transformer's configuration is of the family, with blocks as it knows them.

    Raises:
        CheckpointError: another class, with the reason, or an option that changes the blocks.
    """
    name = config.get("_class_name")
    if name not in (family.cls.__name__, OLD_CLASS):
        raise other_class(name, family)
    norm = config.get("norm_type", family.norm_type)
    if norm != family.norm_type:
        raise CheckpointError(
            f"transformer: expected {family.blocks} blocks, got norm_type {brief(norm)}"
        )
    check_grid(config)
    family.check_options(config)


def check_grid(config: Mapping[str, Any]) -> None:
    """Whole patches, and not too many: a table of positions is computed from their number.

    Raises:
        CheckpointError: other sizes.
    """
    size, patch = (config.get(key) for key in ("sample_size", "patch_size"))
    for key, value in (("sample_size", size), ("patch_size", patch)):
        if value is not None and (type(value) is not int or value < 1):
            raise CheckpointError(f"transformer: expected {key} of at least 1, got {brief(value)}")
    if size is None or patch is None:
        return
    if size % patch or (size // patch) ** 2 > MAX_TOKENS:
        raise CheckpointError(
            f"transformer: expected a sample_size of whole patches of {brief(patch)}, at most "
            f"{MAX_TOKENS} of them, got {brief(size)}"
        )


def other_class(name: Any, wanted: Family | None = None) -> CheckpointError:
    """What to say of another transformer class."""
    classes = [family.cls.__name__ for family in FAMILIES]
    expected = " or ".join(classes) if wanted is None else wanted.cls.__name__
    if name in classes:
        reason = "model_index.json names another family's pipeline"
    else:
        reason = reason_of(name) or UNKNOWN
    return CheckpointError(f"transformer: expected a {expected}, got {brief(name)}: {reason}")


def smoothing_groups(transformer: nn.Module) -> tuple[SmoothingGroup, ...]:
    """All groups of a transformer, in execution order."""
    return family_of(transformer).groups(transformer)
