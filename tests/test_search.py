"""Grid search and conversion: the loss by plain loops, events, recipes, bit-equal models."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from marks import compatible, thorough
from slow_reference import slow_group_loss
from torch import nn

from ditas_core.calibration import Calibration, calibrate
from ditas_core.checkpoints import Checkpoint, fingerprint
from ditas_core.conversion import (
    ConversionProgress,
    iterate_conversion,
    quantize_transformer,
)
from ditas_core.conversion.quantized import prepare
from ditas_core.layers import QuantizedLinear
from ditas_core.methods.fit import POWER_ITERATIONS
from ditas_core.models import SmoothingGroup, get_linear
from ditas_core.search import (
    CandidateDone,
    GroupLoss,
    SearchSpec,
    iterate_search,
    plain_recipe,
    search,
    search_group,
)
from ditas_core.specs import (
    CONVENTIONS,
    METHODS,
    BitWidths,
    CalibrationSpec,
    LayerRecipe,
    LowRankSpec,
    Recipe,
    RecipeError,
    SamplingSpec,
    SpecError,
    get_convention,
)

pytestmark = pytest.mark.numeric

W4A8 = BitWidths(4, 8)
GRID = (0.0, 0.25, 0.5, 0.75, 1.0)
DITAS = SearchSpec(W4A8, grid=GRID, low_rank=LowRankSpec(rank=4, iterations=2))


def group_named(checkpoint: Checkpoint, name: str) -> SmoothingGroup:
    return next(group for group in checkpoint.groups if group.name == name)


def find_recipe(checkpoint: Checkpoint, calibration: Calibration, spec: SearchSpec) -> Recipe:
    return search(checkpoint, calibration, spec)


def quantized(
    checkpoint: Checkpoint, recipe: Recipe, calibration: Calibration | None = None
) -> nn.Module:
    return quantize_transformer(checkpoint, recipe, calibration)


@pytest.fixture(scope="module")
def ditas_recipe(random_checkpoint: Checkpoint, random_calibration: Calibration) -> Recipe:
    return find_recipe(random_checkpoint, random_calibration, DITAS)


@pytest.fixture(scope="module")
def few_tokens(random_checkpoint: Checkpoint) -> Calibration:
    """Small enough for plain loops."""
    spec = CalibrationSpec(SamplingSpec(steps=2), samples=2, seed=1, tokens=3)
    return calibrate(random_checkpoint, spec)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", ["0.qkv", "1.proj"])
@pytest.mark.parametrize("bits", ["W8A8", "W3A5"])
def test_loss_equals_plain_loops(
    random_checkpoint: Checkpoint,
    few_tokens: Calibration,
    convention: str,
    name: str,
    bits: str,
) -> None:
    group = group_named(random_checkpoint, name)
    stats = few_tokens.groups[name]
    weights = [get_linear(random_checkpoint.transformer, p).weight for p in group.layers]
    widths = BitWidths.parse(bits)
    loss = GroupLoss(weights, stats, LayerRecipe(widths), get_convention(convention))
    for alpha in (None, 0.0, 0.55, 1.0):
        slow = slow_group_loss(
            stats.tokens.float().numpy(),
            stats.low.numpy(),
            stats.high.numpy(),
            [w.numpy() for w in weights],
            get_convention(convention),
            widths,
            alpha,
        )
        assert loss(alpha) == pytest.approx(slow, rel=2e-3)


@pytest.mark.parametrize("name", ["0.fc1", "1.fc2", "0.proj"])
def test_loss_with_a_branch_is_that_of_the_layer_that_runs(
    random_checkpoint: Checkpoint, random_calibration: Calibration, name: str
) -> None:
    """The search's number is the error of the layer that conversion builds (one iteration)."""
    spec = replace(DITAS, low_rank=LowRankSpec(rank=4, iterations=1))
    recipe = find_recipe(random_checkpoint, random_calibration, spec)
    alpha = recipe.layers[name].alpha
    model = quantized(random_checkpoint, recipe, random_calibration)
    group, stats = group_named(random_checkpoint, name), random_calibration.groups[name]
    linear = get_linear(random_checkpoint.transformer, group.layers[0])
    layer = model.get_submodule(group.layers[0])
    convention = get_convention("integer")
    s = prepare(random_checkpoint.transformer, group, recipe.layers[name], convention, stats).s
    assert alpha is None or s is not None
    tokens = stats.tokens.float()
    folded = s is not None and layer.smoothing is None
    error = layer(tokens / s if folded else tokens) - linear(tokens)
    loss = GroupLoss(
        [linear.weight],
        stats,
        LayerRecipe(W4A8, None, spec.low_rank),
        convention,
        power_iterations=POWER_ITERATIONS,
    )
    assert loss(alpha) == pytest.approx(float(error.square().mean((1, 2)).sum()), rel=2e-2)


