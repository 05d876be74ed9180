"""Methods and their parts: what they choose passes unchanged, and each against a slow one."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiTPipeline
from hypothesis import given
from hypothesis import strategies as st
from slow_reference import groups_of, round_one, scale_and_zero, slow_scales
from torch import Tensor, nn

import ditas_core as ditas
from ditas_core.calibration import Calibration
from ditas_core.checkpoints import Checkpoint
from ditas_core.cli import main
from ditas_core.conversion import iterate_conversion, quantize_transformer
from ditas_core.layers import QuantizedLinear, build_layers
from ditas_core.lowrank import InputMoment, input_moment
from ditas_core.methods import fit_weight, round_weight
from ditas_core.methods.clipping import mse
from ditas_core.methods.compensation import gptq
from ditas_core.quantizer import (
    Coded,
    QParams,
    choose_qparams,
    dequantize,
    group_view,
    levels,
    of_elements,
    quantize,
)
from ditas_core.search import (
    LayerDone,
    SearchJournal,
    SearchSpec,
    partial_recipe,
    plain_recipe,
    predicted_errors,
    search,
    unsearched_recipe,
)
from ditas_core.specs import (
    CONVENTIONS,
    METHODS,
    NEAREST,
    BitWidths,
    Granularity,
    LowRankSpec,
    Method,
    Part,
    QuantizerSpec,
    Recipe,
    Rounding,
    SpecError,
    get_convention,
    summarize,
)

pytestmark = pytest.mark.numeric

EVERY = (*CONVENTIONS, "integer-g8")


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("granularity", Granularity)
def test_every_elements_own_parameters(granularity: Granularity) -> None:
    x = random(0, 16, 21)  # groups of eight leave a rest
    spec = QuantizerSpec(3, False, granularity, 8)
    params = choose_qparams(x, spec)
    scale, zero_point, _ = of_elements(params, x.shape, spec)
    assert scale.shape == zero_point.shape == x.shape
    torch.testing.assert_close(scale, torch.from_numpy(slow_scales(x.numpy(), spec)))
    codes = quantize(x, spec).codes
    assert torch.equal((codes - zero_point) * scale, dequantize(codes, params, spec))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("convention", EVERY)
def test_chosen_codes_pass_through_to_the_layer(convention: str, bits: int) -> None:
    """Also beside a branch, with s in the scales or divided rows; the nearest would be others."""
    settings, widths = get_convention(convention), BitWidths(bits, 8)
    spec, _ = settings.quantizers(widths)
    target = random(0, 64, 24)
    nearest = quantize(target, spec)
    chosen = (nearest.codes + random(1, 64, 24).sign().int()).clamp(spec.qmin, spec.qmax)
    params = nearest.params._replace(scale=nearest.params.scale * 0.9)
    s, divisor = random(2, 24).abs() + 0.5, random(3, 32).abs() + 0.5
    fit = target, random(4, 64, 2), random(5, 2, 24)
    first, second = build_layers(
        [fit], [torch.zeros(32)] * 2, widths, settings, s, divisors=[None, divisor],
        rounded=[Coded(chosen, params)],
    )  # fmt: skip
    expected = dequantize(chosen, params, spec)
    assert not torch.equal(expected, dequantize(*nearest, spec))
    if settings.smoothing_commutes:
        expected = expected * s
    torch.testing.assert_close(first.dequantized(), expected[:32])
    torch.testing.assert_close(second.dequantized(), expected[32:] / divisor[:, None])


CHANNELS = 24
GPTQ = gptq.Settings(damping=0.01, act_order=True, block=7)


def inputs(seed: int, tokens: int = 40) -> InputMoment:
    """Correlated channels of unlike sizes."""
    mixed = random(seed, tokens, 6) @ random(seed + 1, 6, CHANNELS) + random(seed + 2, 1, CHANNELS)
    x = (mixed + 0.2 * random(seed + 3, tokens, CHANNELS)) * random(seed + 4, CHANNELS).exp()
    return input_moment("covariance", x, x.square().mean(0))


def slow_elimination(
    weight: Tensor, scale: Tensor, zero_point: Tensor, h: Tensor, order: list[int], top: int
) -> Tensor:
    """OBQ, one row and one weight at a time, with the whole inverse; float64 codes."""
    found = torch.zeros_like(weight)
    for row in range(len(weight)):
        left, inverse = weight[row].clone(), torch.linalg.inv(h)
        for j in order:
            code = torch.floor(left[j] / scale[row, j] + 0.5) + zero_point[row, j]
            found[row, j] = code.clamp(0, top)
            error = left[j] - (found[row, j] - zero_point[row, j]) * scale[row, j]
            left -= error / inverse[j, j] * inverse[:, j]
            inverse = inverse - inverse[:, j, None] * inverse[None, j] / inverse[j, j]
    return found


@given(
    seed=st.integers(0, 10_000),
    bits=st.sampled_from([2, 3, 4]),
    granularity=st.sampled_from(list(Granularity)),
    act_order=st.booleans(),
    block=st.integers(1, 30),
)
def test_gptq_is_the_elimination_step_by_step(
    seed: int, bits: int, granularity: Granularity, act_order: bool, block: int
) -> None:
    spec = QuantizerSpec(bits, False, granularity, 8)
    target, h = random(seed, 8, CHANNELS).double(), gptq.damp_(inputs(seed).matrix(), 0.01)
    params = choose_qparams(target, spec)
    found = gptq.eliminate(target, params, h, spec, gptq.Settings(0.01, act_order, block))
    order = list(range(CHANNELS))
    if act_order:
        order.sort(key=lambda j: -float(h[j, j]))
    own = of_elements(params, target.shape, spec)
    expected = slow_elimination(target, own.scale, own.zero_point, h, order, spec.qmax)
    assert torch.equal(found.double(), expected)


@given(
    seed=st.integers(0, 10_000),
    bits=st.sampled_from([2, 3, 4, 8]),
    convention=st.sampled_from(EVERY),
)
def test_no_row_is_worse_than_with_the_nearest_codes(seed: int, bits: int, convention: str) -> None:
    spec, _ = get_convention(convention).quantizers(BitWidths(bits, 8))
    target, moment = random(seed, 64, CHANNELS), inputs(seed)
    params = choose_qparams(target, spec)
    h = gptq.damp_(moment.matrix(), GPTQ.damping)

    def costs(codes: Tensor) -> Tensor:
        error = (dequantize(codes, params, spec) - target).double()
        return (error @ h * error).sum(1)

    nearest = costs(quantize(target, spec, params).codes)
    found = costs(gptq.codes(target, params, moment, spec, GPTQ))
    assert bool((found <= nearest * (1 + 1e-5)).all())
    assert float(found.sum()) < 0.9 * float(nearest.sum())


def test_nothing_is_made_up_for_where_inputs_are_uncorrelated_or_absent() -> None:
    """Then the nearest codes are the best; a weight on the grid stays there whatever the inputs."""
    spec = QuantizerSpec(4, False, Granularity.PER_CHANNEL)
    target = random(0, 8, CHANNELS)
    params = choose_qparams(target, spec)
    nearest = quantize(target, spec, params).codes
    for energy in (random(1, CHANNELS).square(), torch.zeros(CHANNELS)):
        moment = InputMoment(diagonal=energy)
        assert torch.equal(gptq.codes(target, params, moment, spec, GPTQ), nearest)
    on_grid = dequantize(nearest, params, spec)
    assert torch.equal(gptq.codes(on_grid, params, inputs(2), spec, GPTQ), nearest)


def test_a_channel_that_is_always_zero_is_rounded_alone() -> None:
    spec = QuantizerSpec(3, False, Granularity.PER_CHANNEL)
    x = random(0, 50, CHANNELS)
    x[:, 5] = 0
    target = random(1, 8, CHANNELS)
    params = choose_qparams(target, spec)
    moment = input_moment("covariance", x, x.square().mean(0))
    found = gptq.codes(target, params, moment, spec, GPTQ)
    assert torch.equal(found[:, 5], quantize(target, spec, params).codes[:, 5])


def test_the_target_is_not_written_to() -> None:
    spec, target, moment = (
        QuantizerSpec(4, False, Granularity.PER_GROUP, 8),
        random(0, 8, 24),
        inputs(0),
    )
    kept, dense = target.clone(), moment.matrix()
    for name, method in METHODS.items():
        coded = round_weight(target, spec, method.rounding, moment)
        assert (coded is None) == (not method.rounding.acts), name
    assert torch.equal(target, kept) and torch.equal(moment.matrix(), dense)


@pytest.mark.parametrize("name", ["fp8", "fp4", "mxfp4", "nvfp4", "nf4", "int4-b32"])
def test_parts_round_to_number_formats(name: str) -> None:
    """Every chosen value is one of the format, as the layer has it too, and less error is left."""
    widths, settings = BitWidths.parse(f"W:{name} A16"), get_convention("integer")
    spec, _ = settings.quantizers(widths)
    assert spec.format is not None
    target, moment = random(0, 16, CHANNELS), inputs(1)
    damped = gptq.damp_(moment.matrix(), GPTQ.damping).float()
    nearest = quantize(target, spec)

    def left(coded: Coded) -> tuple[float, float]:
        error = target - dequantize(*coded, spec)
        return float(error.square().sum()), float(((error @ damped) * error).sum())

    clipped = round_weight(target, spec, METHODS["clip"].rounding, moment)
    compensated = round_weight(target, spec, METHODS["gptq"].rounding, moment)
    assert clipped is not None and compensated is not None
    assert left(clipped)[0] <= left(nearest)[0] * (1 + 1e-6)
    assert left(compensated)[1] < 0.9 * left(nearest)[1]
    for coded in (clipped, compensated):
        values = dequantize(*coded, spec)
        elements = values / of_elements(coded.params, target.shape, spec).scale
        distance = (elements[..., None] - levels(spec.format.element)).abs().amin(-1)
        assert float(distance.max()) < 1e-4 * spec.format.element.largest
        fit = target, torch.zeros(16, 0), torch.zeros(0, CHANNELS)
        (layer,) = build_layers([fit], [torch.zeros(16)], widths, settings, rounded=[coded])
        torch.testing.assert_close(layer.dequantized(), values)


@pytest.mark.parametrize("part", [
    Part.of("gptq"), Part.of("gptq", damping=0.01, act_order=True, block=128, more=1),
    Part.of("gptq", damping=0.0, act_order=True, block=128), Part.of("fit"), Part.of("..parts"),
])  # fmt: skip
def test_parts_that_are_not_known_are_refused(part: Part) -> None:
    spec = QuantizerSpec(4, False, Granularity.PER_CHANNEL)
    assert round_weight(random(0, 4, 24), spec, NEAREST, inputs(0)) is None
    with pytest.raises(SpecError, match="expected"):
        round_weight(random(0, 4, 24), spec, Rounding(compensation=part), inputs(0))


CLIP = mse.Settings(candidates=8, least=0.3)


def slow_clipped_error(values: list[np.float32], spec: QuantizerSpec) -> float:
    """The least square error of one scale's elements, each end narrowed as the module says."""
    lo, hi = min(values), max(values)
    fixed = max(lo, np.float32(0)) + min(hi, np.float32(0))
    grid = [1 - 0.7 * i / 7 for i in range(8)]

    def error(p: float, q: float) -> float:
        low, high = fixed + np.float32(p) * (lo - fixed), fixed + np.float32(q) * (hi - fixed)
        scale, zero = scale_and_zero(low, high, spec)
        return sum(float(round_one(x, scale, zero, spec) - x) ** 2 for x in values)

    best, low, high = error(1, 1), 1.0, 1.0
    for lower, upper in ((True, True), (True, False), (False, True)):
        start = low, high
        for share in grid:
            p = start[0] * share if lower else start[0]
            q = start[1] * share if upper else start[1]
            if (found := error(p, q)) < best:
                best, low, high = found, p, q
    return best


