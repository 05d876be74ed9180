"""Layers, conversion and quantized folders in cases so small that the answer is known by hand."""

from __future__ import annotations

import stat
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import build_random_checkpoint
from torch import nn
from torch.nn import functional as F

from ditas_core.artifact import stored_bytes
from ditas_core.artifact.checks import (
    Stored,
    check_numbers,
    check_tensor,
    need_of_quantized,
    rank_of,
)
from ditas_core.artifact.folder import WEIGHTS, save_quantized
from ditas_core.checkpoints import CheckpointError
from ditas_core.checkpoints.files.headers import Headers, TensorHeader
from ditas_core.checkpoints.preflight import WORKING
from ditas_core.conversion import (
    ConversionProgress,
    get_affine,
    injected_factors,
    iterate_conversion,
    quantize_transformer,
    set_affine_,
)
from ditas_core.layers import QuantizedLinear, build_layers, empty_layers, encode
from ditas_core.layers.build import divide, rows_of
from ditas_core.layers.size import group_bits_stored
from ditas_core.quantizer import QParams, fake_quantize, params_from_range
from ditas_core.quantizer.grouping import group_view
from ditas_core.search import plain_recipe
from ditas_core.smoothing import Affine
from ditas_core.specs import (
    BitWidths,
    Granularity,
    LayerRecipe,
    LowRankSpec,
    QuantizerSpec,
    get_convention,
)
from ditas_core.writing import check_new_file, check_new_folder, whole_folder

INTEGER, RELEASED = get_convention("integer"), get_convention("released")
FOUR = INTEGER.quantizers(BitWidths(4, 8))[0]


def headers_of(shapes: dict[str, tuple[int, ...]], size: int = 1000) -> Headers:
    tensors = {k: TensorHeader(torch.float32, shape, 0, 0) for k, shape in shapes.items()}
    return Headers("file", "safetensors", size, tensors)


def test_range_scale_and_zero_point() -> None:
    """One end of the range on the lowest code, the other on the highest."""
    spec = QuantizerSpec(2, False, Granularity.PER_TENSOR)
    scale, zero, _ = params_from_range(torch.tensor(-2.0), torch.tensor(4.0), spec)
    assert (float(scale), float(zero)) == (2, spec.qmin + 1)
    found = fake_quantize(torch.tensor([-2.0, 0, 0.9, 1.1, 4]), spec)
    assert found.tolist() == [-2, 0, 0, 2, 4]
    # a range on one side of zero is widened to hold it
    scale, zero, _ = params_from_range(torch.tensor(3.0), torch.tensor(6.0), spec)
    assert (float(scale), float(zero)) == (2, spec.qmin)
    scale, zero, _ = params_from_range(torch.tensor(-6.0), torch.tensor(-3.0), spec)
    assert (float(scale), float(zero)) == (2, spec.qmax)
    even = QuantizerSpec(3, True, Granularity.PER_TENSOR)
    scale, zero, _ = params_from_range(torch.tensor(-7.0), torch.tensor(2.0), even)
    assert float(scale) == pytest.approx(14 / even.steps) and float(zero) == 0


def test_the_last_group_of_a_row_is_filled_with_the_rows_end() -> None:
    spec = QuantizerSpec(4, False, Granularity.PER_GROUP, 3)
    grouped, dims = group_view(torch.tensor([[1.0, 2, 3, 4]]), spec)
    assert grouped.tolist() == [[[1, 2, 3], [4, 4, 4]]] and dims == (-1,)
    whole, _ = group_view(torch.tensor([[1.0, 2, 3]]), spec)
    assert whole.tolist() == [[[1, 2, 3]]]


def test_codes_start_at_zero_and_columns_multiply_the_scales() -> None:
    weight = torch.tensor([[0.0, 1, 2, 15], [-15.0, 0, -1, -2]])
    codes, (scale, *_) = encode(weight, FOUR)
    assert codes.dtype == torch.uint8 and codes.tolist() == [[0, 1, 2, 15], [0, 15, 14, 13]]
    assert scale.flatten().tolist() == [1, 1]
    wide, (one, *_) = encode(weight, INTEGER.quantizers(BitWidths(16, 8))[0], torch.arange(4.0))
    assert torch.equal(wide, weight * torch.arange(4.0)) and one.tolist() == [1]
    strided, (table, *_) = encode(
        torch.arange(128.0).reshape(64, 2), RELEASED.quantizers(BitWidths(4, 8))[0],
        torch.tensor([1.0, 10]),
    )  # fmt: skip
    assert strided.shape == (64, 2) and table.shape == (2, 2)
    assert torch.allclose(table[:, 1], 10 * table[:, 0], rtol=1e-6, atol=0)


