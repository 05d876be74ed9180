"""Weight files that hold no original DiT: what they hold, told by the names of their tensors.

The names are those that the models' own code saves, alone or under a prefix. They are asked
only where a file was found to be no original DiT, so they decide what is said and never what
is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..models import CheckpointError, reason_of, shown

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
JOINT = reason_of("SD3Transformer2DModel")
FRAMES = "its layers run over frames, too"

FOREIGN: tuple[tuple[str, str, str, str], ...] = (
    # a part of one of the tensors' names, what the file holds, why that is not loaded, what to do
    (
        r"(^|[._])lora[._]|\.(hada_w|lokr_w)\d",
        "a LoRA",
        "it adds to the weights of another model",
        "fuse it into that model and save the whole: fuse_lora(), save_pretrained()",
    ),
    (r"(^|\.)joint_blocks\.\d", "Stable Diffusion 3", JOINT, OTHERS),
    (r"(^|\.)double_blocks\.\d+\.img_attn_qkv\.", "HunyuanVideo", FRAMES, OTHERS),
    (r"(^|\.)double_blocks\.\d", "Flux", JOINT, OTHERS),
    (r"(^|\.)double_layers\.\d", "AuraFlow", JOINT, OTHERS),
    (r"(^|\.)single_transformer_blocks\.\d", "Flux or a relative of it", JOINT, OTHERS),
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
    (r"(^|\.)temp_embed$", "Latte", FRAMES, OTHERS),
    (r"^(model\.diffusion_model\.)?patch_embedding\.", "Wan", FRAMES, OTHERS),
    (
        r"(^|[._])(temporal|attn_temp|spatial_blocks|motion_modules)([._]|$)",
        "a video model",
        FRAMES,
        OTHERS,
    ),
    (
        r"\.(inverted_conv|conv_inverted)\.",
        "Sana",
        reason_of("SanaTransformer2DModel"),
        OTHERS,
    ),
    (
        r"(^|\.)style_embedder\.|\.attn1\.Wqkv\.",
        "Hunyuan-DiT",
        reason_of("HunyuanDiT2DModel"),
        OTHERS,
    ),
    (
        r"(^|\.)layers\.\d+\.attention\.(wq|qkv)\.",
        "Lumina",
        reason_of("LuminaNextDiT2DModel"),
        OTHERS,
    ),
    (r"(^|\.)in_blocks\.\d", "U-ViT", "skip connections join its blocks", OTHERS),
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
    came = f"{len(names)} tensors such as {shown(min(names))}" if names else "no tensors"
    return CheckpointError(f"{file}: {WANTED}, got {came}; {FOLDER}")
