"""To the original DiT layout and back: the same bits, the same function."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_transformer
from diffusers import DiTPipeline, DiTTransformer2DModel
from original_dit import original_dit
from safetensors.torch import load_file
from tiny_pipelines import save_tiny
from torch import Tensor

from ditas_core.checkpoints import (
    Checkpoint,
    CheckpointError,
    fingerprint,
    from_original,
    load_checkpoint,
    read_state,
    to_original,
    write_state,
)
from ditas_core.cli import main

pytestmark = pytest.mark.numeric

State = dict[str, Any]
TIMES = torch.tensor([0, 1, 20, 100, 300, 500, 800, 999])


def tie_(transformer: DiTTransformer2DModel) -> DiTTransformer2DModel:
    """The first block's embedders in every block, as training leaves them."""
    first = transformer.transformer_blocks[0].norm1.emb.state_dict()
    for block in transformer.transformer_blocks:
        block.norm1.emb.load_state_dict(first)
    return transformer


@pytest.fixture
def tiny() -> DiTTransformer2DModel:
    return tie_(tiny_transformer())


@pytest.fixture
def state(tiny: DiTTransformer2DModel) -> State:
    return to_original(tiny)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock pipeline folder of the tiny transformer, tied."""
    target = save_tiny(tmp_path_factory.mktemp("original") / "tiny")
    tie_(tiny_transformer()).save_pretrained(target / "transformer")
    (target / "LICENSE").write_text("free\n", encoding="utf-8")
    return target


def inputs(transformer: DiTTransformer2DModel) -> tuple[Tensor, Tensor]:
    """Latents (8, 4, S, S) and labels (8,), the null class among them."""
    size = int(transformer.config.sample_size)
    x = torch.randn(8, 4, size, size, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([0, 1, 2, 3, 10, 20, 50, 1000])


@torch.no_grad()
def predict(transformer: DiTTransformer2DModel) -> Tensor:
    x, labels = inputs(transformer)
    return transformer(x, timestep=TIMES, class_labels=labels).sample


def predict_original(transformer: DiTTransformer2DModel, divisor: int, mlp_eps: float) -> Tensor:
    """The same inputs through the original architecture."""
    heads = int(transformer.config.num_attention_heads)
    x, labels = inputs(transformer)
    return original_dit(to_original(transformer), heads, x, TIMES, labels, divisor, mlp_eps)


def assert_same(first: DiTTransformer2DModel, second: DiTTransformer2DModel) -> None:
    """Names, shapes, bits, position embedding and what the configuration says."""
    assert fingerprint(first) == fingerprint(second)
    assert torch.equal(first.pos_embed.pos_embed, second.pos_embed.pos_embed)
    assert {k: v for k, v in first.config.items() if not k.startswith("_")} == {
        k: v for k, v in second.config.items() if not k.startswith("_")
    }


# Round trips


@pytest.mark.parametrize("out_channels", [4, 8])
def test_a_round_trip_keeps_every_bit(out_channels: int) -> None:
    transformer = tie_(tiny_transformer(3, out_channels))
    state = to_original(transformer)
    again = from_original(state, heads=2)
    assert_same(transformer, again)
    assert torch.equal(predict(transformer), predict(again))
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    assert all(v.is_contiguous() and v.dtype == torch.float32 for v in state.values())
    twice = to_original(again)
    assert list(twice) == list(state)
    assert all(torch.equal(twice[key], state[key]) for key in state)


def test_conversion_copies_and_draws_no_random_numbers(tiny: DiTTransformer2DModel) -> None:
    before, random = fingerprint(tiny), torch.get_rng_state()
    state = to_original(tiny)
    again = from_original(state, heads=2)
    for value in state.values():
        value.zero_()
    assert fingerprint(tiny) == fingerprint(again) == before
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_and_returns_as_single(
    tiny: DiTTransformer2DModel, dtype: torch.dtype
) -> None:
    state = to_original(tiny.to(dtype))
    assert {value.dtype for value in state.values()} == {dtype}
    again = from_original(state, heads=2)
    assert {value.dtype for value in again.parameters()} == {torch.float32}
    for key, value in to_original(again).items():
        assert key == "pos_embed" or torch.equal(value, state[key].float())


# The same function

ROUNDED = 1e-5
"""Relative: some 80 products, norms and functions in a row, each one unit (1.2e-7) off."""


def test_the_original_architecture_computes_the_same(demo_checkpoint: Checkpoint) -> None:
    models = [tie_(tiny_transformer(seed, out)) for seed, out in ((0, 4), (3, 8))]
    for transformer in [*models, demo_checkpoint.transformer]:
        expected = predict(transformer)
        found = predict_original(transformer, divisor=127, mlp_eps=1e-5)
        assert (found - expected).abs().max() <= ROUNDED * expected.abs().max()


def test_what_the_published_constants_change(demo_checkpoint: Checkpoint) -> None:
    """Measured: divisor 128 moves the prediction by 1.7 % of its norm, nothing at t = 0;
    the epsilon moves it by 2e-6 of its norm."""
    expected = predict(demo_checkpoint.transformer)
    divisor = predict_original(demo_checkpoint.transformer, divisor=128, mlp_eps=1e-5)
    epsilon = predict_original(demo_checkpoint.transformer, divisor=127, mlp_eps=1e-6)
    assert 0.001 < (divisor - expected).norm() / expected.norm() < 0.05
    assert 0.01 < (divisor - expected).abs().max() < 0.5
    assert (divisor - expected)[0].abs().max() <= ROUNDED * expected[0].abs().max()
    assert 1e-7 < (epsilon - expected).norm() / expected.norm() < 1e-5


# What is refused


@pytest.mark.parametrize("heads", [None, 0, -2, 3, 64])
def test_heads_that_do_not_fit_are_refused(state: State, heads: int | None) -> None:
    with pytest.raises(CheckpointError, match="heads: expected a number that divides"):
        from_original(state, heads)


def changed(key: str, change: Callable[[Tensor], object]) -> Callable[[State], object]:
    return lambda state: state.update({key: change(state[key])})


QKV = "blocks.1.attn.qkv.weight"
PATCHES = "x_embedder.proj.weight"
TABLE, LINEAR = "y_embedder.embedding_table.weight", "final_layer.linear.weight"
FAULTS: dict[str, tuple[str, Callable[[State], object]]] = {
    "empty": ("pos_embed", lambda s: s.clear()),
    "no qkv": (QKV, lambda s: s.pop(QKV)),
    "no pos_embed": ("pos_embed", lambda s: s.pop("pos_embed")),
    "extra": ("extra.weight", lambda s: s.update({"extra.weight": torch.zeros(1)})),
    "extra far block": ("blocks.9", lambda s: s.update({"blocks.9.mlp.fc1.bias": torch.ones(1)})),
    "extra number": ("7", lambda s: s.update({7: torch.zeros(1)})),
    "short qkv": (QKV, changed(QKV, lambda v: v[:-1])),
    "flat patches": (PATCHES, changed(PATCHES, torch.flatten)),
    "oblong patches": (PATCHES, changed(PATCHES, lambda v: v[..., :1])),
    "oblong grid": ("square number", changed("pos_embed", lambda v: v[:, :-1])),
    "odd outputs": (LINEAR, changed(LINEAR, lambda v: v[:-1])),
    "no null class": ("a row per class", changed(TABLE, lambda v: v[:1])),
    "no rows": ("non-empty", changed(TABLE, lambda v: v[:0])),
    "integers": (QKV, changed(QKV, lambda v: v.to(torch.int8))),
    "sparse": (QKV, changed(QKV, lambda v: v.to_sparse())),
    "a list": (QKV, changed(QKV, lambda v: v.tolist())),
    "learned positions": ("sine-cosine", changed("pos_embed", lambda v: v + 0.1)),
    "no finite position": ("sine-cosine", changed("pos_embed", lambda v: v * float("nan"))),
}


@pytest.mark.parametrize(("named", "fault"), FAULTS.values(), ids=FAULTS.keys())
def test_faulty_states_are_refused_by_name(
    state: State, named: str, fault: Callable[[State], object]
) -> None:
    fault(state)
    with pytest.raises(CheckpointError) as caught:
        from_original(state, heads=2)
    assert named in str(caught.value) and "expected" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_moving_average_may_blur_the_positions(tiny: DiTTransformer2DModel, state: State) -> None:
    state["pos_embed"] = state["pos_embed"] * (1 - 5e-4)
    assert_same(from_original(state, heads=2), tiny)


def test_embedders_that_differ_are_refused() -> None:
    transformer = tiny_transformer()
    with pytest.raises(CheckpointError, match="block 1 differs from block 0 in timestep_embedder"):
        to_original(transformer)
    tie_(transformer)
    table = transformer.transformer_blocks[1].norm1.emb.class_embedder.embedding_table.weight
    table.data[3, 4] = -0.0
    transformer.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight.data[3, 4] = 0
    with pytest.raises(CheckpointError, match="block 1 differs from block 0 in class_embedder"):
        to_original(transformer)


def test_other_architectures_are_refused(tiny: DiTTransformer2DModel) -> None:
    stock = {key: value for key, value in tiny.config.items() if not key.startswith("_")}
    config = {**stock, "activation_fn": "gelu"}
    with pytest.raises(CheckpointError, match="activation_fn"):
        to_original(tie_(DiTTransformer2DModel.from_config(config)))
    config = {**stock, "attention_bias": False}
    with pytest.raises(CheckpointError, match=r"attn1\.to_q\.bias"):
        to_original(tie_(DiTTransformer2DModel.from_config(config)))
    tiny.proj_out_1.register_buffer("codes", torch.zeros(1))
    with pytest.raises(CheckpointError, match=r"proj_out_1\.codes"):
        to_original(tiny)


# Files


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_files_are_written_whole(state: State, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "deep" / f"tiny.{suffix}"
    write_state(path, {"pos_embed": torch.zeros(1)})
    write_state(path, state)
    found = read_state(path)
    assert set(found) == set(state)
    assert all(torch.equal(found[key], state[key]) for key in state)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o644


# The command


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main(["convert", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_the_command_converts_both_ways(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    file, again = tmp_path / f"tiny.{suffix}", tmp_path / "again"
    done = run_json(capsys, folder, "--to", "original", "--out", file)
    assert done["out"] == str(file) and done["bytes"] == file.stat().st_size
    assert done["blocks"] == 2 and done["width"] == 32
    state = read_state(file)
    assert done["parameters"] == sum(v.numel() for k, v in state.items() if k != "pos_embed")
    assert state["blocks.0.mlp.fc1.weight"].dtype == torch.float32  # half would lose bits
    back = run_json(capsys, file, "--to", "diffusers", "--like", folder, "--out", again)
    assert set(back) == set(done) and back["parameters"] == done["parameters"]
    first, second = load_checkpoint(folder), load_checkpoint(again)
    assert_same(first.transformer, second.transformer)
    assert second.class_names == first.class_names and second.licence == "mit"
    assert (again / "LICENSE").is_file()
    pipeline = DiTPipeline.from_pretrained(again)
    pipeline.set_progress_bar_config(disable=True)
    (image,) = pipeline([2], num_inference_steps=2, output_type="np").images
    assert image.shape == (16, 16, 3) and pipeline.get_label_ids(["fox"]) == [2]


def test_the_demo_stays_in_half_precision(
    demo_checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, file, again = demo_checkpoint.path, tmp_path / "demo.pt", tmp_path / "demo"
    done = run_json(capsys, source, "--to", "original", "--out", file)
    network = demo_checkpoint.transformer
    shape = network.config
    assert done["blocks"] == shape.num_layers and done["width"] == network.inner_dim
    assert done["bytes"] < 2.1 * done["parameters"] + 200_000
    assert load_checkpoint(file, like=source).fingerprint == demo_checkpoint.fingerprint
    assert main(["info", str(file), "--like", str(source), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["heads"] == shape.num_attention_heads and told["autoencoder"] == source.name
    assert told["preflight"]["float32"] > 1e8
    run_json(capsys, file, "--to", "diffusers", "--like", source, "--out", again)
    assert_same(load_checkpoint(again).transformer, demo_checkpoint.transformer)
    name = Path("transformer") / "diffusion_pytorch_model.safetensors"
    stored, written = load_file(source / name), load_file(again / name)
    assert set(written) == set(stored)
    for key, value in stored.items():
        assert written[key].dtype == value.dtype and torch.equal(written[key], value)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["FOLDER", "--to", "original", "--out", "FOLDER"], "expected a file"),
        (["FOLDER", "--to", "original", "--out", "OUT", "--like", "FOLDER"], "--like"),
        (["FOLDER", "--to", "original", "--out", "OUT", "--heads", "2"], "--heads"),
        (["FILE", "--to", "original", "--out", "OUT"], "expected a folder"),
        (["FILE", "--to", "diffusers", "--out", "OUT"], "pass --like"),
        (["FILE", "--to", "diffusers", "--like", "nowhere", "--out", "OUT"], "nowhere"),
        (["FILE", "--to", "diffusers", "--like", "FOLDER", "--out", "FOLDER"], "empty folder"),
        (["FILE", "--to", "diffusers", "--like", "FOLDER", "--out", "OUT", "--heads", "3"], "32"),
        (["FOLDER", "--to", "diffusers", "--like", "FOLDER", "--out", "OUT"], ".safetensors file"),
        (["THREE", "--to", "diffusers", "--like", "FOLDER", "--out", "OUT"], "4 latent channels"),
        (["FEW", "--to", "diffusers", "--like", "FOLDER", "--out", "OUT"], "1001 rows"),
        (["FILE", "--to", "elsewhere", "--out", "OUT"], "--to"),
        (["FILE", "--to", "diffusers"], "--out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_gets_one_line_and_leaves_nothing(
    arguments: list[str],
    named: str,
    folder: Path,
    state: State,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save(state, tmp_path / "FILE.pt")
    torch.save({**state, TABLE: state[TABLE][:5].clone()}, tmp_path / "FEW.pt")
    torch.save({**state, PATCHES: state[PATCHES][:, :3].clone()}, tmp_path / "THREE.pt")
    swap = {"FOLDER": str(folder), "OUT": str(tmp_path / "out")}
    swap.update({name: str(tmp_path / f"{name}.pt") for name in ("FILE", "FEW", "THREE")})
    try:
        code = main(["convert", *(swap.get(word, word) for word in arguments)])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2 and captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1 and named in captured.err
    assert {p.name for p in tmp_path.iterdir()} == {"FILE.pt", "FEW.pt", "THREE.pt"}
