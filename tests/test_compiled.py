"""Integer products inside torch.compile: whole graphs, one for all blocks, and the same numbers."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest
import torch
from conftest import build_random_checkpoint
from marks import thorough
from test_integer import layer_of, random
from torch._dynamo.testing import CompileCounter

from ditas_core.conversion import quantize_transformer
from ditas_core.layers import QuantizedLinear, run_as_
from ditas_core.layers.integer import padded_product
from ditas_core.search import plain_recipe
from ditas_core.specs import BitWidths, LayerRecipe, LowRankSpec

COMPILER = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


def quantized(unpacks: bool) -> Any:
    """Two blocks with branches and input divisors; ``unpacks``: from packed codes, as a GPU."""
    checkpoint = build_random_checkpoint()
    recipe = plain_recipe(checkpoint, BitWidths(4, 8), "integer")
    for block in range(2):
        layer = LayerRecipe(BitWidths(4, 8), None, LowRankSpec(3, 1, "none"))
        recipe = recipe.with_layer(f"{block}.fc1", layer)
    transformer = quantize_transformer(checkpoint, recipe).requires_grad_(False)
    run_as_(transformer, "integer")
    if unpacks:
        for layer in transformer.modules():
            if isinstance(layer, QuantizedLinear):
                layer.operand_codes = None
    return transformer


def block_arguments() -> dict[str, Any]:
    labels = torch.tensor([0, 1, 2, 3])
    return {
        "hidden_states": random(0, 4, 16, 32),
        "timestep": torch.full((4,), 300),
        "class_labels": labels,
    }


@pytest.mark.parametrize("unpacks", [True, *thorough(False)])
@torch.no_grad()
def test_all_blocks_are_one_graph_without_a_break(unpacks: bool) -> None:
    transformer, counter = quantized(unpacks), CompileCounter()
    for block in transformer.transformer_blocks:
        compiled = torch.compile(block, backend=counter, fullgraph=True)
        assert torch.equal(compiled(**block_arguments()), block(**block_arguments()))
    assert counter.frame_count == 1


@pytest.mark.thorough
@torch.no_grad()
def test_the_whole_transformer_is_one_graph() -> None:
    transformer, counter = quantized(True), CompileCounter()
    inputs = random(1, 2, 4, 8, 8), torch.tensor([3, 3]), torch.tensor([1, 2])
    compiled = torch.compile(transformer, backend=counter, fullgraph=True)
    assert torch.equal(compiled(*inputs).sample, transformer(*inputs).sample)
    assert counter.frame_count == 1


@needs_compiler
@pytest.mark.thorough
@pytest.mark.parametrize("convention", ["integer", "integer-tensor", "integer-g24"])
@torch.no_grad()
def test_a_compiled_layer_is_close(convention: str) -> None:
    layer, x = layer_of(convention, "W4A8"), random(9, 2, 17, 72)
    run_as_(layer, "integer")
    found, want = torch.compile(layer, fullgraph=True)(x), layer(x)
    # what lies between two codes may fall to the other: a reciprocal rounds unlike a division
    assert (found - want).norm() < 0.02 * want.norm()
    assert ((found - want).abs() <= 1e-4 * want.abs().max()).float().mean() > 0.9


@needs_compiler
@pytest.mark.thorough
@torch.no_grad()
def test_a_compiled_block_is_close() -> None:
    block = quantized(True).transformer_blocks[0]
    found = torch.compile(block, fullgraph=True)(**block_arguments())
    want = block(**block_arguments())
    assert (found - want).norm() < 0.02 * want.norm()


@needs_compiler
@pytest.mark.thorough
def test_a_compiled_product_with_zeros_around_it_is_exact() -> None:
    draw = torch.Generator().manual_seed(0)
    a = torch.randint(-128, 128, (3, 9), generator=draw, dtype=torch.int8)
    w = torch.randint(-60, 60, (9, 5), generator=draw, dtype=torch.int8)  # exact anywhere
    found = torch.compile(padded_product, fullgraph=True)(a, w)
    assert torch.equal(found.long(), a.long() @ w.long())
