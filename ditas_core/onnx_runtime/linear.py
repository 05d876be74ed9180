"""A quantized linear layer as nodes of a graph: an integer product, exactly as it is simulated.

With codes q, scale s and zero point z of a token (or of the whole tensor), codes c, scale t and
zero point v of an output channel, the simulated layer computes

    y_n = sum_k (q_k - z) s (c_kn - v_n) t_n + b_n
        = s t_n A_n  -  s z t_n C_n  +  b_n
    A_n = sum_k q_k (c_kn - v_n),    C_n = sum_k (c_kn - v_n)

A is ``MatMulInteger`` of uint8 codes of activations and int8 codes of weights, in int32 and
without any rounding; C is known beforehand. The products by scales, the rank-one term, the bias
and the low-rank branch are single precision: one ``Gemm`` for all but the first.

Activations are rounded by ``QuantizeLinear`` and ``DynamicQuantizeLinear``, whose ties go to the
even code where this package's go upwards: codes differ only where x / s lies within its last
bit of the middle between two.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ..layers import QuantizedLinear
from ..specs import FULL_PRECISION_BITS, Granularity, QuantizerSpec, SpecError, why_not_integer
from .building import Array, GraphBuilder, as_array, offset_of

CODE_BITS = 8
"""The widest codes that an integer product takes; wider ones are multiplied as floats."""
TINY = 1e-30


class Codes(NamedTuple):
    """Names of what a rounded activation (M, C) consists of.

    codes     uint8 (M, C)
    zero      uint8, (M,) or a scalar
    scale     (M, 1) or a scalar
    largest   the largest scale, a scalar
    relative  scale / largest, (M, 1); "" where there is one scale
    offset    (M, 2): zero point times scale, and 1; "" where there is one scale
    """

    codes: str
    zero: str
    scale: str
    largest: str
    relative: str = ""
    offset: str = ""


def add_linear(builder: GraphBuilder, layer: QuantizedLinear, x: str, name: str, rank: int) -> str:
    """Add the nodes of ``layer`` on the value ``x``, (..., C) of ``rank`` dimensions; the result's
    name.

    Raises:
        SpecError: a layer that cannot run as an integer product.
    """
    weight, activation = layer.weight_spec, layer.activation_spec
    reason = why_not_integer(weight, activation)
    if reason or not (layer.branch_on_full or layer.up.shape[1] == 0):
        raise SpecError(f"{name}: {reason or 'the branch multiplies the rounded input'}")
    rows = as_rows(builder, x) if rank != 2 else x  # (M, C)
    rows = rotated(builder, layer, divided(builder, layer, rows))
    if max(weight.bits, activation.bits) > CODE_BITS:
        y = float_product(builder, layer, rows, name)
    elif activation.granularity is Granularity.PER_TOKEN:
        y = token_product(builder, layer, rows, name)
    else:
        y = tensor_product(builder, layer, rows, name)
    if rank == 2:
        return y
    whole = shape_like(builder, x, layer.out_features)
    return builder.node("Reshape", [y, whole], f"{name}.output")


def as_rows(builder: GraphBuilder, x: str) -> str:
    """(..., C) -> (M, C), once per value."""
    if ("rows", x) not in builder.results:
        width = builder.node("Shape", [x], f"{x}.width", start=-1)
        shape = builder.node("Concat", [builder.constant([-1], "all"), width], "shape", axis=0)
        builder.results["rows", x] = builder.node("Reshape", [x, shape], f"{x}.rows")
    return str(builder.results["rows", x])


def shape_like(builder: GraphBuilder, x: str, width: int) -> str:
    """The shape of ``x`` with another last dimension, once per value and width."""
    if ("shape", x, width) not in builder.results:
        lead = builder.node("Shape", [x], f"{x}.lead", start=0, end=-1)
        last = builder.constant([width], "width")
        found = builder.node("Concat", [lead, last], f"{x}.shape", axis=0)
        builder.results["shape", x, width] = found
    return str(builder.results["shape", x, width])


def divided(builder: GraphBuilder, layer: QuantizedLinear, rows: str) -> str:
    """Divided by s on the fly; once for layers that share input and s."""
    if layer.smoothing is None:
        return rows
    s = builder.constant(layer.smoothing, f"{rows}.smoothing")
    if ("divided", rows, s) not in builder.results:
        builder.results["divided", rows, s] = builder.node("Div", [rows, s], f"{rows}.smooth")
    return str(builder.results["divided", rows, s])


def rotated(builder: GraphBuilder, layer: QuantizedLinear, rows: str) -> str:
    """Rotated in blocks of inputs; once for layers that share input and rotation."""
    if layer.rotation is None:
        return rows
    block = builder.constant(layer.rotation, "rotation")
    if ("rotated", rows, block) not in builder.results:
        cut = builder.constant([-1, layer.in_features // len(layer.rotation), len(layer.rotation)],
                               "blocks")  # fmt: skip
        blocks = builder.node("Reshape", [rows, cut], f"{rows}.blocks")  # (M, C / B, B)
        turned = builder.node("MatMul", [blocks, block], f"{rows}.turned")
        whole = builder.constant([-1, layer.in_features], "rows")
        builder.results["rotated", rows, block] = builder.node(
            "Reshape", [turned, whole], f"{rows}.rotated"
        )  # (M, C)
    return str(builder.results["rotated", rows, block])


def rounded(builder: GraphBuilder, rows: str, spec: QuantizerSpec) -> Codes:
    """Codes of an activation, once for layers that share it."""
    key = ("codes", rows, spec)
    if key not in builder.results:
        token = spec.granularity is Granularity.PER_TOKEN
        builder.results[key] = (token_codes if token else tensor_codes)(builder, rows, spec)
    found: Codes = builder.results[key]
    return found


def tensor_codes(builder: GraphBuilder, rows: str, spec: QuantizerSpec) -> Codes:
    """One scale for the whole tensor and call."""
    if spec.bits == CODE_BITS:
        names = [f"{rows}.codes", f"{rows}.scale", f"{rows}.zero"]
        codes, scale, zero = builder.several("DynamicQuantizeLinear", [rows], names)
        return Codes(codes, zero, scale, scale)
    low, scale = scale_of(builder, rows, spec, None)
    zero = builder.node("QuantizeLinear", [low, scale], f"{rows}.zero")
    codes = builder.node("QuantizeLinear", [rows, scale, zero], f"{rows}.codes")
    return Codes(clipped(builder, codes, spec), zero, scale, scale)


def token_codes(builder: GraphBuilder, rows: str, spec: QuantizerSpec) -> Codes:
    """A scale and a zero point for every row."""
    low, scale = scale_of(builder, rows, spec, [-1])  # (M, 1)
    flat = builder.constant([-1], "all")
    column = builder.constant([-1, 1], "column")
    scales = builder.node("Reshape", [scale, flat], f"{rows}.scales")  # (M,)
    lows = builder.node("Reshape", [low, flat], f"{rows}.lows")
    zero = builder.node("QuantizeLinear", [lows, scales], f"{rows}.zero", axis=0)
    codes = builder.node("QuantizeLinear", [rows, scales, zero], f"{rows}.codes", axis=0)
    codes = clipped(builder, codes, spec)  # (M, C)
    zeros = builder.node(
        "Reshape", [builder.cast(zero, "FLOAT", f"{rows}.zeros"), column], f"{rows}.zeros"
    )
    shift = builder.node("Mul", [zeros, scale], f"{rows}.shift")
    ones = builder.node("Div", [scale, scale], f"{rows}.ones")
    offset = builder.node("Concat", [shift, ones], f"{rows}.offset", axis=1)  # (M, 2)
    # ORT makes one kernel of MatMulInteger, Cast and Mul by a scalar that is no constant
    largest = builder.node("ReduceMax", [scale], f"{rows}.largest", keepdims=0)
    relative = builder.node("Div", [scale, largest], f"{rows}.relative")
    return Codes(codes, zero, scale, largest, relative, offset)


def scale_of(
    builder: GraphBuilder, rows: str, spec: QuantizerSpec, axes: list[int] | None
) -> tuple[str, str]:
    """-min(x, 0) and the scale over these axes, or over all of them as scalars."""
    over = [rows] if axes is None else [rows, builder.constant(axes, "last")]
    keep = int(axes is not None)
    least = builder.node("ReduceMin", over, f"{rows}.min", keepdims=keep)
    most = builder.node("ReduceMax", over, f"{rows}.max", keepdims=keep)
    low = builder.node("Relu", [builder.node("Neg", [least], f"{rows}.neg")], f"{rows}.low")
    high = builder.node("Relu", [most], f"{rows}.high")
    span = builder.node("Add", [high, low], f"{rows}.span")
    steps = builder.constant(float(spec.steps), "steps")
    step = builder.node("Div", [span, steps], f"{rows}.step")
    # a row of zeros has the code 0 whatever its scale
    return low, builder.node("Max", [step, builder.constant(TINY, "tiny")], f"{rows}.scale")


def clipped(builder: GraphBuilder, codes: str, spec: QuantizerSpec) -> str:
    """At most the highest code; uint8 sees to 8 bits itself."""
    if spec.bits == CODE_BITS:
        return codes
    most = builder.constant(np.asarray(spec.qmax, dtype=np.uint8), "most")
    return builder.node("Clip", [codes, "", most], f"{codes}.clipped")


class Weights(NamedTuple):
    """A layer's codes as an integer product takes them, (C, C_out) in groups of inputs.

    codes   uint8 from 0
    zeros   (groups, C_out), whole numbers
    scales  (groups, C_out), float64
    edges   where each group of inputs begins, and the end
    """

    codes: Array
    zeros: Array
    scales: Array
    edges: list[int]

    @property
    def column_sums(self) -> Array:
        """sum over groups and inputs of (c - v) t, (C_out,)."""
        sums = [
            (self.codes[a:b].astype(np.int64).sum(0) - (b - a) * zero) * scale
            for a, b, zero, scale in zip(
                self.edges, self.edges[1:], self.zeros, self.scales, strict=False
            )
        ]
        found: Array = np.sum(sums, axis=0)
        return found


def weights_of(layer: QuantizedLinear) -> Weights:
    """Codes, zero points and scales; one group where a scale is an output channel's."""
    codes = np.ascontiguousarray(as_array(layer.unpacked()).T)  # (C, C_out)
    c, c_out = codes.shape
    zeros = as_array(layer.zero_point).reshape(c_out, -1).T  # (groups, C_out)
    scales = as_array(layer.scale).reshape(c_out, -1).T.astype(np.float64)
    if layer.row_scale is not None:
        scales = scales * as_array(layer.row_scale).reshape(1, c_out)
    grouped = layer.weight_spec.granularity is Granularity.PER_GROUP
    size = layer.weight_spec.group_size if grouped else c
    return Weights(codes, zeros.astype(np.int64), scales, [*range(0, c, size), c])


