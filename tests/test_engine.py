"""The engine against the released procedure, and its short cuts against the long way."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from marks import thorough
from torch import Tensor

from ditas_core.bench.released_reference import ReleasedResult, released_search
from ditas_core.calibration import Calibration, calibrate
from ditas_core.checkpoints import Checkpoint
from ditas_core.conversion import quantize_transformer
from ditas_core.lowrank import input_moment
from ditas_core.methods import fit_weight, joined
from ditas_core.models import get_linear
from ditas_core.sampling import spread_labels
from ditas_core.search import SearchSpec, iterate_search, search_group
from ditas_core.specs import (
    RELEASED_BRANCH,
    BitWidths,
    CalibrationSpec,
    LayerRecipe,
    LowRankSpec,
    Recipe,
    SamplingSpec,
    get_convention,
)

pytestmark = pytest.mark.numeric

RELEASED = get_convention("released")
SAMPLING = SamplingSpec(steps=4, guidance_scale=1.5, guided_channels=3, scheduler="ddpm")
SAMPLES = 2
SOME = ("0.qkv", "2.proj", "5.fc1", "7.fc2")


def all_tokens(checkpoint: Checkpoint, sampling: SamplingSpec, samples: int) -> Calibration:
    """Every token of every step, in single precision: what the released search sees."""
    spec = CalibrationSpec(
        sampling,
        samples,
        tokens=samples * 2 * checkpoint.image_tokens,
        batch=samples,
        token_dtype="float32",
    )
    return calibrate(checkpoint, spec)


def reference(
    checkpoint: Checkpoint,
    sampling: SamplingSpec,
    samples: int,
    bits: BitWidths,
    groups: tuple[str, ...] | None,
) -> ReleasedResult:
    return released_search(
        checkpoint.transformer,
        checkpoint.scheduler,
        spread_labels(samples, len(checkpoint.class_names)),
        checkpoint.latent_shape,
        sampling,
        0,
        (bits.weight, bits.activation),
        groups=groups,
    )


def check_against_reference(
    checkpoint: Checkpoint,
    bits: BitWidths,
    groups: tuple[str, ...] | None,
    sampling: SamplingSpec = SAMPLING,
    samples: int = SAMPLES,
) -> None:
    """Weights bit-equal, loss curves within 1e-4, the same alpha in every layer."""
    slow = reference(checkpoint, sampling, samples, bits, groups)
    calibration = all_tokens(checkpoint, sampling, samples)
    by_name = {group.name: group for group in checkpoint.groups}
    assert len(slow.layers) == len(groups or by_name)
    for layer in slow.layers:
        group = by_name[layer.name]
        statistics = calibration.groups[layer.name]
        assert torch.equal(statistics.aggregated_absmax().clamp(min=1e-4), layer.a_max)
        weights = [get_linear(checkpoint.transformer, path).weight for path in group.layers]
        (fused,) = joined(weights, RELEASED)
        fit = fit_weight(fused, RELEASED.quantizers(bits)[0], RELEASED_BRANCH, input_moment("none"))
        assert torch.equal(fit.rounded, layer.Q)
        assert torch.equal(fit.up @ fit.down, layer.L @ layer.R)
        done = search_group(checkpoint, group, calibration, SearchSpec(bits, "released"))
        assert done.losses == pytest.approx(layer.losses, rel=1e-4)
        assert done.identity == pytest.approx(layer.identity, rel=1e-4)
        assert done.best_on_grid == layer.alpha
        with_identity = None if layer.identity <= min(layer.losses) else layer.alpha
        assert done.alpha == with_identity


@pytest.mark.parametrize("bits", ["W4A8", *thorough("W8A8", "W4A4")])
def test_the_released_procedure_number_by_number(demo_checkpoint: Checkpoint, bits: str) -> None:
    """One layer of each kind; the slow test does all of them."""
    check_against_reference(demo_checkpoint, BitWidths.parse(bits), SOME)


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["W4A8", "W8A8"])
def test_the_released_procedure_in_every_layer(demo_checkpoint: Checkpoint, bits: str) -> None:
    sampling = replace(SAMPLING, steps=10)
    check_against_reference(demo_checkpoint, BitWidths.parse(bits), None, sampling, 4)


def test_released_layers_run_on_the_references_weights(demo_checkpoint: Checkpoint) -> None:
    """The converted model's rows are Q s, V's divided by the projection's s; so is the branch."""
    bits = BitWidths(4, 8)
    calibration = all_tokens(demo_checkpoint, SAMPLING, SAMPLES)
    slow = reference(demo_checkpoint, SAMPLING, SAMPLES, bits, ("1.qkv", "1.proj"))
    qkv, proj = slow.layers
    alone = LayerRecipe(BitWidths(16, 16))  # the other layers are not what is looked at
    layers = {group.name: alone for group in demo_checkpoint.groups}
    for found in slow.layers:
        layers[found.name] = LayerRecipe(bits, found.alpha, RELEASED_BRANCH)
    recipe = Recipe("ditas", "released", demo_checkpoint.fingerprint, layers, calibration.sha256)
    model = quantize_transformer(demo_checkpoint, recipe, calibration)

    def factor(layer: object, alpha: float | None) -> Tensor:
        if alpha is None:
            return torch.ones_like(layer.a_max)  # type: ignore[attr-defined]
        w_max = layer.Q.abs().amax(0).clamp(min=1e-4)  # type: ignore[attr-defined]
        a_max = layer.a_max  # type: ignore[attr-defined]
        return (a_max**alpha / w_max ** (1 - alpha)).clamp(min=1e-4)

    s = factor(qkv, recipe.layers["1.qkv"].alpha)
    rows = factor(proj, recipe.layers["1.proj"].alpha)
    width = len(s)
    for i, name in enumerate(("to_q", "to_k", "to_v")):
        layer = model.get_submodule(f"transformer_blocks.1.attn1.{name}")
        part = slice(i * width, (i + 1) * width)
        expected, up = qkv.Q[part] * s, qkv.L[part]
        if name == "to_v":
            expected, up = expected / rows[:, None], up / rows[:, None]
        assert torch.allclose(layer.weight, expected, rtol=1e-5, atol=1e-8)
        assert torch.allclose(layer.up @ layer.down, up @ (qkv.R * s), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("convention", "weight"), [("integer", 8), ("released", 4)])
