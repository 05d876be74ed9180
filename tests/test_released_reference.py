"""The reference for the released procedure, against even slower loops of its own."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ditas_core.bench.released_reference import (
    GRID,
    Layer,
    LayerResult,
    ReleasedResult,
    largest_inputs,
    layers_of,
    quant_w,
    quant_x,
    released_search,
    smoothing,
    split_weight,
)
from ditas_core.checkpoints import Checkpoint
from ditas_core.sampling import sample_latents
from ditas_core.specs import SamplingSpec

pytestmark = pytest.mark.numeric

F32 = np.float32
SPEC = SamplingSpec(steps=3, guidance_scale=1.5, guided_channels=3)
LABELS = torch.tensor([0, 3])
SEED = 11
NAMES = [f"{block}.{part}" for block in range(2) for part in ("qkv", "proj", "fc1", "fc2")]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(checkpoint: Checkpoint, **changes: Any) -> ReleasedResult:
    """The tiny checkpoint's search, rank 4 and three alternations."""
    settings: dict[str, Any] = {"labels": LABELS, "rank": 4, "alternations": 3, **changes}
    return released_search(
        checkpoint.transformer,
        checkpoint.scheduler,
        latent_shape=checkpoint.latent_shape,
        spec=SPEC,
        seed=SEED,
        **settings,
    )


@pytest.fixture(scope="module")
def searched(random_checkpoint: Checkpoint) -> ReleasedResult:
    return run(random_checkpoint)


def hook_count(module: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in module.modules())


def slow_quant_w(weight: np.ndarray, bits: int) -> np.ndarray:
    """Element by element: weight i shares its scale with i + n/32, i + 2n/32, ..."""
    flat = [F32(value) for value in weight.reshape(-1)]
    stride = len(flat) // 32
    out = np.zeros(len(flat), dtype=F32)
    for first in range(stride):
        members = range(first, len(flat), stride)
        low, high = min(flat[i] for i in members), max(flat[i] for i in members)
        scale = (high - low) / F32(2**bits)
        for i in members:
            if high == low:
                out[i] = flat[i]
                continue
            offset = F32(round(low / scale)) * scale  # Python rounds ties to even
            code = min(max(round((flat[i] - offset) / scale), 0), 2**bits - 1)
            out[i] = F32(code) * scale + offset
    return out.reshape(weight.shape)


def slow_quant_x(x: np.ndarray, bits: int) -> np.ndarray:
    """Element by element, one range for all."""
    flat = [F32(value) for value in x.reshape(-1)]
    low, high = min(flat), max(flat)
    scale = (high - low) / F32(2**bits)
    zero = round(-low / scale)
    codes = [min(max(round(value / scale) + zero, 0), 2**bits - 1) for value in flat]
    return np.array([F32(code - zero) * scale for code in codes], dtype=F32).reshape(x.shape)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shape", [(64, 5), (32, 3), (96, 8), (16, 6)])
def test_weights_round_as_in_the_scalar_loop(bits: int, shape: tuple[int, int]) -> None:
    weight = draw(*shape, seed=bits)
    assert np.array_equal(quant_w(weight, bits).numpy(), slow_quant_w(weight.numpy(), bits))


def test_weight_ties_go_to_even_and_the_top_level_clips() -> None:
    """Step 1 from 0 to 16: 0.5 -> 0, 1.5 -> 2, 2.5 -> 2, and 16 has no code."""
    column = torch.tensor([0.0, 16.0, 0.5, 1.5, 2.5, *[3.0] * 27])[:, None]
    expected = torch.tensor([0.0, 15.0, 0.0, 2.0, 2.0, *[3.0] * 27])[:, None]
    assert torch.equal(quant_w(column, 4), expected)
    assert np.array_equal(slow_quant_w(column.numpy(), 4), expected.numpy())


