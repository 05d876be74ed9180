"""Exported ONNX folders, and the packages they need."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import build_random_checkpoint
from tiny_pixart import save_tiny_pixart

import ditas_core as ditas
from ditas_core.artifact import save_quantized, whole_model_bits
from ditas_core.checkpoints import CheckpointError, load_checkpoint
from ditas_core.cli import main
from ditas_core.conversion import quantize_modulation, quantize_transformer
from ditas_core.onnx_runtime import export, export_onnx, trace
from ditas_core.sampling import decode_latents
from ditas_core.search import plain_recipe
from ditas_core.specs import BitWidths, Recipe, SpecError


@pytest.fixture(autouse=True, scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this file's own."""
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setattr(constants, "HF_HOME", str(home))
        yield home / "ditas" / "graphs"


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantized folder of the tiny model, W4A8."""
    checkpoint = build_random_checkpoint()
    recipe = plain_recipe(checkpoint, BitWidths(4, 8), "integer")
    folder = tmp_path_factory.mktemp("quantized") / "w4a8"
    save_quantized(folder, checkpoint, quantize_transformer(checkpoint, recipe), recipe)
    return folder


def code_of(card: str) -> str:
    """The block of code that a card shows."""
    return card.split("```python\n")[1].split("```")[0]


def run_card(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the five lines of the card make."""
    monkeypatch.chdir(folder)
    code = code_of((folder / "README.md").read_text(encoding="utf-8"))
    assert len(code.splitlines()) == 5
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def test_a_quantized_folder_as_onnx(
    quantized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, graphs: Path
) -> None:
    monkeypatch.setattr(trace, "KEPT", {})  # what other tests traced
    out = tmp_path / "onnx"
    words = ["export", str(quantized), "--to", "onnx", "--modulation", "w8a8", "--out", str(out)]
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    files = {path.name for path in out.iterdir()}
    assert files == {
        "transformer.onnx", "vae_decoder.onnx", "scheduler", "classes.json", "recipe.json",
        "export.json", "README.md",
    }  # fmt: skip
    assert len(list(graphs.iterdir())) == 2, "one graph of the transformer, one of the decoder"
    recipe = replace(Recipe.load(quantized / "recipe.json"), modulation="w8a8")
    assert Recipe.load(out / "recipe.json") == recipe
    assert json.loads((out / "classes.json").read_text())["2"] == "fox"
    about = json.loads((out / "export.json").read_text())
    assert about["versions"]["onnxruntime"] == onnxruntime.__version__
    assert about["versions"]["opset"] == "21" and about["licence"] == "none"
    checkpoint = ditas.load(quantized)
    small = quantize_modulation(checkpoint.transformer, "w8a8")
    size = (out / "transformer.onnx").stat().st_size
    assert report["bits"] == pytest.approx(8 * size / report["parameters"])
    # beside the weights that the folder would take: the graph itself
    assert (
        0
        < report["bits"] * report["parameters"] / 8
        - (whole_model_bits(small) * report["parameters"] / 8)
        < 60_000
    )
    assert report["layer_sqnr_db"] > 60 and report["sqnr_db"] > 20
    made = run_card(out, monkeypatch)
    with torch.no_grad():
        expected = small(
            torch.from_numpy(made["latents"]),
            timestep=torch.tensor([999, 999]),
            class_labels=torch.tensor([0, 1000]),
        ).sample
    assert made["noise"].shape == (2, 4, 8, 8)
    difference = torch.from_numpy(made["noise"]) - expected
    assert float(difference.norm() / expected.norm()) < 0.05
    images = decode_latents(checkpoint.vae, torch.from_numpy(made["latents"][:1]))
    assert np.allclose(made["image"], images.numpy(), atol=1e-4)


