"""The modulation's linear layers in 8 or 4 bits: a third of a DiT's weights, beside its groups."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ..layers import QuantizedLinear, build_layers
from ..models import Transformer, family_of, get_linear
from ..specs import MODULATIONS, SpecError, check_choice, get_convention


@torch.no_grad()
def quantize_modulation(transformer: Transformer, how: str) -> Transformer:
    """A transformer in which the layers that compute shifts, scales and gates are quantized; all
    else is shared with the one given, quantized or not.

    how  a key of ``MODULATIONS``

    Raises:
        SpecError: another; or they are quantized already.
    """
    check_choice("modulation", how, MODULATIONS)
    chosen = MODULATIONS[how]
    if chosen is None:
        return transformer
    bits, convention = chosen
    paths = family_of(transformer).modulations(transformer)
    if any(isinstance(transformer.get_submodule(path), QuantizedLinear) for path in paths):
        raise SpecError(
            f"modulation: expected none with a model whose modulation is quantized, got {how}"
        )
    result = shared_copy(transformer)
    for path in paths:
        linear = get_linear(transformer, path)
        weight = linear.weight.detach().float()
        bias = weight.new_zeros(len(weight)) if linear.bias is None else linear.bias.detach()
        none = weight.new_zeros(len(weight), 0), weight.new_zeros(0, weight.shape[1])
        layer = build_layers([(weight, *none)], [bias.float()], bits, get_convention(convention))[0]
        parent, _, child = path.rpartition(".")
        result.get_submodule(parent)._modules[child] = layer
    return result.eval()


def shared_copy(module: nn.Module) -> nn.Module:
    """A second set of modules over the same tensors."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