def test_rows_are_divided_in_their_scales_or_by_a_scale_of_their_own() -> None:
    params = QParams(torch.tensor([[2.0], [4.0]]), torch.zeros(2, 1))
    divisor = torch.tensor([2.0, 8.0])
    codes = torch.ones(2, 3, dtype=torch.uint8)
    same, (scale, *_), rows = divide(codes, params, FOUR, divisor)
    assert same is codes and scale.tolist() == [[1], [0.5]] and rows is None
    spec = RELEASED.quantizers(BitWidths(4, 8))[0]
    same, kept, rows = divide(codes, params, spec, divisor)
    assert same is codes and kept is params
    assert rows is not None and rows.tolist() == [[0.5], [0.125]]
    full = INTEGER.quantizers(BitWidths(16, 8))[0]
    shared = QParams(torch.ones(1), torch.zeros(1))
    assert rows_of(shared, slice(2, 4), full).scale.tolist() == [1]
    assert rows_of(params, slice(1, 2), FOUR).scale.tolist() == [[4]]
    halved, kept, rows = divide(torch.ones(2, 3), params, full, divisor)
    assert halved[:, 0].tolist() == [0.5, 0.125] and kept is params and rows is None


def test_what_a_group_takes_by_hand() -> None:
    branch = LowRankSpec(rank=3)
    two = [(8, 6), (4, 6)]
    codes, scale = 12 * 6 * 4, 12 * (32 + 16)
    parts = 2 * 3 * 6 * 16 + 12 * 3 * 16  # down twice, up
    four, whole_weights = BitWidths(4, 8), BitWidths(16, 8)
    assert group_bits_stored(two, four, INTEGER, LowRankSpec(), False) == codes + scale
    assert group_bits_stored(two, four, INTEGER, branch, False) == codes + scale + parts
    grouped = BitWidths(4, 8, 4)  # six inputs: a whole group and half of one
    assert group_bits_stored(two, grouped, INTEGER, LowRankSpec(), False) == codes + 2 * scale
    # held by the layers themselves: s for both; V's half of up in single precision
    whole = codes + scale + parts + 2 * 6 * 32
    assert group_bits_stored(two, four, INTEGER, branch, True, on_the_fly=True) == whole
    assert group_bits_stored(two, four, INTEGER, branch, True, divided=[1]) == (
        codes + scale + parts + 4 * 3 * 16
    )
    left = [16 * 48 + 32 * 24, 32 * 72, 32 * 72]
    for bits, (smoothed, divided) in zip(
        left, ((False, []), (True, []), (False, [0])), strict=True
    ):
        found = group_bits_stored(
            two, whole_weights, INTEGER, branch, smoothed, divided=divided, in_half=[0]
        )
        assert found == bits


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("integer", (64, 1)),
        ("integer-g4", (64, 3, 1)),
        ("paper", (1, 10)),
        ("released", (6, 10)),
    ],
)
def test_an_empty_layer_has_the_shapes_of_a_built_one(name: str, scale: tuple[int, ...]) -> None:
    convention = get_convention(name)
    for bits in (4, 16):
        layer = LayerRecipe(BitWidths(bits, 8), 0.5, LowRankSpec(4 if bits < 16 else 0))
        fused = convention.fused_qkv
        rank = layer.low_rank.rank
        fits = [
            (torch.rand(rows, 10), torch.rand(rows, rank), torch.rand(rank, 10))
            for rows in ([192] if fused else [64] * 3)
        ]
        divisors = [None, None, torch.rand(64) + 1]
        biases = [torch.zeros(64)] * 3
        built = build_layers(fits, biases, layer.bits, convention, torch.ones(10), True, divisors)
        empty = empty_layers([(64, 10)] * 3, layer, convention, True, [2])
        for one, other in zip(built, empty, strict=True):
            states = one.state_dict(), other.state_dict()
            assert {k: (v.shape, v.dtype) for k, v in states[0].items()} == {
                k: (v.shape, v.dtype) for k, v in states[1].items()
            }
            assert other.scale.shape == (scale if bits == 4 else (1,)) and other.scale.is_meta
            assert (one.row_start, one.shared) == (other.row_start, other.shared)
            assert (one.in_features, one.out_features) == (other.in_features, other.out_features)
    with pytest.raises(ValueError, match="multiples of 32"):
        empty_layers([(48, 10)], LayerRecipe(BitWidths(4, 8)), RELEASED)


