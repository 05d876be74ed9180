"""Products of codes: whole numbers equal to a slow reference, both backends equal to the bit."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ditas_core.checkpoints import Checkpoint
from ditas_core.conversion import quantize_transformer
from ditas_core.layers import QuantizedLinear, accumulators, build_layers, run_as_
from ditas_core.layers import signed_activations as signed
from ditas_core.layers.integer import (
    EXACT_INPUTS,
    MOST_INPUTS,
    bytes_are_exact,
    make_operand,
    padded_product,
    runs_as_integers,
)
from ditas_core.quantizer import QParams
from ditas_core.sampling import sample_latents
from ditas_core.search import plain_recipe
from ditas_core.specs import (
    CONVENTIONS,
    LEFT_ALONE,
    BitWidths,
    LayerRecipe,
    LowRankSpec,
    Recipe,
    SamplingSpec,
    SpecError,
    get_convention,
)

KIND = torch.int8 if bytes_are_exact() else torch.float32
RUNNING = ["integer", "integer-tensor", "integer-g24", "integer-g7"]
BITS = ["W8A8", "W5A8", "W4A8", "W4A4", "W2A5", "W3A7"]


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer_of(
    convention: str, bits: str, shape: tuple[int, int] = (40, 72), rank: int = 3
) -> QuantizedLinear:
    """With everything a layer can hold: a branch, an input divisor, rows that are divided."""
    c_out, c = shape
    (layer,) = build_layers(
        [(random(0, c_out, c), random(1, c_out, rank), random(2, rank, c))],
        [random(3, c_out)],
        BitWidths.parse(bits),
        get_convention(convention),
        random(4, c).abs() + 0.1,
        on_the_fly=True,
        divisors=[random(5, c_out).abs() + 0.1],
    )
    return layer


def reference(layer: QuantizedLinear, x: Tensor) -> list[np.ndarray]:
    """The sums of each group of inputs, int64, from the definition: codes less zero points."""
    a, d_a, _ = signed(x, layer.activation_spec)
    left = a.numpy().astype(np.int64) + d_a.numpy().astype(np.int64)  # q_x - z_x
    codes = layer.unpacked().numpy().astype(np.int64)  # (C_out, C_in)
    c_out, c = codes.shape
    group = layer.weight_spec.group_size or c
    zero_point = layer.zero_point.numpy().astype(np.int64).reshape(c_out, -1)
    found = []
    for index, start in enumerate(range(0, c, group)):
        right = codes[:, start : start + group] - zero_point[:, index : index + 1]
        found.append(left[:, start : start + group] @ right.T)
    return found


def both(layer: QuantizedLinear) -> tuple[QuantizedLinear, QuantizedLinear]:
    other = copy.deepcopy(layer)
    run_as_(other, "integer")
    assert layer.multiplies_codes and layer.operand.codes.dtype == torch.float32
    assert other.operand.codes.dtype == KIND and other.weight is None
    return layer, other


@pytest.mark.parametrize("convention", RUNNING)
@pytest.mark.parametrize("bits", BITS)
def test_sums_are_those_of_the_codes(bits: str, convention: str) -> None:
    x = random(9, 33, 72) * random(8, 72).exp() + 0.3
    for layer in both(layer_of(convention, bits)):
        a, d_a, _ = signed(x, layer.activation_spec)
        found = accumulators(a.to(layer.operand.codes.dtype), d_a, layer.operand)
        for got, want in zip(found, reference(layer, x), strict=True):
            assert got.dtype == torch.int32 and np.array_equal(got.numpy(), want)


@pytest.mark.parametrize("convention", ["integer", "integer-tensor", "integer-g4096"])
def test_sums_of_thousands_of_extreme_products_are_exact(convention: str) -> None:
    """All codes at one end: the largest sums there are, beyond what single precision holds."""
    inputs = 4 * EXACT_INPUTS + 1000
    layer = layer_of(convention, "W8A8", (8, inputs), 0)
    layer.codes = torch.full_like(layer.codes, 255)
    layer.codes[:4] = 0
    layer.zero_point = torch.zeros_like(layer.zero_point)
    layer.derive_()
    x = torch.ones(2, inputs)
    x[1] = torch.arange(inputs) % 2
    if convention == "integer-tensor":
        x[0, ::3] = -0.5
    for each in both(layer):
        a, d_a, _ = signed(x, each.activation_spec)
        found = accumulators(a.to(each.operand.codes.dtype), d_a, each.operand)
        for got, want in zip(found, reference(each, x), strict=True):
            assert np.array_equal(got.numpy(), want)


def test_the_longest_sum_stays_within_32_bits() -> None:
    assert MOST_INPUTS * 255 * 255 <= 2**31 - 1 < (MOST_INPUTS + 1) * 255 * 255
    specs = get_convention("integer").quantizers(BitWidths(8, 8))
    assert runs_as_integers(*specs, MOST_INPUTS) and not runs_as_integers(*specs, MOST_INPUTS + 1)
    assert (EXACT_INPUTS) * 128 * 128 == 2**24


@pytest.mark.parametrize("convention", RUNNING)
@pytest.mark.parametrize("bits", BITS)
def test_both_backends_are_equal_to_the_bit(bits: str, convention: str) -> None:
    simulated, integer = both(layer_of(convention, bits))
    x = random(9, 2, 17, 72) * 3
    assert torch.equal(simulated(x), integer(x))
    for dtype in (torch.bfloat16, torch.float16):
        assert integer(x.to(dtype)).dtype == dtype
    run_as_(integer, "simulated")
    assert torch.equal(simulated(x), integer(x))
    assert {k for k, _ in simulated.named_buffers()} == {k for k, _ in integer.named_buffers()}


@pytest.mark.parametrize("bits", ["W8A16", "W16A8", "W16A16", "W8A9"])
def test_layers_with_more_than_8_bits_multiply_in_floating_point(bits: str) -> None:
    layer = layer_of("integer", bits, rank=0)
    run_as_(layer, "integer")
    assert not layer.multiplies_codes and layer.weight is not None
    assert layer(random(9, 5, 72)).shape == (5, 40)


def test_a_state_that_is_loaded_is_what_is_multiplied() -> None:
    source, other = layer_of("integer", "W4A8"), layer_of("integer", "W4A8")
    other.codes = other.codes.flip(0).contiguous()
    for backend in ("simulated", "integer"):
        run_as_(other, backend)
        other.load_state_dict(source.state_dict())
        x = random(9, 5, 72)
        assert torch.equal(other(x), source(x))
    assert set(source.state_dict()) == {
        *("codes", "scale", "zero_point", "bias", "up", "down", "smoothing"),
    }


@pytest.mark.parametrize("backend", ["simulated", "integer"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_leaves_other_tokens_alone(bad: float, backend: str) -> None:
    layer = layer_of("integer", "W8A8")
    run_as_(layer, backend)
    x = random(9, 4, 72)
    want = layer(x)
    x[2, 5] = bad
    got = layer(x)
    assert not torch.isfinite(got[2]).any()
    assert torch.equal(got[[0, 1, 3]], want[[0, 1, 3]])


@pytest.mark.parametrize("shape", [(1, 8, 8), (17, 12, 9), (40, 16, 24), (3, 5, 1)])
def test_zeros_around_a_product_change_nothing(shape: tuple[int, int, int]) -> None:
    """As a GPU needs them; the same code on a CPU."""
    m, k, n = shape
    draw = torch.Generator().manual_seed(0)
    a = torch.randint(-128, 128, (m, k), generator=draw, dtype=torch.int8)
    w = torch.randint(-60, 60, (k, n), generator=draw, dtype=torch.int8)  # exact anywhere
    assert torch.equal(padded_product(a, w).long(), a.long() @ w.long())


def test_codes_are_kept_once_where_the_backend_unpacks_them() -> None:
    """As on a GPU: without codes of its own the operand is made of the packed ones."""
    _, layer = both(layer_of("integer-g24", "W4A8"))
    x, held = random(9, 5, 72), layer.operand
    want = layer(x)
    layer.operand_codes = None
    assert layer.codes.shape == (40, 36)
    assert torch.equal(layer.operand.codes.to(KIND), held.codes) and torch.equal(layer(x), want)


def test_an_operand_of_one_group_and_of_a_part_of_one() -> None:
    codes = torch.tensor([[0, 1, 255], [7, 8, 9]], dtype=torch.uint8)
    spec = get_convention("integer-g4").quantizers(BitWidths(8, 8))[0]
    params = QParams(torch.ones(2, 1, 1), torch.tensor([[[10.0]], [[0.0]]]))
    made = make_operand(codes, params, spec)
    assert made.codes.tolist() == [[-128, -121], [-127, -120], [127, -119]]
    assert made.rest.tolist() == [[118, 128]] and made.group == 4
    assert made.sums.tolist() == [[-128 - 127 + 127 + 3 * 118, 7 + 8 + 9]]


@pytest.mark.parametrize("name", ["paper", "released"])
def test_conventions_that_cannot_run_say_why_in_one_line(name: str) -> None:
    convention = CONVENTIONS[name]
    with pytest.raises(SpecError, match=f"{name}, got integer: its weights .*scale") as caught:
        convention.check_backend("integer")
    assert "\n" not in str(caught.value) and "integer-tensor" in str(caught.value)
    convention.check_backend("simulated")
    for bits in ("W8A8", "W4A8"):
        assert not runs_as_integers(*convention.quantizers(BitWidths.parse(bits)), 256)
    with pytest.raises(SpecError, match="simulated, integer"):
        convention.check_backend("int8")


@pytest.mark.parametrize("name", ["integer", "integer-tensor", "integer-g4", "integer-g4096"])
def test_conventions_that_can_run_do(name: str) -> None:
    convention = get_convention(name)
    convention.check_backend("integer")
    assert runs_as_integers(*convention.quantizers(BitWidths(4, 8)), 256)


def mixed(checkpoint: Checkpoint, convention: str) -> Recipe:
    """Other bits, strengths and branches in turn; some groups left alone."""
    kinds = (
        LayerRecipe(BitWidths(8, 8)),
        LayerRecipe(BitWidths(4, 8), None, LowRankSpec(4, 1, "none")),
        LayerRecipe(BitWidths(8, 16)),
        LayerRecipe(BitWidths(3, 6)),
        LEFT_ALONE,
    )
    recipe = plain_recipe(checkpoint, BitWidths(4, 8), convention)
    for index, name in enumerate(recipe.layers):
        recipe = recipe.with_layer(name, kinds[index % len(kinds)])
    return recipe


@pytest.mark.parametrize("convention", ["integer", "integer-tensor", "integer-g100"])
def test_the_demo_is_equal_layer_by_layer_and_along_a_trajectory(
    demo_checkpoint: Checkpoint, convention: str
) -> None:
    simulated = quantize_transformer(demo_checkpoint, mixed(demo_checkpoint, convention))
    integer = copy.deepcopy(simulated)
    run_as_(integer, "integer")
    compared = []

    def compare(layer: QuantizedLinear, inputs: tuple[Any, ...], output: Tensor) -> None:
        x = inputs[0] if layer.smoothing is None else inputs[0] / layer.smoothing
        a, d_a, _ = signed(x.reshape(-1, x.shape[-1]), layer.activation_spec)
        sums = accumulators(a.to(KIND), d_a, layer.operand)
        want = reference(layer, x.reshape(-1, x.shape[-1]))
        compared.append(all(np.array_equal(g.numpy(), w) for g, w in zip(sums, want, strict=True)))

    layers = [m for m in integer.modules() if isinstance(m, QuantizedLinear)]
    hooks = [m.register_forward_hook(compare) for m in layers if m.multiplies_codes]  # type: ignore[arg-type]
    labels, spec = torch.tensor([3, 20]), SamplingSpec(steps=1)
    sample_latents(
        integer, demo_checkpoint.scheduler, labels, demo_checkpoint.latent_shape, spec, 0
    )
    for hook in hooks:
        hook.remove()
    assert len(compared) == len(hooks) > len(layers) // 2 and all(compared)
    assert torch.equal(*(sampled(demo_checkpoint, each, 3) for each in (simulated, integer)))


def sampled(checkpoint: Checkpoint, transformer: Any, steps: int) -> Tensor:
    labels, spec = torch.tensor([3, 20]), SamplingSpec(steps=steps)
    shape = checkpoint.latent_shape
    return sample_latents(transformer, checkpoint.scheduler, labels, shape, spec, 0)
