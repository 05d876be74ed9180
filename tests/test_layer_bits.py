"""Bits of every layer within a size: how far errors of weights reach, and what is chosen by it."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ditas_core.calibration import (
    Calibration,
    InfluenceProgress,
    calibrate,
    iterate_reach,
    measure_reach,
)
from ditas_core.calibration.influence import probes, there_and_back
from ditas_core.calibration.reach import LayerGradients
from ditas_core.checkpoints import Checkpoint, fingerprint
from ditas_core.conversion import quantize_transformer
from ditas_core.layers import effective_bits
from ditas_core.models import get_linear
from ditas_core.sampling import (
    build_scheduler,
    initial_noise,
    predict_eps,
    sample_latents,
    scheduler_step,
    spread_labels,
)
from ditas_core.search import (
    BitsProgress,
    BudgetError,
    SearchSpec,
    bits_per_weight,
    counted_bits,
    iterate_search,
    layer_bits_range,
    layer_bits_steps,
    predicted_error,
    search,
    unsearched_recipe,
    widths_around,
)
from ditas_core.specs import (
    METHODS,
    RECOMMENDED,
    BitWidths,
    CalibrationSpec,
    Method,
    Recipe,
    SamplingSpec,
    SpecError,
)

STEPS, SEED = 3, 11
DDIM = SamplingSpec(steps=STEPS, guidance_scale=2.5)
W4A8 = BitWidths(4, 8)
SPEC = SearchSpec(W4A8, method="mixed", grid=(0.3, 0.6))


@pytest.fixture(scope="module")
def calibration(random_checkpoint: Checkpoint) -> Calibration:
    return calibrate(random_checkpoint, CalibrationSpec(DDIM, samples=2, tokens=8, seed=SEED))


@torch.no_grad()
def final_latents(checkpoint: Checkpoint, transformer: nn.Module, samples: int) -> Tensor:
    """In double precision, each step written out, (N, C, H, W)."""
    scheduler = build_scheduler(checkpoint.scheduler, DDIM)
    labels = spread_labels(samples, len(checkpoint.class_names))
    streams = [torch.Generator().manual_seed(SEED + i) for i in range(samples)]
    latents = initial_noise(checkpoint.latent_shape, streams).double()
    latents = latents * float(scheduler.init_noise_sigma)
    for t in scheduler.timesteps.tolist():
        prediction = predict_eps(transformer, latents, t, labels, DDIM, checkpoint.conditions)
        latents = scheduler_step(scheduler, prediction, t, latents, streams)
    return latents


def test_gradients_of_weights_are_those_of_moved_weights(random_checkpoint: Checkpoint) -> None:
    """Along a random direction of each layer's weights, all steps together."""
    samples = 2
    paths = [path for group in random_checkpoint.groups for path in group.layers]
    gradients = LayerGradients([get_linear(random_checkpoint.transformer, path) for path in paths])
    labels = spread_labels(samples, len(random_checkpoint.class_names))
    for _ in there_and_back(random_checkpoint, DDIM, labels, SEED, gradients):
        pass
    exact = copy.deepcopy(random_checkpoint.transformer).double()
    plain = final_latents(random_checkpoint, exact, samples)
    v = probes(plain.float(), SEED).double()
    generator = torch.Generator().manual_seed(SEED)
    for path, found in zip(paths, gradients.found, strict=True):
        weight = get_linear(exact, path).weight
        direction = torch.randn(weight.shape, generator=generator).double()
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.add_(sign * 1e-4 * direction)
                ends.append(final_latents(random_checkpoint, exact, samples))
                weight.sub_(sign * 1e-4 * direction)
        slope = float(((ends[0] - ends[1]) * v).sum()) / 2e-4
        size = float(found.total.norm() * direction.norm())
        assert float((found.total.double() * direction).sum()) == pytest.approx(
            slope, abs=2e-3 * size / math.sqrt(direction.numel())
        )


