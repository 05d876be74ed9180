"""One quantized layer as a graph: the integers it adds, and what it comes to."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx_checks import X, Y, layer_model, products, slow_total, values_in

from ditas_core.evaluation import sqnr_db
from ditas_core.layers import QuantizedLinear, build_layers
from ditas_core.onnx_runtime import open_session
from ditas_core.onnx_runtime.building import GraphBuilder
from ditas_core.onnx_runtime.linear import add_linear
from ditas_core.onnx_runtime.session import OPTIONS, WIDE_SUMS
from ditas_core.quantizer import quantize
from ditas_core.specs import CONVENTIONS, BitWidths, SpecError, get_convention, why_not_integer

pytestmark = pytest.mark.numeric
C, C_OUT, RANK = 40, 24, 3
CASES = [
    ("integer", "W8A8"),
    ("integer", "W4A8"),
    ("integer", "W4A4"),
    ("integer", "W2A6"),
    ("integer", "W5A7"),
    ("integer-tensor", "W8A8"),
    ("integer-tensor", "W4A8"),
    ("integer-tensor", "W3A5"),
    ("integer-g16", "W8A8"),
    ("integer-g16", "W4A6"),
]
"""40 inputs in groups of 16: the last one is not full."""
WIDE = [
    ("integer", "W16A16"),
    ("integer", "W4A16"),
    ("integer", "W16A8"),
    ("integer", "W8A12"),
    ("integer-g16", "W4A16"),
    ("integer-tensor", "W16A5"),
    ("integer-tensor", "W4A10"),
]


def made(convention: str, bits: str, **options: bool) -> QuantizedLinear:
    """A layer with a branch and a bias; ``smooth`` divides on the fly, ``divide`` its rows."""
    generator = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    rank = RANK if options.get("branch", True) else 0
    fit = (normal(C_OUT, C) / 6, normal(C_OUT, rank) / 9, normal(rank, C) / 9)
    s = 0.5 + torch.rand(C, generator=generator) if options.get("smooth") else None
    divisors = [0.5 + torch.rand(C_OUT, generator=generator)] if options.get("divide") else None
    return build_layers(
        [fit], [normal(C_OUT)], BitWidths.parse(bits), get_convention(convention), s, True, divisors
    )[0]


def inputs(seed: int = 0) -> torch.Tensor:
    """(2, 9, C), tokens of different ranges; one of zeros, one of one sign."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 9, C, generator=generator)
    x = x * torch.exp(torch.randn(2, 9, 1, generator=generator)) + 0.3
    x[0, 0] = 0
    x[0, 1] = x[0, 1].abs() + 1
    x[0, 2] = -x[0, 2].abs() - 1
    return x


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("divide", [False, True])
@pytest.mark.parametrize(("convention", "bits"), CASES)
def test_accumulators_are_the_int64_sums_of_the_codes(
    convention: str, bits: str, smooth: bool, divide: bool
) -> None:
    layer = made(convention, bits, smooth=smooth, divide=divide)
    model, x = layer_model(layer), inputs()
    onnx.checker.check_model(model, full_check=True)
    found = products(model)
    assert len(found) == (3 if "-g" in convention else 1)
    names = [name for each in found.values() for name in vars(each).values()]
    values = values_in(model, {X: x.numpy()}, [Y, *names])
    for product in found.values():
        total = values[product.total]
        assert total.dtype == np.int32 and np.array_equal(total, slow_total(values, product))
    # the operands are what is simulated: codes of the weight and of the input
    offset = 128 if layer.weight_spec.bits == 8 else 0
    parts = [values[each.weight] for each in found.values()]
    assert all(part.dtype == np.int8 for part in parts)
    whole = np.concatenate(parts).astype(np.int64) + offset
    assert np.array_equal(whole.T, layer.unpacked().numpy())
    divided = x if layer.smoothing is None else x / layer.smoothing
    own, _ = quantize(divided, layer.activation_spec)
    codes = np.concatenate([values[each.codes] for each in found.values()], axis=1)
    assert codes.dtype == np.uint8 and np.array_equal(codes.reshape(own.shape), own.numpy())
    y = torch.from_numpy(values[Y])
    assert y.shape == (2, 9, C_OUT)
    assert float(sqnr_db(layer(x), y).min()) > 100


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize(("convention", "bits"), [*CASES, *WIDE])
def test_the_fused_graph_computes_what_is_simulated(
    convention: str, bits: str, smooth: bool
) -> None:
    for options in ({}, {"branch": False}, {"divide": True}):
        layer, x = made(convention, bits, smooth=smooth, **options), inputs(1)
        found = open_session(layer_model(layer), 1).run(None, {X: x.numpy()})[0]
        assert float(sqnr_db(layer(x), torch.from_numpy(found)).min()) > 100


