"""Weight files that hold no original DiT: what they hold, told by the names of their tensors.

The names are those that the models' own code saves, alone or under a prefix. They are asked
only where a file was found to be no original DiT, so they decide what is said and never what
is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..models import UNKNOWN, CheckpointError, reason_of
from ..specs import brief

WANTED = "expected the state dict of an original DiT (x_embedder..., blocks.0...)"
OTHERS = "such models are not supported; pass an original DiT, or a diffusers DiT or PixArt folder"
WHOLE = (
    "pass a whole state dict of facebookresearch/DiT's layout in single or half precision, or a "
    "diffusers DiT or PixArt folder"
)
FOLDER = "a diffusers model is loaded as its whole folder (model_index.json beside its parts)"
TRANSFORMER = "pass the transformer's file; an autoencoder is lent with --like FOLDER"
PIXART = (
    "convert it to a diffusers folder first: diffusers' scripts/convert_pixart_alpha_to_diffusers"
    ".py or convert_pixart_sigma_to_diffusers.py"
)
OTHER = (
    r"(^|\.)((joint|double|in)_blocks|double_layers|single_transformer_blocks)\.\d"
    r"|(^|[._])(temp_embed|temporal|attn_temp|spatial_blocks|motion_modules)([._]|$)"
    r"|^(model\.diffusion_model\.)?patch_embedding\.|\.(inverted_conv|conv_inverted)\."
    r"|(^|\.)style_embedder\.|\.attn1\.Wqkv\.|(^|\.)layers\.\d+\.attention\.(wq|qkv)\."
)
"""Joint blocks, skip connections, frames, linear attention: SD3, Flux, Wan, Sana and the like."""

FOREIGN: tuple[tuple[str, str, str, str], ...] = (
    # a part of one of the tensors' names, what the file holds, why that is not loaded, what to do
    (
        r"(^|[._])lora[._]|\.(hada_w|lokr_w)\d",
        "a LoRA",
        "it adds to the weights of another model",
        "fuse it into that model and save the whole: fuse_lora(), save_pretrained()",
    ),
    (OTHER, "another family of transformers", UNKNOWN, OTHERS),
    (
        r"(^|\.)(input|middle|output)_blocks?\.\d|^(unet\.)?(down_blocks|mid_block|up_blocks)\.",
        "a U-Net",
        reason_of("UNet2DConditionModel"),
        OTHERS,
    ),
    (
        r"(^|\.)(encoder|decoder)\.(down_blocks|up_blocks|mid_block|down|up|mid|conv_in)\.",
        "an autoencoder",
        "it decodes what a transformer makes",
        TRANSFORMER,
    ),
    (
        r"\.SelfAttention\.|(^|\.)text_model\.|(^|\.)model\.layers\.\d",
        "a text encoder",
        "it embeds captions",
        TRANSFORMER,
    ),
    (
        r"(^|\.)t_block\.|\.cross_attn\.|(^|\.)y_embedder\.y_proj\.",
        "an original PixArt",
        "its captions replace the classes, and only diffusers' layout of it is read",
        PIXART,
    ),
    (
        r"(^|\.)transformer_blocks\.\d",
        "a transformer in diffusers' layout",
        "a file alone does not tell its configuration",
        FOLDER,
    ),
)


def told_by(names: Iterable[str]) -> tuple[str, str, str] | None:
    """What a file of these tensors holds, why that is not loaded and what to do, if it is known."""
    names = [str(name) for name in names]
    for pattern, what, reason, advice in FOREIGN:
        found = re.compile(pattern)
        if any(found.search(name) for name in names):
            return what, reason, advice
    return None


def not_original(file: str, names: Iterable[str], fault: str = "") -> CheckpointError:
    """What to say of a file that holds no original DiT, or none that is whole.

    fault  what is wrong where the layout is the original's
    """
    names = [str(name) for name in names]
    known = told_by(names)
    if known is not None:
        what, reason, advice = known
        return CheckpointError(f"{file}: {WANTED}, got {what}: {reason}; {advice}")
    if fault:
        return CheckpointError(f"{file}: {fault}; {WHOLE}")
    came = f"{len(names)} tensors such as {brief(min(names))}" if names else "no tensors"
    return CheckpointError(f"{file}: {WANTED}, got {came}; {FOLDER}")
