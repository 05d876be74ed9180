"""What a calibration says it needs, and what it takes; budgets; bfloat16."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from children import growth_of, told_by_child
from hypothesis import given
from hypothesis import strategies as st
from processes import run
from test_resume import leftovers

from ditas_core.calibration import (
    Calibration,
    CalibrationJournal,
    calibrate,
    iterate_calibration,
    memory_need,
    tokens_for_budget,
)
from ditas_core.calibration.memory import channels_of
from ditas_core.calibration.trajectory import working_copy
from ditas_core.checkpoints import Checkpoint, fingerprint, load_checkpoint
from ditas_core.specs import CalibrationSpec, SamplingSpec, SpecError

SLACK = 12e6
"""Bytes: what the allocator and the libraries keep for themselves; measured up to 7 MB,
in bfloat16, whose kernels the warm-up does not touch."""


def spec_of(**settings: Any) -> CalibrationSpec:
    return replace(CalibrationSpec(SamplingSpec(steps=5), samples=4, tokens=3), **settings)


def calibration_growth(where: Path, home: Path, spec: CalibrationSpec) -> str:
    """In a child: growth of the resident set at its peak, and the statement."""
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(where)
    journal = CalibrationJournal(home / "steps", checkpoint.fingerprint, spec, (0, spec.samples))
    rows = 2 * min(spec.batch, spec.samples)
    nothing = torch.zeros(rows, dtype=torch.long)
    with torch.no_grad():
        x = torch.zeros(rows, *checkpoint.latent_shape)
        checkpoint.transformer(x, timestep=nothing, class_labels=nothing)
    del x

    def work() -> None:
        calibration = calibrate(checkpoint, spec, journal)
        calibration.save(home / "calibration.safetensors")

    return f"{growth_of(work)} {memory_need(checkpoint, spec).total}"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("steps", "settings"),
    [
        (8, {"tokens": 500, "samples": 4, "batch": 4}),
        (4, {"tokens": 250, "samples": 2, "batch": 1, "token_dtype": "float32"}),
        (2, {"tokens": 4, "samples": 2, "batch": 1, "precision": "bfloat16"}),
    ],
    ids=["float16 tokens", "float32 tokens", "bfloat16"],
)
def test_a_calibration_keeps_to_what_it_says(
    demo_checkpoint: Checkpoint, tmp_path: Path, steps: int, settings: dict[str, Any]
) -> None:
    spec = spec_of(sampling=SamplingSpec(steps), **settings)
    told = told_by_child(calibration_growth, tmp_path, demo_checkpoint.path, tmp_path, spec)
    grown, need = map(float, told.split())
    assert need / 3 < grown < need + SLACK


def test_the_statement_is_of_what_a_calibration_holds(random_checkpoint: Checkpoint) -> None:
    channels = channels_of(random_checkpoint)
    assert channels == [32, 32, 32, 128] * 2
    calibration = calibrate(random_checkpoint, spec_of())
    need = memory_need(random_checkpoint, spec_of())
    groups = calibration.groups.values()
    assert sum(stats.tokens.nbytes for stats in groups) == need.tokens == 5 * 3 * sum(channels) * 2
    rest = sum(s.low.nbytes + s.high.nbytes + s.energy.nbytes for s in groups)
    assert rest < need.statistics
    parameters = sum(p.numel() for p in random_checkpoint.transformer.parameters())
    assert memory_need(random_checkpoint, spec_of(precision="bfloat16")).model == 2 * parameters
    # a batch has no more samples than there are
    assert memory_need(random_checkpoint, spec_of(batch=99)).call == need.call


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


def calibrating(stock: Path, out: Path, *more: str) -> list[str]:
    sizes = ["--steps", "3", "--samples", "4", "--json"]
    return ["calibrate", str(stock), *sizes, *more, "--out", str(out)]


@pytest.mark.parametrize(
    ("megabytes", "tokens"),
    # 2 blocks of 32 + 32 + 32 + 128 channels, 3 steps, 2 bytes: 2688 bytes a token
    [("0.0027", 1), ("0.05", 18), ("0.1", 37), ("1000", 4 * 2 * 16)],
)
def test_the_budget_on_the_command_line(
    stock: Path, tmp_path: Path, megabytes: str, tokens: int
) -> None:
    out = tmp_path / "c.safetensors"
    arguments = calibrating(stock, out, "--token-budget-mb", megabytes)
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
        ("--tokens", "129", "tokens: expected at most 128 (of 4 samples), got 129"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    stock: Path, tmp_path: Path, option: str, value: str, expected: str
) -> None:
    out = tmp_path / "c.safetensors"
    ended = run(calibrating(stock, out, option, value), tmp_path / "run")
    assert ended.code == 2 and ended.out == "" and ended.forwards == 0
    (line,) = [x for x in ended.err.splitlines() if not x.startswith("needs ")]
    assert expected in line
    assert not out.exists() and leftovers(out) == []


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
