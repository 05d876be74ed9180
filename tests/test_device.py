"""The whole pipeline where the model lies: on a pretended GPU it gives what it gives on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_random_checkpoint
from pretended_gpu import GPU, There, pretended_gpu
from test_integer import layer_of, random
from tiny_pipelines import dit, pixart
from tiny_pixart import tiny_captions

import ditas_core as ditas
from ditas_core.calibration import Calibration
from ditas_core.cli.main import main
from ditas_core.conversion import inject_outliers
from ditas_core.layers import QuantizedLinear, run_as_
from ditas_core.search import AlphaLab, SearchSpec
from ditas_core.search.loss import GroupLoss
from ditas_core.specs import BitWidths, LayerRecipe, LowRankSpec, get_convention

QUICK: dict[str, Any] = {"samples": 2, "steps": 2, "progress": False}


def there(pipeline: Any) -> Any:
    for part in (pipeline.transformer, pipeline.vae):
        part.to(GPU)
    return pipeline


@pytest.mark.numeric
@pytest.mark.parametrize(
    ("made", "convention"),
    [
        (dit, "integer"),
        *(
            pytest.param(made, name, marks=pytest.mark.thorough)
            for made, name in ((dit, "integer-g24"), (dit, "released"), (pixart, "paper"))
        ),
    ],
)
def test_a_pipeline_is_quantized_where_it_lies(made: Any, convention: str) -> None:
    captions = tiny_captions() if made is pixart else None
    branch = 2 if convention == "released" else LowRankSpec(2, 2, "covariance")
    settings = {**QUICK, "convention": convention, "captions": captions}
    settings.update(alpha=(0.3, 0.6), rank=branch)
    expected, report = ditas.quantize(made(), "W4A8", **settings)
    with pretended_gpu():
        pipeline = there(made())
        quantized, found = ditas.quantize(pipeline, "W4A8", **settings)
        state = quantized.transformer.state_dict()
        assert all(isinstance(each, There) for each in state.values())
        here = {name: value.cpu() for name, value in state.items()}
        assert found.recipe is not None and found.recipe == report.recipe
        assert found.rows == report.rows and found.bytes_after == report.bytes_after
        paired = ditas.compare(pipeline, quantized, steps=2, samples=2, progress=False)
        assert not isinstance(paired.full, There)
    for name, value in expected.transformer.state_dict().items():
        assert torch.equal(value, here[name])


@pytest.mark.numeric
@pytest.mark.parametrize("method", ["plain", "rotation+gptq"])
def test_an_integer_pipeline_there_draws_the_same(tmp_path: Path, method: str) -> None:
    settings = {**QUICK, "method": method, "backend": "integer", "convention": "integer-tensor"}
    expected, _ = ditas.quantize(dit(), "W4A8", **settings)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    times, labels = torch.tensor([400, 400]), torch.tensor([0, 2])
    want = expected.transformer(latents, times, labels).sample
    with pretended_gpu():
        quantized, _ = ditas.quantize(there(dit()), "W4A8", **settings)
        layers = [m for m in quantized.transformer.modules() if isinstance(m, QuantizedLinear)]
        assert layers and all(m.operand_codes is None for m in layers)
        inputs = (value.to(GPU) for value in (latents, times, labels))
        assert torch.equal(quantized.transformer(*inputs).sample.cpu(), want)
        saved = ditas.save(quantized, tmp_path / "saved")
    loaded = ditas.load(saved, backend="integer").transformer
    assert torch.equal(loaded(latents, times, labels).sample, want)


@pytest.mark.numeric
@pytest.mark.parametrize("convention", ["integer", "integer-g7", "integer-g24", "integer-g64"])
@pytest.mark.parametrize("rows", [1, 16, 40])
def test_products_have_the_shapes_and_layouts_that_a_gpu_takes(rows: int, convention: str) -> None:
    layer, x = layer_of(convention, "W4A8", (41, 77)), random(9, rows, 77)
    want = layer(x)
    with pretended_gpu():
        moved = layer.to(GPU)
        run_as_(moved, "integer")
        assert torch.equal(moved(x.to(GPU)).cpu(), want)


def test_what_looks_into_a_search_works_there(random_calibration: Calibration) -> None:
    checkpoint = build_random_checkpoint()
    group, spec = checkpoint.groups[3], SearchSpec(BitWidths(4, 8), method="search")
    want = AlphaLab(checkpoint, group, random_calibration, spec)(0.5)
    with pretended_gpu():
        checkpoint.transformer.to(GPU)
        found = AlphaLab(checkpoint, group, random_calibration, spec)(0.5)
        assert found.output_db == want.output_db
        assert torch.equal(found.weights.counts, want.weights.counts)
        injected = inject_outliers(checkpoint.transformer, 10.0)
        assert all(isinstance(each, There) for each in injected.parameters())


def test_what_a_gpu_refuses_is_refused(random_calibration: Calibration) -> None:
    """Statistics, a table, noise and a layout that were left on the CPU are noticed."""
    statistics = random_calibration.groups["0.qkv"]
    weight = torch.ones(8, 32)
    settings = (LayerRecipe(BitWidths(4, 8)), get_convention("integer"))
    GroupLoss([weight], statistics, *settings)
    with pretended_gpu():
        x = weight.to(GPU)
        with pytest.raises(RuntimeError, match=r"expected all tensors on one device"):
            GroupLoss([x], statistics, *settings)
        with pytest.raises(RuntimeError, match=r"one device, got \[\(8, 32\)\] on cuda:0 and"):
            x + torch.arange(32)
        with pytest.raises(RuntimeError, match="generator of cuda"):
            torch.randn(3, generator=torch.Generator(), device=GPU)
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()
        codes = torch.ones(32, 8, dtype=torch.int8, device=GPU)
        with pytest.raises(RuntimeError, match="_int_mm"):
            torch._int_mm(codes, codes.t().contiguous())
        # as everywhere: single numbers, copies and indices
        assert float((x[torch.tensor([1, 2])] * torch.tensor(2.0)).sum()) == 128.0
        assert torch.equal(x.cpu(), weight) and x.new_zeros(2).is_cuda


@pytest.mark.thorough
def test_every_verb_computes_there(
    stock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method, ablation = ["--method", "search"], ["--methods", "plain"]

    def walk(folder: Path, *device: str) -> dict[str, Any]:
        folder.mkdir()
        calibration, recipe = folder / "calibration.safetensors", folder / "recipe.json"
        common = ["--steps", "2", "--json", *device]
        reports = {}
        for verb, arguments in {
            "calibrate": [*common, "--samples", "2", "--tokens", "8", "--out", str(calibration)],
            "search": [
                "--calibration",
                str(calibration),
                "--out",
                str(recipe),
                *method,
                "--json",
                *device,
            ],
            "quantize": ["--recipe", str(recipe), "--out", str(folder / "q"), "--json", *device],
            "compare": [
                str(folder / "q"),
                "--samples",
                "2",
                "--ablation",
                "W4A4",
                *ablation,
                *common,
            ],
        }.items():
            assert main([verb, str(stock), *arguments]) == 0
            reports[verb] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return reports

    want = walk(tmp_path / "here")
    with pretended_gpu():
        found = walk(tmp_path / "there", "--device", "cuda")
    for name in ("recipe.json", "q/transformer/quantized.safetensors"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    assert found["search"]["losses"] == want["search"]["losses"]
    for one, other in zip(found["compare"]["results"], want["compare"]["results"], strict=True):
        assert one["latent_sqnr_db"] == other["latent_sqnr_db"]
