"""Folders and files that are refused by name where they would fail later; loading in threads."""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_random_checkpoint
from test_original_sizes import random_state
from test_resume import save_tiny
from tiny_pixart import save_tiny_pixart, tiny_captions

from ditas_core.checkpoints import Architecture, CheckpointError, load_checkpoint
from ditas_core.checkpoints.weights import read_headers
from ditas_core.cli import main

ORIGINAL = Architecture(2, 32, 2, 2, 4, 4, 8, 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("wrong") / "tiny")


def changed(folder: Path, target: Path, file: str, **values: Any) -> Path:
    """A copy whose JSON file says something else."""
    import shutil

    shutil.copytree(folder, target)
    path = target / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return target


TRANSFORMER = "transformer/config.json"
SCHEDULE = "scheduler/scheduler_config.json"
WRONG = [
    (TRANSFORMER, {"attention_bias": False}, "layers with biases"),
    (TRANSFORMER, {"sample_size": 9}, "whole patches of 2"),
    (TRANSFORMER, {"sample_size": 4096}, "at most 65536"),
    (TRANSFORMER, {"sample_size": 8.5}, "sample_size of at least 1"),
    (TRANSFORMER, {"patch_size": 0}, "patch_size of at least 1"),
    (TRANSFORMER, {"norm_eps": "x"}, "a number as norm_eps"),
    (TRANSFORMER, {"num_attention_heads": {}}, "a number as num_attention_heads"),
    ("model_index.json", {"id2label": {str(i): f"c{i}" for i in range(1001)}}, "at most 1000"),
    (SCHEDULE, {"beta_schedule": "nope"}, "a noise schedule .nope"),
    (SCHEDULE, {"beta_end": "x"}, "a noise schedule"),
    (SCHEDULE, {"beta_end": 2.0}, "betas between 0 and 1"),
    (SCHEDULE, {"trained_betas": [0.1] * 3}, "1000 trained_betas, got 3"),
    (SCHEDULE, {"trained_betas": 3}, "1000 trained_betas, got 3"),
    (SCHEDULE, {"num_train_timesteps": 300_000_000}, "1 to 100000"),
    (SCHEDULE, {"num_train_timesteps": True}, "1 to 100000"),
    (SCHEDULE, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "flow-matching"),
]


@pytest.mark.parametrize(("file", "values", "said"), WRONG)
def test_what_would_fail_later_is_refused(
    folder: Path, tmp_path: Path, file: str, values: dict[str, Any], said: str
) -> None:
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(changed(folder, tmp_path / "copy", file, **values))


def test_a_program_is_told_from_a_state_dict(tmp_path: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather not have it any more
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "program.pt"))
    with pytest.raises(CheckpointError, match="got a TorchScript program"):
        read_headers(tmp_path / "program.pt")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("diffusion_pytorch_model.bin.index.json", "in several parts"),
        ("diffusion_pytorch_model.fp16.safetensors", r"\.fp16\.safetensors: rename it"),
    ],
)
def test_weights_under_other_names(folder: Path, tmp_path: Path, name: str, said: str) -> None:
    copy = changed(folder, tmp_path / "copy", SCHEDULE)
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name(name))
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(copy)


def test_captions_by_a_path_as_text(tmp_path: Path) -> None:
    served = save_tiny_pixart(tmp_path / "pixart", told=False)
    (tmp_path / "mine").mkdir()
    file = tiny_captions(seed=4).save(tmp_path / "mine")
    found = load_checkpoint(str(served), captions=str(file))
    assert found.captions is not None and found.captions.sha256 == tiny_captions(seed=4).sha256


# Threads


def at_once(work: Callable[[int], object], count: int, rounds: int) -> list[object]:
    """The same work in threads that start together, again and again."""
    barrier = threading.Barrier(count)

    def one(number: int) -> list[object]:
        found = []
        for _ in range(rounds):
            barrier.wait(60)
            found.append(work(number))
        return found

    with ThreadPoolExecutor(count) as pool:
        return [each for found in pool.map(one, range(count)) for each in found]


def test_folders_that_load_together_leave_torch_as_it_was(folder: Path) -> None:
    before = (torch.nn.Module.register_parameter, torch.nn.init.kaiming_uniform_)
    expected = build_random_checkpoint().fingerprint

    def work(number: int) -> str:
        if number == 0:  # somebody else builds modules meanwhile
            return ",".join(torch.nn.Linear(2, 2).weight.device.type for _ in range(500))
        return load_checkpoint(folder).fingerprint

    found = at_once(work, 3, 6)
    assert set(found) == {",".join(["cpu"] * 500), expected}
    assert (torch.nn.Module.register_parameter, torch.nn.init.kaiming_uniform_) == before


def test_training_checkpoints_that_are_read_together(tmp_path: Path) -> None:
    file = tmp_path / "0050000.pt"
    state = random_state(ORIGINAL)
    torch.save({"model": state, "ema": state, "args": argparse.Namespace(lr=1e-4)}, file)
    sizes = at_once(lambda _: len(read_headers(file).tensors), 3, 15)
    assert sizes == [len(state)] * 45
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_what_a_caller_allows_stays_allowed(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    torch.save({"model": random_state(ORIGINAL), "args": argparse.Namespace()}, file)
    with torch.serialization.safe_globals([argparse.Namespace]):
        read_headers(file)
        assert argparse.Namespace in torch.serialization.get_safe_globals()


# The command line


def told(arguments: list[Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main([str(each) for each in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_info_says_the_heads_that_loading_takes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for width in (32, 40):  # as wide as the lender, with its heads; or not known
        file = tmp_path / f"w{width}.pt"
        torch.save(random_state(Architecture(2, width, 2, 2, 4, 4, 8, 5)), file)
        code, out, _ = told(["info", file, "--like", folder, "--json"], capsys)
        heads = json.loads(out)["heads"]
        assert code == 0
        if width == 32:
            assert (
                heads
                == load_checkpoint(file, like=folder).transformer.config["num_attention_heads"]
            )
        else:
            assert "not known" in heads and "name the number" in heads


def test_every_verb_loads_in_half_precision(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = ["--weights", "bfloat16"]
    small = ["--steps", 2, "--samples", 1, "--tokens", 4]
    calibration, recipe = tmp_path / "c.safetensors", tmp_path / "r.json"
    verbs: list[list[Any]] = [
        ["info", folder, *half],
        ["calibrate", folder, *half, *small, "--out", calibration],
        ["search", folder, *half, "--calibration", calibration, "--bits", "W8A8", "--out", recipe],
        ["quantize", folder, *half, "--recipe", recipe, "--out", tmp_path / "q"],
        ["compare", folder, tmp_path / "q", *half, "--steps", 2, "--samples", 1],
        ["sample", folder, *half, "--steps", 1, "--samples", 1, "--out", tmp_path / "s"],
    ]
    for verb in verbs:
        code, _, err = told(verb, capsys)
        assert code == 0, (verb[0], err[-500:])
