"""Models and results through a pipe between two processes, without shared memory.

A tensor that is sent as it is would move into ``/dev/shm``, which containers keep small, and
a sent model would then share its memory with the process that received it. As arrays both
sides have their own.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class SentTensor:
    """Bytes, what they are, and their shape."""

    data: np.ndarray = field(repr=False)
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class SentModule:
    """A module whose tensors are empty (on the device "meta"), and the tensors apart."""

    skeleton: nn.Module = field(repr=False)
    tensors: dict[str, SentTensor] = field(repr=False)


@dataclass(frozen=True)
class SentRecord:
    """A dataclass: its type and fields."""

    kind: type
    values: dict[str, Any] = field(repr=False)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, those that are not saved included."""
    return dict(module.named_parameters()) | dict(module.named_buffers())


def pack_tensor(tensor: Tensor) -> SentTensor:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return SentTensor(flat.view(torch.uint8).numpy(), tensor.dtype, tuple(tensor.shape))


def unpack_tensor(sent: SentTensor) -> Tensor:
    if sent.data.size == 0:  # its strides do not survive
        return torch.empty(sent.shape, dtype=sent.dtype)
    flat = torch.from_numpy(np.array(sent.data))  # a copy: what was received may be read-only
    return flat.view(sent.dtype).reshape(sent.shape)


def pack_module(module: nn.Module) -> SentModule:
    empty: dict[int, Any] = {}
    for parameter in module.parameters():
        meta = torch.empty_like(parameter, device="meta")
        empty[id(parameter)] = nn.Parameter(meta, requires_grad=False)
    for buffer in module.buffers():
        empty[id(buffer)] = torch.empty_like(buffer, device="meta")
    tensors = {name: pack_tensor(tensor) for name, tensor in tensors_of(module).items()}
    return SentModule(copy.deepcopy(module, empty), tensors)


def unpack_module(sent: SentModule) -> nn.Module:
    module = copy.deepcopy(sent.skeleton)
    for name, packed in sent.tensors.items():
        path, _, last = name.rpartition(".")
        owner = module.get_submodule(path)
        tensor = unpack_tensor(packed)
        if last in owner._parameters:
            owner._parameters[last] = nn.Parameter(tensor, requires_grad=False)
        else:
            owner._buffers[last] = tensor
    return module


def pack(value: Any) -> Any:
    """The value with every tensor in it as plain bytes; modules and dataclasses inside too."""
    if isinstance(value, Tensor):
        return pack_tensor(value)
    if isinstance(value, nn.Module):
        return pack_module(value)
    if is_dataclass(value) and not isinstance(value, type):
        values = {each.name: pack(getattr(value, each.name)) for each in fields(value)}
        return SentRecord(type(value), values)
    if type(value) is dict:
        return {key: pack(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(pack(each) for each in value)
    return value


def unpack(value: Any) -> Any:
    """Inverse of ``pack``: equal to the bit, sharing no memory with what was packed."""
    if isinstance(value, SentTensor):
        return unpack_tensor(value)
    if isinstance(value, SentModule):
        return unpack_module(value)
    if isinstance(value, SentRecord):
        return value.kind(**{name: unpack(each) for name, each in value.values.items()})
    if type(value) is dict:
        return {key: unpack(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(unpack(each) for each in value)
    return value