def test_a_group_without_spread_is_kept_exactly() -> None:
    weight = draw(32, 4)
    weight[:, 1], weight[:, 2] = 0.3, 0.0
    rounded = quant_w(weight, 4)
    assert torch.equal(rounded[:, 1:3], weight[:, 1:3])
    assert not torch.equal(rounded[:, 0], weight[:, 0])
    assert np.array_equal(rounded.numpy(), slow_quant_w(weight.numpy(), 4))


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("shift", [0.0, 7.0, -7.0])
def test_activations_round_as_in_the_scalar_loop(bits: int, shift: float) -> None:
    x = draw(2, 5, 7, seed=bits) + shift
    assert np.array_equal(quant_x(x, bits).numpy(), slow_quant_x(x.numpy(), bits))


def test_sixteen_bits_and_a_constant_leave_activations_alone() -> None:
    x = draw(2, 3, 4)
    assert torch.equal(quant_x(x, 16), x)
    assert torch.equal(quant_x(torch.full((2, 2), 0.7), 8), torch.full((2, 2), 0.7))


def test_the_weight_is_split_by_alternating_from_zero() -> None:
    """The last Q was rounded before the last factors were fitted."""
    weight = draw(64, 12, seed=3)
    branch = np.zeros((64, 12), dtype=F32)
    for _ in range(3):
        rounded = slow_quant_w(weight.numpy() - branch, 4)
        left, sigma, right = np.linalg.svd((weight.numpy() - rounded).astype(np.float64))
        branch = sum(sigma[k] * np.outer(left[:, k], right[k]) for k in range(5)).astype(F32)
    got = split_weight(weight, 4, rank=5, alternations=3)
    assert got.L.shape == (64, 5) and got.R.shape == (5, 12)
    torch.testing.assert_close(got.Q, torch.from_numpy(rounded), rtol=0, atol=1e-6)
    torch.testing.assert_close(got.L @ got.R, torch.from_numpy(branch), rtol=0, atol=1e-6)
    torch.testing.assert_close(got.L.T @ got.L, got.R @ got.R.T, rtol=0, atol=1e-5)


def test_rank_zero_only_rounds() -> None:
    weight = draw(32, 6)
    got = split_weight(weight, 4, rank=0, alternations=10)
    assert torch.equal(got.Q, quant_w(weight, 4))
    assert got.L.shape == (32, 0) and got.R.shape == (0, 6)


def slow_factors(rounded: list[list[float]], a_max: list[float], alpha: float | None) -> list:
    """s per channel by the formula; None = 1."""
    if alpha is None:
        return [1.0] * len(a_max)
    factors = []
    for c, peak in enumerate(a_max):
        w_max = max(1e-4, *(abs(row[c]) for row in rounded))
        factors.append(max(peak**alpha / w_max ** (1 - alpha), 1e-4))
    return factors


def test_maxima_and_factors_have_a_floor() -> None:
    layer = Layer("tiny", nn.Identity(), draw(32, 2), None)
    peaks = largest_inputs([layer], lambda: layer.entry(torch.tensor([[[0.0, -3.0]]])))
    assert peaks["tiny"].tolist() == pytest.approx([1e-4, 3.0])
    factor = smoothing(torch.tensor([1e-4, 4.0]), torch.tensor([1e6, 1.0]), 0.5)
    assert factor.tolist() == pytest.approx([1e-4, 2.0])  # 1e-2 / 1e3 is below the floor


def captured(checkpoint: Checkpoint) -> dict[str, tuple[list[Tensor], list[Tensor]]]:
    """Every layer's inputs and outputs per step, by this test's own hooks."""
    stored: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
    handles = []
    for i, block in enumerate(checkpoint.transformer.transformer_blocks):
        parts = {
            "qkv": (block.attn1.to_q, block.attn1.to_k, block.attn1.to_v),
            "proj": (block.attn1.to_out[0],),
            "fc1": (block.ff.net[0].proj,),
            "fc2": (block.ff.net[2],),
        }
        for name, linears in parts.items():
            inputs, outputs = stored[f"{i}.{name}"] = ([], [])
            for linear in linears:

                def keep(
                    _: Any, given: Any, y: Tensor, xs: Any = inputs, ys: Any = outputs
                ) -> None:
                    xs.append(given[0])
                    ys.append(y)

                handles.append(linear.register_forward_hook(keep))
    shape = checkpoint.latent_shape
    sample_latents(checkpoint.transformer, checkpoint.scheduler, LABELS, shape, SPEC, SEED)
    for handle in handles:
        handle.remove()
    for name, (inputs, outputs) in stored.items():
        linears = len(inputs) // SPEC.steps
        fused = [torch.cat(outputs[t : t + linears], -1) for t in range(0, len(outputs), linears)]
        stored[name] = (inputs[::linears], fused)
    return stored