def test_ranks_are_those_of_the_file_up_to_the_recipes() -> None:
    def rank(stored: tuple[int, ...] | None, bits: int = 4, rows: int = 9) -> int:
        layer = LayerRecipe(BitWidths(bits, 8), None, LowRankSpec(rank=4))
        return rank_of(headers_of({"p.up": stored} if stored else {}), "p", layer, rows)

    assert [rank((8, 2)), rank((8, 4)), rank((8, 9)), rank(None), rank((8,))] == [2, 4, 4, 4, 4]
    assert rank((8, 4), bits=16) == 0 and rank(None, rows=3) == 3


def test_numbers_at_the_ends_of_what_is_allowed() -> None:
    check_numbers("codes", torch.tensor([0, 15], dtype=torch.uint8), Stored((2,), bits=4))
    check_numbers("empty", torch.zeros(0), Stored((0,), positive=True))
    check_numbers("any", torch.tensor([-3.0, 0]), Stored((2,)))
    check_numbers("tiny", torch.tensor([1e-38]), Stored((1,), positive=True))
    for value, stored in (
        (torch.tensor([32], dtype=torch.uint8), Stored((1,), bits=5)),
        (torch.tensor([0x80], dtype=torch.uint8), Stored((1,), bits=3)),  # two to a byte: 0, 8
        (torch.tensor([0.0]), Stored((1,), positive=True)),
        (torch.tensor([float("inf")]), Stored((1,))),
        (torch.tensor([-float("inf")]), Stored((1,))),
        (torch.tensor([float("nan")]), Stored((1,))),
    ):
        with pytest.raises(CheckpointError):
            check_numbers("name", value, stored)
    check_tensor("codes", (2, 3), torch.uint8, Stored((2, 3), bits=4))
    check_tensor("scale", (2,), torch.float16, Stored((2,)))
    for shape, dtype, stored in (
        ((3, 2), torch.uint8, Stored((2, 3), bits=4)),
        ((2, 3), torch.float32, Stored((2, 3), bits=4)),
        ((2,), torch.uint8, Stored((2,))),
    ):
        with pytest.raises(CheckpointError):
            check_tensor("name", shape, dtype, stored)


def test_the_memory_of_a_quantized_folder_by_hand() -> None:
    expected = {
        "a.codes": Stored((8, 3), bits=4, weight=48),  # two to a byte: 48 codes
        "a.scale": Stored((8, 1)),
        "b.codes": Stored((5, 5), weight=25),  # left alone: 25 floats
    }
    assert [each.bytes_loaded for each in expected.values()] == [24 + 4 * 48, 32, 100 + 100]
    vae = headers_of({"w": (7,)}, size=50)
    file = headers_of({"a.codes": (8, 3)}, size=500)
    need = need_of_quantized("name", file, vae, expected)
    largest = file.tensors["a.codes"].nbytes
    assert need.float32 == 216 + 32 + 200 + 12 * 48 + 4 * 7 + largest + WORKING
    assert need.bfloat16 == need.float32 and need.file_bytes == 550


def test_injected_channels_are_counted_bounded_and_the_same_everywhere() -> None:
    transformer = build_random_checkpoint().transformer
    factors = injected_factors(transformer, 50, 3, 1)
    assert {name.split(".")[1] for name in factors} == {"qkv", "proj", "fc1"} and len(factors) == 6
    first = next(iter(factors.values()))
    assert all(torch.equal(first, s) for s in factors.values())
    assert sorted(set(first.tolist())) == pytest.approx([1 / 50, 1]) and int((first < 1).sum()) == 3
    width = len(first)
    for strength, channels in ((1, 1), (1e4, width)):
        assert int((injected_factors(transformer, strength, channels, 0)[
            "0.qkv"] == 1 / strength).sum()) >= channels  # fmt: skip
    for strength, channels in ((0.99, 1), (10001, 1), (2, 0), (2, width + 1)):
        with pytest.raises(ValueError, match="expected 1 to"):
            injected_factors(transformer, strength, channels, 0)


