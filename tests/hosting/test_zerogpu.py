"""The networks run where they should, and give the same numbers wherever that is."""

from __future__ import annotations

import ast
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("gradio")

from ditas_core.calibration import Calibration
from ditas_core.checkpoints import Checkpoint
from ditas_core.conversion import quantize_transformer
from ditas_core.search import plain_recipe
from ditas_core.specs import BitWidths, SpecError
from ditas_core.ui.serving import sending, zerogpu

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


MODES = ("none", "on", "off", "start", "quota")


@pytest.fixture(scope="module")
def modes() -> dict[str, dict[str, Any]]:
    """What ``borrowing.py`` prints for each way of being hosted."""
    done = subprocess.run(
        [sys.executable, str(HERE / "borrowing.py"), *MODES],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return dict(zip(MODES, lines, strict=True))


def test_without_the_package_everything_runs_here(modes):
    here = modes["none"]
    assert here["declared"] == [] and here["told"] == []
    assert here["found"]["unchanged"] and len(set(here["found"]["runs"].values())) == 3
    assert modes["off"] == here, "off ZeroGPU the package changes nothing"
    assert modes["start"] == here, "the calibration at the start is at nobody's expense"


def test_on_zerogpu_every_run_declares_some_seconds_and_gives_the_same_numbers(modes):
    there = modes["on"]
    tasks = [each["task"] for each in there["declared"]]
    assert tasks == ["calibrate_there"] + 4 * ["sample_there"]
    assert all(10 <= each["seconds"] <= 60 for each in there["declared"])
    assert there["told"] == [], "nothing fell back"
    assert there["found"] == modes["none"]["found"], "equal to the bit, progress included"
    assert there["found"]["shared"] == [], "the weights stay this process's own"


def test_without_quota_it_runs_here_and_says_so(modes):
    found = modes["quota"]
    assert len(found["declared"]) == 5 and found["found"] == modes["none"]["found"]
    assert "No GPU for this run (0 s left of your daily GPU quota)" in found["told"][0]


def test_declared_seconds_grow_with_the_work_and_are_bounded(random_checkpoint: Checkpoint):
    def seconds(**changes: int) -> int:
        return zerogpu.declared_seconds(
            random_checkpoint, **{"steps": 50, "samples": 8, "batch": 4, **changes}
        )

    assert seconds(steps=20) == 10  # the least
    assert seconds() == 11  # 5 s, 100 forward passes of 0.05 s, a little arithmetic
    assert seconds(steps=100) == 16
    with pytest.raises(SpecError, match="at most 60 s on the borrowed GPU, 8 samples of 1000"):
        seconds(steps=1000)


def test_a_large_model_needs_longer(random_checkpoint: Checkpoint):
    class Large(torch.nn.Module):
        """675 M weights that take no memory, on 256 tokens."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.empty(675_000_000, device="meta"))
            self.config = type("Config", (), {"sample_size": 32, "patch_size": 2})

    large = replace(random_checkpoint, transformer=Large())
    # 4 x 675e6 x 256 x 50 x 4 / 8e12 = 17.3 s, 50 passes, 5 s
    assert zerogpu.declared_seconds(large, 50, 4, 4) == 25


def test_every_network_run_of_the_page_takes_this_door():
    """No other module of the page gets hold of the loops themselves.

    Measured sensitivity is not among them: it converts a model before each of its many short
    runs, takes minutes, and stays on the CPU.
    """
    page = ROOT / "ditas_core" / "ui"
    made = {page / "stored" / name for name in ("precompute.py", "dialling.py", "speeds.py")}
    apart = {page / "serving" / "zerogpu.py", *made}
    users = set()
    for path in set(page.rglob("*.py")) - apart:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom):
                continue
            names = {alias.name for alias in node.names}
            loops = names & {"calibrate", "iterate_calibration", "run_trajectory",
                             "iterate_trajectory", "iterate_latents", "sample_latents",
                             "iterate_forwards"}  # fmt: skip
            if loops:
                assert node.module == "serving.zerogpu", (path.name, loops)
                users.add(str(path.relative_to(page)))
    tabs = ("compare", "injector", "breaking", "overview", "contest")
    jobs = {f"tabs/{name}/job.py" for name in tabs}
    assert users == jobs | {"visitors/backend.py"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (3, 2)])
def test_tensors_arrive_as_they_were(dtype, shape):
    tensor = (10 * torch.rand(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    found = sending.unpack(pickle.loads(pickle.dumps(sending.pack(tensor))))
    assert found.dtype == dtype and found.shape == tensor.shape and torch.equal(found, tensor)


def test_models_and_results_arrive_as_they_were(
    random_checkpoint: Checkpoint, random_calibration: Calibration
):
    recipe = plain_recipe(random_checkpoint, BitWidths(4, 8), "integer")
    quantized = quantize_transformer(random_checkpoint, recipe, None)
    for module in (random_checkpoint.transformer, random_checkpoint.vae, quantized):
        found = sending.unpack(sending.pack(module))
        expected = sending.tensors_of(module)
        for name, tensor in sending.tensors_of(found).items():
            assert torch.equal(tensor, expected[name]), name
            assert tensor.numel() == 0 or tensor.data_ptr() != expected[name].data_ptr(), name
    found = sending.unpack(sending.pack(random_calibration))
    assert found.sha256 == random_calibration.sha256


@pytest.mark.gpu
def test_on_an_accelerator_the_numbers_are_close(demo_checkpoint: Checkpoint):
    from ditas_core.comparison import run_trajectory
    from ditas_core.specs import SamplingSpec

    labels, spec = torch.tensor([0, 9]), SamplingSpec(steps=10)
    here = run_trajectory(demo_checkpoint, demo_checkpoint.transformer, labels, spec, 0)
    sent = sending.pack(demo_checkpoint)
    *_, last = zerogpu.sample_there(10, sent, None, 0, sending.pack(labels), spec, 0)
    torch.testing.assert_close(sending.unpack(last).images, here.images, atol=1e-3, rtol=0)
