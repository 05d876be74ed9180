"""The ways to run one transformer on a CPU that ``forward`` compares, each built on its own."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ditas_core.checkpoints import Checkpoint
from ditas_core.conversion import quantize_modulation, quantize_transformer
from ditas_core.onnx_runtime import OnnxTransformer, onnx_model, traced
from ditas_core.search import plain_recipe
from ditas_core.specs import BitWidths

CONVENTIONS = ("integer-tensor", "integer")
BITS = ("W8A8", "W4A8")


@dataclass(frozen=True)
class Contestant:
    """One way to run it.

    network      called as the stock transformer is
    dtype        of the latents that it takes
    file, memory bytes of its weights on disk and in memory
    """

    name: str
    network: nn.Module
    dtype: torch.dtype
    file: int
    memory: int


Maker = Callable[[Checkpoint, int], Contestant]
"""From a checkpoint and a number of threads."""


def tensor_bytes(network: nn.Module) -> int:
    """Of its parameters and buffers, each once."""
    tensors = {id(t): t for t in (*network.parameters(), *network.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def in_torch(
    name: str, dtype: torch.dtype, compiled: bool, change: Callable[[Any], object] | None = None
) -> Maker:
    """A copy in this precision, changed, compiled."""

    def make(checkpoint: Checkpoint, threads: int) -> Contestant:
        network = copy.deepcopy(checkpoint.transformer).to(dtype)
        if change is not None:
            change(network)
        size = tensor_bytes(network)
        runs: Any = torch.compile(network) if compiled else network
        return Contestant(name, runs, dtype, size, size)

    return make


def in_runtime(name: str, model: Callable[[Checkpoint], Any]) -> Maker:
    """A graph in ONNX Runtime."""

    def make(checkpoint: Checkpoint, threads: int) -> Contestant:
        found = model(checkpoint)
        network = OnnxTransformer(found, checkpoint.transformer, threads)
        return Contestant(name, network, torch.float32, found.ByteSize(), network.nbytes)

    return make


def stock_model(checkpoint: Checkpoint) -> Any:
    return onnx_model(traced(checkpoint), checkpoint.transformer)


def dynamic_model(checkpoint: Checkpoint) -> Any:
    """The stock graph as onnxruntime.quantization rounds it, nothing of ours in it."""
    onnx = import_module("onnx")
    tools: Any = import_module("onnxruntime.quantization")
    with tempfile.TemporaryDirectory() as folder:
        full, small = (str(Path(folder) / name) for name in ("full.onnx", "small.onnx"))
        onnx.save(stock_model(checkpoint), full)
        tools.quantize_dynamic(full, small, weight_type=tools.QuantType.QInt8)
        return onnx.load(small)


def own_model(convention: str, bits: str, modulation: str) -> Callable[[Checkpoint], Any]:
    """Plain rounding: what a forward pass takes does not depend on how the codes were found."""

    def make(checkpoint: Checkpoint) -> Any:
        recipe = plain_recipe(checkpoint, BitWidths.parse(bits), convention)
        quantized = quantize_transformer(checkpoint, recipe)
        small = quantize_modulation(quantized, modulation)
        return onnx_model(traced(checkpoint), small, half=True)

    return make


def torchao_int8(network: Any) -> None:
    tools: Any = import_module("torchao.quantization")
    chosen = grouped_paths(network)
    config = tools.Int8DynamicActivationInt8WeightConfig()
    tools.quantize_(network, config, filter_fn=lambda _, path: path in chosen)


def ungrouped_paths(network: Any) -> list[str]:
    """Linear layers in no smoothing group, which stay as they are."""
    chosen = grouped_paths(network)
    return [
        path
        for path, module in network.named_modules()
        if isinstance(module, nn.Linear) and path not in chosen
    ]


def sdnq_int8(network: Any) -> None:
    tools: Any = import_module("sdnq")
    tools.sdnq_post_load_quant(
        network,
        weights_dtype="int8",
        use_quantized_matmul=True,
        group_size=-1,
        add_skip_keys=False,
        minimum_allowed_numel=0,
        modules_to_not_convert=ungrouped_paths(network),
    )


def grouped_paths(network: nn.Module) -> set[str]:
    """The layers that are quantized here, so that others round the same ones."""
    from ditas_core.models import smoothing_groups

    return {path for group in smoothing_groups(network) for path in group.layers}


def contestants(modulation: str, compiled: bool) -> Iterator[tuple[str, Maker]]:
    """All of them by name; the first is what the others are held against."""
    full, half = torch.float32, torch.bfloat16
    yield "torch fp32", in_torch("torch fp32", full, False)
    yield "torch bf16", in_torch("torch bf16", half, False)
    if compiled:
        yield "torch fp32 compiled", in_torch("torch fp32 compiled", full, True)
        yield "torch bf16 compiled", in_torch("torch bf16 compiled", half, True)
        name = "torchao int8 dynamic, compiled"
        yield name, in_torch(name, half, True, torchao_int8)
    name = "sdnq int8 products"
    yield name, in_torch(name, full, compiled, sdnq_int8)
    yield "onnxruntime fp32", in_runtime("onnxruntime fp32", stock_model)
    name = "onnxruntime quantize_dynamic"
    yield name, in_runtime(name, dynamic_model)
    for convention in CONVENTIONS:
        for bits in BITS:
            name = f"ours {bits} {convention}"
            yield name, in_runtime(name, own_model(convention, bits, "none"))
            if modulation != "none":
                named = f"{name}, modulation {modulation}"
                yield named, in_runtime(named, own_model(convention, bits, modulation))


def sample_of(contestant: Contestant, latents: Tensor, arguments: dict[str, Any]) -> Tensor:
    """One forward pass."""
    found = contestant.network(latents.to(contestant.dtype), return_dict=False, **arguments)
    sample: Tensor = found[0]
    return sample
