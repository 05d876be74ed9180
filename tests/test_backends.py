"""A quantized model on each backend: through the library, the command line and a folder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DEMO
from tiny_pipelines import dit, draw, embedded, pixart
from tiny_pixart import tiny_captions

import ditas_core as ditas
from ditas_core.checkpoints import CheckpointError
from ditas_core.evaluation import sqnr_db
from ditas_core.onnx_runtime import check_backend, run_on_
from ditas_core.onnx_runtime.attached import Runtime
from ditas_core.sampling import Stopped, iterate_latents, until_stopped
from ditas_core.specs import BACKENDS, SamplingSpec, SpecError

WIDE: dict[str, Any] = {"method": "plain", "progress": False}


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """One recipe on every backend. Activations keep 16 bits: no code can fall the other way."""
    pipeline = dit()
    return {
        name: ditas.quantize(pipeline, "W4A16", backend=name, **WIDE)[0] for name in BACKENDS
    } | {"full": pipeline}


def test_a_pipeline_stays_what_it_is(made: dict[str, Any]) -> None:
    full, onnx = made["full"], made["onnx"]
    assert type(onnx) is type(full) and isinstance(onnx.transformer, type(full.transformer))
    assert type(onnx.transformer).__name__ == type(full.transformer).__name__
    assert dict(onnx.transformer.config) == dict(full.transformer.config)
    assert set(onnx.transformer.state_dict()) == set(made["integer"].transformer.state_dict())
    assert torch.equal(draw(made["integer"]), draw(made["simulated"]))
    assert torch.allclose(draw(onnx), draw(made["simulated"]), atol=1e-3)


def test_what_runs_on_onnx_is_saved_compared_and_read(made: dict[str, Any], tmp_path: Path) -> None:
    ditas.save(made["onnx"], tmp_path / "folder")
    for name in BACKENDS:
        read = ditas.load(tmp_path / "folder", backend=name)
        assert torch.allclose(draw(ditas.pipeline(read)), draw(made["simulated"]), atol=1e-3)
    found = [
        ditas.compare(made["full"], made[name], samples=2, steps=2, progress=False).metrics
        for name in ("simulated", "onnx")
    ]
    assert torch.allclose(found[0].latent_sqnr, found[1].latent_sqnr, atol=0.05)


def test_a_copy_shares_the_session_and_half_precision_is_kept(made: dict[str, Any]) -> None:
    transformer = made["onnx"].transformer
    other = copy.deepcopy(transformer)
    assert other.runtime is transformer.runtime and other.nbytes == transformer.nbytes > 0
    half = other.to(torch.bfloat16)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    arguments = {"timestep": torch.tensor([5, 5]), "class_labels": torch.tensor([0, 1])}
    with torch.no_grad():
        found = half(latents.to(torch.bfloat16), **arguments).sample
        (same,) = half(hidden_states=latents.to(torch.bfloat16), return_dict=False, **arguments)
    assert found.dtype == torch.bfloat16 and torch.equal(found, same)


def test_pixart_too() -> None:
    pipeline, captions = pixart(), tiny_captions()
    found = [
        draw(made, **embedded(captions))
        for made, _ in (
            ditas.quantize(pipeline, "W8A16", backend=name, captions=captions, **WIDE)
            for name in ("simulated", "onnx")
        )
    ]
    assert torch.allclose(*found, atol=1e-3)


def test_dynamic_rounding_parts_by_whole_codes_only(made: dict[str, Any]) -> None:
    """8-bit activations: where a code falls the other way the passes part by its step."""
    found = {
        name: draw(ditas.quantize(made["full"], "W8A8", backend=name, **WIDE)[0])
        for name in BACKENDS
    }
    assert torch.equal(found["simulated"], found["integer"])
    assert float(sqnr_db(found["simulated"], found["onnx"]).min()) > 30


def test_a_run_that_may_be_stopped_stays_on_the_session(made: dict[str, Any]) -> None:
    """Each block is asked before it runs, by a hook; a session is asked between its steps."""
    transformer = copy.deepcopy(made["onnx"].transformer)
    passes: list[int] = []
    session = transformer.runtime.session

    def counted(*values: Any, **named: Any) -> Any:
        passes.append(1)
        return session(*values, **named)

    transformer.runtime = Runtime(counted)  # type: ignore[arg-type]
    labels, spec = torch.tensor([1, 2]), SamplingSpec(steps=3)
    steps = iterate_latents(transformer, made["onnx"].scheduler.config, labels, (4, 8, 8), spec, 0)
    with pytest.raises(Stopped):
        for _ in until_stopped(steps, lambda: False):
            if len(passes) == 2:
                raise Stopped
    assert len(passes) == 2
    hook = transformer.transformer_blocks[0].register_forward_hook(lambda *_: None)
    draw_one = iterate_latents(
        transformer, made["onnx"].scheduler.config, labels, (4, 8, 8), spec, 0
    )
    assert len(list(until_stopped(draw_one, lambda: False))) == 3 and len(passes) == 2
    hook.remove()


@pytest.mark.parametrize("convention", ["paper", "released"])
def test_a_convention_that_cannot_is_refused_in_one_line(convention: str) -> None:
    for backend in ("integer", "onnx"):
        with pytest.raises(SpecError, match=f"{convention}, got {backend}"):
            check_backend(convention, backend)
        with pytest.raises(SpecError, match=f"{convention}, got {backend}"):
            ditas.quantize("nowhere", convention=convention, backend=backend)
    check_backend(convention, "simulated")
    with pytest.raises(CheckpointError, match="quantize it first"):
        ditas.load(DEMO, backend="onnx")


def test_layers_that_are_listened_to_run_and_a_session_can_be_left(tmp_path: Path) -> None:
    quantized, _ = ditas.quantize(dit(), "W4A16", backend="onnx", **WIDE)
    ditas.save(quantized, tmp_path / "folder")
    calibrations = [
        ditas.calibrate(
            ditas.load(tmp_path / "folder", backend=name), samples=1, steps=2, progress=False
        )
        for name in ("integer", "onnx")
    ]
    assert calibrations[0].sha256 == calibrations[1].sha256
    read = ditas.load(tmp_path / "folder", backend="onnx")
    cls = type(dit().transformer)
    assert type(read.transformer) is not cls
    assert type(run_on_(read, read.transformer, "simulated")) is cls
    simulated = ditas.load(tmp_path / "folder")
    assert torch.equal(draw(ditas.pipeline(read)), draw(ditas.pipeline(simulated)))