@given(
    seed=st.integers(0, 10_000),
    bits=st.sampled_from([2, 3, 4]),
    granularity=st.sampled_from(list(Granularity)),
    symmetric=st.booleans(),
    shift=st.sampled_from([-3.0, 0.0, 3.0]),
)
def test_clipped_ranges_leave_as_little_as_the_slow_search(
    seed: int, bits: int, granularity: Granularity, symmetric: bool, shift: float
) -> None:
    """Of every group of elements, and never more than its whole range."""
    spec = QuantizerSpec(bits, symmetric, granularity, 8)
    target = random(seed, 8, 13) ** 3 + shift  # long tails; groups of eight leave a rest
    whole = choose_qparams(target, spec)
    found = mse.ranges(target, spec, CLIP)
    assert found.scale.shape == whole.scale.shape
    errors = {
        name: (dequantize(*quantize(target, spec, params), spec) - target).square().flatten()
        for name, params in (("clipped", found), ("whole", whole))
    }
    flat = target.flatten().tolist()
    for group in groups_of(target.shape, spec):
        clipped, covered = (float(errors[name][group].sum()) for name in ("clipped", "whole"))
        expected = slow_clipped_error([np.float32(flat[i]) for i in group], spec)
        assert clipped == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert clipped <= covered * (1 + 1e-5) + 1e-9