def test_reach_is_what_white_errors_of_a_layer_do(random_checkpoint: Checkpoint) -> None:
    """Along the one v that is drawn, of the layer's relative output error, which is measured, too.

    A mean of 300 squares of normal numbers is known to 8 %.
    """
    group = random_checkpoint.groups[-1]
    reach = measure_reach(random_checkpoint, DDIM, 1, SEED)
    exact = copy.deepcopy(random_checkpoint.transformer).double()
    layers = [get_linear(exact, path) for path in group.layers]
    kept: list[Tensor] = []
    keep = layers[0].register_forward_hook(lambda _, args, __: kept.append(args[0].flatten(0, -2)))
    plain = final_latents(random_checkpoint, exact, 1)
    keep.remove()
    x = torch.cat(kept)  # (M, C)
    energy = sum(float((x @ layer.weight.T).square().sum()) for layer in layers)
    v = probes(plain.float(), SEED).double()
    generator = torch.Generator().manual_seed(SEED)
    deviation = error = 0.0
    for _ in range(300):
        moves = [1e-4 * torch.randn(x.weight.shape, generator=generator).double() for x in layers]
        with torch.no_grad():
            for layer, move in zip(layers, moves, strict=True):
                layer.weight.add_(move)
            found = final_latents(random_checkpoint, exact, 1)
            for layer, move in zip(layers, moves, strict=True):
                layer.weight.sub_(move)
        deviation += float(((found - plain) * v).sum()) ** 2
        error += sum(float((x @ move.T).square().sum()) for move in moves) / energy
    assert reach[group.name] == pytest.approx(deviation / error, rel=0.35)


def test_reach_yields_every_step_and_leaves_the_model_as_it_was(
    random_checkpoint: Checkpoint,
) -> None:
    before = fingerprint(random_checkpoint.transformer)
    *events, found = iterate_reach(random_checkpoint, DDIM, 2, SEED)
    assert events == [InfluenceProgress(i + 1, 2 * STEPS) for i in range(2 * STEPS)]
    assert isinstance(found, dict)
    assert list(found) == [group.name for group in random_checkpoint.groups]
    assert min(found.values()) > 0
    assert fingerprint(random_checkpoint.transformer) == before
    modules = random_checkpoint.transformer.modules()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)
    assert all(p.grad is None for p in random_checkpoint.transformer.parameters())


def test_reach_is_the_same_in_batches_of_any_size(random_checkpoint: Checkpoint) -> None:
    whole = measure_reach(random_checkpoint, DDIM, 3, SEED)
    for batch in (1, 2):
        *events, found = iterate_reach(random_checkpoint, DDIM, 3, SEED, batch)
        assert len(events) == 2 * STEPS * (4 - batch)
        assert isinstance(found, dict)
        for name, value in found.items():
            assert value == pytest.approx(whole[name], rel=1e-3)


def test_hooks_go_when_it_is_broken_off(random_checkpoint: Checkpoint) -> None:
    events = iterate_reach(random_checkpoint, DDIM, 1, SEED)
    for _ in range(STEPS + 1):
        next(events)
    events.close()  # type: ignore[attr-defined]
    assert not any(m._forward_hooks for m in random_checkpoint.transformer.modules())


def test_bits_are_the_best_within_the_budget(
    random_checkpoint: Checkpoint, calibration: Calibration
) -> None:
    """Against all allocations of three groups whose bits differ, at the alphas that were found."""
    budget = 5.5
    spec = replace(SPEC, budget=budget)
    *events, recipe = iterate_search(random_checkpoint, calibration, spec)
    assert isinstance(recipe, Recipe)
    chosen = [event for event in events if isinstance(event, BitsProgress)]
    total = layer_bits_steps(random_checkpoint, calibration, spec)
    assert chosen == [BitsProgress(i + 1, total) for i in range(total)]
    assert bits_per_weight(random_checkpoint, recipe) <= budget + 1e-9
    assert {layer.bits for layer in recipe.layers.values()} <= set(widths_around(spec))
    uniform = search(random_checkpoint, calibration, replace(SPEC, method="search"))
    assert {n: x.alpha for n, x in recipe.layers.items()} == {
        n: x.alpha for n, x in uniform.layers.items()
    }
    reach = measure_reach(random_checkpoint, DDIM, seed=SEED)
    names = [group.name for group in random_checkpoint.groups]

    def error(which: int, bits: BitWidths) -> float:
        group = random_checkpoint.groups[which]
        layer = replace(recipe.layers[group.name], bits=bits)
        found = predicted_error(random_checkpoint, group, calibration, spec.convention, layer)
        return reach[group.name] * found

    free = range(min(3, len(names)))
    table = {(i, bits): error(i, bits) for i in free for bits in widths_around(spec)}
    own = sum(table[i, recipe.layers[names[i]].bits] for i in free)
    for others in itertools.product(widths_around(spec), repeat=len(free)):
        layers = dict(recipe.layers)
        for i, bits in zip(free, others, strict=True):
            layers[names[i]] = replace(layers[names[i]], bits=bits)
        if bits_per_weight(random_checkpoint, replace(recipe, layers=layers)) <= budget + 1e-9:
            assert sum(table[i, b] for i, b in zip(free, others, strict=True)) >= own * (1 - 1e-9)


