"""What the authors' released DiTAS code computes, in its own order and at its own cost.

Written from a description of the procedure (Dong & Zhang, WACV 2025, and the
released scripts) and deliberately slow: the whole model is sampled once for the
activation maxima and once more for every layer. Nothing is shared with the
library's quantizer, calibration, search, low-rank, smoothing or conversion
rooms; only the denoising loop and its settings are the library's. Float32,
except for the singular value decompositions.

Two things differ from the released code: the identity s = 1 is measured beside
the grid, and where it would divide by zero (no spread) values are kept exactly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from ditas_core.sampling import sample_latents
from ditas_core.specs import SamplingSpec

GROUP = 32
FLOOR = 1e-4
UNQUANTIZED = 16
GRID = tuple(i / 20 for i in range(21))


@dataclass(frozen=True, eq=False)
class Layer:
    """One full-precision layer: q, k, v stacked by rows; ``entry`` takes the layer's input."""

    name: str
    entry: nn.Module
    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, eq=False)
class RoundedWeight:
    """W ~ Q + L R: Q dequantized (C_out, C), L (C_out, r), R (r, C)."""

    Q: Tensor
    L: Tensor
    R: Tensor


@dataclass(frozen=True, eq=False)
class LayerResult:
    """One searched layer: W ~ Q + L R, a_max (C,), one loss per alpha of GRID and the one
    at s = 1, and the first alpha with the smallest loss of the grid.
    """

    name: str
    Q: Tensor
    L: Tensor
    R: Tensor
    a_max: Tensor
    losses: tuple[float, ...]
    identity: float
    alpha: float


@dataclass(frozen=True, eq=False)
class ReleasedResult:
    """All searched layers in model order; transformer forwards as counted; wall time."""

    layers: tuple[LayerResult, ...]
    forwards: int
    seconds: float


def quant_w(weight: Tensor, bits: int) -> Tensor:
    """Round in strided groups of 32 weights with a step of (max - min) / 2^b; dequantized."""
    columns = weight.reshape(GROUP, -1)  # every column is one group
    low = columns.amin(0, keepdim=True)
    scale = (columns.amax(0, keepdim=True) - low) / 2**bits
    flat = scale == 0
    scale = scale.masked_fill(flat, 1.0)
    offset = torch.round(low / scale) * scale
    codes = torch.round((columns - offset) / scale).clamp(0, 2**bits - 1)
    return torch.where(flat, columns, codes * scale + offset).reshape(weight.shape)


def quant_x(x: Tensor, bits: int) -> Tensor:
    """Round one step's activations with one dynamic range over the whole batch; dequantized."""
    low, high = x.min(), x.max()
    scale = (high - low) / 2**bits
    if bits == UNQUANTIZED or scale == 0:
        return x
    zero = torch.round(-low / scale)
    codes = (torch.round(x / scale) + zero).clamp(0, 2**bits - 1)
    return (codes - zero) * scale


def split_weight(weight: Tensor, bits: int, rank: int, alternations: int) -> RoundedWeight:
    """Alternate between rounding W - L R and the best rank-r fit of W - Q, from L R = 0."""
    rank = min(rank, *weight.shape)
    left = weight.new_zeros(weight.shape[0], rank)
    right = weight.new_zeros(rank, weight.shape[1])
    if rank == 0:
        return RoundedWeight(quant_w(weight, bits), left, right)
    for _ in range(alternations):
        rounded = quant_w(weight - left @ right, bits)
        u, sigma, v = torch.linalg.svd((weight - rounded).double(), full_matrices=False)
        root = sigma[:rank].sqrt()
        left = (u[:, :rank] * root).to(weight.dtype)
        right = (root[:, None] * v[:rank]).to(weight.dtype)
    return RoundedWeight(rounded, left, right)


def smoothing(a_max: Tensor, w_max: Tensor, alpha: float) -> Tensor:
    """s = a_max^alpha / w_max^(1 - alpha) per input channel, at least 1e-4; (C,)."""
    return (a_max**alpha / w_max ** (1 - alpha)).clamp(min=FLOOR)


def candidate_output(
    x: Tensor, bias: Tensor | None, rounded: RoundedWeight, s: Tensor, bits: int
) -> Tensor:
    """Y_q of one step for one s: rounded X / s through Q s and through the branch R s, L."""
    xq = quant_x(x / s, bits)  # (2N, T, C)
    return F.linear(xq, rounded.Q * s, bias) + F.linear(F.linear(xq, rounded.R * s), rounded.L)