@pytest.mark.parametrize("name", ["fp4", "mxfp4", "nvfp4", "nf4", "int4-b32"])
@pytest.mark.parametrize("seed", range(4))
def test_no_block_of_a_number_format_is_worse_clipped(name: str, seed: int) -> None:
    """The tensor's scale of NVFP4 stays what it was when candidates were compared."""
    spec, _ = get_convention("integer").quantizers(BitWidths(name, 16))
    target = random(seed, 8, 128)
    target[0, 0] = 30.0  # of the tensor the largest by far, in a block that is clipped
    whole, found = choose_qparams(target, spec), mse.ranges(target, spec, CLIP)
    if whole.tensor_scale is not None:
        assert found.tensor_scale is not None
        assert torch.equal(found.tensor_scale, whole.tensor_scale)
    clipped, covered = (
        group_view(dequantize(*quantize(target, spec, params), spec) - target, spec)[0]
        .square()
        .sum(-1)
        for params in (found, whole)
    )
    assert bool((clipped <= covered * (1 + 1e-5) + 1e-9).all())


def test_clipping_gains_on_long_tails_and_keeps_what_is_exact() -> None:
    spec = QuantizerSpec(4, False, Granularity.PER_CHANNEL)
    target = random(0, 16, 256)
    coded = round_weight(target, spec, METHODS["clip"].rounding, InputMoment())
    assert coded is not None
    nearest = dequantize(*quantize(target, spec), spec)
    clipped = dequantize(*coded, spec)
    assert float((clipped - target).norm()) < 0.95 * float((nearest - target).norm())
    again = round_weight(nearest, spec, METHODS["clip"].rounding, InputMoment())
    assert again is not None
    torch.testing.assert_close(dequantize(*again, spec), nearest, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weighting", ["none", "covariance"])
def test_the_first_branch_is_the_best_rank_of_the_weight_itself(weighting: str) -> None:
    """By the exact svd, in the norm of the inputs; nothing alternates."""
    spec, moment = QuantizerSpec(4, False, Granularity.PER_CHANNEL), inputs(3)
    weight, low_rank = random(0, 32, CHANNELS), LowRankSpec(4, 1, weighting, "first")
    seen = moment if weighting == "covariance" else InputMoment()
    fit = fit_weight(weight, spec, low_rank, seen)
    assert torch.equal(fit.target, weight - fit.up @ fit.down)
    root = torch.eye(CHANNELS).double()
    if weighting == "covariance":
        root = torch.linalg.cholesky(moment.matrix())
    best = torch.linalg.svdvals(weight.double() @ root)[4:].norm()
    assert float((fit.target.double() @ root).norm()) == pytest.approx(float(best), rel=0.01)
    many = fit_weight(weight, spec, replace(low_rank, iterations=9), seen)
    assert torch.equal(many.target, fit.target)


def test_compensation_leaves_less_than_the_nearest_codes_in_every_composition(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    """With the same alphas and branches, over all layers, on the tokens that it has seen."""
    for name, method in METHODS.items():
        if not method.rounding.compensation.acts:
            continue
        spec = SearchSpec(BitWidths(3, 16), method=name, low_rank=LowRankSpec(4), grid=(0.3, 0.6))
        recipe = search(random_checkpoint, random_calibration, spec)
        if method.smoothing == "fixed":
            assert {layer.alpha for layer in recipe.layers.values()} == {0.5}
        plain = {n: replace(layer, rounding=NEAREST) for n, layer in recipe.layers.items()}
        totals = [
            sum(x.error for x in predicted_errors(random_checkpoint, random_calibration, each))
            for each in (recipe, replace(recipe, layers=plain))
        ]
        assert totals[0] < 0.9 * totals[1], name


def test_a_released_branch_is_compensated_in_what_it_leaves(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    """Its own target's nearest codes are what it made up for: with others it would not fit."""
    branch = replace(get_convention("released").branch(32), rank=16)
    totals = {}
    for method in ("ditas", "ditas+gptq"):
        spec = SearchSpec(BitWidths(4, 16), "released", method, branch, grid=(0.5,))
        recipe = search(random_checkpoint, random_calibration, spec)
        errors = predicted_errors(random_checkpoint, random_calibration, recipe)
        totals[method] = sum(each.error for each in errors)
    assert totals["ditas+gptq"] < 0.75 * totals["ditas"]


@dataclass(frozen=True)
class Shift:
    """Settings of a part that is no good: the nearest codes, and then so many further."""

    by: int


def get_quantized(transformer: nn.Module, path: str) -> QuantizedLinear:
    layer = transformer.get_submodule(path)
    assert isinstance(layer, QuantizedLinear)
    return layer


def shifted(
    target: Tensor, params: QParams, moment: InputMoment, spec: QuantizerSpec, settings: Shift
) -> Tensor:
    return (quantize(target, spec, params).codes + settings.by).clamp(spec.qmin, spec.qmax)


@pytest.fixture()
def added(monkeypatch: pytest.MonkeyPatch) -> str:
    """A method as anybody adds one: a module, and a line of the registry."""
    module = ModuleType("shift")
    module.__dict__.update(Settings=Shift, codes=shifted)
    monkeypatch.setitem(sys.modules, "ditas_core.methods.compensation.shift", module)
    line = Method("shifted codes", "grid", rounding=Rounding(compensation=Part.of("shift", by=1)))
    monkeypatch.setitem(METHODS, "shifted", line)
    return "shifted"


def test_an_added_method_is_searched_converted_and_written_down(
    added: str, random_checkpoint: Checkpoint, random_calibration: Calibration, tmp_path: Path
) -> None:
    spec = SearchSpec(BitWidths(4, 8), method=added, grid=(0.3, 0.6))
    layers: list[Any] = []
    journal = SearchJournal(tmp_path / "partial", random_calibration, random_checkpoint, spec)

    def stop_after_two(event: Any) -> None:
        if isinstance(event, LayerDone):
            layers.append(event)
            journal.add(event)
            if len(layers) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(random_checkpoint, random_calibration, spec, progress=stop_after_two)
    half = partial_recipe(random_checkpoint, random_calibration, spec, layers)
    again = SearchJournal(tmp_path / "partial", random_calibration, random_checkpoint, spec)
    assert list(again.finished) == [layer.group for layer in layers]
    recipe = search(random_checkpoint, random_calibration, spec, finished=again.finished)
    assert recipe == search(random_checkpoint, random_calibration, spec)
    assert recipe.name == added and "shift" in summarize(recipe)
    for made in (recipe, half):
        assert Recipe.from_json(made.to_json()) == made
        assert made.needs_calibration
    made = quantize_transformer(random_checkpoint, recipe, random_calibration)
    nearest = {n: replace(layer, rounding=NEAREST) for n, layer in recipe.layers.items()}
    other = quantize_transformer(
        random_checkpoint, replace(recipe, layers=nearest), random_calibration
    )
    path = random_checkpoint.groups[0].layers[0]
    codes, plain = (get_quantized(x, path).unpacked() for x in (made, other))
    assert torch.equal(codes, (plain + 1).clamp(max=15))
    found = dict.fromkeys(x.error for x in predicted_errors(
        random_checkpoint, random_calibration, recipe
    ))  # fmt: skip
    assert len(found) == len(recipe.layers), "reports"


def test_an_added_method_is_on_the_command_line_and_the_page(
    added: str, stock: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("search", "compare"):
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        assert added in capsys.readouterr().out
    words = f"compare {stock} --ablation W4A8 --methods plain,{added} --samples 1 --steps 2 --json"
    assert main(words.split()) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert [row["label"] for row in rows] == ["W4A8 plain", f"W4A8 {added}"]
    assert rows[1]["latent_sqnr_db"]["mean"] < rows[0]["latent_sqnr_db"]["mean"]


def test_recipes_of_the_format_before_parts_are_read(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    spec = SearchSpec(BitWidths(4, 8), method="clip+gptq")
    recipe = unsearched_recipe(random_checkpoint, spec, random_calibration)
    document = json.loads(recipe.to_json())
    assert document["format"] == 3
    part = document["layers"]["0.qkv"]["rounding"]["compensation"]
    assert part == {"name": "gptq", "act_order": True, "block": 128, "damping": 0.01}
    plain = plain_recipe(random_checkpoint, BitWidths(4, 8), "integer")
    old = {**json.loads(plain.to_json()), "format": 2}
    assert Recipe.from_json(json.dumps(old)) == plain
    for wrong in ({"name": "fit"}, {"name": "gptq", "a b": 1}, {"name": "gptq", "x": []}, [], 3):
        document["layers"]["0.qkv"]["rounding"]["compensation"] = wrong
        with pytest.raises(SpecError, match="expected"):
            Recipe.from_json(json.dumps(document))
    known = Part.of("gptq", damping=0.01)  # which has more settings
    layers = {
        n: replace(x, rounding=Rounding(compensation=known)) for n, x in recipe.layers.items()
    }
    with pytest.raises(
        SpecError, match=r"expected the settings act_order, block, damping, got .damping"
    ):
        next(iterate_conversion(
            random_checkpoint, replace(recipe, layers=layers), random_calibration
        ))  # fmt: skip


def test_one_call_calibrates_what_a_method_needs_and_reports_its_errors(stock: Path) -> None:
    pipeline = DiTPipeline.from_pretrained(stock)
    found = {}
    for name in ("clip", "gptq"):
        _, report = ditas.quantize(
            pipeline, "W4A16", method=name, samples=2, steps=3, progress=False
        )
        found[name] = report
    assert "calibration" not in found["clip"].seconds, "it reads no inputs"
    assert "calibration" in found["gptq"].seconds and found["gptq"].method == "gptq"
    assert all(row.error is not None and 0 < row.error < 1 for row in found["gptq"].rows)
    for wrong in ({"alpha": 0.5}, {"rank": 4}):
        with pytest.raises(SpecError, match="expected none of the method gptq"):
            ditas.quantize(pipeline, method="gptq", progress=False, **wrong)