def test_the_verb_says_what_is_wrong(
    quantized: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    words = ["export", str(quantized), "--to", "onnx", "--out"]
    assert main([*words, str(tmp_path / "full")]) == 2
    assert "expected a new or empty folder" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main([*words, str(tmp_path / "none")]) == 2
    assert "pip install 'ditas_core[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_decoder_in_memory_has_the_graph_of_its_file(
    stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its configuration holds diffusers' defaults, which are tuples there and lists in a file."""
    monkeypatch.setattr(trace, "KEPT", {})
    for checkpoint in (build_random_checkpoint(), load_checkpoint(stock)):
        trace.traced_decoder(checkpoint, tmp_path)
    assert len(trace.KEPT) == 1


def test_what_has_no_integer_product_leaves_nothing(tmp_path: Path) -> None:
    checkpoint = build_random_checkpoint()
    recipe = plain_recipe(checkpoint, BitWidths(8, 8), "paper")
    paper = ditas.convert(checkpoint, recipe, progress=False)
    with pytest.raises(SpecError, match="cannot be added as integers"):
        ditas.export(paper, tmp_path / "paper", progress=False)
    with pytest.raises(SpecError, match="to: expected one of onnx"):
        ditas.export(paper, tmp_path / "paper", to="gguf", progress=False)
    assert not list(tmp_path.iterdir())


def test_a_file_that_computes_something_else_does_not_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight is negated between the graph and the file."""
    checkpoint = build_random_checkpoint()
    stock = export.write_model

    def damaged(model: Any, path: Path) -> int:
        for each in model.graph.initializer:
            if each.name.endswith("proj.weight"):
                values = -onnx.numpy_helper.to_array(each)
                each.CopyFrom(onnx.numpy_helper.from_array(values, each.name))
        return stock(model, path)

    monkeypatch.setattr(export, "write_model", damaged)
    with pytest.raises(CheckpointError, match="expected what torch computes to 60 dB"):
        export_onnx(tmp_path / "out", checkpoint)
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
@pytest.mark.parametrize("told", [False, True])
def test_a_text_conditioned_model_as_onnx(
    told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = load_checkpoint(str(save_tiny_pixart(tmp_path / "pixart", told)))
    exported = ditas.export(checkpoint, tmp_path / "out", progress=False)
    assert exported.sqnr_db > 90 and exported.layer_sqnr_db is None
    assert (tmp_path / "out" / "captions.safetensors").is_file()
    made = run_card(tmp_path / "out", monkeypatch)
    assert made["noise"].shape == (2, *checkpoint.latent_shape)


@pytest.mark.thorough
def test_weights_beyond_the_format_lie_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if two gigabytes were 100 kB."""
    from ditas_core.onnx_runtime import session

    monkeypatch.setattr(export, "LARGEST", 100_000)
    monkeypatch.setattr(session, "LARGEST", 100_000)
    exported = ditas.export(build_random_checkpoint(), tmp_path / "out", progress=False)
    assert {"transformer.onnx", "transformer.onnx.data"} <= set(exported.bytes)
    made = run_card(tmp_path / "out", monkeypatch)
    assert made["noise"].shape == (2, 4, 8, 8)


WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(("onnx", "onnxruntime", "onnxscript")))
from conftest import build_random_checkpoint
import ditas_core.onnx_runtime as room
for work in (room.check_installed, lambda: room.traced(build_random_checkpoint())):
    try:
        work()
    except ModuleNotFoundError as error:
        print(error)
"""
IMPORTS = """
import sys
import ditas_core.api, ditas_core.cli.commands, ditas_core.onnx_runtime
assert not {"onnx", "onnxruntime", "onnxscript"} & set(sys.modules)
"""


@pytest.fixture
def path_of_tests(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    here = Path(__file__).resolve().parent
    monkeypatch.setenv("PYTHONPATH", f"{here}:{here.parent}")
    yield


def test_the_packages_are_loaded_when_needed_and_missed_by_name(path_of_tests: None) -> None:
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("pip install 'ditas_core[onnx]'" in line for line in lines), lines