@pytest.mark.parametrize("method", ["search", "ditas"])
def test_events_come_in_order_and_the_identity_is_always_a_candidate(
    random_checkpoint: Checkpoint, random_calibration: Calibration, method: str
) -> None:
    events = list(
        iterate_search(random_checkpoint, random_calibration, replace(DITAS, method=method))
    )
    names = [group.name for group in random_checkpoint.groups]
    assert isinstance(events[-1], Recipe)
    assert [name for name, _ in itertools.groupby(e.group for e in events[:-1])] == names
    for i, name in enumerate(names):
        of_group = [e for e in events[:-1] if e.group == name]
        *steps, done = of_group
        candidates = [step for step in steps if isinstance(step, CandidateDone)]
        assert [c.alpha for c in candidates] == [None, *GRID]
        assert (done.group, done.index, done.total, done.grid) == (name, i, len(names), GRID)
        assert (done.identity, *done.losses) == tuple(c.loss for c in candidates)
        assert done.energy > 0
        assert all(math.isfinite(loss) and loss >= 0 for loss in done.losses)
        choices = {None: done.identity, **dict(zip(GRID, done.losses, strict=True))}
        if method == "ditas":  # quick fits: the identity and the best alphas are looked at again
            choices = dict(done.refined)
            assert None in choices and len(choices) == 3
        assert choices[done.alpha] == done.best == min(choices.values())
        assert done.gain_db >= 0
        assert events[-1].layers[name].alpha == done.alpha


@pytest.mark.parametrize("weighting", ["none", "energy", "covariance"])
@pytest.mark.parametrize("name", ["0.qkv", "1.fc2", *thorough("1.proj", "0.fc1")])
def test_the_choice_is_made_on_the_loss_of_the_layer_that_runs(
    random_checkpoint: Checkpoint, random_calibration: Calibration, name: str, weighting: str
) -> None:
    """The refined losses equal the errors of the layers that conversion builds."""
    spec = replace(DITAS, low_rank=LowRankSpec(rank=4, weighting=weighting))
    group, stats = group_named(random_checkpoint, name), random_calibration.groups[name]
    done = search_group(random_checkpoint, group, random_calibration, spec)
    assert done.refined
    recipe = find_recipe(random_checkpoint, random_calibration, replace(spec, grid=(0.5,)))
    tokens = stats.tokens.float()
    for alpha, loss in done.refined:
        layer_recipe = replace(recipe.layers[name], alpha=alpha)
        # the projection's factor would divide the rows of V: leave it out
        other = name.replace("qkv", "proj")
        plain = replace(recipe.layers[other], alpha=None)
        changed = recipe.with_layer(other, plain).with_layer(name, layer_recipe)
        model = quantized(random_checkpoint, changed, random_calibration)
        convention = get_convention("integer")
        s = prepare(random_checkpoint.transformer, group, layer_recipe, convention, stats).s
        total = 0.0
        for path in group.layers:
            layer, linear = (
                model.get_submodule(path),
                get_linear(random_checkpoint.transformer, path),
            )
            x = tokens / s if s is not None and layer.smoothing is None else tokens
            total += float((layer(x) - linear(tokens)).square().mean((1, 2)).sum())
        assert loss == pytest.approx(total / len(group.layers), rel=1e-3)