@pytest.mark.parametrize(("convention", "bits"), CASES[::3])
def test_two_dimensions_and_any_batch(convention: str, bits: str) -> None:
    layer = made(convention, bits)
    session = open_session(layer_model(layer, rank=2), 1)
    for rows in (1, 2, 17):
        x = inputs(rows).reshape(-1, C)[-rows:]
        found = torch.from_numpy(session.run(None, {X: x.numpy()})[0])
        assert float(sqnr_db(layer(x)[None], found[None])) > 100


def test_the_largest_codes_do_not_overflow() -> None:
    """255 x 127 twice is more than 16 bits hold, where processors without VNNI add pairs."""
    layer = made("integer", "W8A8", branch=False)
    layer.codes[:] = 255
    layer.codes[::2] = 0
    layer.derive_()
    x = torch.full((1, 5, C), 3.0)
    model = layer_model(layer)
    product = products(model)["layer"]
    names = list(vars(product).values())
    here = values_in(model, {X: x.numpy()}, names)
    wide = values_in(model, {X: x.numpy()}, names, {**OPTIONS, **WIDE_SUMS})
    assert here[product.codes].min() == 255
    assert np.array_equal(here[product.total], slow_total(here, product))
    assert np.array_equal(wide[product.total], here[product.total])


def test_another_runtime_reads_the_same_graph() -> None:
    """Standard operators only: ONNX's own reference agrees."""
    for convention, bits in (("integer", "W4A8"), ("integer-tensor", "W8A8")):
        layer, x = made(convention, bits, smooth=True), inputs(2)
        found = ReferenceEvaluator(layer_model(layer)).run(None, {X: x.numpy()})[0]
        assert float(sqnr_db(layer(x), torch.from_numpy(found)).min()) > 100


def test_four_bits_are_packed_in_the_file_and_eight_in_memory() -> None:
    sizes = {bits: layer_model(made("integer", bits, branch=False)) for bits in ("W8A8", "W4A8")}
    stored = {
        bits: sum(len(each.raw_data) for each in model.graph.initializer if ".codes" in each.name)
        for bits, model in sizes.items()
    }
    assert stored == {"W8A8": C * C_OUT, "W4A8": C * C_OUT // 2}


@pytest.mark.parametrize("name", ["paper", "released"])
def test_conventions_without_an_integer_product_say_why(name: str) -> None:
    convention = CONVENTIONS[name]
    reason = why_not_integer(*convention.quantizers(BitWidths(8, 8)))
    assert "scale" in reason and "\n" not in reason and reason == convention.only_simulated
    fit = (torch.randn(32, C), torch.zeros(32, 0), torch.zeros(0, C))
    layer = build_layers([fit], [torch.zeros(32)], BitWidths(8, 8), convention)[0]
    with pytest.raises(SpecError, match="cannot be added as integers"):
        add_linear(GraphBuilder(), layer, X, "layer", 3)
    assert not why_not_integer(*CONVENTIONS["integer"].quantizers(BitWidths(8, 8)))