def products(
    builder: GraphBuilder, layer: QuantizedLinear, found: Codes, zero: str, name: str
) -> tuple[str, Weights]:
    """largest t_n A_n of all groups added up, (M, C_out), and the weights."""
    weights, bits = weights_of(layer), layer.weight_spec.bits
    edges, parts = weights.edges, [found.codes]
    if len(edges) > 2:
        parts = split(builder, found.codes, edges)
    sums = []
    for group, part in enumerate(parts):
        rows = slice(edges[group], edges[group + 1])
        at = name if len(parts) == 1 else f"{name}.{group}"
        codes = builder.codes(weights.codes[rows], bits, f"{at}.codes")
        lowered = (weights.zeros[group] - offset_of(bits)).astype(np.int8)
        zeros = builder.constant(lowered, f"{at}.zero_point")
        scales = builder.constant(weights.scales[group].astype(np.float32), f"{at}.scale")
        step = builder.node("Mul", [found.largest, scales], f"{at}.step")  # (C_out,)
        total = builder.node("MatMulInteger", [part, codes, zero, zeros], f"{at}.accumulators")
        number = builder.cast(total, "FLOAT", f"{at}.number")
        sums.append(builder.node("Mul", [number, step], f"{at}.product"))
    if len(sums) == 1:
        return sums[0], weights
    return builder.node("Sum", sums, f"{name}.product"), weights


