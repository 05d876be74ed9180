"""The command line, run as people run it, and the folders it writes."""

from __future__ import annotations

import copy
import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import DEMO, build_random_checkpoint
from diffusers import DDIMScheduler, DiTPipeline
from PIL import Image

from ditas_core.artifact import load_quantized
from ditas_core.calibration import Calibration, calibrate
from ditas_core.checkpoints import Checkpoint, CheckpointError, load_checkpoint
from ditas_core.cli import main
from ditas_core.cli.parsing import split_names
from ditas_core.search import SearchSpec, counted_bits, search
from ditas_core.specs import BitWidths, CalibrationSpec, Recipe, SamplingSpec
from ditas_core.writing import whole_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock pipeline folder of the random checkpoint."""
    checkpoint = build_random_checkpoint()
    target = tmp_path_factory.mktemp("cli") / "tiny"
    scheduler = DDIMScheduler.from_config(checkpoint.scheduler)
    DiTPipeline(checkpoint.transformer, checkpoint.vae, scheduler).save_pretrained(target)
    index = target / "model_index.json"
    names = {str(i): name for i, name in enumerate(checkpoint.class_names)}
    index.write_text(json.dumps({**json.loads(index.read_text()), "id2label": names}))
    return target


def run_json(capsys: pytest.CaptureFixture[str], arguments: str) -> dict:
    assert main([*shlex.split(arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_each_modulation_has_a_row(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"compare {folder} --ablation W8A8 --methods plain,smoothing --samples 2 --steps 2"
    rows = run_json(capsys, f"{words} --modulation none,w8,w4")["results"]
    assert [row["label"] for row in rows][:3] == [
        "W8A8 plain none",
        "W8A8 plain w8",
        "W8A8 plain w4",
    ]
    assert [row["modulation"] for row in rows] == ["none", "w8", "w4"] * 2
    sizes = [row["whole_model_bits"] for row in rows]
    assert sizes[0] > sizes[1] > sizes[2]
    assert all("gain_over_plain_db" in row for row in rows[3:])
    for wrong in ("--modulation w2", "--backend fast", "--backend ''"):
        with pytest.raises(SystemExit):
            main(shlex.split(f"{words} {wrong}"))
        assert "expected some of" in capsys.readouterr().err


def test_the_whole_walk(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calibration, recipe, quantized = tmp_path / "c.safetensors", tmp_path / "r", tmp_path / "q"
    info = run_json(capsys, f"info {folder}")
    assert info["blocks"] == 2 and info["width"] == 32 and len(info["groups"]) == 8
    done = run_json(capsys, f"calibrate {folder} --steps 3 --samples 2 --out {calibration}")
    assert done["steps"] == 3 and calibration.stat().st_size == done["bytes"]
    searching = f"search {folder} --calibration {calibration} --bits W4A8 --out {recipe}"
    assert set(run_json(capsys, searching)["alphas"]) == set(info["groups"])
    made = run_json(capsys, f"quantize {folder} --recipe {recipe} --out {quantized}")
    assert 4 < made["effective_bits"] < 10
    drawing = f"sample {quantized} --classes cat,owl --steps 2 --seed 3 --out {tmp_path / 's'}"
    assert run_json(capsys, drawing)["classes"] == ["cat", "owl"]
    assert Image.open(tmp_path / "s" / "0000-cat.png").size == (info["image_size"],) * 2
    compared = run_json(capsys, f"compare {folder} {quantized} --samples 3 --steps 2")
    (row,) = compared["results"]
    assert row["latent_sqnr_db"]["n"] == 3 and row["latent_sqnr_db"]["mean"] > 0
    comparing = (
        f"compare {folder} {quantized} --samples 3 --steps 2 --backend simulated,integer,onnx"
    )
    first, other, onnx = run_json(capsys, comparing)["results"]
    alike = ("latent_sqnr_db", "psnr_db", "ssim", "effective_bits", "whole_model_bits")
    for key in alike:
        assert first[key] == other[key] == row[key]
    assert [each["backend"] for each in (first, other, onnx)] == ["simulated", "integer", "onnx"]
    assert [first["label"], onnx["label"]] == ["q simulated", "q onnx"] and row["label"] == "q"
    away = onnx["latent_sqnr_db"]["mean"] - row["latent_sqnr_db"]["mean"]
    assert abs(away) < 3 + row["latent_sqnr_db"]["ci95"]
    run_json(capsys, f"{drawing}-integer --backend integer")
    for picture in ("0000-cat.png", "0001-owl.png"):
        assert (tmp_path / "s" / picture).read_bytes() == (
            tmp_path / "s-integer" / picture
        ).read_bytes()
    again = f"calibrate {quantized} --steps 2 --samples 2 --out {tmp_path / 'again'}"
    assert run_json(capsys, again)["groups"] == 8
    for wrong, said in (
        (f"search {quantized} --calibration {calibration}", "search starts from the one it was"),
        (f"quantize {quantized} --recipe {recipe}", "quantize starts from the one it was made of"),
        (f"compare {quantized} {quantized}", "q: expected a model in full precision, got a quant"),
        (f"calibrate {quantized} --precision bfloat16", "precision: expected float32"),
        (f"calibrate {quantized} --like {folder}", "--like, --captions: expected neither"),
        (f"search {folder} --calibration {tmp_path / 'again'}", "made for checkpoint"),
    ):
        assert main(shlex.split(f"{wrong} --out {tmp_path / 'wrong'}")) == 2, wrong
        assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob(".*"))
    assert not list(tmp_path.glob("wrong*"))
    weights = quantized / "transformer" / "quantized.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="expected a whole quantized folder"):
        load_quantized(quantized)


LABELS = ("tench, Tinca tinca", "a red fox, in snow", "b", "b", "tench", "c, d", "c", "2")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("b", ["b"]),
        (" b , c,tench", ["b", "c", "tench"]),
        ("tench, Tinca tinca", ["tench, Tinca tinca"]),
        ("a red fox, in snow,b", ["a red fox, in snow", "b"]),
        ("b,a red fox, in snow,tench, Tinca tinca", ["b", LABELS[1], LABELS[0]]),
        ("tench, b", ["tench", "b"]),
        ("c, d,c,d", ["c, d", "c", "d"]),
        ("3,a red fox, in snow, 0", ["3", "a red fox, in snow", "0"]),
        ("a red fox, in the snow", ["a red fox", "in the snow"]),
        ("b,", ["b", ""]),
        (",", ["", ""]),
    ],
)
def test_names_with_commas_are_told_apart(text: str, names: list[str]) -> None:
    assert split_names(text, LABELS) == names


def test_a_long_list_of_names_is_split_quickly() -> None:
    assert split_names("b," * 50_000, LABELS) == ["b"] * 50_000 + [""]


def test_classes_with_commas_are_drawn_by_name(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And of two that have the same name the number chooses."""
    source = Path(shutil.copytree(folder, tmp_path / "source"))
    index = source / "model_index.json"
    labels = ["a red fox, in snow", "b", "tench, Tinca tinca", "b", "c"]
    named = {str(i): name for i, name in enumerate(labels)}
    index.write_text(json.dumps({**json.loads(index.read_text()), "id2label": named}))
    drawn = {}
    for text in ("a red fox, in snow,b,tench, Tinca tinca,3", "0,1,2,3", "0,1,2,1"):
        out = tmp_path / f"out{len(drawn)}"
        command = f"sample {source} --steps 1 --guidance 1 --out {out} --classes"
        told = run_json(capsys, f"{command} '{text}'")
        assert told["classes"] == [labels[0], "b", labels[2], "b"]
        drawn[text] = [file.read_bytes() for file in sorted(out.glob("0*.png"))]
    first, second, third = drawn.values()
    assert first == second and first[:3] == third[:3] and first[3] != third[3]
    command = command.replace(str(out), str(tmp_path / "no"))
    assert main([*shlex.split(command), "a red fox, in rain"]) == 2
    assert "got 'a red fox'" in capsys.readouterr().err


