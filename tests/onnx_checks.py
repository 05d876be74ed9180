"""What the tests of ONNX graphs share: models of one layer, and values from inside a graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import Tensor, nn

from ditas_core.layers import QuantizedLinear
from ditas_core.onnx_runtime import open_session
from ditas_core.onnx_runtime.building import GraphBuilder
from ditas_core.onnx_runtime.linear import add_linear
from ditas_core.onnx_runtime.packages import IR_VERSION, OPSET
from ditas_core.quantizer import quantize

X, Y = "x", "y"


def layer_model(layer: QuantizedLinear, rank: int = 3) -> Any:
    """A model of one layer: x (..., C) -> y."""
    builder = GraphBuilder()
    result = add_linear(builder, layer, X, "layer", rank)
    builder.nodes.append(helper.make_node("Identity", [result], [Y]))
    shape = [*"abc"[: rank - 1], layer.in_features]
    graph = helper.make_graph(
        builder.nodes,
        "layer",
        [helper.make_tensor_value_info(X, TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(
                Y, TensorProto.FLOAT, [*"abc"[: rank - 1], layer.out_features]
            )
        ],
        builder.initializers,
    )
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)


@dataclass(frozen=True)
class Product:
    """Names of one integer product's values: accumulators, the operands, their zero points."""

    total: str
    codes: str
    weight: str
    zero: str
    weight_zero: str


def products(model: Any) -> dict[str, Product]:
    """Every MatMulInteger of a model by the path of its layer, ``.group`` after it."""
    found = {}
    for node in model.graph.node:
        if node.op_type == "MatMulInteger":
            codes, weight, zero, weight_zero = node.input
            name = node.output[0].removesuffix(".accumulators")
            found[name] = Product(node.output[0], codes, weight, zero, weight_zero)
    return found


def rounding(model: Any, codes: str) -> tuple[str, str]:
    """Names of scale and zero point that codes were made with."""
    makers = {name: node for node in model.graph.node for name in node.output}
    node = makers[codes]
    while node.op_type in ("Clip", "Split"):
        node = makers[node.input[0]]
    if node.op_type == "DynamicQuantizeLinear":
        return node.output[1], node.output[2]
    assert node.op_type == "QuantizeLinear", node.op_type
    return node.input[1], node.input[2]


def values_in(
    model: Any, feeds: dict[str, Any], names: Sequence[str], options: Any = None
) -> dict[str, np.ndarray]:
    """Values by name, constants too, of one run; the model is not changed."""
    looked = onnx.ModelProto()
    looked.CopyFrom(model)
    constants = {each.name: each for each in model.graph.initializer}
    wanted = [name for name in dict.fromkeys(names) if name and name not in constants]
    known = {each.name for each in looked.graph.output}
    for name in wanted:
        if name not in known:
            looked.graph.output.append(onnx.ValueInfoProto(name=name))
    session = open_session(looked, 1, options)
    found = dict(zip(wanted, session.run(wanted, feeds), strict=True))
    found.update({n: onnx.numpy_helper.to_array(constants[n]) for n in names if n in constants})
    return found


def slow_total(values: dict[str, np.ndarray], product: Product) -> np.ndarray:
    """sum_k (q_k - z) (c_kn - v_n) in int64, as MatMulInteger is defined."""
    q = values[product.codes].astype(np.int64)
    c = values[product.weight].astype(np.int64)
    z = values[product.zero].astype(np.int64) if product.zero else 0
    return (q - z) @ (c - values[product.weight_zero].astype(np.int64))


@contextmanager
def forced(
    transformer: nn.Module, taken: dict[str, tuple[Tensor, Tensor, Tensor]]
) -> Iterator[dict[str, tuple[int, int, int]]]:
    """While it lasts, the simulated layers multiply codes that another computed.

    taken  by path: codes (M, C), scale and zero point, (M, 1) or scalars
    Yields, by path: elements, how many codes the layer itself would have chosen otherwise, and
    by how much at most.
    """
    counted: dict[str, tuple[int, int, int]] = {}
    handles = []

    def use(path: str, layer: QuantizedLinear) -> None:
        codes, scale, zero = taken[path]

        def hook(_: nn.Module, inputs: tuple[Tensor], __: Tensor) -> Tensor:
            x = inputs[0] if layer.smoothing is None else inputs[0] / layer.smoothing
            own, params = quantize(x, layer.activation_spec)
            own_above = (own - params.zero_point).reshape(codes.shape)
            away = (codes - zero - own_above).abs()
            counted[path] = (away.numel(), int((away > 0).sum()), int(away.max()))
            rounded = ((codes - zero) * scale).reshape(x.shape)
            y = F.linear(rounded, layer.dequantized(), layer.bias)
            return y + F.linear(F.linear(x, layer.down), layer.up)

        handles.append(layer.register_forward_hook(hook))

    for path, layer in transformer.named_modules():
        if isinstance(layer, QuantizedLinear) and path in taken:
            use(path, layer)
    try:
        yield counted
    finally:
        for handle in handles:
            handle.remove()


def taken_from(model: Any, feeds: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """What ``forced`` takes, of every integer product of one run of a model."""
    names, found = {}, products(model)
    for name, product in found.items():
        whole = product.codes
        path = name.rsplit(".", 1)[0] if is_group(model, whole) else name
        names[path] = (unsplit(model, whole), *rounding(model, whole))
    values = values_in(model, feeds, [each for three in names.values() for each in three])
    tensors = {name: torch.from_numpy(value.astype(np.float32)) for name, value in values.items()}
    return {
        path: (tensors[codes], as_column(tensors[scale]), as_column(tensors[zero]))
        for path, (codes, scale, zero) in names.items()
    }


def as_column(value: Tensor) -> Tensor:
    return value.reshape(-1, 1) if value.ndim else value


def is_group(model: Any, codes: str) -> bool:
    return unsplit(model, codes) != codes


def unsplit(model: Any, codes: str) -> str:
    """What groups of columns were cut out of."""
    for node in model.graph.node:
        if codes in node.output:
            return str(node.input[0]) if node.op_type == "Split" else codes
    return codes
