"""The families of transformers that are understood: what a block consists of, what may be folded.

In a DiT block (adaLN-Zero):

    group  layers          its division by s is absorbed by
    qkv    to_q to_k to_v  adaLN, shift_msa and scale_msa (chunks 0, 1)
    proj   to_out.0        the rows of to_v
    fc1    ff.net.0.proj   adaLN, shift_mlp and scale_mlp (chunks 3, 4)
    fc2    ff.net.2        nothing: divided on the fly

In a PixArt block (adaLN-single; attn1 is self-, attn2 cross-attention):

    qkv    attn1.to_q to_k to_v   nothing
    proj   attn1.to_out.0         the rows of attn1.to_v
    q2     attn2.to_q             nothing: its input is the residual stream itself
    kv2    attn2.to_k to_v        nothing: its input is the text, the same in all blocks
    proj2  attn2.to_out.0         the rows of attn2.to_v
    fc1    ff.net.0.proj          nothing
    fc2    ff.net.2               nothing

adaLN-single cannot absorb a division: scale = table_b + e(t) is the sum of the block's own
table and an embedding of the timestep that all blocks share. (1 + table_b + e(t)) / s needs
e(t) / s, and with it the same s in every block. An attention's output, softmax(QK^T) V, is
linear in V channel by channel, whatever the mask, so there the rows of V take it exactly.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch.nn as nn
from diffusers import DiTTransformer2DModel, PixArtTransformer2DModel

from .errors import CheckpointError, shown
from .groups import Absorber, SmoothingGroup

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


def on_the_fly(block: int, kind: str, *layers: str) -> SmoothingGroup:
    at = f"transformer_blocks.{block}"
    paths = tuple(f"{at}.{layer}" for layer in layers)
    return SmoothingGroup(f"{block}.{kind}", block, kind, paths, Absorber.ON_THE_FLY)


def modulated(
    block: int, kind: str, chunks: tuple[int, int], layers: tuple[str, ...]
) -> SmoothingGroup:
    at = f"transformer_blocks.{block}"
    return SmoothingGroup(
        f"{block}.{kind}",
        block,
        kind,
        tuple(f"{at}.{layer}" for layer in layers),
        Absorber.MODULATION,
        f"{at}.norm1.linear",
        *chunks,
    )


def attended(block: int, kind: str, attention: str) -> SmoothingGroup:
    """The output projection of an attention."""
    at = f"transformer_blocks.{block}.{attention}"
    return SmoothingGroup(
        f"{block}.{kind}", block, kind, (f"{at}.to_out.0",), Absorber.VALUE_ROWS, f"{at}.to_v"
    )


def dit_block(block: int) -> tuple[SmoothingGroup, ...]:
    """The four groups of one DiT block, in execution order."""
    qkv = ("attn1.to_q", "attn1.to_k", "attn1.to_v")
    return (
        modulated(block, "qkv", (0, 1), qkv),
        attended(block, "proj", "attn1"),
        modulated(block, "fc1", (3, 4), ("ff.net.0.proj",)),
        on_the_fly(block, "fc2", "ff.net.2"),
    )


def pixart_block(block: int) -> tuple[SmoothingGroup, ...]:
    """The seven groups of one PixArt block, in execution order."""
    return (
        on_the_fly(block, "qkv", "attn1.to_q", "attn1.to_k", "attn1.to_v"),
        attended(block, "proj", "attn1"),
        on_the_fly(block, "q2", "attn2.to_q"),
        on_the_fly(block, "kv2", "attn2.to_k", "attn2.to_v"),
        attended(block, "proj2", "attn2"),
        on_the_fly(block, "fc1", "ff.net.0.proj"),
        on_the_fly(block, "fc2", "ff.net.2"),
    )


@dataclass(frozen=True)
class Family:
    """``text``: conditioned on embedded captions instead of classes.

    cls        the diffusers class; ``pipelines`` those whose folders hold it
    norm_type  of its configuration
    """

    name: str
    cls: Any
    pipelines: tuple[str, ...]
    norm_type: str
    text: bool
    block_groups: Callable[[int], tuple[SmoothingGroup, ...]]


DIT = Family("DiT", DiTTransformer2DModel, ("DiTPipeline",), "ada_norm_zero", False, dit_block)
PIXART = Family(
    "PixArt",
    PixArtTransformer2DModel,
    ("PixArtAlphaPipeline", "PixArtSigmaPipeline"),
    "ada_norm_single",
    True,
    pixart_block,
)
FAMILIES = (DIT, PIXART)


def family_of(transformer: nn.Module) -> Family:
    """The family of a built transformer.

    Raises:
        CheckpointError: of none that is understood.
    """
    for family in FAMILIES:
        if isinstance(transformer, family.cls):
            return family
    raise refused(type(transformer).__name__)


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
    got = shown(name) if cls is None else f"{shown(name)} with {shown(cls)}"
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
    raise refused(config.get("_class_name"))


def check_config(family: Family, config: dict[str, Any]) -> None:
    """Raise unless a transformer's configuration is of the family, with blocks as above.

    Raises:
        CheckpointError: another class, with the reason, or an option that changes the blocks.
    """
    name = config.get("_class_name")
    if name not in (family.cls.__name__, OLD_CLASS):
        raise refused(name, family)
    norm = config.get("norm_type", family.norm_type)
    if norm != family.norm_type:
        kind = "adaLN-single" if family.text else "adaLN-Zero"
        raise CheckpointError(f"transformer: expected {kind} blocks, got norm_type {shown(norm)}")
    check_grid(config)
    if not family.text:
        return
    if config.get("attention_type", "default") not in ("default", None):
        raise CheckpointError(
            "transformer: expected blocks without additional attention, got attention_type "
            f"{shown(config['attention_type'])}"
        )
    if config.get("cross_attention_dim", 0) is None:
        raise CheckpointError("transformer: expected cross-attention, got cross_attention_dim null")
    for option in ("double_self_attention", "only_cross_attention"):
        if config.get(option):
            raise CheckpointError(
                f"transformer: expected self- and cross-attention, got {option} true"
            )


def check_grid(config: dict[str, Any]) -> None:
    """Whole patches, and not too many: a table of positions is computed from their number.

    Raises:
        CheckpointError: other sizes.
    """
    size, patch = (config.get(key) for key in ("sample_size", "patch_size"))
    for key, value in (("sample_size", size), ("patch_size", patch)):
        if value is not None and (type(value) is not int or value < 1):
            raise CheckpointError(f"transformer: expected {key} of at least 1, got {shown(value)}")
    if size is None or patch is None:
        return
    if size % patch or (size // patch) ** 2 > MAX_TOKENS:
        raise CheckpointError(
            f"transformer: expected a sample_size of whole patches of {shown(patch)}, at most "
            f"{MAX_TOKENS} of them, got {shown(size)}"
        )


def refused(name: Any, wanted: Family | None = None) -> CheckpointError:
    """What to say of another transformer class."""
    classes = [family.cls.__name__ for family in FAMILIES]
    expected = " or ".join(classes) if wanted is None else wanted.cls.__name__
    if name in classes:
        reason = "model_index.json names another family's pipeline"
    else:
        reason = reason_of(name) or UNKNOWN
    return CheckpointError(f"transformer: expected a {expected}, got {shown(name)}: {reason}")


def smoothing_groups(transformer: nn.Module) -> tuple[SmoothingGroup, ...]:
    """All groups of a transformer, in execution order."""
    family = family_of(transformer)
    blocks: Any = transformer.transformer_blocks
    return tuple(group for i in range(len(blocks)) for group in family.block_groups(i))