def split(builder: GraphBuilder, codes: str, edges: list[int]) -> list[str]:
    """Groups of columns, once for layers that share an input and groups."""
    key = ("split", codes, tuple(edges))
    if key not in builder.results:
        sizes = builder.constant([b - a for a, b in pairwise(edges)], "sizes")
        names = [f"{codes}.{group}" for group in range(len(edges) - 1)]
        builder.results[key] = builder.several("Split", [codes, sizes], names, axis=1)
    return list(builder.results[key])


def token_product(builder: GraphBuilder, layer: QuantizedLinear, rows: str, name: str) -> str:
    """Rows have their own scales and zero points."""
    found = rounded(builder, rows, layer.activation_spec)
    product, weights = products(builder, layer, found, "", name)
    product = builder.node("Mul", [product, found.relative], f"{name}.scaled")
    terms = [-weights.column_sums[None], as_array(layer.bias)[None]]  # (1, C_out) each
    left = found.offset
    if layer.up.shape[1]:
        branch = reduced(builder, layer, rows, name)
        left = builder.node("Concat", [left, branch], f"{name}.left", axis=1)  # (M, 2 + r)
        terms.append(as_array(layer.up).T)
    right = builder.constant(np.concatenate(terms).astype(np.float32), f"{name}.right")
    return builder.node("Gemm", [left, right, product], f"{name}.sum")