def test_bfloat16_products_choose_as_well(
    demo_checkpoint: Checkpoint, convention: str, weight: int
) -> None:
    """The alpha found with bfloat16 loses at most 1 % of the loss in single precision."""
    spec = CalibrationSpec(SamplingSpec(steps=4), samples=2, tokens=24)
    calibration = calibrate(demo_checkpoint, spec)
    settings = SearchSpec(BitWidths(weight, 8), convention, "search")
    for group in demo_checkpoint.groups[4:8]:
        exact = search_group(demo_checkpoint, group, calibration, settings)
        fast = replace(settings, products="bfloat16")
        rough = search_group(demo_checkpoint, group, calibration, fast)
        assert rough.losses == pytest.approx(exact.losses, rel=2e-2)
        losses = {None: exact.identity, **dict(zip(exact.grid, exact.losses, strict=True))}
        assert losses[rough.alpha] <= exact.best * 1.01


def test_searching_again_never_samples(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    """Other bits, granularity, rank, convention: not one forward pass."""
    calls: list[int] = []
    handle = random_checkpoint.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        for bits in ("W8A8", "W4A4"):
            for convention in ("integer", "integer-g8", "paper", "released"):
                for rank in (0, 3):
                    spec = SearchSpec(
                        BitWidths.parse(bits), convention, low_rank=LowRankSpec(rank), grid=(0.5,)
                    )
                    list(iterate_search(random_checkpoint, random_calibration, spec))
    finally:
        handle.remove()
    assert calls == []
