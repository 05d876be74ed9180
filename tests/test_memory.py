"""What a calibration says it needs, and what it takes; budgets; bfloat16."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from children import ROOT
from hypothesis import given
from hypothesis import strategies as st
from processes import LIMIT_S, run
from test_resume import leftovers
from tiny_pipelines import save_tiny

from ditas_core.calibration import (
    Calibration,
    calibrate,
    iterate_calibration,
    memory_need,
    tokens_for_budget,
)
from ditas_core.calibration.memory import channels_of
from ditas_core.calibration.trajectory import working_copy
from ditas_core.checkpoints import Checkpoint, fingerprint
from ditas_core.specs import CalibrationSpec, SamplingSpec, SpecError

SLACK = 12e6
"""Bytes: what the allocator and the libraries keep for themselves; measured up to 7 MB,
in bfloat16, whose kernels the warm-up does not touch."""

MEASURE = """
import json, sys
from pathlib import Path
import torch
from ditas_core.calibration import CalibrationJournal, calibrate, memory_need
from ditas_core.checkpoints import load_checkpoint
from ditas_core.specs import CalibrationSpec, SamplingSpec

torch.set_num_threads(1)
where, home, settings = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
checkpoint = load_checkpoint(where)
checkpoint.fingerprint
spec = CalibrationSpec(SamplingSpec(settings.pop("steps")), **settings)
rows = 2 * min(spec.batch, spec.samples)
with torch.no_grad():
    checkpoint.transformer(
        torch.zeros(rows, *checkpoint.latent_shape),
        timestep=torch.zeros(rows, dtype=torch.long),
        class_labels=torch.zeros(rows, dtype=torch.long),
    )


def line(name):
    text = Path("/proc/self/status").read_text()
    return int(next(x for x in text.splitlines() if x.startswith(name)).split()[1]) * 1024


Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
before = line("VmRSS:")
journal = CalibrationJournal(home / "steps", checkpoint.fingerprint, spec, (0, spec.samples))
calibration = calibrate(checkpoint, spec, journal)
calibration.save(home / "calibration.safetensors")
print(json.dumps({"grown": line("VmHWM:") - before, "need": memory_need(checkpoint, spec).total}))
"""


def measure(checkpoint: Checkpoint, home: Path, settings: dict[str, object]) -> tuple[float, float]:
    """Growth of the resident set at its peak, and the statement, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(checkpoint.path), str(home), json.dumps(settings)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return found["grown"], found["need"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 8, "tokens": 500, "samples": 4, "batch": 4},
        {"steps": 4, "tokens": 250, "samples": 2, "batch": 1, "token_dtype": "float32"},
        {"steps": 2, "tokens": 4, "samples": 2, "batch": 1, "precision": "bfloat16"},
    ],
    ids=["float16 tokens", "float32 tokens", "bfloat16"],
)
def test_a_calibration_keeps_to_what_it_says(
    demo_checkpoint: Checkpoint, tmp_path: Path, settings: dict[str, object]
) -> None:
    grown, need = measure(demo_checkpoint, tmp_path, settings)
    assert grown < need + SLACK
    assert grown > need / 3


def spec_of(**settings: object) -> CalibrationSpec:
    return replace(CalibrationSpec(SamplingSpec(steps=5), samples=4, tokens=3), **settings)


def test_the_statement_follows_the_settings(random_checkpoint: Checkpoint) -> None:
    channels = channels_of(random_checkpoint)
    assert channels == [32, 32, 32, 128] * 2
    need = memory_need(random_checkpoint, spec_of())
    assert need.tokens == 5 * 3 * sum(channels) * 2
    assert need.model == 0
    assert need.total == need.tokens + need.statistics + need.call + need.model
    twice = memory_need(random_checkpoint, spec_of(tokens=6))
    assert twice.tokens == 2 * need.tokens and twice.call == need.call
    assert memory_need(random_checkpoint, spec_of(token_dtype="float32")).tokens == 2 * need.tokens
    assert memory_need(random_checkpoint, spec_of(batch=2)).call == need.call // 2
    # a batch has no more samples than there are
    assert memory_need(random_checkpoint, spec_of(batch=99)).call == need.call
    parameters = sum(p.numel() for p in random_checkpoint.transformer.parameters())
    assert memory_need(random_checkpoint, spec_of(precision="bfloat16")).model == 2 * parameters
    assert str(need).endswith("activations 1 MB)") and "bfloat16" not in str(need)


def test_tokens_and_statistics_are_what_a_calibration_holds(
    random_checkpoint: Checkpoint,
) -> None:
    spec = spec_of()
    calibration = calibrate(random_checkpoint, spec)
    need = memory_need(random_checkpoint, spec)
    groups = calibration.groups.values()
    assert sum(stats.tokens.nbytes for stats in groups) == need.tokens
    rest = sum(s.low.nbytes + s.high.nbytes + s.energy.nbytes for s in groups)
    assert rest < need.statistics


