"""The tensors of a transformer as torchao's own safetensors files hold them.

    W8A8 per channel  Int8Tensor: q s_w with q in -127 ... 127; the input times ``act_pre_scale``,
                      then int8 per token with a zero point; a product of bytes
    all else          IntxUnpackedToInt8Tensor: (q - z) s_w, rounded inputs, a product of floats;
                      codes of fewer than 8 bits lie in bytes of their own

A file names the class and the attributes of each tensor in its metadata.

Source: torchao 0.18, ``prototype/safetensors``; diffusers 0.42.1, ``quantizers/torchao``.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from ..models import Transformer
from .layers import Layer, plain_tensors, stored_layers

VERSION = "0.18"
"""Of torchao, whose format this is."""


def torchao_files(
    transformer: Transformer, stock: Transformer
) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Any]]:
    """Tensors by name, the file's metadata, and the configuration's ``quantization_config``."""
    plain = plain_tensors(transformer, stock)
    layers = dict(stored_layers(transformer))
    tensors, metadata = dict(plain), {name: json.dumps({"_type": "Tensor"}) for name in plain}
    for path, layer in layers.items():
        parts, about = (int8_tensor if is_int8(layer) else intx_tensor)(layer)
        for name, value in parts.items():
            tensors[f"{path}._weight_{name}"] = value.cpu().contiguous().clone()
        metadata[f"{path}.weight"] = json.dumps({**about, "_tensor_data_names": list(parts)})
    metadata["tensor_names"] = json.dumps(list(metadata))
    metadata["format"] = "pt"
    config = {
        "quant_method": "torchao",
        "quant_type": {"default": default_config(next(iter(layers.values())))},
        "modules_to_not_convert": None,
    }
    return tensors, metadata, config


def is_int8(layer: Layer) -> bool:
    """Whether codes are symmetric, as an Int8Tensor has them."""
    return bool((layer.zero_point == 0).all()) and int(layer.codes.min()) < 0


def named(kind: str, value: str) -> dict[str, Any]:
    return {"_type": kind, "_data": value}


def int8_tensor(layer: Layer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """W8A8 with one scale a row, and a divisor where there is one."""
    parts = {"qdata": layer.codes.to(torch.int8), "scale": layer.scale}
    if layer.divisor is not None:
        parts["act_pre_scale"] = 1 / layer.divisor
    rounding = {
        "granularity": {"_type": "PerRow", "_data": {"dim": -1}},
        "mapping_type": named("MappingType", "ASYMMETRIC"),
        "reduce_range": False,
    }
    about = {
        "act_quant_kwargs": {"_type": "QuantizeTensorToInt8Kwargs", "_data": rounding},
        "reduce_range": False,
        "block_size": [1, layer.group],
        "dtype": named("torch.dtype", "float32"),
    }
    return parts, {"_type": "Int8Tensor", "_data": about}


def intx_tensor(layer: Layer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Up to 8 bits, per channel or in groups, around zero as signed bytes."""
    lowered = 2 ** (layer.bits - 1)
    parts = {
        "qdata": (layer.codes - lowered).to(torch.int8),
        "scale": layer.scale,
        "zero_point": (layer.zero_point - lowered).to(torch.int8),
    }
    rounds = layer.activation < 16
    about = {
        "target_dtype": named("torch.dtype", f"int{layer.bits}"),
        "block_size": [1, layer.group],
        "dtype": named("torch.dtype", "float32"),
        "activation_quantization": "int8_asym_per_token" if rounds else None,
    }
    return parts, {"_type": "IntxUnpackedToInt8Tensor", "_data": about}


def default_config(layer: Layer) -> dict[str, Any]:
    """What torchao would quantize such a layer with; each tensor knows its own settings."""
    row = {"_type": "PerRow", "_version": 1, "_data": {"dim": -1}}
    if is_int8(layer):
        return {
            "_type": "Int8DynamicActivationInt8WeightConfig",
            "_version": 2,
            "_data": {"act_mapping_type": named("MappingType", "ASYMMETRIC"), "granularity": row},
        }
    one_scale = layer.scale.shape[1] == 1
    size = {"group_size": layer.group}
    granularity = (
        {"_type": "PerAxis", "_version": 1, "_data": {"axis": 0}}
        if one_scale
        else {"_type": "PerGroup", "_version": 1, "_data": size}
    )
    of_weight = "weight_" if layer.activation < 16 else ""
    return {
        "_type": "Int8DynamicActivationIntxWeightConfig" if of_weight else "IntxWeightOnlyConfig",
        "_version": 2,
        "_data": {
            "weight_dtype": named("torch.dtype", f"int{layer.bits}"),
            f"{of_weight}granularity": granularity,
            f"{of_weight}mapping_type": named("MappingType", "ASYMMETRIC"),
        },
    }
