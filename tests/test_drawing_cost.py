"""Hours and bytes of drawing images by the thousand, before it starts."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ditas_core.checkpoints import Checkpoint
from ditas_core.cli import main
from ditas_core.cli.cost import duration
from ditas_core.conversion import quantize_transformer
from ditas_core.evaluation import (
    ModelShape,
    Throughput,
    decoding,
    drawing_cost,
    known_autoencoder,
    known_model,
    measure_throughput,
)
from ditas_core.evaluation.drawing_cost import shape_as_made
from ditas_core.evaluation.shape import SD_AUTOENCODER
from ditas_core.search import SearchSpec, unsearched_recipe
from ditas_core.specs import BitWidths, SpecError

HERE = Throughput(speed=1e12, decode_s=0.25, batch=16)


def test_a_decoders_operations_are_counted_without_running_it(
    random_checkpoint: Checkpoint,
) -> None:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        image = random_checkpoint.vae.decode(torch.zeros(1, 4, 8, 8)).sample
    operations, largest = decoding(random_checkpoint.vae, 8)
    assert operations == counter.get_total_flops()
    assert largest >= image.numel()
    assert decoding(random_checkpoint.vae, 16)[1] >= 4 * largest


def test_the_published_autoencoder_is_known() -> None:
    with torch.device("meta"):
        vae = known_autoencoder()
    assert sum(p.numel() for p in vae.parameters()) == SD_AUTOENCODER
    operations, largest = decoding(vae, 32)
    assert largest == 256 * 256 * 256, "256 channels at full size"
    assert 600e9 < operations < 650e9


@given(
    count=st.integers(1, 60_000),
    steps=st.integers(1, 1000),
    batch=st.integers(1, 64),
    speed=st.floats(1e8, 1e15),
)
def test_seconds_are_passes_and_decodings(
    random_checkpoint: Checkpoint, count: int, steps: int, batch: int, speed: float
) -> None:
    found = Throughput(speed, 0.5, batch)
    cost = drawing_cost(random_checkpoint, found, count, steps)
    flops = ModelShape.of(random_checkpoint).flops
    assert cost.seconds == pytest.approx(count * (steps * 2 * flops / speed + 0.5))
    assert cost.pass_s == pytest.approx(min(batch, count) * 2 * flops / speed)
    assert cost.disk_bytes == 2 * count * 16 * 16 * 3
    more = drawing_cost(random_checkpoint, replace(found, batch=2 * batch), 2 * count, steps)
    assert more.memory_bytes > cost.memory_bytes and more.seconds > cost.seconds


def test_throughput_is_measured(random_checkpoint: Checkpoint) -> None:
    """Two ticks around each thing timed; the median of three after a warm-up."""
    flops = ModelShape.of(random_checkpoint).flops
    durations = [9.0, 9.0, 9.0, 1.0]  # a warm-up of the pass, then of the decoding
    ticks = iter(itertools.accumulate([0.0, *(x for d in durations for x in (d, 0.0))]))
    found = measure_throughput(random_checkpoint, 3, lambda: next(ticks))
    assert found.speed == pytest.approx(6 * flops / 9.0) and found.batch == 3
    assert found.decode_s == pytest.approx(9.0 / 3)
    real = measure_throughput(random_checkpoint, 1)
    assert real.speed > 0 and real.decode_s > 0


@pytest.mark.parametrize("bits", ["W8A8", "W4A8"])
def test_a_quantized_model_has_the_operations_of_the_one_it_was_made_of(
    random_checkpoint: Checkpoint, bits: str
) -> None:
    spec = SearchSpec(BitWidths.parse(bits), "integer", "plain")
    made = quantize_transformer(random_checkpoint, unsearched_recipe(random_checkpoint, spec))
    quantized = replace(random_checkpoint, transformer=made)
    assert shape_as_made(quantized) == ModelShape.of(random_checkpoint)
    cost = drawing_cost(quantized, HERE, 100, 10)
    assert cost.seconds == drawing_cost(random_checkpoint, HERE, 100, 10).seconds


def test_a_known_shape_is_timed_on_two_of_its_blocks() -> None:
    checkpoint, shape = known_model("DiT-S/2", 64)
    assert len(checkpoint.transformer.transformer_blocks) == 2 and len(shape.groups) == 12 * 4
    cost = drawing_cost(checkpoint, HERE, 1000, 50, shape)
    assert cost.seconds == pytest.approx(1000 * (50 * 2 * shape.flops / 1e12 + 0.25))
    part = drawing_cost(checkpoint, HERE, 1000, 50)
    each = sum(p.numel() for p in checkpoint.transformer.transformer_blocks[1].parameters())
    assert cost.memory_bytes - part.memory_bytes == pytest.approx(10 * 4 * each, rel=0.01)
    for name, size in (("DiT-Q/2", 256), ("DiT-S/2", 100)):
        with pytest.raises(SpecError, match="expected"):
            known_model(name, size)
    with pytest.raises(ValueError, match="at least one image"):
        drawing_cost(checkpoint, HERE, 0, 1)


def test_the_command_predicts_and_checks(
    stock: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["cost", str(stock), "--steps", "2", "--batch", "4", "--json"]
    assert main([*words, "--bits", "W4A8", "--samples", "1000"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out.splitlines()[-1])
    assert "1000 images of 2 steps" in captured.err and "W4A8" in report["model"]
    assert report["seconds"] > 0 and set(report["before_s"]) == {"calibrate", "search", "quantize"}
    assert main([*words, "--check", "6"]) == 0
    captured = capsys.readouterr()
    check = json.loads(captured.out.splitlines()[-1])["check"]
    assert check["samples"] == 6 and min(check["predicted_s"], check["measured_s"]) > 0
    assert check["measured_memory_bytes"] > 50e6 and "predicted" in captured.err
    assert main(["cost", "DiT-S/2", "--check", "2"]) == 2
    assert "check: expected a checkpoint" in capsys.readouterr().err


def test_durations_are_told_in_the_unit_that_fits() -> None:
    told = [duration(seconds) for seconds in (0.1234, 12, 89.9, 90, 5399, 5400, 1e6)]
    assert told == ["0.123 s", "12 s", "89.9 s", "1.5 min", "90.0 min", "1.5 h", "277.8 h"]
    assert math.isfinite(HERE.speed)