def test_ablation_reports_paired_gains(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run_json(
        capsys,
        f"compare {folder} --ablation W4A8 --methods plain,search --inject 50 --samples 3 --steps 2"
        f" --convention paper --out {tmp_path / 'images'}",
    )
    plain, searched = report["results"]
    gain = searched["latent_sqnr_db"]["mean"] - plain["latent_sqnr_db"]["mean"]
    assert searched["gain_over_plain_db"]["mean"] == pytest.approx(gain, abs=1e-3)
    assert report["injected"] == 50 and "injected" in report["checkpoint"]
    assert (tmp_path / "images" / "side-by-side.png").is_file()


def test_a_search_by_influence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kept by calibrate or measured first, it is the same."""
    plain, whole = tmp_path / "plain.safetensors", tmp_path / "whole.safetensors"
    run_json(capsys, f"calibrate {folder} --steps 3 --samples 2 --out {plain}")
    calibrating = f"calibrate {folder} --steps 3 --samples 2 --influence 4 --out {whole}"
    found = run_json(capsys, calibrating)
    assert found["sha256"] == Calibration.load(plain).sha256
    kept = Calibration.load(whole).influence
    assert kept is not None and kept.samples == 4 and Calibration.load(plain).influence is None
    searching = f"search {folder} --bits W4A6 --method search --objective influence"
    recipes = []
    for calibration in (plain, whole):
        out = tmp_path / f"{calibration.stem}.json"
        found = run_json(capsys, f"{searching} --calibration {calibration} --out {out}")
        assert found["objective"] == "influence"
        recipes.append(Recipe.load(out))
    assert recipes[0].layers == recipes[1].layers and recipes[0].objective == "influence"
    quantizing = f"quantize {folder} --recipe {tmp_path / 'plain.json'} --out {tmp_path / 'q'}"
    assert 4 < run_json(capsys, quantizing)["effective_bits"] < 10


def test_bits_of_layers_within_a_size(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the size of DiTAS, or in the one that is asked for; the same as in Python."""
    calibration = tmp_path / "calibration.safetensors"
    run_json(capsys, f"calibrate {folder} --steps 2 --samples 2 --out {calibration}")
    searching = f"search {folder} --calibration {calibration} --bits W4A8 --method mixed+gptq"
    checkpoint = load_checkpoint(str(folder))
    for index, budget in enumerate((None, 5.5)):
        out = tmp_path / f"{index}.json"
        asked = "" if budget is None else f"--budget {budget}"
        found = run_json(capsys, f"{searching} {asked} --out {out}")
        spec = SearchSpec(BitWidths(4, 8), method="mixed+gptq", budget=budget)
        most = budget or counted_bits(checkpoint, replace(spec, method="ditas"))
        assert found["bits_per_weight"] <= most + 1e-4
        recipe = Recipe.load(out)
        assert found["widths"] == {name: str(x.bits) for name, x in recipe.layers.items()}
        assert recipe.layers == search(checkpoint, Calibration.load(calibration), spec).layers
    refused = f"{searching} --budget 5 --widths W3A8 --out {tmp_path / 'none.json'}"
    assert main(refused.split()) == 2
    assert "widths: expected none of the method mixed+gptq" in capsys.readouterr().err


WRONG = """
info nowhere
info facebook/DiT-XL-2-1024
calibrate FOLDER --steps 0 --out OUT
calibrate FOLDER --guidance nan --out OUT
calibrate FOLDER --samples 1e9 --out OUT
search FOLDER --calibration nowhere --out OUT
search FOLDER --calibration nowhere --bits W9A8 --out OUT
search FOLDER --calibration nowhere --convention best --out OUT
search FOLDER --calibration nowhere --method magic --out OUT
search FOLDER --calibration nowhere --objective magic --out OUT
calibrate FOLDER --influence 257 --out OUT
quantize FOLDER --recipe nowhere --out OUT
sample FOLDER --classes unicorn --out OUT
compare FOLDER
compare FOLDER nowhere
compare FOLDER --ablation W4
compare FOLDER --ablation W4A8 --methods none
nonsense
"""


@pytest.mark.parametrize("arguments", WRONG.splitlines())
def test_wrong_input_gets_one_line_and_exit_code_2(
    arguments: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swap = {"FOLDER": str(folder), "OUT": str(tmp_path / "out")}
    try:
        code = main([swap.get(word, word) for word in arguments.split()])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_module_runs_and_helps() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ditas_core", "--help"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).resolve().parents[1],
    )
    assert done.returncode == 0
    verbs = ("info", "calibrate", "search", "quantize", "sample", "compare", "convert", "bench")
    assert all(verb in done.stdout for verb in verbs)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(RuntimeError), whole_folder(target) as work:
        (work / "half").write_text("x")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with whole_folder(target) as work:
        (work / "all").write_text("x")
    assert [p.name for p in target.iterdir()] == ["all"]
    with pytest.raises(FileExistsError), whole_folder(target):
        pass


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_calibrates_alike(random_checkpoint: Checkpoint) -> None:
    spec = CalibrationSpec(SamplingSpec(steps=2), samples=2, tokens=8)
    expected = calibrate(random_checkpoint, spec)
    there = replace(random_checkpoint, transformer=copy.deepcopy(random_checkpoint.transformer))
    there.transformer.to("cuda")
    found = calibrate(there, spec)
    for name, statistics in expected.groups.items():
        assert torch.allclose(statistics.high, found.groups[name].high, rtol=1e-2, atol=1e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    demo = str(DEMO)
    out = ["--out", str(tmp_path / "c")]
    assert main(["calibrate", demo, "--steps", "1", "--device", "cuda", *out]) == 2
    assert "device: expected a GPU" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