@given(megabytes=st.floats(0, 3), token_dtype=st.sampled_from(["float16", "float32"]))
def test_a_budget_is_used_up_and_kept(
    random_checkpoint: Checkpoint, megabytes: float, token_dtype: str
) -> None:
    spec = spec_of(token_dtype=token_dtype)
    available = spec.samples * 2 * random_checkpoint.image_tokens
    one = memory_need(random_checkpoint, replace(spec, tokens=1)).tokens
    if megabytes * 1e6 < one:
        with pytest.raises(SpecError, match="token budget: expected at least 0"):
            tokens_for_budget(random_checkpoint, spec, megabytes)
        return
    tokens = tokens_for_budget(random_checkpoint, spec, megabytes)
    assert 1 <= tokens <= available
    assert memory_need(random_checkpoint, replace(spec, tokens=tokens)).tokens <= megabytes * 1e6
    if tokens < available:
        more = memory_need(random_checkpoint, replace(spec, tokens=tokens + 1)).tokens
        assert more > megabytes * 1e6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("memory") / "tiny")


def calibrating(folder: Path, out: Path, *more: str) -> list[str]:
    sizes = ["--steps", "3", "--samples", "4", "--json"]
    return ["calibrate", str(folder), *sizes, *more, "--out", str(out)]


@pytest.mark.parametrize(
    ("megabytes", "tokens"),
    # 2 blocks of 32 + 32 + 32 + 128 channels, 3 steps, 2 bytes: 2688 bytes a token
    [("0.0027", 1), ("0.05", 18), ("0.1", 37), ("1000", 4 * 2 * 16)],
)
def test_the_budget_on_the_command_line(
    folder: Path, tmp_path: Path, megabytes: str, tokens: int
) -> None:
    out = tmp_path / "c.safetensors"
    arguments = calibrating(folder, out, "--token-budget-mb", megabytes)
    report = run(arguments, tmp_path / "run").report
    assert report["tokens"] == tokens
    calibration = Calibration.load(out)
    assert calibration.spec.tokens == tokens
    assert {stats.tokens.shape[1] for stats in calibration.groups.values()} == {tokens}
    # extremes, energies and the file's header come on top
    fixed = 3 * 448 * (16 + 4)
    assert 2688 * tokens + fixed < report["bytes"] < 2688 * tokens + fixed + 6000
    assert report["memory_need_bytes"] > 2688 * tokens + fixed


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--token-budget-mb", "0.002", "token budget: expected at least 0.00269 MB"),
        ("--token-budget-mb", "0", "token budget: expected at least 0.00269 MB"),
        ("--tokens", "129", "tokens: expected at most 128 (of 4 samples), got 129"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    folder: Path, tmp_path: Path, option: str, value: str, expected: str
) -> None:
    out = tmp_path / "c.safetensors"
    ended = run(calibrating(folder, out, option, value), tmp_path / "run")
    assert ended.code == 2 and ended.out == "" and ended.forwards == 0
    (line,) = [x for x in ended.err.splitlines() if not x.startswith("needs ")]
    assert expected in line
    assert not out.exists() and leftovers(out) == []


@pytest.mark.numeric
def test_as_many_tokens_as_a_step_has(random_checkpoint: Checkpoint) -> None:
    available = 4 * 2 * random_checkpoint.image_tokens
    calibration = calibrate(random_checkpoint, spec_of(tokens=available))
    stats = calibration.groups["0.fc1"]
    mean = stats.tokens.float().square().mean(1)  # (T, C), of all rows
    assert torch.allclose(mean, stats.energy, rtol=5e-3)
    with pytest.raises(SpecError, match="expected at most"):
        next(iterate_calibration(random_checkpoint, spec_of(tokens=available + 1)))


@pytest.mark.numeric
def test_bfloat16_is_close_and_leaves_the_checkpoint_alone(random_checkpoint: Checkpoint) -> None:
    transformer = random_checkpoint.transformer
    before = fingerprint(transformer)
    exact = calibrate(random_checkpoint, spec_of())
    running = iterate_calibration(random_checkpoint, spec_of(precision="bfloat16"))
    next(running)
    # hooks and half precision are the copy's
    assert not any(module._forward_pre_hooks for module in transformer.modules())
    *_, half = running
    assert isinstance(exact, Calibration) and isinstance(half, Calibration)
    assert half.sha256 != exact.sha256
    for name, stats in half.groups.items():
        expected = exact.groups[name]
        scale = expected.absmax.amax()
        assert stats.low.dtype == stats.high.dtype == torch.float32
        assert float((stats.low - expected.low).abs().max() / scale) < 0.05
        assert float((stats.high - expected.high).abs().max() / scale) < 0.05
        # the root of the second moment is a norm: it differs by no more than the inputs do
        rms, expected_rms = stats.energy.sqrt(), expected.energy.sqrt()
        assert float((rms - expected_rms).abs().max() / expected_rms.amax()) < 0.05
    assert fingerprint(transformer) == before
    assert {p.dtype for p in transformer.parameters()} == {torch.float32}


def test_the_bfloat16_copy_is_the_usual_one(random_checkpoint: Checkpoint) -> None:
    transformer = random_checkpoint.transformer
    copy = working_copy(transformer, "bfloat16")
    usual = {name: x.to(torch.bfloat16) for name, x in transformer.state_dict().items()}
    found = copy.state_dict()
    assert list(found) == list(usual)
    assert all(torch.equal(found[name], x) for name, x in usual.items())
    assert {x.dtype for x in found.values()} == {torch.bfloat16}
    own = {p.data_ptr() for p in transformer.parameters()}
    assert not own & {p.data_ptr() for p in copy.parameters()}
    assert not copy.training and not any(p.requires_grad for p in copy.parameters())
    assert working_copy(transformer, "float32") is transformer
