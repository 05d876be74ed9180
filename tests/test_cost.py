"""Operations, seconds and bytes before anything runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from conftest import build_random_checkpoint
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ditas_core.calibration import memory_need, memory_of
from ditas_core.checkpoints import Checkpoint
from ditas_core.evaluation import (
    Cost,
    ModelShape,
    Plan,
    estimate,
    measure_speed,
    shape_of,
    transformer_flops,
)
from ditas_core.models import DIT
from ditas_core.specs import (
    METHODS,
    RELEASED_BRANCH,
    BitWidths,
    CalibrationSpec,
    LowRankSpec,
    SamplingSpec,
    default_rank,
)


def dit(
    depth: int, width: int, heads: int, latent: int, out_channels: int = 8, patch: int = 2
) -> ModelShape:
    """Of a DiT."""
    with torch.device("meta"):
        transformer = DIT.cls(
            heads,
            width // heads,
            num_layers=depth,
            sample_size=latent,
            patch_size=patch,
            out_channels=out_channels,
        )
    return shape_of(transformer, (latent // patch) ** 2)


SMALL = replace(dit(8, 256, 4, 16, 4), autoencoder=2_000_000)
XL = dit(28, 1152, 16, 32)


def branch(shape: ModelShape) -> LowRankSpec:
    return LowRankSpec(rank=default_rank(shape.width))


@pytest.mark.parametrize("out_channels", [4, 8])
@pytest.mark.parametrize("samples", [1, 3])
def test_operations_are_those_of_a_real_transformer(out_channels: int, samples: int) -> None:
    checkpoint = build_random_checkpoint(out_channels)
    x = torch.zeros(samples, *checkpoint.latent_shape)
    times = labels = torch.ones(samples, dtype=torch.long)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        checkpoint.transformer(x, timestep=times, class_labels=labels)
    found = transformer_flops(checkpoint.transformer, checkpoint.conditions)
    assert counter.get_total_flops() == samples * found


def test_known_models_have_their_published_operations() -> None:
    """DiT-XL/2: 118.6 thousand million multiply-adds at 256 px, 524.6 at 512 px."""
    assert XL.flops / 2e9 == pytest.approx(118.6, rel=0.01)
    assert dit(28, 1152, 16, 64).flops / 2e9 == pytest.approx(524.6, rel=0.01)


def test_a_shape_is_that_of_its_checkpoint(
    random_checkpoint: Checkpoint, demo_checkpoint: Checkpoint
) -> None:
    for checkpoint in (random_checkpoint, demo_checkpoint, build_random_checkpoint(8)):
        shape = ModelShape.of(checkpoint)
        assert shape.tokens == checkpoint.image_tokens
        layers = [p for g in checkpoint.groups for p in g.layers]
        weights = [checkpoint.transformer.get_submodule(p).weight.numel() for p in layers]
        assert shape.linear_weights == sum(weights)
    shape, config = ModelShape.of(demo_checkpoint), demo_checkpoint.transformer.config
    patch, heads = config["patch_size"], config["num_attention_heads"]
    width, latent = heads * config["attention_head_dim"], config["sample_size"]
    alike = dit(config["num_layers"], width, heads, latent, config["out_channels"], patch)
    assert shape == replace(alike, autoencoder=shape.autoencoder)
    assert 670e6 < XL.parameters < 760e6, "675 M and an embedder in each of 28 blocks"


def ticks(*durations: float) -> Iterator[float]:
    now = 0.0
    for duration in durations:
        yield now
        now += duration
        yield now


def test_speed_is_the_median_of_three_after_a_warm_up(random_checkpoint: Checkpoint) -> None:
    flops = ModelShape.of(random_checkpoint).flops
    clock = ticks(1.5, 0.25, 1.0, 0.5)
    assert measure_speed(random_checkpoint, flops, 3, lambda: next(clock)) == 6 * flops / 0.5
    assert next(clock, None) is None
    clock = ticks(8.0, 100.0)
    found = measure_speed(random_checkpoint, flops, 1, lambda: next(clock))
    assert found == 2 * flops / 8, "long: once"
    assert next(clock) == 8.0
    assert 1e6 < measure_speed(random_checkpoint, flops) < 1e14
    with pytest.raises(ValueError, match="samples"):
        measure_speed(random_checkpoint, flops, 0)
    with pytest.raises(ValueError, match="clock"):
        measure_speed(random_checkpoint, flops, 1, lambda: 0.0)


def within(factor: float, got: float, expected: float) -> bool:
    return expected / factor <= got <= expected * factor


def test_the_demos_real_seconds_come_out() -> None:
    """Two cores: calibrate 14 s (50 steps, 8 samples), search W4A8 22 s."""
    cost = estimate(SMALL, 50e9, Plan(branch=branch(SMALL)))
    assert within(1.5, cost.calibrate_s, 14)
    assert within(2, cost.search_s, 22)
    # eight pairs of images beside plain rounding, two thirds of them fake-quantized
    assert within(1.5, cost.compare_s, 14 * (1 + 2 * 1.3))


def test_the_large_models_real_seconds_and_bytes_come_out() -> None:
    """``bench scale``: 20 steps, 4 samples; seconds 159, 373, 72 and at most 7.85 GB."""
    spec = CalibrationSpec(SamplingSpec(steps=20), samples=4, batch=1, precision="bfloat16")
    tied = replace(XL, parameters=675_129_632, autoencoder=4_000_000)
    plan = Plan(spec, branch=branch(XL), variants=2, images=0)
    cost = estimate(tied, 190e9, plan)
    for got, expected in ((cost.calibrate_s, 159), (cost.search_s, 373), (cost.quantize_s, 72)):
        assert within(2, got, expected)
    assert 7.85e9 <= cost.memory_bytes < 9e9
    alone = estimate(tied, 190e9, replace(plan, variants=1))
    assert 4.82e9 <= alone.memory_bytes < 5.5e9
    assert cost.compare_s == 0


def numbers(cost: Cost) -> tuple[float, ...]:
    return cost.calibrate_s, cost.search_s, cost.quantize_s, cost.compare_s, cost.memory_bytes


@pytest.mark.parametrize("convention", ["integer", "integer-g32", "paper", "released"])
def test_more_work_costs_more(convention: str) -> None:
    low_rank = RELEASED_BRANCH if convention == "released" else branch(SMALL)
    plan = Plan(convention=convention, branch=low_rank)
    base = estimate(SMALL, 1e11, plan)
    assert all(math.isfinite(x) and x > 0 for x in numbers(base))
    for bigger in (
        dit(9, 256, 4, 16),
        dit(8, 320, 4, 16),
    ):
        pairs = zip(numbers(estimate(bigger, 1e11, plan)), numbers(base), strict=True)
        assert all(more > less for more, less in pairs)
    larger = estimate(dit(8, 256, 4, 32), 1e11, plan)
    assert larger.calibrate_s > 4 * base.calibrate_s and larger.compare_s > 4 * base.compare_s
    assert larger.search_s == base.search_s, "a search reads as many tokens"
    fast = estimate(SMALL, 2e11, plan)
    assert numbers(fast)[:4] == pytest.approx([x / 2 for x in numbers(base)[:4]])

    def cost(**changes: object) -> Cost:
        return estimate(SMALL, 1e11, replace(plan, **changes))

    spec = plan.calibration
    assert cost(calibration=replace(spec, samples=16)).calibrate_s == 2 * base.calibrate_s
    assert cost(calibration=replace(spec, tokens=48)).search_s > base.search_s
    assert cost(candidates=5).search_s < base.search_s
    assert cost(candidates=0).search_s == 0
    assert cost(images=16).compare_s == 2 * base.compare_s
    assert cost(variants=1).compare_s < base.compare_s < cost(variants=4).compare_s
    assert cost(variants=1).memory_bytes < base.memory_bytes < cost(variants=4).memory_bytes
    plain = cost(branch=LowRankSpec())
    assert plain.search_s < base.search_s and plain.quantize_s < base.quantize_s
    assert cost(bits=BitWidths(16, 8)) == replace(plain), "no branch beside 16 bits"
    for one in (LowRankSpec(), low_rank):  # the best candidates are compensated, too
        made_up, nearest = (
            cost(branch=one, rounding=METHODS[x].rounding) for x in ("gptq", "plain")
        )
        extra = made_up.quantize_s - nearest.quantize_s
        fits = 1 if convention in ("paper", "released") else 3
        assert extra > 0
        assert made_up.search_s - nearest.search_s >= 0.99 * fits * extra
        clipped = cost(branch=one, rounding=METHODS["clip"].rounding)
        assert clipped.quantize_s > nearest.quantize_s and clipped.search_s > nearest.search_s
    chosen, compensated = (
        cost(branch=LowRankSpec(), widths=4, rounding=METHODS[x].rounding)
        for x in ("mixed", "mixed+gptq")
    )
    assert chosen.search_s > plain.search_s and chosen.quantize_s == plain.quantize_s
    assert compensated.search_s == chosen.search_s, "bits are chosen without compensation"
    assert compensated.quantize_s > chosen.quantize_s
    assert cost(branch=LowRankSpec(), widths=8).search_s > chosen.search_s
    rotated = cost(rotation=METHODS["rotation"].rotation)
    assert rotated.quantize_s > base.quantize_s and rotated.compare_s > base.compare_s
    turned = sum(SMALL.tokens * c * 2 * 64 for c, _ in SMALL.groups)
    passes = plan.images * plan.sampling.steps * (plan.variants - 1) * 2
    assert rotated.compare_s - base.compare_s == pytest.approx(passes * turned / 1e11)
    assert cost(branch=replace(low_rank, rank=64)).quantize_s >= base.quantize_s
    assert cost(branch=replace(low_rank, iterations=20)).quantize_s > base.quantize_s


def test_memory_of_a_shape_is_that_of_the_checkpoint(random_checkpoint: Checkpoint) -> None:
    spec = CalibrationSpec(SamplingSpec(steps=4), samples=3, precision="bfloat16")
    shape = ModelShape.of(random_checkpoint)
    channels = [c for c, _ in shape.groups]
    assert memory_of(channels, shape.tokens, shape.parameters, spec) == memory_need(
        random_checkpoint, spec
    )


def test_impossible_speeds_and_plans_are_refused() -> None:
    for speed in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="speed"):
            estimate(SMALL, speed)
    for nothing in ({"candidates": -1}, {"variants": 0}, {"images": -1}):
        with pytest.raises(ValueError, match="plan"):
            Plan(**nothing)
    with pytest.raises(ValueError, match="convention"):
        Plan(convention="x")
