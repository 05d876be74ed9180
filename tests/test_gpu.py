"""The command for a GPU: the same code on small models here; without a GPU it says so."""

from __future__ import annotations

import json

import gpu
import pytest
import torch


@pytest.mark.thorough
def test_everything_is_in_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--device", "cpu", "--small"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(found) == [*gpu.PARTS, "part_seconds", "total_seconds"]
    assert not [name for name in gpu.PARTS if {"error", "not_run"} & set(found[name])]
    assert found["machine"]["torch"] == torch.__version__
    assert len(found["backends"]) == 6
    for each in found["backends"].values():
        assert each["equal"] and each["accumulators_equal"] and each["layers"] == 48
    alphas = found["alphas"]  # the same search twice
    assert alphas["equal"] and alphas["layers"] == 32
    assert alphas["largest_relative_difference_of_losses"] == 0.0
    assert {"calibrate", "search", "quantize", "sample"} <= set(found["pipeline"]["seconds"])
    variants = found["forward"]["variants"]
    assert variants["bfloat16"]["ratio"] == 1.0
    ours = {name: each for name, each in variants.items() if "A8" in name}
    assert len(ours) == 5
    for each in ours.values():
        assert each["ms"] > 0 and each["ratio"] > 0 and each["sqnr_db"] > 25


def test_what_does_not_fit_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--device", "cpu", "--small", "--budget", "0"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(found[name] == {"not_run": "no time left"} for name in gpu.PARTS)


def test_an_error_is_a_text_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: gpu.Settings) -> gpu.Found:
        raise ValueError("two\nlines")

    def lasts(_: gpu.Settings) -> gpu.Found:
        while True:
            pass

    parts = {"fails": (fails, 9.0), "lasts": (lasts, 1.0), "machine": gpu.PARTS["machine"]}
    monkeypatch.setattr(gpu, "PARTS", parts)
    assert gpu.main(["--device", "cpu", "--small"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fails"] == {"error": "ValueError: two lines"}
    assert found["lasts"] == {"error": "TimeoutError: not finished within 1 s"}
    assert found["machine"]["cores"] >= 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "expected a GPU" in said.err