def tensor_product(builder: GraphBuilder, layer: QuantizedLinear, rows: str, name: str) -> str:
    """One scale and one zero point, which the integer product takes itself."""
    found = rounded(builder, rows, layer.activation_spec)
    product, _ = products(builder, layer, found, found.zero, name)
    product = builder.node("Add", [product, builder.constant(layer.bias, f"{name}.bias")], name)
    return with_branch(builder, layer, rows, product, name)


def reduced(builder: GraphBuilder, layer: QuantizedLinear, rows: str, name: str) -> str:
    """The branch's first product, (M, r)."""
    down = builder.constant(np.ascontiguousarray(as_array(layer.down).T), f"{name}.down")
    return builder.node("MatMul", [rows, down], f"{name}.reduced")


def with_branch(
    builder: GraphBuilder, layer: QuantizedLinear, rows: str, product: str, name: str
) -> str:
    """The branch added; the product itself where there is none."""
    if layer.up.shape[1] == 0:
        return product
    up = builder.constant(np.ascontiguousarray(as_array(layer.up).T), f"{name}.up")
    low = reduced(builder, layer, rows, name)
    return builder.node("Gemm", [low, up, product], f"{name}.sum")


def float_product(builder: GraphBuilder, layer: QuantizedLinear, rows: str, name: str) -> str:
    """A product in single precision, where one operand is left alone or has wide codes."""
    x = float_activation(builder, rows, layer.activation_spec)
    weight = float_weight(builder, layer, name)
    bias = builder.constant(layer.bias, f"{name}.bias")
    product = builder.node("Gemm", [x, weight, bias], name)
    return with_branch(builder, layer, rows, product, name)


def float_activation(builder: GraphBuilder, rows: str, spec: QuantizerSpec) -> str:
    """(q - z) s as floats, once for layers that share it."""
    if spec.bits >= FULL_PRECISION_BITS:
        return rows
    key = ("rounded", rows, spec)
    if key not in builder.results:
        axes = [-1] if spec.granularity is Granularity.PER_TOKEN else None
        low, scale = scale_of(builder, rows, spec, axes)
        half = builder.constant(0.5, "half")

        def nearest(value: str, name: str) -> str:
            moved = builder.node("Add", [value, half], f"{name}.moved")
            return builder.node("Floor", [moved], name)

        least = builder.node("Neg", [low], f"{rows}.least")
        ratio = builder.node("Div", [least, scale], f"{rows}.ratio")
        zero = builder.node("Neg", [nearest(ratio, f"{rows}.lowest")], f"{rows}.zero")
        steps = builder.node("Div", [rows, scale], f"{rows}.ratio")
        codes = builder.node("Add", [nearest(steps, f"{rows}.nearest"), zero], f"{rows}.codes")
        ends = [builder.constant(float(end), "end") for end in (spec.qmin, spec.qmax)]
        codes = builder.node("Clip", [codes, *ends], f"{rows}.clipped")
        above = builder.node("Sub", [codes, zero], f"{rows}.above")
        builder.results[key] = builder.node("Mul", [above, scale], f"{rows}.rounded")
    return str(builder.results[key])


def float_weight(builder: GraphBuilder, layer: QuantizedLinear, name: str) -> str:
    """The weight (C, C_out): itself, or of its codes, which a session folds into one constant."""
    if layer.weight_spec.bits >= FULL_PRECISION_BITS:
        weight = layer.codes if layer.row_scale is None else layer.codes * layer.row_scale
        return builder.constant(weight.T.contiguous(), f"{name}.weight")
    weights, bits = weights_of(layer), layer.weight_spec.bits
    parts = []
    for group, (a, b) in enumerate(pairwise(weights.edges)):
        at = name if len(weights.edges) == 2 else f"{name}.{group}"
        codes = builder.codes(weights.codes[a:b], bits, f"{at}.codes")
        zeros = builder.constant(
            (weights.zeros[group] - offset_of(bits)).astype(np.float32), f"{at}.zero_point"
        )
        scales = builder.constant(weights.scales[group].astype(np.float32), f"{at}.scale")
        number = builder.cast(codes, "FLOAT", f"{at}.number")
        above = builder.node("Sub", [number, zeros], f"{at}.above")
        parts.append(builder.node("Mul", [above, scales], f"{at}.weight"))
    if len(parts) == 1:
        return parts[0]
    return builder.node("Concat", parts, f"{name}.weight", axis=0)
