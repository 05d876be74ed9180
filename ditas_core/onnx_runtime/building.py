"""Nodes and constants of an ONNX graph, named and collected one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..quantizer import quantize
from ..specs import Granularity, QuantizerSpec
from .packages import imported

Array = NDArray[Any]
BYTES = QuantizerSpec(8, symmetric=True, granularity=Granularity.PER_CHANNEL)


class GraphBuilder:
    """Collects ``nodes`` and ``initializers``; every result has a name of its own.

    half    store float constants in half precision where that is exact for all their elements;
            a Cast, folded when a session is made, brings them back
    eighth  store float matrices and convolutions as 8-bit codes with a scale per row, folded in
            the same way: a quarter of the bytes, and a loss that the caller measures
    """

    SMALL = 1024
    """Constants below this many elements are stored as they are."""

    def __init__(self, half: bool = False, eighth: bool = False) -> None:
        self.half, self.eighth = half, eighth
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.known: dict[tuple[Any, ...], list[tuple[str, Array]]] = {}
        self.results: dict[Any, Any] = {}  # what was computed once already, by what from
        self.names: set[str] = set()

    def unique(self, name: str) -> str:
        """``name``, or with a number where something is called so already."""
        found, count = name, 1
        while found in self.names:
            count += 1
            found = f"{name}_{count}"
        self.names.add(found)
        return found

    def node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Add a node with one result, called ``name`` or like it."""
        return self.several(kind, inputs, [name], **attributes)[0]

    def several(
        self, kind: str, inputs: list[str], names: list[str], **attributes: Any
    ) -> list[str]:
        """Add a node with several results."""
        results = [self.unique(name) for name in names]
        make_node = imported("onnx.helper").make_node
        self.nodes.append(make_node(kind, inputs, results, name=results[0], **attributes))
        return results

    def constant(self, value: Array | Tensor | float | list[int], name: str) -> str:
        """A constant tensor; equal ones are stored once."""
        array = as_array(value)
        key = (array.shape, array.dtype.str, array.reshape(-1)[:64].tobytes())
        same = self.known.setdefault(key, [])
        for known, other in same:
            if np.array_equal(other, array, equal_nan=array.dtype.kind == "f"):
                return known
        if (
            self.eighth
            and array.dtype == np.float32
            and array.ndim > 1
            and array.size >= self.SMALL
        ):
            same.append((self.in_bytes(array, name), array))
            return same[-1][0]
        narrow = array
        if self.half and array.dtype == np.float32 and array.size >= self.SMALL:
            with np.errstate(over="ignore"):
                narrow = array.astype(np.float16)
            if not np.array_equal(narrow.astype(np.float32), array):
                narrow = array
        from_array = imported("onnx.numpy_helper").from_array
        stored = self.unique(name if narrow is array else f"{name}.half")
        self.initializers.append(from_array(np.ascontiguousarray(narrow), stored))
        found = stored if narrow is array else self.cast(stored, "FLOAT", name)
        same.append((found, array))
        return found

    def in_bytes(self, array: Array, name: str) -> str:
        """Floats (R, ...) as int8 codes times a scale per row."""
        rows = torch.from_numpy(array.reshape(len(array), -1))
        codes, params = quantize(rows, BYTES)
        scale = params.scale.reshape(-1, *[1] * (array.ndim - 1))
        whole = self.constant(as_array(codes).astype(np.int8).reshape(array.shape), f"{name}.codes")
        number = self.cast(whole, "FLOAT", f"{name}.number")
        self.initializers.append(
            imported("onnx.numpy_helper").from_array(as_array(scale), self.unique(f"{name}.scale"))
        )
        return self.node("Mul", [number, self.initializers[-1].name], name)

    def codes(self, codes: Array, bits: int, name: str) -> str:
        """uint8 codes as an int8 operand: up to 4 bits are packed two to a byte in the file.

        Eight bits are moved to -128 ... 127 (the caller moves the zero points, too).
        """
        if bits > 4:
            moved = codes.astype(np.int16) - offset_of(bits)
            return self.constant(moved.astype(np.int8), name)
        flat = codes.reshape(-1)
        if flat.size % 2:
            flat = np.append(flat, np.uint8(0))
        packed = (flat[::2] | (flat[1::2] << 4)).astype(np.uint8)
        kind = imported("onnx").TensorProto.UINT4
        make_tensor = imported("onnx.helper").make_tensor
        stored = self.unique(f"{name}.packed")
        self.initializers.append(
            make_tensor(stored, kind, list(codes.shape), packed.tobytes(), raw=True)
        )
        return self.cast(stored, "INT8", name)

    def cast(self, value: str, kind: str, name: str) -> str:
        """The same numbers as FLOAT, INT8, UINT8 ..."""
        return self.node("Cast", [value], name, to=getattr(imported("onnx").TensorProto, kind))


def offset_of(bits: int) -> int:
    """What codes from 0 are lowered by to fit into int8."""
    return 128 if bits == 8 else 0


def as_array(value: Array | Tensor | float | list[int]) -> Array:
    """numpy; floats in single precision, lists as int64."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        if value.is_floating_point():
            value = value.to(torch.float32)
        return np.asarray(value.numpy())
    if isinstance(value, float):
        return np.asarray(value, dtype=np.float32)
    if isinstance(value, list):
        return np.asarray(value, dtype=np.int64)
    return value
