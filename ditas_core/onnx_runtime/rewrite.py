"""A traced graph and the weights of a transformer, quantized or not, as a whole ONNX model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from ..layers import QuantizedLinear
from ..models import CheckpointError
from .building import GraphBuilder, as_array
from .exporter import Traced
from .linear import add_linear
from .packages import IR_VERSION, OPSET, imported, versions


class Rewritten(NamedTuple):
    """A whole model, and the names of input and output of each quantized layer by its path."""

    model: Any
    layers: dict[str, tuple[str, str]]


def onnx_model(
    traced: Traced, transformer: nn.Module, half: bool = False, eighth: bool = False
) -> Any:
    """The model of ``rewritten``, an onnx.ModelProto."""
    return rewritten(traced, transformer, half, eighth).model


def rewritten(
    traced: Traced, transformer: nn.Module, half: bool = False, eighth: bool = False
) -> Rewritten:
    """The graph with these weights; its quantized layers are integer products.

    Layers and parameters are found by their names in the transformer. Tensors that are equal,
    such as a label table that each block has its own copy of, are there once.

    half    keep floats in half precision where that is exact (smaller files, the same numbers)
    eighth  keep matrices and convolutions in 8 bits (see ``GraphBuilder``): other numbers

    Raises:
        CheckpointError: a transformer of another configuration.
        SpecError: a layer that cannot run as an integer product.
    """
    layers = {
        f"{path}.weight": (path, module)
        for path, module in transformer.named_modules()
        if isinstance(module, QuantizedLinear)
    }
    values = tensors_of(transformer)
    missing = traced.parameters - set(values) - set(layers)
    missing -= {f"{path}.bias" for path, _ in layers.values()}
    if missing:
        raise CheckpointError(
            f"transformer: expected the one that was traced, found no {min(missing)} in it"
        )
    graph = traced.model.graph
    builder = GraphBuilder(half, eighth)
    builder.names.update(name for node in graph.node for name in node.output)
    builder.names.update(each.name for each in (*graph.initializer, *graph.input))
    builder.initializers.extend(graph.initializer)
    work = Rewriting(builder, traced, values, layers)
    work.run()
    return Rewritten(assembled(traced, builder), work.placed)


def tensors_of(transformer: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, without those of quantized layers."""
    inside = tuple(
        f"{path}."
        for path, module in transformer.named_modules()
        if isinstance(module, QuantizedLinear)
    )
    named = {
        **dict(transformer.named_parameters(remove_duplicate=False)),
        **dict(transformer.named_buffers(remove_duplicate=False)),
    }
    return {name: value for name, value in named.items() if not name.startswith(inside)}


class Rewriting:
    """One pass over the nodes of a graph, in their order."""

    def __init__(
        self,
        builder: GraphBuilder,
        traced: Traced,
        values: Mapping[str, Tensor],
        layers: Mapping[str, tuple[str, QuantizedLinear]],
    ) -> None:
        self.builder, self.traced = builder, traced
        self.values, self.layers = values, layers
        self.turned: dict[str, str] = {}  # results of Transpose of a weight -> its name
        self.renamed: dict[str, str] = {}  # results that are something else now
        self.placed: dict[str, tuple[str, str]] = {}
        self.skipped: set[str] = set()  # results of nodes that a layer took in
        self.uses = Counter(name for node in traced.model.graph.node for name in node.input)
        self.bias_of = {
            name: node
            for node in traced.model.graph.node
            if node.op_type == "Add"
            for name in node.input
        }

    def run(self) -> None:
        for node in self.traced.model.graph.node:
            if node.output[0] in self.skipped:
                continue
            if node.op_type == "Transpose" and node.input[0] in self.traced.parameters:
                self.turned[node.output[0]] = node.input[0]
            elif not self.taken(node):
                self.copy(node)

    def taken(self, node: Any) -> bool:
        """Whether the node is a quantized layer's product; its integer product is added then."""
        if node.op_type not in ("MatMul", "Gemm") or len(node.input) < 2:
            return False
        weight = self.turned.get(node.input[1], node.input[1])
        if weight not in self.layers:
            return False
        path, layer = self.layers[weight]
        result, rank = node.output[0], 2 if node.op_type == "Gemm" else 3
        following = self.bias_of.get(result)
        if following is not None and f"{path}.bias" in following.input:
            self.skipped.add(following.output[0])
            result = following.output[0]
        x = self.renamed.get(node.input[0], node.input[0])
        self.renamed[result] = add_linear(self.builder, layer, x, path, rank)
        self.placed[path] = (x, self.renamed[result])
        return True

    def copy(self, node: Any) -> None:
        """The node itself, on what its inputs are called now."""
        made = imported("onnx").NodeProto()
        made.CopyFrom(node)
        for index, name in enumerate(node.input):
            made.input[index] = self.name_of(name)
        self.builder.nodes.append(made)

    def name_of(self, name: str) -> str:
        """A value's name; a parameter becomes a constant when it is first used."""
        if name in self.turned:
            weight = self.turned[name]
            turned = np.ascontiguousarray(as_array(self.values[weight]).T)
            return self.builder.constant(turned, f"{weight}.transposed")
        if name in self.traced.parameters:
            return self.builder.constant(self.values[name], name)
        return self.renamed.get(name, name)


def assembled(traced: Traced, builder: GraphBuilder) -> Any:
    """The model of what was built, between the traced graph's inputs and outputs."""
    helper = imported("onnx.helper")
    graph = traced.model.graph
    made = helper.make_graph(
        builder.nodes, graph.name, list(graph.input), list(graph.output), builder.initializers
    )
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    model.producer_name = "ditas"
    for key, value in versions().items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    return model