def candidate_losses(
    inputs: Sequence[Tensor], layer: Layer, rounded: RoundedWeight, a_max: Tensor, bits: int
) -> list[float]:
    """The loss of every alpha of GRID, then of s = 1: mean squared errors summed over steps.

    The released code computes the full-precision output anew for every candidate; so does this.
    """
    w_max = rounded.Q.abs().amax(0).clamp(min=FLOOR)
    factors = [smoothing(a_max, w_max, alpha) for alpha in GRID] + [torch.ones_like(a_max)]
    losses = [0.0] * len(factors)
    for i, s in enumerate(factors):
        for x in inputs:
            y = F.linear(x, layer.weight, layer.bias)  # (2N, T, C_out)
            error = candidate_output(x, layer.bias, rounded, s, bits) - y
            losses[i] += float(error.square().mean())
    return losses


def layers_of(transformer: DiTTransformer2DModel) -> list[Layer]:
    """Four layers a block, in the order of computation."""
    found = []
    for i, block in enumerate(transformer.transformer_blocks):
        attention, feed_forward = block.attn1, block.ff.net
        parts = {
            "qkv": [attention.to_q, attention.to_k, attention.to_v],
            "proj": [attention.to_out[0]],
            "fc1": [feed_forward[0].proj],
            "fc2": [feed_forward[2]],
        }
        for name, linears in parts.items():
            weight = torch.cat([linear.weight for linear in linears]).detach()
            biased = all(linear.bias is not None for linear in linears)
            bias = torch.cat([linear.bias for linear in linears]).detach() if biased else None
            found.append(Layer(f"{i}.{name}", linears[0], weight, bias))
    return found


@contextmanager
def before_forward(module: nn.Module, action: Callable[[tuple[Any, ...]], None]) -> Iterator[None]:
    """Hand the module's positional arguments to ``action`` on every call, within the block."""
    handle = module.register_forward_pre_hook(lambda _, arguments: action(arguments))
    try:
        yield
    finally:
        handle.remove()


def largest_inputs(layers: Sequence[Layer], sample: Callable[[], object]) -> dict[str, Tensor]:
    """Largest |X| per input channel of every layer over one sampling loop; name -> (C,)."""
    largest = {layer.name: torch.zeros(layer.weight.shape[1]) for layer in layers}

    def update(name: str, arguments: tuple[Any, ...]) -> None:
        largest[name] = torch.maximum(largest[name], arguments[0].abs().amax((0, 1)))

    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(before_forward(layer.entry, partial(update, layer.name)))
        sample()
    return {name: peak.clamp(min=FLOOR) for name, peak in largest.items()}


def stored_inputs(layer: Layer, sample: Callable[[], object]) -> list[Tensor]:
    """One layer's whole input at every step of one sampling loop, each (2N, T, C)."""
    inputs: list[Tensor] = []
    with before_forward(layer.entry, lambda arguments: inputs.append(arguments[0].clone())):
        sample()
    return inputs


@torch.no_grad()
def released_search(
    transformer: DiTTransformer2DModel,
    scheduler_config: dict[str, Any],
    labels: Tensor,
    latent_shape: tuple[int, int, int],
    spec: SamplingSpec,
    seed: int,
    bits: tuple[int, int] = (4, 8),
    rank: int = 32,
    alternations: int = 10,
    groups: Sequence[str] | None = None,
    on_layer: Callable[[LayerResult], None] | None = None,
) -> ReleasedResult:
    """Round all weights, sample once for the maxima, then sample once per layer and search it.

    bits is (weight, activation); 16 activation bits leave them unquantized.
    ``groups`` names the layers to search ("0.qkv", ...); None = all. The model is
    never changed: every loop runs it in full precision.

    Raises:
        ValueError: a training-mode model, no alternation, or an unknown layer name.
    """
    layers = layers_of(transformer)
    wanted = {layer.name for layer in layers} if groups is None else set(groups)
    if unknown := wanted - {layer.name for layer in layers}:
        raise ValueError(f"groups: no such layers: {sorted(unknown)}")
    layers = [layer for layer in layers if layer.name in wanted]
    if transformer.training or (rank > 0 and alternations < 1):
        raise ValueError("expected a model in eval mode and at least one alternation")
    started = time.perf_counter()
    calls: list[int] = []
    results: list[LayerResult] = []

    def sample() -> None:
        sample_latents(transformer, scheduler_config, labels, latent_shape, spec, seed)

    with before_forward(transformer, lambda _: calls.append(1)):
        weights = [split_weight(layer.weight, bits[0], rank, alternations) for layer in layers]
        peaks = largest_inputs(layers, sample)
        for layer, rounded in zip(layers, weights, strict=True):
            a_max = peaks[layer.name]
            inputs = stored_inputs(layer, sample)
            *losses, identity = candidate_losses(inputs, layer, rounded, a_max, bits[1])
            del inputs  # one layer's at a time
            best = GRID[losses.index(min(losses))]
            found = (a_max, tuple(losses), identity, best)
            results.append(LayerResult(layer.name, rounded.Q, rounded.L, rounded.R, *found))
            if on_layer is not None:
                on_layer(results[-1])
    return ReleasedResult(tuple(results), len(calls), time.perf_counter() - started)