def test_a_layer_without_a_bias_stays_without_one() -> None:
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(2, 3))
    assert get_affine(model, "0").bias.tolist() == [0, 0, 0]
    for path in ("0", "1"):
        set_affine_(model, path, Affine(torch.ones(3, 2), torch.full((3,), 2.0)))
        assert get_affine(model, path).weight.tolist() == [[1, 1]] * 3
    assert model[0].bias is None and model[1].bias.tolist() == [2, 2, 2]
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_conversion_counts_its_groups_and_the_folder_takes_what_it_says(tmp_path: Path) -> None:
    checkpoint = build_random_checkpoint()
    recipe = plain_recipe(checkpoint, BitWidths(4, 8), "integer")
    *events, transformer = iterate_conversion(checkpoint, recipe)
    names = [group.name for group in checkpoint.groups]
    assert events == [ConversionProgress(n, i, len(names)) for i, n in enumerate(names, 1)]
    assert isinstance(transformer, nn.Module) and not transformer.training
    half = replace(checkpoint, transformer=deepcopy(checkpoint.transformer).bfloat16())
    again = replace(recipe, checkpoint=half.fingerprint)
    wide = quantize_transformer(half, again)
    floats = [x for x in wide.state_dict().values() if x.is_floating_point()]
    assert {x.dtype for x in floats} == {torch.float32}, "of a model in half precision, too"
    save_quantized(tmp_path / "out", checkpoint, transformer, recipe)
    file = tmp_path / "out" / "transformer" / WEIGHTS
    header = int.from_bytes(file.read_bytes()[:8], "little")
    assert stored_bytes(transformer) == file.stat().st_size - 8 - header
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o755


def test_where_something_new_can_be_written(tmp_path: Path) -> None:
    full, empty, file = tmp_path / "full", tmp_path / "empty", tmp_path / "file"
    full.mkdir(), empty.mkdir(), file.write_text("")
    (full / "a").write_text("")
    check_new_folder(empty)
    check_new_folder(tmp_path / "new" / "newer")
    for taken in (full, file):
        with pytest.raises(FileExistsError, match="new or empty"), whole_folder(taken):
            pass
    with whole_folder(empty) as work:
        (work / "b").write_text("")
    assert [p.name for p in empty.iterdir()] == ["b"]
    with whole_folder(empty, replaces=True) as work:
        (work / "d").write_text("")
    assert [p.name for p in empty.iterdir()] == ["d"]
    for target in (tmp_path / "never", empty):
        with pytest.raises(KeyError), whole_folder(target, replaces=True) as work:
            (work / "c").write_text("")
            raise KeyError
    assert [p.name for p in empty.iterdir()] == ["d"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "full"]
    check_new_file(file)
    check_new_file(tmp_path / "x" / "y", full)
    for target, source, error in (
        (full, None, IsADirectoryError),
        (file / "below", None, NotADirectoryError),
        (full / "inside", full, PermissionError),
    ):
        with pytest.raises(error):
            check_new_file(target, source)


def test_a_branch_of_rank_one_counts() -> None:
    checkpoint = build_random_checkpoint()
    recipe = plain_recipe(checkpoint, BitWidths(2, 16), "integer")
    branch = LowRankSpec(rank=1, iterations=1, weighting="none")
    layers = {name: replace(layer, low_rank=branch) for name, layer in recipe.layers.items()}
    model = quantize_transformer(checkpoint, replace(recipe, layers=layers), None)
    layer = next(each for each in model.modules() if isinstance(each, QuantizedLinear))
    x = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(0))
    branch_alone = F.linear(F.linear(x, layer.down), layer.up)
    assert float(branch_alone.abs().max()) > 0.01
    left = layer(x) - F.linear(x, layer.weight, layer.bias)
    assert torch.allclose(left, branch_alone, rtol=1e-4, atol=1e-4)
