"""Exports in clean environments: the stock library alone loads them, and draws what they say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from conftest import build_random_checkpoint
from safetensors.torch import load_file, save_file
from tiny_pixart import save_tiny_pixart
from torch import Tensor, nn

from ditas_core.calibration import Calibration, calibrate
from ditas_core.checkpoints import Checkpoint, load_checkpoint
from ditas_core.conversion import inject_outliers, quantize_transformer
from ditas_core.evaluation import interval, sqnr_db
from ditas_core.exports import StockExport, export_stock
from ditas_core.sampling import forward_arguments, generators, initial_noise, sample_latents
from ditas_core.search import SearchSpec, search
from ditas_core.specs import BitWidths, CalibrationSpec, Recipe, SamplingSpec

from .environments import environment, run

pytestmark = pytest.mark.slow
LOAD = Path(__file__).with_name("load.py")
SAMPLES, STEPS = 8, 20
SPEC = SamplingSpec(STEPS, 1.5)
FORWARD_DB = 40.0
"""Of one pass: two libraries part where a code lies within the last bits of a tie."""
APART_DB = 3.0
"""What the means of SQNR over pictures may be apart: each tie that falls otherwise is a fresh draw
of the same error, of which a run of 20 steps has many."""
FORMS = {
    "torchao": ("torchao", "W8A8", "integer", "search", ()),
    "torchao-4": ("torchao", "W4A8", "integer-g64", "ditas", ("branch", "divisor")),
    "torchao-weights w8a8": ("torchao", "W4A16", "integer-g64", "search", ("divisor",)),
    "sdnq": ("sdnq", "W8A8", "integer", "ditas", ("divisor",)),
    "sdnq-4 w8": ("sdnq", "W4A8", "integer", "ditas", ("divisor",)),
    "sdnq-weights": ("sdnq", "W3A16", "integer-g64", "ditas", ("divisor",)),
}


@dataclass(frozen=True)
class Base:
    """The demo, its calibration, and its pictures in full precision."""

    checkpoint: Checkpoint
    calibration: Calibration
    noise: Tensor
    classes: Tensor
    drawn: Tensor


@pytest.fixture(scope="module")
def base(demo_checkpoint: Checkpoint) -> Base:
    calibration = calibrate(
        demo_checkpoint, CalibrationSpec(SamplingSpec(10, 1.5), samples=4, seed=1_000_000)
    )
    shape = demo_checkpoint.latent_shape
    noise = initial_noise(shape, generators(0, SAMPLES))
    classes = torch.arange(SAMPLES) * len(demo_checkpoint.class_names) // SAMPLES
    transformer = demo_checkpoint.transformer
    drawn = sample_latents(transformer, demo_checkpoint.scheduler, classes, shape, SPEC, 0)
    return Base(demo_checkpoint, calibration, noise, classes, drawn)


def load_elsewhere(
    tmp_path: Path, checkpoint: Checkpoint, network: nn.Module, base: Base | None, *libraries: str
) -> tuple[Tensor, dict[str, Tensor]]:
    """What a forward pass makes here, and what the clean environment made."""
    generator = torch.Generator().manual_seed(7)
    latents = torch.randn(4, *checkpoint.latent_shape, generator=generator)
    arguments = forward_arguments(network, torch.tensor([0, 2]), checkpoint.conditions)
    feeds = {"latents": latents, "timestep": torch.full((4,), 400), **arguments}
    feeds = {name: value for name, value in feeds.items() if isinstance(value, Tensor)}
    if base is not None:
        feeds |= {"noise": base.noise, "classes": base.classes}
    save_file({k: v.contiguous() for k, v in feeds.items()}, tmp_path / "feeds.safetensors")
    files = tmp_path / "out", tmp_path / "feeds.safetensors", tmp_path / "results.safetensors"
    assert run(environment(*libraries), LOAD, *files).startswith("loaded")
    with torch.no_grad():
        here = network(latents, timestep=feeds["timestep"], **arguments).sample
    return here, load_file(files[2])


@pytest.mark.parametrize("name", FORMS)
def test_the_library_alone_draws_what_the_export_says(
    base: Base, tmp_path: Path, name: str
) -> None:
    form, bits, convention, method, leave_out = FORMS[name]
    found = search(
        base.checkpoint, base.calibration, SearchSpec(BitWidths.parse(bits), convention, method)
    )
    found = replace(found, modulation=[*name.split(), "none"][1])
    out = tmp_path / "out"
    said = export_stock(
        out, base.checkpoint, found, base.calibration, form, leave_out, SAMPLES, STEPS
    )
    stored = Recipe.load(out / "recipe.json")
    network = quantize_transformer(base.checkpoint, stored, base.calibration)
    here, there = load_elsewhere(tmp_path, base.checkpoint, network, base, form)
    assert float(sqnr_db(here, there["forward"]).min()) > FORWARD_DB
    drawn = interval(sqnr_db(base.drawn, there["pictures"]))
    assert said.as_exported_db is not None and said.as_exported_db["mean"] is not None
    print(name, said.as_exported_db, said.as_given_db, drawn, said.bits)
    assert abs(drawn.mean - said.as_exported_db["mean"]) < APART_DB


@pytest.mark.parametrize("strength", [1.0, 100.0])
def test_stock_diffusers_draws_the_smoothed_the_same(
    base: Base, tmp_path: Path, strength: float
) -> None:
    checkpoint, calibration = base.checkpoint, base.calibration
    if strength > 1:
        network = inject_outliers(checkpoint.transformer, strength)
        checkpoint = replace(checkpoint, transformer=network)
        calibration = calibrate(checkpoint, CalibrationSpec(SamplingSpec(4), 2, 1, 8))
    found = search(checkpoint, calibration, SearchSpec(BitWidths(8, 8), "integer", "search"))
    said = export_stock(tmp_path / "out", checkpoint, found, calibration, "smoothed")
    here, there = load_elsewhere(tmp_path, checkpoint, base.checkpoint.transformer, base)
    assert said.relative_difference is not None and said.relative_difference <= 1e-5
    assert float((there["forward"] - here).norm() / here.norm()) <= 1e-5
    assert float(sqnr_db(base.drawn, there["pictures"]).min()) > 80


@pytest.mark.parametrize("form", ["smoothed", "torchao"])
def test_a_pixart_transformer(tmp_path: Path, form: str) -> None:
    checkpoint = load_checkpoint(save_tiny_pixart(tmp_path / "base", False))
    calibration = calibrate(checkpoint, CalibrationSpec(SamplingSpec(3, 4.5), 2, 5, tokens=8))
    found = search(checkpoint, calibration, SearchSpec(BitWidths(8, 8), "integer", "search"))
    said: StockExport = export_stock(
        tmp_path / "out", checkpoint, found, calibration, form, samples=2, steps=3
    )
    network: nn.Module = checkpoint.transformer
    if form == "torchao":
        stored = Recipe.load(tmp_path / "out" / "recipe.json")
        network = quantize_transformer(checkpoint, stored, calibration)
        assert said.left_out == {}
    libraries = [form] if form == "torchao" else []
    here, there = load_elsewhere(tmp_path, checkpoint, network, None, *libraries)
    assert float(sqnr_db(here, there["forward"]).min()) > FORWARD_DB


def test_a_class_model_of_other_sizes(tmp_path: Path) -> None:
    """Another width, learned variance, its own labels: sdnq with all bits a layer may have."""
    checkpoint = build_random_checkpoint(out_channels=8)
    calibration = calibrate(checkpoint, CalibrationSpec(SamplingSpec(3), 2, 5, tokens=8))
    found = search(checkpoint, calibration, SearchSpec(BitWidths(4, 8), "integer", "ditas"))
    layers = dict(found.layers)
    for bits, name in zip((2, 3, 5, 6, 7, 8), layers, strict=False):
        layers[name] = replace(layers[name], bits=BitWidths(bits, 8))
    mixed = replace(found, layers=layers)
    out = tmp_path / "out"
    export_stock(out, checkpoint, mixed, calibration, "sdnq", ["divisor"], samples=2, steps=3)
    stored = Recipe.load(out / "recipe.json")
    network = quantize_transformer(checkpoint, stored, calibration)
    here, there = load_elsewhere(tmp_path, checkpoint, network, None, "sdnq")
    assert float(sqnr_db(here, there["forward"]).min()) > FORWARD_DB
