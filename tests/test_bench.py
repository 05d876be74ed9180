"""The benchmarks run as commands and report what they promise, on the smallest of settings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from pretended_gpu import pretended_gpu

from ditas_core.cli import main
from ditas_core.evaluation.cost import WORKSPACES


def bench(capsys: pytest.CaptureFixture[str], arguments: str) -> dict[str, Any]:
    assert main(["bench", *arguments.split(), "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert isinstance(report, dict) and report["machine"]["cpu"]
    return report


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_scale(capsys: pytest.CaptureFixture[str], precision: str) -> None:
    size = "scale --model DiT-S/2 --blocks 1 --steps 2 --samples 1 --tokens 4"
    report = bench(capsys, f"{size} --precision {precision}")
    assert "random weights" in report["model"]
    assert set(report["seconds"]) >= {"calibrate", "search", "quantize"}
    assert report["quantized_layers"] == 6 and report["settings"]["candidates"] == 4 * 22
    assert 4 < report["effective_bits"] < 6
    assert list(report["peak_gb"].values()) == sorted(report["peak_gb"].values())


@pytest.mark.parametrize("bits", ["W4A8", "W8A8"])
def test_scale_keeps_to_the_memory_that_it_states(
    capsys: pytest.CaptureFixture[str], bits: str
) -> None:
    size = f"scale --model DiT-S/2 --blocks 2 --steps 2 --samples 1 --tokens 24 --bits {bits}"
    with pretended_gpu():
        report = bench(capsys, f"{size} --device cuda --images 2")
    found, stated = report["peak_on_gpu_gb"], report["stated_on_gpu_gb"]
    assert list(found) == list(stated) == ["calibrate", "search", "quantize", "sample"]
    workspaces = WORKSPACES / 1e9  # which are not pretended
    for name, most in stated.items():
        assert 0.3 * (most - workspaces) < found[name] <= most - workspaces + 0.01, name


def test_tokens(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    size = "tokens --steps 2 --samples 1 --draws 1 --groups 16 --settings released:W4A8"
    report = bench(capsys, f"{size} --out {tmp_path}")
    shares = report["within_1_percent"]["released W4A8"]
    assert report["layers"] == 2 and set(shares) == {"1", "2", "4", "8", "16", "24", "48"}
    assert all(0 <= share <= 1 for share in shares.values())
    names = {path.name for path in tmp_path.iterdir()}
    assert names in (
        {"figure.png", "study.json", "table.md"},
        {"figure.html", "study.json", "table.md"},
    )


def test_conventions(capsys: pytest.CaptureFixture[str]) -> None:
    report = bench(capsys, "conventions --samples 1 --steps 2 --bits W8A8 --methods plain")
    bits = {row["convention"]: row["effective_bits"] for row in report["rows"]}
    assert set(bits) == {"integer", "integer-tensor", "paper", "released"}
    assert bits["integer"] < bits["released"]  # strided groups carry many scales


def test_ranking(capsys: pytest.CaptureFixture[str], stock: Path) -> None:
    words = "--samples 2 --steps 2 --random 1 --influence 1 --settings integer:W4A4"
    report = bench(capsys, f"ranking {stock} {words}")
    names = ["plain", "alpha 0.25", "alpha 0.5", "alpha 0.75"]
    names += ["search, output", "search, influence", "random 1", "random bits 1", "bits by layer"]
    assert [row["recipe"] for row in report["rows"]] == names
    found = {row["recipe"]: row["predicted_db"] for row in report["rows"]}
    assert all(set(each) == {"output", "influence", "reach"} for each in found.values())
    best = max(each["influence"] for name, each in found.items() if "bits" not in name)
    assert found["search, influence"]["influence"] == pytest.approx(best, abs=1e-3)
    assert len(report["influence"]) == 2 and min(report["influence"]) >= 0
    for where in ("all", "within"):
        gain = report["correlations"][where]
        assert gain["gain"]["rho"] == pytest.approx(
            gain["reach"]["rho"] - gain["output"]["rho"], abs=2e-4
        )


@pytest.mark.slow
def test_search_beats_one_loop_per_layer(capsys: pytest.CaptureFixture[str]) -> None:
    report = bench(capsys, "search --runs 1 --steps 2 --samples 2 --xl-steps 1 --xl-samples 1")
    for result in report["results"]:
        assert result["forwards"]["reference"] == (result["layers"] + 1) * result["steps"]
        assert result["forwards"]["engine"] == result["steps"]
        assert result["ratio"] > 1
        assert result["agreement"]["within_1_percent"] >= 0.9 * result["layers"]


def test_an_unknown_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "magic"])
    assert ended.value.code == 2
    assert "magic" in capsys.readouterr().err


def test_forward_names_what_is_installed_and_what_is_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sdnq", None)
    words = ["forward", "--models", "demo", "--rounds", "1", "--eager", "--modulation", "w8"]
    assert main(["bench", *words, "--only", "sdnq,onnxruntime,W8A8 integer", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = report["models"]["demo"]
    rows = {row["name"]: row for row in found["rows"]}
    assert found["absent"] == {"sdnq int8 products": "sdnq is not installed"}
    assert rows["onnxruntime fp32"]["sqnr_db"] > 100
    dynamic, own = rows["onnxruntime quantize_dynamic"], rows["ours W8A8 integer-tensor"]
    assert own["sqnr_db"] > dynamic["sqnr_db"] > 20
    small = rows["ours W8A8 integer-tensor, modulation w8"]
    assert small["file_mb"] < own["file_mb"] and small["ms"] > 0
    assert {"onnx", "onnxruntime", "opset"} <= set(report["versions"])
