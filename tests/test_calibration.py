"""The Calibration: exact statistics, hooks only while it runs, a file that is checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ditas_core.calibration import (
    CONDITIONAL,
    UNCONDITIONAL,
    Calibration,
    CalibrationError,
    CalibrationProgress,
    GroupStatistics,
    TokenDraw,
    calibrate,
    iterate_calibration,
    record_inputs,
)
from ditas_core.calibration.recorder import reduce_call
from ditas_core.checkpoints import Checkpoint, fingerprint
from ditas_core.sampling import sample_latents, spread_labels
from ditas_core.specs import CalibrationSpec, SamplingSpec

pytestmark = pytest.mark.numeric

SPEC = CalibrationSpec(SamplingSpec(steps=4), samples=3, seed=5, tokens=6)
DRAW = TokenDraw(seed=0, samples=1, kept=2)


def hooks(module: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in module.modules())


@pytest.fixture(scope="module")
def everything(random_checkpoint: Checkpoint) -> dict[str, list[Tensor]]:
    """All inputs of all layers of the same trajectory, stored whole."""
    stored: dict[str, list[Tensor]] = {}
    handles = [
        random_checkpoint.transformer.get_submodule(path).register_forward_pre_hook(
            lambda _module, args, path=path: stored.setdefault(path, []).append(args[0].clone())
        )
        for group in random_checkpoint.groups
        for path in group.layers
    ]
    sample_latents(
        random_checkpoint.transformer,
        random_checkpoint.scheduler,
        spread_labels(SPEC.samples, len(random_checkpoint.class_names)),
        random_checkpoint.latent_shape,
        SPEC.sampling,
        SPEC.seed,
    )
    for handle in handles:
        handle.remove()
    return stored


def test_the_layers_of_a_group_share_one_input(
    random_checkpoint: Checkpoint, everything: dict[str, list[Tensor]]
) -> None:
    for group in random_checkpoint.groups:
        first, *others = (everything[path] for path in group.layers)
        assert len(first) == SPEC.sampling.steps
        for other in others:
            assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_extremes_equal_those_of_all_inputs_stored(
    random_checkpoint: Checkpoint,
    random_calibration: Calibration,
    everything: dict[str, list[Tensor]],
) -> None:
    assert set(random_calibration.groups) == {g.name for g in random_checkpoint.groups}
    for group in random_checkpoint.groups:
        stats = random_calibration.groups[group.name]
        overall = []
        for t, x in enumerate(everything[group.layers[0]]):
            for half, rows in ((CONDITIONAL, x[:3]), (UNCONDITIONAL, x[3:])):
                rows = rows.flatten(0, 1)
                assert torch.equal(stats.low[t, half], rows.amin(0))
                assert torch.equal(stats.high[t, half], rows.amax(0))
                assert torch.equal(stats.absmax[t, half], rows.abs().amax(0))
            overall.append(x.flatten(0, 1).abs().amax(0))
            assert torch.allclose(stats.energy[t], x.square().mean((0, 1)), rtol=1e-5)
        assert torch.equal(stats.aggregated_absmax(), torch.stack(overall).amax(0))


def test_tokens_are_rows_of_their_step_drawn_once(
    random_checkpoint: Checkpoint,
    random_calibration: Calibration,
    everything: dict[str, list[Tensor]],
) -> None:
    for group in random_checkpoint.groups:
        tokens = random_calibration.groups[group.name].tokens
        assert tokens.dtype == torch.float16
        assert tokens.shape[:2] == (SPEC.sampling.steps, SPEC.tokens)
        for t, x in enumerate(everything[group.layers[0]]):
            rows = x.flatten(0, 1).half()
            matches = [(rows == token).all(1).nonzero().flatten().tolist() for token in tokens[t]]
            assert all(matches)
            assert len({tuple(m) for m in matches}) == SPEC.tokens


def test_calibration_is_repeatable(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    torch.manual_seed(123)
    assert random_calibration.timesteps == (750, 500, 250, 0)
    assert random_calibration.spec == SPEC
    assert random_calibration.checkpoint == random_checkpoint.fingerprint
    *progress, again = iterate_calibration(random_checkpoint, SPEC)
    assert again.sha256 == random_calibration.sha256
    assert progress == [CalibrationProgress(i + 1, 4, i + 1, 4) for i in range(4)]
    other = calibrate(random_checkpoint, replace(SPEC, seed=6))
    assert other.sha256 != random_calibration.sha256


def test_recording_changes_no_output(random_checkpoint: Checkpoint) -> None:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    transformer = random_checkpoint.transformer
    arguments = {"timestep": torch.tensor([9, 9]), "class_labels": torch.tensor([1, 1000])}
    with torch.no_grad():
        plain = transformer(x, **arguments).sample
        with record_inputs(transformer, random_checkpoint.groups, DRAW):
            recorded = transformer(x, **arguments).sample
    assert torch.equal(plain, recorded)


def test_no_hook_is_left_after_the_end_a_close_or_an_error(random_checkpoint: Checkpoint) -> None:
    transformer = random_checkpoint.transformer
    before, weights = hooks(transformer), fingerprint(transformer)
    list(iterate_calibration(random_checkpoint, SPEC))
    assert hooks(transformer) == before
    running = iterate_calibration(random_checkpoint, SPEC)
    next(running)
    assert hooks(transformer) > before
    running.close()
    assert hooks(transformer) == before
    with (
        pytest.raises(RuntimeError, match="stop"),
        record_inputs(transformer, random_checkpoint.groups, DRAW),
    ):
        raise RuntimeError("stop")
    assert hooks(transformer) == before
    broken = random_checkpoint.groups[0]
    with (
        pytest.raises(AttributeError),
        record_inputs(
            transformer,
            (*random_checkpoint.groups, replace(broken, name="x", layers=("no.such.layer",))),
            DRAW,
        ),
    ):
        pass
    assert hooks(transformer) == before
    assert fingerprint(transformer) == weights


def test_infinite_or_huge_inputs_stay_finite_as_tokens() -> None:
    stats = reduce_call(torch.full((2, 3, 4), 1e6), DRAW, 0, 0, 0, torch.float16)
    assert torch.isfinite(stats.tokens).all()
    assert float(stats.high.max()) == 1e6
    stats = reduce_call(torch.full((2, 3, 4), 1e6), DRAW, 0, 0, 0, torch.float32)
    assert float(stats.tokens.max()) == 1e6


def test_round_trip_through_a_file(random_calibration: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "new" / "calibration.safetensors"
    random_calibration.save(path)
    loaded = Calibration.load(path)
    assert loaded.sha256 == random_calibration.sha256
    assert (loaded.checkpoint, loaded.spec, loaded.timesteps) == (
        random_calibration.checkpoint,
        random_calibration.spec,
        random_calibration.timesteps,
    )
    for name, stats in random_calibration.groups.items():
        for field in ("low", "high", "tokens", "energy"):
            a, b = getattr(stats, field), getattr(loaded.groups[name], field)
            assert a.dtype == b.dtype and torch.equal(a, b)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    random_calibration.save(path)  # over an older file
    assert Calibration.load(path).sha256 == random_calibration.sha256


def test_the_hash_sees_every_tensor_and_setting(random_calibration: Calibration) -> None:
    seen = {random_calibration.sha256}
    name = next(iter(random_calibration.groups))
    for field in ("low", "high", "tokens", "energy"):
        stats = random_calibration.groups[name]
        changed = getattr(stats, field).clone()
        changed.view(-1)[0] += 1
        groups = {**random_calibration.groups, name: replace(stats, **{field: changed})}
        seen.add(replace(random_calibration, groups=groups).sha256)
    seen.add(replace(random_calibration, checkpoint="another").sha256)
    seen.add(replace(random_calibration, spec=replace(SPEC, samples=2)).sha256)
    assert len(seen) == 7


def test_a_failed_save_leaves_nothing(
    random_calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "calibration.safetensors"

    def full(*_args: object, **_kwargs: object) -> None:
        (tmp_path / (path.name + ".part")).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("ditas_core.calibration.calibration.save_file", full)
    with pytest.raises(OSError, match="space"):
        random_calibration.save(path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def saved(random_calibration: Calibration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibration") / "good.safetensors"
    random_calibration.save(path)
    return path


def test_missing_and_foreign_files_are_refused(saved: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.ones(2)}, foreign)
    empty, text = tmp_path / "empty", tmp_path / "text"
    empty.write_bytes(b"")
    text.write_text("not a calibration", encoding="utf-8")
    for path in (tmp_path / "missing", tmp_path, foreign, empty, text):
        with pytest.raises(CalibrationError):
            Calibration.load(path)


def metadata_of(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "ditas-calibration-0"),
        ("spec", "{"),
        ("spec", "null"),
        ("spec", "[]"),
        ("spec", '{"sampling": {}, "samples": 0}'),
        ("spec", '{"sampling": {"steps": "x"}}'),
        ("spec", '{"sampling": {}, "colour": 1}'),
        ("timesteps", "7"),
        ("timesteps", "nonsense"),
        ("timesteps", "[1e999, 1, 2]"),
        ("timesteps", "[" * 100_000),
        ("timesteps", "[4, 3, 2, 1.5]"),
        ("spec", "[" * 100_000),
        ("spec", '{"sampling": {}, "seed": 1e999}'),
        ("checkpoint", None),
        ("timesteps", None),
        ("spec", None),
    ],
)
def test_damaged_settings_are_refused(
    saved: Path, tmp_path: Path, key: str, value: str | None
) -> None:
    metadata = metadata_of(saved)
    metadata.pop(key)
    if value is not None:
        metadata[key] = value
    path = tmp_path / "bad.safetensors"
    save_file(load_file(saved), path, metadata=metadata)
    with pytest.raises(CalibrationError):
        Calibration.load(path)


@pytest.mark.parametrize("field", ["low", "high", "tokens", "energy"])
@pytest.mark.parametrize("damage", ["missing", "channels", "steps", "nan"])
def test_tensors_that_do_not_fit_together_are_refused(
    saved: Path, tmp_path: Path, field: str, damage: str
) -> None:
    tensors = load_file(saved)
    name = f"0.fc1.{field}"
    if damage == "missing":
        del tensors[name]
    elif damage == "nan":
        tensors[name].view(-1)[3] = float("nan")
    else:
        cut = tensors[name][..., :-1] if damage == "channels" else tensors[name][:-1]
        tensors[name] = cut.contiguous()
    path = tmp_path / "bad.safetensors"
    save_file(tensors, path, metadata=metadata_of(saved))
    with pytest.raises(CalibrationError):
        Calibration.load(path)


@given(cut=st.floats(0, 1, exclude_max=True))
def test_truncated_files_are_refused(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, cut: float
) -> None:
    data = saved.read_bytes()
    path = tmp_path_factory.mktemp("cut") / "cut.safetensors"
    path.write_bytes(data[: int(cut * len(data))])
    with pytest.raises(CalibrationError):
        Calibration.load(path)


@given(at=st.integers(0, 3000), value=st.binary(min_size=1, max_size=4))
def test_a_damaged_header_raises_nothing_else(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, at: int, value: bytes
) -> None:
    data = bytearray(saved.read_bytes())
    data[at : at + len(value)] = value
    path = tmp_path_factory.mktemp("damaged") / "damaged.safetensors"
    path.write_bytes(bytes(data))
    try:
        loaded = Calibration.load(path)
    except CalibrationError:
        return
    assert all(isinstance(stats, GroupStatistics) for stats in loaded.groups.values())
