"""Reshape a tensor so that the elements that share one scale lie in known dimensions."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Size, Tensor

from ..specs import Granularity, QuantizerSpec


def group_view(x: Tensor, spec: QuantizerSpec) -> tuple[Tensor, tuple[int, ...]]:
    """``x`` reshaped and the dimensions to reduce for one scale.

    per_group with a last group that is not full repeats the row's last element,
    which changes neither minimum nor maximum of that group.

    per_strided_group is the released code's layout: ``reshape(G, -1)`` and a
    reduction over dimension 0, so element ``i`` belongs to group ``i mod (N/G)``.

    Raises:
        ValueError: an empty tensor, or a shape the granularity does not fit.
    """
    if x.numel() == 0:
        raise ValueError(f"tensor: expected at least one element, got shape {tuple(x.shape)}")
    match spec.granularity:
        case Granularity.PER_TENSOR:
            return x, tuple(range(x.ndim))
        case Granularity.PER_TOKEN | Granularity.PER_CHANNEL:
            return x, (-1,)
        case Granularity.PER_INPUT_CHANNEL:
            return x, tuple(range(x.ndim - 1))
        case Granularity.PER_GROUP:
            size = spec.group_size
            missing = -x.shape[-1] % size
            if missing:
                last = x[..., -1:].expand(*x.shape[:-1], missing)
                x = F.pad(x, (0, missing))
                x[..., -missing:] = last
            return x.reshape(*x.shape[:-1], -1, size), (-1,)
        case Granularity.PER_STRIDED_GROUP:
            if x.numel() % spec.group_size:
                raise ValueError(
                    f"tensor: expected a multiple of {spec.group_size} elements, got {x.numel()}"
                )
            return x.reshape(spec.group_size, -1), (0,)


def ungroup(grouped: Tensor, shape: Size, spec: QuantizerSpec) -> Tensor:
    """Inverse of ``group_view`` for a tensor of ``shape``."""
    if spec.granularity is Granularity.PER_GROUP:
        flat = grouped.reshape(*shape[:-1], -1)
        return flat[..., : shape[-1]].reshape(shape)
    return grouped.reshape(shape)
