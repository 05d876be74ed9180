"""Methods and their parts: what they choose passes unchanged, and each against a slow one."""

from __future__ import annotations

import pytest
import torch
from slow_reference import slow_scales
from torch import Tensor

from ditas_core.layers import build_layers
from ditas_core.quantizer import Coded, choose_qparams, dequantize, of_elements, quantize
from ditas_core.specs import CONVENTIONS, BitWidths, Granularity, QuantizerSpec, get_convention

pytestmark = pytest.mark.numeric

EVERY = (*CONVENTIONS, "integer-g8")


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("granularity", Granularity)
def test_every_elements_own_parameters(granularity: Granularity) -> None:
    x = random(0, 16, 21)  # groups of eight leave a rest
    spec = QuantizerSpec(3, False, granularity, 8)
    params = choose_qparams(x, spec)
    scale, zero_point = of_elements(params, x.shape, spec)
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
