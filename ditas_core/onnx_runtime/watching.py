"""One more output of a graph: how loud each channel of a layer's input is in this pass."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from ..layers import QuantizedLinear
from ..models import CheckpointError
from .building import as_array
from .packages import imported
from .rewrite import Rewritten

ABSMAX = "act_absmax"


def watched(found: Rewritten, transformer: nn.Module, path: str) -> Any:
    """A copy of the model with the output ``act_absmax``, float32 (C,): the largest |X| of every
    input channel of the layer at ``path``, over the whole batch and all tokens.

    X is what the layer rounds: divided by s where that division runs on the fly.

    Raises:
        CheckpointError: the graph has no such layer.
    """
    onnx = imported("onnx")
    helper, numpy_helper = imported("onnx.helper"), imported("onnx.numpy_helper")
    model = onnx.ModelProto()
    model.CopyFrom(found.model)
    x = input_of(found, path)
    layer: Any = transformer.get_submodule(path)
    nodes = [helper.make_node("Abs", [x], ["watched.abs"])]
    axes = numpy_helper.from_array(np.array([0, 1]), "watched.axes")
    loud = "watched.abs"
    constants = [axes]
    if isinstance(layer, QuantizedLinear) and layer.smoothing is not None:
        constants.append(numpy_helper.from_array(as_array(layer.smoothing), "watched.smoothing"))
        nodes.append(helper.make_node("Div", [loud, "watched.smoothing"], ["watched.smooth"]))
        loud = "watched.smooth"
    nodes.append(helper.make_node("ReduceMax", [loud, "watched.axes"], [ABSMAX], keepdims=0))
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    kind = onnx.TensorProto.FLOAT
    model.graph.output.append(helper.make_tensor_value_info(ABSMAX, kind, [int(layer.in_features)]))
    return model


def input_of(found: Rewritten, path: str) -> str:
    """The name of what a linear layer multiplies, (N, T, C)."""
    if path in found.layers:
        return found.layers[path][0]
    for node in found.model.graph.node:
        if f"{path}.weight.transposed" in node.input:
            return str(node.input[0])
    raise CheckpointError(f"{path}: expected a linear layer of the graph, found none")
