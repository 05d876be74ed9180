"""Sensitivity of groups to bits, what choices cost on disk, and bits under a budget."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from conftest import build_random_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from marks import thorough
from torch import nn

from ditas_core.calibration import Calibration, calibrate
from ditas_core.checkpoints import Checkpoint
from ditas_core.comparison import iterate_measured_sensitivity
from ditas_core.conversion import quantize_transformer
from ditas_core.layers import QuantizedLinear, effective_bits, group_bits_stored
from ditas_core.sampling import sample_latents
from ditas_core.search import (
    BudgetError,
    LayerDone,
    SearchSpec,
    SensitivityMap,
    SensitivityProgress,
    allocate,
    iterate_search,
    iterate_sensitivity,
    sensitivity,
)
from ditas_core.search.allocation import choose
from ditas_core.search.sensitivity import sized_map
from ditas_core.specs import (
    CONVENTIONS,
    BitWidths,
    CalibrationSpec,
    LowRankSpec,
    Recipe,
    SamplingSpec,
    SpecError,
    get_convention,
    only,
)

pytestmark = pytest.mark.numeric

FULL = BitWidths(16, 16)
BITS = (BitWidths(3, 8), BitWidths(4, 8), BitWidths(8, 8), FULL)
SPEC = SearchSpec(BitWidths(4, 8), grid=(0.25, 0.75), low_rank=LowRankSpec(rank=4, iterations=1))


def map_of(
    checkpoint: Checkpoint,
    calibration: Calibration,
    spec: SearchSpec = SPEC,
    bits: tuple[BitWidths, ...] = BITS,
    recipe: Recipe | None = None,
) -> SensitivityMap:
    return sensitivity(checkpoint, calibration, bits, spec, recipe)


def converted(checkpoint: Checkpoint, recipe: Recipe, calibration: Calibration) -> nn.Module:
    return quantize_transformer(checkpoint, recipe, calibration)


@pytest.fixture(scope="module")
def half_checkpoint() -> Checkpoint:
    """Weights that half precision holds, as shipped ones are: left alone they take 16 bits."""
    checkpoint = build_random_checkpoint()
    for parameter in checkpoint.transformer.parameters():
        parameter.data.copy_(parameter.half())
    return checkpoint


@pytest.fixture(scope="module")
def half_calibration(half_checkpoint: Checkpoint) -> Calibration:
    spec = CalibrationSpec(SamplingSpec(steps=4), samples=3, seed=5, tokens=6)
    return calibrate(half_checkpoint, spec)


@pytest.fixture(scope="module")
def tiny_map(half_checkpoint: Checkpoint, half_calibration: Calibration) -> SensitivityMap:
    return map_of(half_checkpoint, half_calibration)


@pytest.mark.parametrize("method", ["search", *thorough("ditas")])
def test_cells_are_the_best_of_the_search(
    random_checkpoint: Checkpoint, random_calibration: Calibration, method: str
) -> None:
    spec = replace(SPEC, method=method)
    events = list(iterate_sensitivity(random_checkpoint, random_calibration, BITS, spec))
    *cells, last = events
    names = [group.name for group in random_checkpoint.groups]
    assert [(c.group, c.bits) for c in cells if isinstance(c, SensitivityProgress)] == [
        *itertools.product(names, BITS)
    ]
    assert [c.done for c in cells] == list(range(1, len(cells) + 1))
    assert {c.total for c in cells} == {len(names) * len(BITS)}
    assert [c.error for c in cells] == last.error.flatten().tolist()
    assert [c.alpha for c in cells] == [alpha for row in last.alphas for alpha in row]
    for column, bits in enumerate(BITS[:3]):
        found = iterate_search(random_checkpoint, random_calibration, replace(spec, bits=bits))
        for row, done in enumerate(e for e in found if isinstance(e, LayerDone)):
            assert float(last.error[row, column]) == done.best / done.energy
            assert last.alphas[row][column] == done.alpha
    assert bool((last.error[:, 3] == 0).all()) and {row[3] for row in last.alphas} == {None}


def test_alphas_of_a_recipe_are_kept(
    half_checkpoint: Checkpoint, half_calibration: Calibration, tiny_map: SensitivityMap
) -> None:
    recipe = tiny_map.recipe(tiny_map.uniform(BITS[1]))
    kept = map_of(half_checkpoint, half_calibration, recipe=recipe)
    for row, name in enumerate(kept.groups):
        assert kept.alphas[row] == (*[recipe.layers[name].alpha] * 3, None)
    assert torch.equal(kept.error[:, 1], tiny_map.error[:, 1])
    assert bool((kept.error >= tiny_map.error).all())
    with pytest.raises(SpecError, match="convention"):
        other = replace(recipe, convention="paper")
        map_of(half_checkpoint, half_calibration, recipe=other)


def test_hostile_inputs(
    half_checkpoint: Checkpoint, half_calibration: Calibration, tiny_map: SensitivityMap
) -> None:
    for bits in ((), (BITS[0], BITS[0])):
        with pytest.raises(SpecError, match="bits"):
            next(iterate_sensitivity(half_checkpoint, half_calibration, bits, SPEC))
    foreign = replace(half_calibration, checkpoint="0" * 64)
    with pytest.raises(SpecError, match="calibration"):
        next(iterate_sensitivity(half_checkpoint, foreign, BITS, SPEC))
    for damage in (
        {"error": tiny_map.error[:3]},
        {"error": tiny_map.error * math.nan},
        {"divided_by": tuple(range(len(tiny_map.groups)))},
    ):
        with pytest.raises(SpecError):
            replace(tiny_map, **damage)
    for widths in (tiny_map.uniform(BITS[0]) | {"0.qkv": BitWidths(7, 7)}, {"0.qkv": BITS[0]}):
        with pytest.raises(SpecError):
            tiny_map.recipe(widths)


def test_json_round_trip_to_the_bit(tiny_map: SensitivityMap) -> None:
    text = tiny_map.to_json()
    again = SensitivityMap.from_json(text)
    assert again.to_json() == text
    for name, value in vars(tiny_map).items():
        other = getattr(again, name)
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
    document = json.loads(text)
    for damage in (
        {"format": "another"},
        {"error": [[1.0]]},
        {"error": "x"},
        {"bits": [{"weight": 99, "activation": 8}]},
        {"alphas": [[7.0] * 4] * 8},
        {"low_rank": {"magic": 1}},
        {"groups": None},
        {"weights": [0] * 8},
        {"unknown": 1},
    ):
        with pytest.raises(SpecError):
            SensitivityMap.from_json(json.dumps({**document, **damage}))
    for text in ("", "[]", "{", "{}"):
        with pytest.raises(SpecError):
            SensitivityMap.from_json(text)


@pytest.mark.parametrize("convention", [*CONVENTIONS, "integer-g6", "integer-g32"])
@pytest.mark.parametrize("method", ["plain", "smoothing", *thorough("ditas")])
@pytest.mark.parametrize("weights", ["random", *thorough("half")])
def test_sizes_are_those_of_the_layers_that_conversion_builds(
    request: pytest.FixtureRequest, convention: str, method: str, weights: str
) -> None:
    """Widths and alphas mixed, so that V is divided in one block and not in the other."""
    checkpoint: Checkpoint = request.getfixturevalue(f"{weights}_checkpoint")
    calibration: Calibration = request.getfixturevalue(f"{weights}_calibration")
    spec = replace(SPEC, convention=convention, method=method, grid=(0.5,), low_rank=None)
    made = map_of(checkpoint, calibration, spec, BITS[1:])
    if method != "plain":
        alphas = tuple((None if n == "1.proj" else 0.5, 0.5, None) for n in made.groups)
        errors = made.error.tolist()
        made = sized_map(checkpoint, calibration, BITS[1:], spec, errors, list(alphas))
    for shift in range(3):
        widths = {n: BITS[1:][(i + shift) % 3] for i, n in enumerate(made.groups)}
        model = converted(checkpoint, made.recipe(widths), calibration)
        layers = [m for m in model.modules() if isinstance(m, QuantizedLinear)]
        built = sum(layer.bits_stored for layer in layers)
        wanted = made.bits_stored(widths)
        dropped = any(
            made.low_rank.rank and layer.weight_spec.bits < 16 and layer.up.shape[1] == 0
            for layer in layers
        )
        assert wanted >= built - 1e-6 if dropped else wanted == pytest.approx(built, rel=1e-12)


def test_a_map_has_the_one_alpha_that_a_search_has(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    bits = BitWidths(4, 8)
    for grid, alpha in (((0.2,), 0.2), ((0.2, 0.4), 0.5)):
        spec = SearchSpec(bits, method="smoothing", grid=grid)
        made = sensitivity(random_checkpoint, random_calibration, [bits], spec)
        assert {one for row in made.alphas for one in row} == {alpha}


def test_a_size_needs_layers_that_share_one_input() -> None:
    convention = get_convention("integer")
    for shapes in ([], [(4, 8), (4, 9)]):
        with pytest.raises(ValueError, match="shapes"):
            group_bits_stored(shapes, BitWidths(4, 8), convention, LowRankSpec(), False)


OPTIONS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=4)


@given(st.lists(OPTIONS, min_size=1, max_size=5), st.integers(0, 30), st.booleans())
def test_the_choice_is_optimal(items: list[list[tuple[int, int]]], room: int, odd: bool) -> None:
    """Against every combination; odd factors so that sums are not exact."""
    a, b = (0.1, 1 / 3) if odd else (1.0, 1.0)
    tensors = [
        (
            torch.tensor([c * a for c, _ in m], dtype=torch.float64),
            torch.tensor([e * b for _, e in m], dtype=torch.float64),
        )
        for m in items
    ]
    budget = (sum(min(c for c, _ in m) for m in items) + room) * a
    combinations = itertools.product(*(range(len(m)) for m in items))

    def sums(options: tuple[int, ...]) -> tuple[int, int]:
        picked = [m[k] for m, k in zip(items, options, strict=True)]
        return sum(e for _, e in picked), sum(c for c, _ in picked)

    best = min(sums(o) for o in combinations if sums(o)[1] * a <= budget * (1 + 1e-12))
    chosen = choose(tensors, budget)
    error, cost = sums(tuple(chosen))
    assert error == best[0] and cost * a <= budget * (1 + 1e-12)
    if not odd:
        assert cost == best[1], "of equal errors the smaller size"
    assert choose(tensors, budget) == chosen


def brute_force(made: SensitivityMap, budget: float) -> float:
    """The smallest sum of errors of all B^L allocations that fit."""
    best = math.inf
    for widths in itertools.product(made.bits, repeat=len(made.groups)):
        allocation = dict(zip(made.groups, widths, strict=True))
        if made.bits_per_weight(allocation) <= budget * (1 + 1e-12):
            best = min(best, made.total_error(allocation))
    return best


@pytest.mark.parametrize("budget", [7.7, 8.3, 9.25, 11.5, 13.0])
def test_allocation_is_optimal_with_groups_that_depend_on_each_other(
    tiny_map: SensitivityMap, budget: float
) -> None:
    """One block's four groups; an alpha more or less at the projection changes V's size."""
    keep = slice(0, 4)
    alphas = (*tiny_map.alphas[:1], (0.25, None, 0.75, None), *tiny_map.alphas[2:4])
    parts = ("groups", "divided_by", "weights", "error", "stored", "division")
    cut = {part: getattr(tiny_map, part)[keep] for part in parts}
    block = replace(tiny_map, alphas=alphas, **cut)
    assert block.divided_by == (1, -1, -1, -1) and float(block.division[0, 0]) > 0
    found = allocate(block, budget)
    assert list(found) == list(block.groups)
    assert block.bits_per_weight(found) <= budget
    assert block.total_error(found) == pytest.approx(brute_force(block, budget), rel=1e-12)


def test_budgets_from_the_smallest_to_more_than_all(tiny_map: SensitivityMap) -> None:
    smallest = tiny_map.bits_per_weight(tiny_map.uniform(BITS[0]))
    assert allocate(tiny_map, 16.0) == tiny_map.uniform(FULL)
    assert allocate(tiny_map, 1e9) == tiny_map.uniform(FULL)
    with pytest.raises(BudgetError, match=r"at least [0-9.]+ bits") as caught:
        allocate(tiny_map, 1.0)
    named = float(str(caught.value).split("at least ")[1].split(" ")[0])
    assert smallest * 0.9 < named <= smallest + 1e-3
    assert tiny_map.bits_per_weight(allocate(tiny_map, named)) <= named
    with pytest.raises(BudgetError):
        allocate(tiny_map, named - 2e-3)
    with pytest.raises(BudgetError):
        allocate(tiny_map, math.nan)
    errors = [tiny_map.total_error(allocate(tiny_map, named + 0.5 * i)) for i in range(20)]
    assert errors == sorted(errors, reverse=True)


def test_a_mixed_recipe_of_the_demo_fits_its_budget(demo_checkpoint: Checkpoint) -> None:
    demo_calibration = calibrate(
        demo_checkpoint, CalibrationSpec(SamplingSpec(steps=2), samples=1, tokens=8)
    )
    spec = SearchSpec(BitWidths(4, 8), method="search", grid=(0.25, 0.5))
    demo_map = map_of(demo_checkpoint, demo_calibration, spec)
    uniform = demo_map.uniform(BITS[1])
    equal = demo_map.bits_per_weight(uniform)
    same = allocate(demo_map, equal)
    assert demo_map.bits_per_weight(same) <= equal * (1 + 1e-12)
    assert demo_map.total_error(same) <= demo_map.total_error(uniform)
    assert demo_map.total_error(allocate(demo_map, 5.0)) < 0.9 * demo_map.total_error(uniform)
    for budget in (equal, 5.0):
        recipe = demo_map.recipe(allocate(demo_map, budget))
        model = converted(demo_checkpoint, recipe, demo_calibration)
        widths = {name: layer.bits for name, layer in recipe.layers.items()}
        assert widths == allocate(demo_map, budget)
        assert budget - 0.1 < effective_bits(model) <= budget * (1 + 1e-12)
        assert effective_bits(model) == pytest.approx(demo_map.bits_per_weight(widths), rel=1e-12)
        for row, column in enumerate(demo_map.columns(widths)):
            layer = recipe.layers[demo_map.groups[row]]
            assert layer.alpha == demo_map.alphas[row][column]


def test_measured_cells_are_those_of_separate_runs(
    half_checkpoint: Checkpoint, half_calibration: Calibration, tiny_map: SensitivityMap
) -> None:
    labels, spec = torch.tensor([0, 3]), SamplingSpec(steps=2)
    *cells, last = iterate_measured_sensitivity(
        half_checkpoint, half_calibration, tiny_map, labels, spec, seed=4
    )
    assert last.measured and not tiny_map.measured
    assert torch.equal(last.stored, tiny_map.stored) and last.alphas == tiny_map.alphas
    assert [c.error for c in cells] == last.error.flatten().tolist()
    assert [c.done for c in cells] == list(range(1, 33))
    assert bool((last.error[:, 3] == 0).all())
    assert bool((last.error[:, 0] > last.error[:, 2]).all())

    of = half_checkpoint
    recipe = only(tiny_map.recipe(tiny_map.uniform(BITS[0])), ["1.proj"])
    got, reference = (
        sample_latents(transformer, of.scheduler, labels, of.latent_shape, spec, 4)
        for transformer in (converted(of, recipe, half_calibration), of.transformer)
    )
    expected = float((got - reference).norm() / reference.norm()) ** 2
    row = tiny_map.groups.index("1.proj")
    assert float(last.error[row, 0]) == pytest.approx(expected, rel=1e-4)
    foreign = replace(tiny_map, checkpoint="0" * 64)
    with pytest.raises(SpecError, match="sensitivity"):
        next(
            iterate_measured_sensitivity(
                half_checkpoint, half_calibration, foreign, labels, spec, 4
            )
        )
    assert allocate(last, 9.0)
