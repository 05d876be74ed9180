"""torch.onnx.export of a module without memory: what a value is called, not what it is."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .packages import IR_VERSION, OPSET, imported

BATCH = "batch"


@dataclass(frozen=True)
class Traced:
    """A graph whose weights are names.

    model       onnx.ModelProto, opset 21; parameters and buffers of the module appear as
                inputs of nodes under their names in it, and are defined nowhere
    parameters  these names
    inputs      of the graph, in order; the first dimension of each is the batch
    """

    model: Any
    parameters: frozenset[str]
    inputs: tuple[str, ...]


def trace_module(
    module: nn.Module, values: Mapping[str, Tensor], output: str, prefix: str
) -> Traced:
    """The graph of a module on the meta device that takes these tensors, one after the other.

    prefix  what its parameters' names begin with and lose

    Raises:
        MissingPackage: the extra ``[onnx]`` is not installed.
    """
    for name in ("onnx", "onnxscript"):
        imported(name)
    dimension = torch.export.Dim(BATCH)
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            tuple(value.to("meta") for value in values.values()),
            dynamo=True,
            dynamic_shapes=(tuple({0: dimension} for _ in values),),
            input_names=list(values),
            output_names=[output],
            opset_version=OPSET,
            optimize=False,
            verbose=False,
        )
        assert program is not None
        unknown = nameless(program.model.graph)
        program.optimize()
        keep_wide_(program.model.graph)
    model = program.model_proto
    keep = [each for each in model.graph.input if each.name not in unknown]
    del model.graph.input[:]
    model.graph.input.extend(keep)
    strip_(model)
    rename_(model, {name: name.removeprefix(prefix) for name in unknown})
    model.ir_version = IR_VERSION
    return described(model)


def described(model: Any) -> Traced:
    """What a graph says of itself."""
    made = {name for node in model.graph.node for name in node.output}
    known = made | {each.name for each in model.graph.initializer}
    inputs = tuple(each.name for each in model.graph.input)
    used = {name for node in model.graph.node for name in node.input if name}
    return Traced(model, frozenset(used - known - set(inputs)), inputs)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's warnings, which say nothing about the model."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def nameless(graph: Any) -> set[str]:
    """Make inputs of the initializers that have no values, so that nothing is folded into them;
    their names."""
    found = set()
    for name, value in list(graph.initializers.items()):
        raw = getattr(value.const_value, "raw", None)
        if isinstance(raw, Tensor) and raw.is_meta:
            value.const_value = None
            del graph.initializers[name]
            graph.inputs.append(value)
            found.add(str(name))
    return found


def keep_wide_(graph: Any) -> None:
    """Exchange Squeeze of a dimension that is not 1: torch leaves such a tensor as it is, ONNX
    refuses it (PixArt ends with one)."""
    for node in graph:
        if node.op_type != "Squeeze" or len(node.inputs) != 2:
            continue
        shape, axes = node.inputs[0].shape, node.inputs[1].const_value
        if shape is not None and axes is not None:
            sizes = [shape[axis] for axis in axes.numpy().tolist()]
            if any(isinstance(size, int) and size != 1 for size in sizes):
                node.op_type = "Identity"
                node.resize_inputs(1)


def strip_(model: Any) -> None:
    """Without what only the exporter's own tools read: 9 of 10 bytes."""
    del model.graph.value_info[:]
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for each in (*model.graph.node, *model.graph.input, *model.graph.output):
        del each.metadata_props[:]
        each.doc_string = ""
    for each in (*model.graph.input, *model.graph.output):
        each.type.tensor_type.shape.dim[0].dim_param = BATCH
    model.graph.name, model.producer_name, model.producer_version = "graph", "ditas", ""


def rename_(model: Any, names: Mapping[str, str]) -> None:
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