@pytest.mark.parametrize("method", [name for name, each in METHODS.items() if each.allocates])
def test_without_a_budget_it_takes_no_more_than_ditas(
    random_checkpoint: Checkpoint, calibration: Calibration, method: str
) -> None:
    recipe = search(random_checkpoint, calibration, replace(SPEC, method=method))
    ditas = counted_bits(random_checkpoint, SearchSpec(W4A8, method="ditas"))
    assert bits_per_weight(random_checkpoint, recipe) <= ditas + 1e-9
    made = quantize_transformer(random_checkpoint, recipe, calibration)
    assert effective_bits(made) <= ditas + 1e-9
    drawn = sample_latents(
        made,
        random_checkpoint.scheduler,
        torch.tensor([0]),
        random_checkpoint.latent_shape,
        DDIM,
        SEED,
    )
    assert bool(torch.isfinite(drawn).all())


def test_without_smoothing_bits_are_chosen_all_the_same(
    random_checkpoint: Checkpoint, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "bits only", Method("bits by layer", allocates=True))
    spec = replace(SPEC, method="bits only", budget=4.9)
    assert spec.needs_calibration
    *events, recipe = iterate_search(random_checkpoint, calibration, spec, "file")
    assert isinstance(recipe, Recipe)
    assert len(events) == layer_bits_steps(random_checkpoint, calibration, spec)
    assert {layer.alpha for layer in recipe.layers.values()} == {None}
    assert len({layer.bits for layer in recipe.layers.values()}) > 1
    assert bits_per_weight(random_checkpoint, recipe) <= 4.9 + 1e-9
    with pytest.raises(SpecError, match="calibration: expected one for the method bits only"):
        unsearched_recipe(random_checkpoint, spec)


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        ("W4A8", "W3A8 W4A8 W5A8 W6A8"),
        ("W8A8", "W7A8 W8A8 W8g128A8 W8g32A8"),
        ("W7A4", "W6A4 W7A4 W8A4 W8g128A4"),
        ("W2A4", "W2A4 W3A4 W4A4"),
    ],
)
def test_widths_around(bits: str, expected: str) -> None:
    spec = replace(SPEC, bits=BitWidths.parse(bits))
    assert " ".join(map(str, widths_around(spec))) == expected


def test_range_is_of_the_narrowest_and_the_budget(random_checkpoint: Checkpoint) -> None:
    narrow, wide = (
        counted_bits(random_checkpoint, replace(SPEC, bits=BitWidths(bits, 8))) for bits in (3, 6)
    )
    assert wide == pytest.approx(narrow + 3)
    assert layer_bits_range(random_checkpoint, replace(SPEC, budget=5.0)) == (narrow, 5.0)
    assert layer_bits_range(random_checkpoint, replace(SPEC, budget=16.0)) == (narrow, wide)


def test_a_budget_below_the_narrowest_is_refused(
    random_checkpoint: Checkpoint, calibration: Calibration
) -> None:
    with pytest.raises(BudgetError, match=r"budget: expected at least 4.*, got 2.5"):
        search(random_checkpoint, calibration, replace(SPEC, budget=2.5))


def test_settings_that_do_not_belong_together() -> None:
    with pytest.raises(SpecError, match="chooses each layer's bits, got search"):
        SearchSpec(W4A8, method="search", budget=5.0)
    with pytest.raises(SpecError, match="whole number of weight bits for mixed"):
        SearchSpec(BitWidths("nvfp4", 8), method="mixed")
    assert METHODS[RECOMMENDED].allocates
    assert not SearchSpec(BitWidths(16, 8), method="mixed").chooses_bits
