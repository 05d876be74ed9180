"""A second set of modules over a pipeline's tensors: what happens to it does not happen to them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from .origin import Origin

HOOKS = ("_forward", "_backward")
"""How the attributes begin in which torch keeps what runs beside a module."""


def view_of(module: Any, device: torch.device | str = "cpu") -> Any:
    """The module's structure again, at rest and without hooks, in float32 on ``device``.

    Tensors that are there in float32 already are shared, not copied: hooks, modes and
    replaced layers of the view leave the module alone, and the view takes no memory. Other
    tensors are copied, without changing a value: float32 holds both half precisions.
    """
    known: dict[int, Any] = {}
    for part in module.modules():
        for name, value in vars(part).items():
            if name.startswith(HOOKS) and name.endswith("_hooks"):
                known[id(value)] = type(value)()
            elif isinstance(value, Origin):
                known[id(value)] = value
    for parameter in module.parameters():
        known[id(parameter)] = nn.Parameter(single(parameter, device), requires_grad=False)
    for buffer in module.buffers():
        known[id(buffer)] = single(buffer, device)
    return copy.deepcopy(module, known).eval()


def single(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """On the device; floating-point numbers in float32."""
    found = tensor.detach()
    return found.to(device, torch.float32 if found.is_floating_point() else found.dtype)


def working_place(module: nn.Module) -> torch.device:
    """Where the module can be worked with: its own device, if that is a CPU or a GPU."""
    device = next(module.parameters()).device
    return device if device.type == "cuda" else torch.device("cpu")