def test_the_identity_wins_where_smoothing_hurts(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    """At 16 bits nothing is rounded; any s only adds float error, at most."""
    spec = replace(DITAS, method="search", bits=BitWidths(16, 16))
    recipe = find_recipe(random_checkpoint, random_calibration, spec)
    assert {layer.alpha for layer in recipe.layers.values()} == {None}


def test_smoothing_is_one_fixed_alpha_and_plain_is_none(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    smoothing = find_recipe(
        random_checkpoint, random_calibration, SearchSpec(W4A8, method="smoothing")
    )
    assert {layer.alpha for layer in smoothing.layers.values()} == {0.5}
    assert {layer.low_rank.rank for layer in smoothing.layers.values()} == {0}
    plain = find_recipe(random_checkpoint, random_calibration, SearchSpec(W4A8, method="plain"))
    assert plain == plain_recipe(random_checkpoint, W4A8, "integer")
    assert not plain.needs_calibration
    assert isinstance(quantized(random_checkpoint, plain), nn.Module)


def test_search_is_repeatable_and_equal_recipes_give_bit_equal_models(
    random_checkpoint: Checkpoint, random_calibration: Calibration, ditas_recipe: Recipe
) -> None:
    torch.manual_seed(99)
    again = find_recipe(random_checkpoint, random_calibration, DITAS)
    assert again == ditas_recipe and again.to_json() == ditas_recipe.to_json()
    first = quantized(random_checkpoint, ditas_recipe, random_calibration).state_dict()
    second = quantized(random_checkpoint, again, random_calibration).state_dict()
    assert set(first) == set(second)
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = replace(
        ditas_recipe,
        layers={n: replace(x, bits=BitWidths(3, 8)) for n, x in ditas_recipe.layers.items()},
    )
    third = quantized(random_checkpoint, other, random_calibration).state_dict()
    assert not all(torch.equal(first[key], third[key]) for key in first)


def test_the_search_can_be_left_at_any_event(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    before = fingerprint(random_checkpoint.transformer)
    for stop in (1, 4, 9):
        running = iterate_search(random_checkpoint, random_calibration, DITAS)
        for _ in range(stop):
            next(running)
        running.close()
        assert torch.is_grad_enabled()
    converting = iterate_conversion(
        random_checkpoint, plain_recipe(random_checkpoint, W4A8, "integer")
    )
    assert next(converting) == ConversionProgress("0.qkv", 1, 8)
    converting.close()
    assert torch.is_grad_enabled()
    assert fingerprint(random_checkpoint.transformer) == before


@pytest.mark.parametrize(("convention", "method"), compatible(CONVENTIONS, METHODS))
def test_every_method_runs_and_leaves_the_base_weights_alone(
    random_checkpoint: Checkpoint, random_calibration: Calibration, convention: str, method: str
) -> None:
    transformer = random_checkpoint.transformer
    before, calibration_before = fingerprint(transformer), random_calibration.sha256
    modules = [type(m).__name__ for m in transformer.modules()]
    spec = replace(DITAS, convention=convention, method=method)
    recipe = find_recipe(random_checkpoint, random_calibration, spec)
    model = quantized(random_checkpoint, recipe, random_calibration)
    replaced = [path for path, m in model.named_modules() if isinstance(m, QuantizedLinear)]
    assert sorted(replaced) == sorted(p for g in random_checkpoint.groups for p in g.layers)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    arguments = {"timestep": torch.tensor([500, 10]), "class_labels": torch.tensor([1, 1000])}
    with torch.no_grad():
        expected, got = (m(x, **arguments).sample for m in (transformer, model))
        for buffer in model.buffers():
            buffer.zero_()
        for parameter in model.parameters():
            parameter.zero_()
    assert 0 < float((got - expected).norm() / expected.norm()) < 0.5
    assert fingerprint(transformer) == before
    assert [type(m).__name__ for m in transformer.modules()] == modules
    fresh = replace(random_calibration)
    assert fresh.sha256 == calibration_before


def test_bits_and_rank_differ_per_layer(
    random_checkpoint: Checkpoint, random_calibration: Calibration, ditas_recipe: Recipe
) -> None:
    mixed = ditas_recipe.with_layer("0.fc1", LayerRecipe(BitWidths(8, 16)))
    mixed = mixed.with_layer(
        "1.fc1", LayerRecipe(BitWidths(2, 8), 0.5, LowRankSpec(rank=9, weighting="none"))
    )
    big = LayerRecipe(W4A8, 0.5, LowRankSpec(rank=256, iterations=1))
    model = quantized(random_checkpoint, mixed.with_layer("0.proj", big), random_calibration)
    first = model.get_submodule("transformer_blocks.0.ff.net.0.proj")
    second = model.get_submodule("transformer_blocks.1.ff.net.0.proj")
    assert first.weight_spec.bits == 8 and first.up.shape[1] == 0
    assert second.weight_spec.bits == 2 and second.up.shape[1] == 9
    assert int(second.unpacked().max()) == 3
    cut = model.get_submodule("transformer_blocks.0.attn1.to_out.0")
    assert cut.up.shape[1] == 32, "a rank above the layer's shape is cut to it"


def test_another_checkpoints_calibration_is_refused(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    foreign = replace(random_calibration, checkpoint="0" * 64)
    with pytest.raises(SpecError, match="calibration"):
        next(iterate_search(random_checkpoint, foreign, DITAS))


@pytest.mark.parametrize(
    "damage",
    [
        lambda recipe: replace(recipe, checkpoint="0" * 64),
        lambda recipe: replace(recipe, calibration="0" * 64),
        lambda recipe: replace(recipe, layers={**recipe.layers, "7.qkv": LayerRecipe(W4A8)}),
        lambda recipe: replace(recipe, layers={"0.qkv": LayerRecipe(W4A8)}),
    ],
    ids=["checkpoint", "calibration", "more layers", "fewer layers"],
)
def test_a_recipe_that_does_not_fit_is_refused(
    random_checkpoint: Checkpoint, random_calibration: Calibration, ditas_recipe: Recipe, damage
) -> None:
    with pytest.raises(RecipeError):
        next(iterate_conversion(random_checkpoint, damage(ditas_recipe), random_calibration))
    with pytest.raises(RecipeError, match="calibration"):
        next(iterate_conversion(random_checkpoint, ditas_recipe))


@pytest.mark.parametrize(
    "hostile",
    [
        {"method": "magic"},
        {"convention": "none"},
        {"grid": ()},
        {"grid": (0.5, 1.5)},
        {"grid": (float("nan"),)},
    ],
)
def test_hostile_search_settings(hostile: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        SearchSpec(W4A8, **hostile)