def test_every_layer_of_the_model_against_its_own_outputs(
    random_checkpoint: Checkpoint, searched: ReleasedResult
) -> None:
    """Maxima and losses from what the model's linears really took and gave."""
    stored = captured(random_checkpoint)
    weights = {layer.name: layer for layer in layers_of(random_checkpoint.transformer)}
    for result in searched.layers:
        inputs, outputs = stored[result.name]
        assert len(inputs) == SPEC.steps and inputs[0].shape[0] == 2 * len(LABELS)
        peak = torch.stack(inputs).abs().amax((0, 1, 2)).clamp(min=1e-4)
        assert torch.equal(result.a_max, peak)
        bias = weights[result.name].bias.double().numpy()
        full = (result.Q + result.L @ result.R).double().numpy()
        for alpha, got in [(0.35, result.losses[7]), (None, result.identity)]:
            s = np.array(slow_factors(result.Q.tolist(), peak.tolist(), alpha), dtype=F32)
            expected = 0.0
            for x, y in zip(inputs, outputs, strict=True):
                xq = slow_quant_x(x.numpy() / s, 8)
                expected += float(((xq @ (full * s).T + bias - y.double().numpy()) ** 2).mean())
            assert math.isclose(got, expected, rel_tol=1e-3), result.name


def test_the_result_is_whole(searched: ReleasedResult) -> None:
    assert [result.name for result in searched.layers] == NAMES
    for result in searched.layers:
        assert len(result.losses) == 21 and all(map(math.isfinite, result.losses))
        assert result.alpha == GRID[int(np.argmin(result.losses))]
    qkv = searched.layers[0]
    assert qkv.Q.shape == (96, 32) and qkv.L.shape == (96, 4) and qkv.R.shape == (4, 32)
    assert searched.seconds > 0


def test_forwards_are_one_loop_for_the_maxima_and_one_per_layer(
    random_checkpoint: Checkpoint, searched: ReleasedResult
) -> None:
    assert searched.forwards == (len(NAMES) + 1) * SPEC.steps
    seen: list[str] = []
    part = run(
        random_checkpoint, groups=["1.fc2", "0.proj"], on_layer=lambda r: seen.append(r.name)
    )
    assert part.forwards == 3 * SPEC.steps
    assert seen == [result.name for result in part.layers] == ["0.proj", "1.fc2"]
    assert part.layers[1].losses == searched.layers[-1].losses


def test_a_second_run_is_bit_equal_and_the_model_unchanged(
    random_checkpoint: Checkpoint, searched: ReleasedResult
) -> None:
    transformer = random_checkpoint.transformer
    before = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    again = run(random_checkpoint)
    assert hook_count(transformer) == 0
    after = transformer.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for one, other in zip(searched.layers, again.layers, strict=True):
        for field in fields(LayerResult):
            a, b = getattr(one, field.name), getattr(other, field.name)
            assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


def test_hooks_go_when_a_run_fails(random_checkpoint: Checkpoint) -> None:
    def refuse(_: LayerResult) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        run(random_checkpoint, groups=["0.fc1"], on_layer=refuse)
    with pytest.raises(IndexError):
        run(random_checkpoint, groups=["0.fc1"], labels=torch.tensor([5000]))
    assert hook_count(random_checkpoint.transformer) == 0


def test_what_cannot_be_searched_is_refused(random_checkpoint: Checkpoint) -> None:
    with pytest.raises(ValueError, match="no such layers"):
        run(random_checkpoint, groups=["9.fc1"])
    with pytest.raises(ValueError, match="alternation"):
        run(random_checkpoint, groups=["0.fc1"], alternations=0)
