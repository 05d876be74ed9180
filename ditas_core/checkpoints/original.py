"""The original DiT layout (facebookresearch/DiT): one state dict, converted without loss.

    original                                    diffusers
    pos_embed                                   pos_embed.pos_embed, a buffer: not in files
    x_embedder.proj                             pos_embed.proj
    t_embedder.mlp.0, .2                        transformer_blocks.*.norm1.emb.timestep_embedder
    y_embedder.embedding_table                  transformer_blocks.*.norm1.emb.class_embedder
    blocks.i.attn.qkv (rows of q, k, v)         attn1.to_q, to_k, to_v
    blocks.i.attn.proj, mlp.fc1, mlp.fc2        attn1.to_out.0, ff.net.0.proj, ff.net.2
    blocks.i.adaLN_modulation.1                 norm1.linear
    final_layer.adaLN_modulation.1, .linear     proj_out_1, proj_out_2

The weights are the same, the two networks are not quite. For timestep t the
original embeds ``t * 10000 ** (-i / 128)``, i = 0 .. 127; diffusers divides by
127 (``Timesteps(256, downscale_freq_shift=1)``). And before the MLP diffusers
normalises with ``norm_eps`` (1e-5 unless set), the original with 1e-6. So the
original code on a checkpoint that diffusers trained, or diffusers on one of the
original's, predicts otherwise (the demo: by 1.7 % of the prediction's norm, nearly
all of it from the frequencies). Conversion renames and never alters weights for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import Tensor

from ..models import CheckpointError
from .files.weights import unwrap
from .original_layout import (
    EMBEDDERS,
    check_names,
    diffusers_names,
    embedder_name,
    fused_names,
    original_names,
    recognise,
)

# a moving average in single precision may stop this far from the constant it averages
POS_TOLERANCE = 2e-3
STOCK = {"activation_fn": "gelu-approximate", "norm_elementwise_affine": False}


def same_bits(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def to_original(transformer: DiTTransformer2DModel) -> dict[str, Tensor]:
    """The state dict that the original code loads: contiguous copies, dtypes unchanged.

    diffusers keeps a copy of the timestep and label embedders in every block,
    the original one for all.

    Raises:
        CheckpointError: quantized, of another architecture, or two blocks' embedders differ.
    """
    own = transformer.state_dict()
    depth = len(transformer.transformer_blocks)
    check_names(own, diffusers_names(depth), "transformer")
    for option, value in STOCK.items():
        if transformer.config[option] != value:
            raise CheckpointError(
                f"transformer: expected {option} {value!r}, as the original code has it, "
                f"got {transformer.config[option]!r}"
            )
    for i in range(1, depth):
        for part in EMBEDDERS.values():
            if not same_bits(own[embedder_name(0, part)], own[embedder_name(i, part)]):
                raise CheckpointError(
                    "transformer: expected the same embedders in every block, as the original "
                    f"layout holds one for all; block {i} differs from block 0 in {part}"
                )
    found = {"pos_embed": transformer.pos_embed.pos_embed}
    found.update({name: own[embedder_name(0, part)] for name, part in EMBEDDERS.items()})
    for name, parts in fused_names(depth):
        found[name] = torch.cat([own[part] for part in parts])  # qkv: (3D, D), (3D,)
    return {
        key: found[key].detach().clone(memory_format=torch.contiguous_format)
        for key in original_names(depth)
    }


def from_original(
    state: Mapping[str, Any],
    heads: int | None = None,
    norm_eps: float = 1e-5,
    dtype: torch.dtype = torch.float32,
) -> DiTTransformer2DModel:
    """A diffusers DiT on the CPU, in ``dtype``, from an original state dict, bare or wrapped.

    ``pos_embed`` is checked, then computed anew, as diffusers does when it loads a folder.

    heads     default: of the known size, else 64 channels each; shapes do not tell
    norm_eps  of the norm before the MLP; default: diffusers' own, see above

    Raises:
        CheckpointError: a tensor is missing, unexpected or misshapen, ``heads`` does not fit,
            or ``pos_embed`` is not the fixed sine-cosine one (diffusers stores no other).
    """
    state = unwrap(state)
    found = recognise(state, heads)
    grid = found.latent_size // found.patch
    fixed = get_2d_sincos_pos_embed(found.width, grid, base_size=grid, output_type="pt")
    fixed = fixed.float()[None]  # (1, T, D)
    off = float((state["pos_embed"].float() - fixed).abs().max())
    if not off <= max(POS_TOLERANCE, 2 * torch.finfo(state["pos_embed"].dtype).eps):
        raise CheckpointError(
            "pos_embed: expected DiT's fixed sine-cosine embedding, got values "
            f"{off:.2g} away; diffusers cannot store another"
        )
    tensors: dict[str, Tensor] = {}
    for name, parts in fused_names(found.depth):
        pieces = state[name].chunk(len(parts))  # qkv: three of (D, D) or (D,)
        tensors.update(zip(parts, pieces, strict=True))
    for name, part in EMBEDDERS.items():
        tensors.update({embedder_name(i, part): state[name] for i in range(found.depth)})
    with torch.device("meta"):  # neither time nor random numbers for weights to be replaced
        transformer = DiTTransformer2DModel(
            num_attention_heads=found.heads,
            attention_head_dim=found.width // found.heads,
            in_channels=found.in_channels,
            out_channels=found.out_channels,
            num_layers=found.depth,
            sample_size=found.latent_size,
            patch_size=found.patch,
            num_embeds_ada_norm=found.classes,
            norm_eps=norm_eps,
        )
    tensors = {
        key: value.detach()
        .to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)
        .requires_grad_(False)
        for key, value in tensors.items()
    }
    transformer.load_state_dict(tensors, strict=True, assign=True)
    transformer.pos_embed.pos_embed = fixed
    return transformer.requires_grad_(False).eval()
