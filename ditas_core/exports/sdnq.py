"""The tensors of a transformer as sdnq's files hold them.

    w = q scale + zero_point,   q unsigned, packed below 8 bits;   zero_point = -z scale

With 8-bit activations the library rounds each token to 256 levels between its least and its
greatest value, and multiplies bytes; a layer then lies transposed where its codes are bytes, and so
do both factors of its branch. The branch multiplies the input before it is rounded, as ours does.

Source: sdnq 0.2.8, ``quantizer.sdnq_quantize_layer_weight``, ``packed_int``, ``layers/linear``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..models import Transformer
from .layers import Layer, plain_tensors, stored_layers

VERSION = "0.2.8"
"""Of sdnq, whose format this is."""
MULTIPLE, LEAST = 16, 32
"""Its products of bytes want channels in such multiples, and at least so many."""


def sdnq_files(
    transformer: Transformer, stock: Transformer
) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Any]]:
    """Tensors by name, the file's metadata, and the configuration's ``quantization_config``."""
    tensors = plain_tensors(transformer, stock)
    settings: dict[str, dict[str, Any]] = {}
    for path, layer in stored_layers(transformer):
        for name, value in layer_tensors(layer).items():
            tensors[f"{path}.{name}"] = value.cpu().contiguous().clone()
        settings[f"{path}.weight"] = layer_settings(layer)
    others = [
        f"{path}.weight"
        for path, module in stock.named_modules()
        if isinstance(module, nn.Linear) and f"{path}.weight" not in settings
    ]
    config = {
        **next(iter(settings.values())),
        "quant_method": "sdnq",
        "sdnq_version": VERSION,
        "dequantize_fp32": True,
        "add_skip_keys": False,
        "modules_to_not_convert": others,
        "modules_quant_config": settings,
    }
    return tensors, {"format": "pt"}, config


def multiplies_bytes(layer: Layer) -> bool:
    """Whether the library takes the layer as a product of bytes."""
    return layer.activation < 16 and all(
        n >= LEAST and n % MULTIPLE == 0 for n in layer.codes.shape
    )


def layer_settings(layer: Layer) -> dict[str, Any]:
    """What the library must know before it reads the tensors of a layer."""
    rank = layer.up.shape[1]
    return {
        "weights_dtype": f"uint{layer.bits}",
        "group_size": -1 if layer.scale.shape[1] == 1 else layer.group,
        "use_svd": rank > 0,
        "svd_rank": max(1, rank),
        "use_quantized_matmul": layer.activation < 16,
        "quantized_matmul_dtype": "uint8",
    }


def layer_tensors(layer: Layer) -> dict[str, Tensor]:
    """The tensors of a layer, C_out x C_in."""
    codes, groups = layer.codes.to(torch.uint8), layer.scale.shape[1]
    scale, offset = layer.scale, -layer.zero_point * layer.scale  # (C_out, G)
    up, down = layer.up, layer.down
    if groups > 1:
        codes = codes.reshape(len(codes), groups, layer.group)
        scale, offset = scale[..., None], offset[..., None]  # (C_out, G, 1)
    if layer.bits < 8:
        codes = pack(codes, layer.bits)
    elif multiplies_bytes(layer):
        codes, scale, offset = codes.t(), scale.t(), offset.t()  # (C_in, C_out), (1, C_out)
    found = {"weight": codes, "scale": scale, "zero_point": offset}
    if up.shape[1]:
        if multiplies_bytes(layer):
            up, down = up.t(), down.t()  # (r, C_out), (C_in, r)
        found |= {"svd_up": up, "svd_down": down}
    return found


Move = tuple[int, int, int]
"""The value of this index, shifted left by so many bits, as far as it lies within the mask."""
PACKED: dict[int, tuple[int, list[list[Move]]]] = {
    2: (4, [[(k, 2 * k, 255) for k in range(4)]]),
    3: (
        8,
        [
            [(0, 0, 255), (3, 3, 255), (6, 6, 255)],
            [(1, 0, 255), (4, 3, 255), (7, 6, 255)],
            [(2, 0, 255), (5, 3, 255), (6, 4, 64), (7, 5, 128)],
        ],
    ),
    4: (2, [[(0, 0, 255), (1, 4, 255)]]),
    5: (
        8,
        [
            *([(j, 0, 255), (5 + j, 5, 255)] for j in range(3)),
            *([(j, 0, 255), (2 + j, 2, 96), (7, j, 128)] for j in (3, 4)),
        ],
    ),
    6: (4, [[(j, 0, 255), (3, 2 * j + 2, 192)] for j in range(3)]),
    7: (8, [[(j, 0, 255), (7, j + 1, 128)] for j in range(7)]),
}
"""Of so many bits: how many values lie together, and what makes each of their bytes."""


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes of 2 to 7 bits, uint8, as sdnq packs them: (n, bytes), of one byte (n,).

    Raises:
        ValueError: codes that do not fill whole bytes.
    """
    together, moves = PACKED[bits]
    if codes.numel() % together:
        raise ValueError(
            f"sdnq: expected weights in multiples of {together} at {bits} bits, got {codes.numel()}"
        )
    values = codes.reshape(-1, together).int()
    packed = []
    for parts in moves:
        byte = torch.zeros_like(values[:, 0])
        for index, shift, mask in parts:
            byte |= (values[:, index] << shift) & mask
        packed.append(byte)
    found = torch.stack(packed, dim=1).to(torch.uint8)
    return found.flatten() if len(moves) == 1 else found
