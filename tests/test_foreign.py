"""Weight files of other models: named, with the reason and what to do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_transformer, tiny_vae
from safetensors.torch import save_file
from test_original_sizes import random_state, tiny
from tiny_pipelines import edit_json
from tiny_pixart import tiny_pixart

from ditas_core.checkpoints import (
    CheckpointError,
    find_parts,
    load_checkpoint,
    read_headers,
    recognise_file,
)
from ditas_core.checkpoints.foreign import told_by
from ditas_core.cli import main

ROWS = torch.zeros(4, 4)


def named(*names: str) -> dict[str, Any]:
    return {name: ROWS.clone() for name in names}


DIT = random_state(tiny(classes=5))
SD = "model.diffusion_model."
UNSUPPORTED: dict[str, dict[str, Any]] = {
    "Stable Diffusion 3: text and image run through joint blocks": named(
        f"{SD}joint_blocks.0.x_block.attn.qkv.weight", f"{SD}x_embedder.proj.weight"
    ),
    "Flux: text and image": named(
        f"{SD}double_blocks.0.img_attn.qkv.weight", f"{SD}single_blocks.0.linear1.weight"
    ),
    "Flux or a relative": named(
        "single_transformer_blocks.0.attn.to_q.weight", "transformer_blocks.0.ff.net.2.bias"
    ),
    "HunyuanVideo: .* frames": named("double_blocks.0.img_attn_qkv.weight"),
    "a U-Net: .*convolutional": named(
        f"{SD}input_blocks.0.0.weight", "first_stage_model.encoder.conv_in.weight"
    ),
    "Sana: .* linear": named(
        "blocks.0.cross_attn.q_linear.weight", "blocks.0.mlp.inverted_conv.conv.weight"
    ),
    "Latte: .* frames": {**DIT, **named("temp_embed")},
    "a video model: .* frames": named("blocks.0.attn_temp.qkv.weight", "t_block.1.weight"),
    "Wan: .* frames": named("blocks.0.self_attn.q.weight", "patch_embedding.weight"),
}
PIXART = named("blocks.0.cross_attn.q_linear.weight", "t_block.1.weight")
# (what a file is called, what to do, what it holds)
FILES: list[tuple[str, str, dict[str, Any]]] = [
    *((what, "not supported", state) for what, state in UNSUPPORTED.items()),
    ("a LoRA: ", r"fuse_lora\(\)", named("lora_unet_down_blocks_0.lora_down.weight")),
    (
        "a LoRA: .* another model",
        r"fuse_lora\(\)",
        {**DIT, **named("blocks.0.attn.qkv.lora_A.weight")},
    ),
    (
        "an original PixArt: .* captions",
        "convert it to a diffusers folder first: .*convert_pixart_",
        {**{k: v for k, v in DIT.items() if "y_embedder" not in k}, **PIXART},
    ),
    (
        "a text encoder: ",
        "pass the transformer's file",
        named("encoder.block.0.layer.0.SelfAttention.q.weight"),
    ),
    (
        "an autoencoder: ",
        "pass the transformer's file; .* --like",
        dict(tiny_vae().state_dict()),
    ),
    *(
        ("a transformer in diffusers' layout", "whole folder", dict(model.state_dict()))
        for model in (tiny_transformer(), tiny_pixart(told=True))
    ),
    ("2 tensors such as", "whole folder", named("fc1.weight", "fc2.weight")),
]


@pytest.mark.parametrize(("what", "remedy", "state"), FILES)
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_files_of_other_models_are_refused_by_name(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    what: str,
    remedy: str,
    state: dict[str, Any],
    suffix: str,
) -> None:
    path = tmp_path / f"theirs.{suffix}"
    if suffix == "pt":
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    else:
        save_file({k: v.contiguous() for k, v in state.items()}, path)
    words = rf"^theirs\.{suffix}: expected the state dict of an original DiT .*, got {what}"
    with pytest.raises(CheckpointError, match=f"{words}.*; .*{remedy}"):
        load_checkpoint(path)
    assert main(["info", str(path)]) == 2
    assert f"theirs.{suffix}: expected" in capsys.readouterr().err


def test_no_name_of_an_original_dit_tells_of_another_model() -> None:
    assert told_by(DIT) is None


def test_an_original_that_is_not_whole_says_which_file_and_what_to_do(tmp_path: Path) -> None:
    torch.save({k: v for k, v in DIT.items() if k != "pos_embed"}, tmp_path / "mine.pt")
    words = r"^mine\.pt: .*expected the tensor pos_embed.*; pass a whole state dict"
    with pytest.raises(CheckpointError, match=words):
        recognise_file(read_headers(tmp_path / "mine.pt"))


def test_faults_that_loading_finds_say_which_file(stock: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.pt"
    torch.save({**DIT, "pos_embed": DIT["pos_embed"] + 0.1}, file)
    with pytest.raises(CheckpointError, match=r"^mine\.pt: pos_embed: .*sine-cosine"):
        load_checkpoint(file, like=stock, heads=2)
    torch.save(random_state(tiny(classes=5, channels=3)), file)
    with pytest.raises(CheckpointError, match=r"^mine\.pt: .*4 latent channels.*another --like"):
        load_checkpoint(file, like=stock, heads=2)


TRANSFORMER, VAE, INDEX = "transformer/config.json", "vae/config.json", "model_index.json"
NUMBERS = "^lender: {file}: expected .*{key}.*; pass another"
WRONG = [
    (TRANSFORMER, "num_attention_heads", "abc", NUMBERS),
    (TRANSFORMER, "attention_head_dim", 1e400, NUMBERS),
    (TRANSFORMER, "norm_eps", None, NUMBERS),
    (TRANSFORMER, "norm_eps", float("nan"), NUMBERS),
    (VAE, "latent_channels", None, NUMBERS),
    (VAE, "scaling_factor", 0, "expected {key}"),
    (VAE, "_class_name", "VQModel", "expected an AutoencoderKL"),
    (INDEX, "id2label", 5, "expected {key}"),
]


@pytest.mark.parametrize(("file", "key", "value", "words"), WRONG)
def test_what_is_wrong_in_a_lender_is_refused(
    stock: Path, tmp_path: Path, file: str, key: str, value: Any, words: str
) -> None:
    folder = Path(shutil.copytree(stock, tmp_path / "lender"))
    edit_json(folder / file, **{key: value})
    torch.save(DIT, tmp_path / "mine.pt")
    with pytest.raises(CheckpointError, match=words.format(file=file, key=key)):
        load_checkpoint(tmp_path / "mine.pt", like=folder, heads=2)


def test_a_lender_without_these_numbers_lends_the_rest(stock: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(stock, tmp_path / "lender"))
    (folder / TRANSFORMER).write_text("{}")
    parts = find_parts(folder)
    assert parts is not None and parts.width == 0 and parts.norm_eps == 1e-5
