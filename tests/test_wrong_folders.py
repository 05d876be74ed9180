"""Folders and files that are refused by name where they would fail later; loading in threads."""

from __future__ import annotations

import argparse
import inspect
import json
import re
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_random_checkpoint
from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel, PixArtTransformer2DModel
from test_cli import run_json
from test_original_sizes import random_state
from tiny_pipelines import edit_json
from tiny_pixart import save_tiny_pixart, tiny_pixart, with_dead_buffers

from ditas_core.checkpoints import (
    Architecture,
    CheckpointError,
    fingerprint,
    load_checkpoint,
    load_folder,
    loading,
    loading_need,
)
from ditas_core.checkpoints.checkpoint import names_from_index
from ditas_core.checkpoints.configurations import read_configurations
from ditas_core.checkpoints.files.folders import licence_of_card
from ditas_core.checkpoints.files.weights import read_headers
from ditas_core.checkpoints.hub.pickled_folder import convert_folder
from ditas_core.models import family_of_index

ORIGINAL = Architecture(2, 32, 2, 2, 4, 4, 8, 5)


def changed(source: Path, target: Path, file: str, **values: Any) -> Path:
    """A copy whose JSON file says something else."""
    shutil.copytree(source, target)
    edit_json(target / file, **values)
    return target


TRANSFORMER = "transformer/config.json"
VAE = "vae/config.json"
SCHEDULE = "scheduler/scheduler_config.json"
INDEX = "model_index.json"
WEIGHTS = "vae/diffusion_pytorch_model.safetensors"
HEADS = "num_attention_heads"
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
WRONG: list[tuple[str, dict[str, Any], str]] = [
    (TRANSFORMER, {"attention_bias": "no"}, "attention_bias true or false"),
    (TRANSFORMER, {"sample_size": 9}, "whole patches of 2"),
    (TRANSFORMER, {"sample_size": 4096}, "at most 65536"),
    (TRANSFORMER, {"patch_size": 0}, "patch_size of at least 1"),
    (TRANSFORMER, {"norm_eps": "x"}, "a number as norm_eps"),
    (TRANSFORMER, {"norm_eps": float("nan")}, "norm_eps of 0 or more"),
    (TRANSFORMER, {"num_attention_heads": True}, "a number as num_attention_heads"),
    (TRANSFORMER, {"num_layers": 0}, "num_layers of more than 0"),
    (TRANSFORMER, {"in_channels": 8}, "4 latent channels in and 4 or 8 out .*, got 8 and 4"),
    (TRANSFORMER, {"_class_name": ["a"]}, "not known here"),
    (TRANSFORMER, {"num_layers": 10**9}, "expected"),
    (TRANSFORMER, {"activation_fn": "__import__('os')"}, "expected"),
    (VAE, {"layers_per_block": 10**9}, "expected"),
    (VAE, {"block_out_channels": [10**9, 16]}, "expected"),
    (VAE, {"down_block_types": ["os.system", "eval"]}, "expected"),
    (VAE, {"latent_channels": 16}, "16 latent channels in and 16 or 32 out"),
    (VAE, {"scaling_factor": None}, "a number as scaling_factor"),
    (VAE, {"scaling_factor": 0}, "scaling_factor of at least"),
    (VAE, {"out_channels": 1}, "images of 3 channels"),
    (VAE, {"block_out_channels": [8] * 65}, "up to 64 block_out_channels"),
    (VAE, {"_class_name": "AsymmetricAutoencoderKL"}, "expected an AutoencoderKL, got 'Asym"),
    (INDEX, {"id2label": {str(i): f"c{i}" for i in range(1001)}}, "at most 1000"),
    (INDEX, {"id2label": {"0": {"a": 1}}}, "names of up to 300 characters"),
    (INDEX, {"_class_name": "X", "transformer": [{}]}, "got 'X' with {}: .*not known here"),
    (INDEX, {"_class_name": "PixArtSigmaPAGPipeline"}, "not how this pipeline samples"),
    (SCHEDULE, {"beta_schedule": "nope"}, "a noise schedule .nope"),
    (SCHEDULE, {"beta_end": "x"}, "a number as beta_end"),
    (SCHEDULE, {"beta_end": 2.0}, "betas between 0 and 1"),
    (SCHEDULE, {"trained_betas": [0.1] * 3}, "1000 trained_betas, got 3"),
    (SCHEDULE, {"trained_betas": ["x"] * 1000}, "a noise schedule"),
    (SCHEDULE, {"num_train_timesteps": 300_000_000}, "1 to 100000"),
    (SCHEDULE, {"steps_offset": 5000}, "time 5980 of 1000: steps_offset 5000"),
    (SCHEDULE, {"steps_offset": -5}, "time -5 of 1000|steps_offset -5"),
    (SCHEDULE, {"steps_offset": "x"}, "a whole number as steps_offset"),
    (SCHEDULE, {"clip_sample": "no"}, "clip_sample true or false"),
    (SCHEDULE, {"thresholding": True, "dynamic_thresholding_ratio": 7}, "a noise schedule"),
    (SCHEDULE, {"timestep_spacing": "nope"}, "leading, linspace, trailing, got 'nope'"),
    (SCHEDULE, {"_class_name": "DPMSolverMultistepScheduler", **FLOW}, "flow-matching"),
    (SCHEDULE, {"_class_name": "EDMEulerScheduler"}, "continuous noise levels"),
]


@pytest.mark.parametrize(("file", "values", "said"), WRONG)
def test_what_would_fail_later_is_refused(
    stock: Path, tmp_path: Path, file: str, values: dict[str, Any], said: str
) -> None:
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(changed(stock, tmp_path / "copy", file, **values))


FINE: list[tuple[str, dict[str, Any]]] = [
    (SCHEDULE, {"steps_offset": 1}),
    (SCHEDULE, {"num_train_timesteps": 10}),
    (SCHEDULE, {"prediction_type": "sample"}),
    (SCHEDULE, {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "linspace"}),
    (SCHEDULE, {"thresholding": True, "lambda_min_clipped": float("-inf"), "solver_order": 2}),
    (SCHEDULE, {"variance_type": None, "algorithm_type": "dpmsolver++"}),
    (TRANSFORMER, {"out_channels": None, "num_vector_embeds": None, "norm_num_groups": 32}),
    (TRANSFORMER, {"_class_name": "Transformer2DModel", "norm_elementwise_affine": False}),
    (VAE, {"_class_name": None, "sample_size": [16, 16], "latents_mean": [-3.0] * 4}),
    (VAE, {"shift_factor": None, "force_upcast": False}),
    (INDEX, {"id2label": []}),
]


@pytest.mark.parametrize(("file", "values"), FINE)
def test_what_is_unusual_and_sound_loads(
    stock: Path, tmp_path: Path, file: str, values: dict[str, Any]
) -> None:
    before = torch.get_rng_state()
    copy = changed(stock, tmp_path / "copy", file, **values)
    assert load_checkpoint(copy).fingerprint == build_random_checkpoint().fingerprint
    loaded = load_folder(copy)
    assert loaded.latent_shape == (4, 8, 8)
    torch.set_rng_state(before)
    load_folder(copy)
    assert torch.equal(torch.get_rng_state(), before), "checking draws no random numbers"


@pytest.mark.parametrize(
    ("pipeline", "reason"),
    [
        ("WanPipeline", "it makes video"),
        ("StableDiffusionXLPipeline", "U-Net"),
        ("StableDiffusion3Pipeline", "joint blocks.*flow matching"),
        ("FluxPipeline", "joint blocks"),
        ("QwenImagePipeline", "joint blocks"),
        ("HunyuanDiTPipeline", "skip connections"),
        ("Lumina2Pipeline", "gated"),
        ("SanaPipeline", "linear"),
        ("SomethingPipeline", "not known here"),
    ],
)
def test_every_other_pipeline_is_refused_with_a_reason(pipeline: str, reason: str) -> None:
    with pytest.raises(CheckpointError, match=f"got '{pipeline}': .*{reason}"):
        family_of_index({"_class_name": pipeline})


def test_options_that_change_a_pixarts_blocks_are_refused(tmp_path: Path) -> None:
    served = save_tiny_pixart(tmp_path / "pixart", told=False)
    whole = (served / TRANSFORMER).read_text()
    wrong: list[tuple[str, Any, str]] = [
        ("_class_name", "SanaTransformer2DModel", "SanaTransformer2DModel.*linear"),
        ("_class_name", "DiTTransformer2DModel", "another family's pipeline"),
        ("_class_name", None, "None"),
        ("norm_type", "ada_norm_zero", "adaLN-single"),
        ("attention_type", "gated", "additional attention"),
        ("cross_attention_dim", None, "cross-attention"),
        ("only_cross_attention", True, "only_cross_attention"),
        ("caption_channels", 24, "expected shape"),
        ("interpolation_scale", 0, "interpolation_scale"),
        ("interpolation_scale", "x", "interpolation_scale"),
        ("interpolation_scale", float("inf"), "interpolation_scale"),
    ]
    for key, value, said in wrong:
        edit_json(served / TRANSFORMER, **{key: value})
        with pytest.raises(CheckpointError, match=said):
            load_checkpoint(served)
        (served / TRANSFORMER).write_text(whole)
    # as published alpha folders have it, from before the class had a name of its own
    old = {"double_self_attention": False, "only_cross_attention": False, "num_vector_embeds": None}
    edit_json(served / TRANSFORMER, _class_name="Transformer2DModel", **old)
    assert load_checkpoint(served).fingerprint == fingerprint(tiny_pixart(told=False))
    edit_json(served / TRANSFORMER, interpolation_scale=0.5)
    assert load_checkpoint(served).name == "pixart"


# What the small files say, without the weights


def test_no_value_of_any_option_fails_in_another_way(stock: Path, tmp_path: Path) -> None:
    copy = changed(stock, tmp_path / "copy", INDEX)
    classes = {TRANSFORMER: DiTTransformer2DModel, VAE: AutoencoderKL, SCHEDULE: DDIMScheduler}
    taken = refused = 0
    for file in (INDEX, TRANSFORMER, VAE, SCHEDULE):
        text = (copy / file).read_text()
        keys = {*json.loads(text), "unet", "id2label"} if file == INDEX else set()
        known = inspect.signature(classes[file].__init__).parameters if file in classes else ()
        for key in (keys | set(known)) - {"self"}:
            for value in (None, True, [{}], float("inf"), 10**400, "x"):
                (copy / file).write_text(json.dumps({**json.loads(text), key: value}))
                try:
                    names_from_index(read_configurations(copy).index)
                    taken += 1
                except CheckpointError as error:
                    assert len(str(error)) < 400, (file, key)
                    refused += 1
        (copy / file).write_text(text)
    assert taken > 50 and refused > 150


def test_the_small_files_are_enough_to_refuse(stock: Path, tmp_path: Path) -> None:
    copy = changed(stock, tmp_path / "copy", INDEX)
    for weights in copy.rglob("*.safetensors"):
        weights.unlink()
    said = read_configurations(copy)
    for model in (said.transformer, said.vae):
        tensors = [*model.parameters(), *model.buffers()]
        assert tensors and all(tensor.is_meta for tensor in tensors), "nothing is allocated"
    assert said.family.name == "DiT" and said.scheduler["beta_end"] == 0.02
    wrong = changed(copy, tmp_path / "wrong", VAE, latent_channels=8)
    with pytest.raises(CheckpointError, match="8 latent channels"):
        read_configurations(wrong)


def test_the_table_of_positions_waits_for_the_weights(
    stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = {"num_attention_heads": 16, "attention_head_dim": 64}
    copy = changed(stock, tmp_path / "a", TRANSFORMER, sample_size=256, patch_size=1, **wide)
    computed = []
    monkeypatch.setattr(loading, "compute_positions_", computed.append)
    with pytest.raises(CheckpointError, match=r"expected shape \(1024, 4, 1, 1\)"):
        load_checkpoint(copy)
    assert not computed
    wide["num_attention_heads"] = 1024
    copy = changed(copy, tmp_path / "b", TRANSFORMER, **wide)
    with pytest.raises(CheckpointError, match=r"of 512 MB\), got 65536 x 65536"):
        load_checkpoint(copy)
    config = {"num_layers": 1, "sample_size": 4096}  # the patches' size is the class's own
    with pytest.raises(CheckpointError, match="got 4194304 x 1152"):
        loading.build_empty(DiTTransformer2DModel, config, "transformer")
    assert not computed


@pytest.mark.parametrize(
    "options",
    [
        {"num_attention_heads": 3, "attention_head_dim": 4, "sample_size": 14},
        {"sample_size": 36, "num_attention_heads": 2},
        {"sample_size": 20, "interpolation_scale": 0.5},
        {"sample_size": 24, "interpolation_scale": 3},
        {"sample_size": 128, "patch_size": 2, "num_attention_heads": 1},
    ],
)
def test_the_table_of_positions_is_that_of_diffusers(options: dict[str, Any]) -> None:
    options = {"num_layers": 1, **options}
    expected = PixArtTransformer2DModel(**options).pos_embed.pos_embed
    found = loading.build_empty(PixArtTransformer2DModel, options, "x").pos_embed.pos_embed
    assert torch.equal(found, expected) and found.dtype == expected.dtype


# Links, and the card


@pytest.mark.parametrize("file", [INDEX, TRANSFORMER, SCHEDULE, "README.md", WEIGHTS])
def test_no_file_may_be_a_link_to_another_place(stock: Path, tmp_path: Path, file: str) -> None:
    copy = changed(stock, tmp_path / "copy", INDEX)
    path = copy / file
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="a link to a place outside"):
        load_checkpoint(copy)
    with pytest.raises(CheckpointError, match="a link to a place outside"):
        list(convert_folder(copy, tmp_path / "converted"))
    path.unlink()
    (tmp_path / "elsewhere").rename(copy / "kept")
    path.symlink_to(copy / "kept")
    assert load_checkpoint(copy).name == "copy"


@pytest.mark.parametrize(
    ("home", "where", "taken"),
    [
        ("models--a--b/snapshots/" + "0a" * 20, "blobs", True),
        ("models--a--b/snapshots/" + "0a" * 20, "private", False),
        ("models--a--b/snapshots/" + "0a" * 20, "blobs/deeper", False),
        ("models--a--b/snapshots/mine", "blobs", False),
        ("a--b/snapshots/" + "0a" * 20, "blobs", False),
    ],
)
def test_only_the_layout_of_the_hubs_cache_may_link(
    stock: Path, tmp_path: Path, home: str, where: str, taken: bool
) -> None:
    copy = changed(stock, tmp_path / home, INDEX)
    above = copy.parents[1] / where
    above.mkdir(parents=True)
    for number, file in enumerate([INDEX, VAE, WEIGHTS]):
        (copy / file).rename(above / str(number))
        (copy / file).symlink_to(above / str(number))
    if not taken:
        with pytest.raises(CheckpointError, match="a link to a place outside"):
            load_checkpoint(copy)
        with pytest.raises(CheckpointError, match="a link to a place outside"):
            loading.load_whole(AutoencoderKL, copy / "vae")
        return
    assert load_checkpoint(copy).latent_shape == (4, 8, 8)
    # a repository that is an autoencoder alone is a snapshot itself
    alone = tmp_path / "models--c--d" / "snapshots" / ("1b" * 20)
    alone.mkdir(parents=True)
    blobs = alone.parents[1] / "blobs"
    blobs.mkdir()
    for number, name in enumerate(["config.json", "diffusion_pytorch_model.safetensors"]):
        shutil.copy(copy / "vae" / name, blobs / str(number))
        (alone / name).symlink_to(blobs / str(number))
    assert loading.load_whole(AutoencoderKL, alone).config.latent_channels == 4


@pytest.mark.parametrize(
    ("line", "licence"),
    [
        ("mit", "mit"),
        ('"CC BY-NC 4.0"', "CC BY-NC 4.0"),
        ("openrail++", "openrail++"),
        ("", "unknown"),
        ("A" * 61, "unknown"),
        ("<img src=x onerror=alert(1)>", "unknown"),
        ("mit\x1b[2J", "unknown"),
    ],
)
def test_a_card_names_a_licence_or_nothing(tmp_path: Path, line: str, licence: str) -> None:
    (tmp_path / "README.md").write_text(f"---\nlicense: {line}\n---\n")
    assert licence_of_card(tmp_path / "README.md") == licence


def test_of_a_card_only_the_beginning_is_read(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("---\ntags: " + "x" * 60_000 + "\nlicense: mit\n")
    assert licence_of_card(card) == "mit"
    card.write_text("---\ntags: " + "x" * 70_000 + "\nlicense: mit\n")
    assert licence_of_card(card) == "unknown"


# Buffers that older files hold


@pytest.mark.parametrize("pickled", [False, True])
def test_dead_buffers_of_published_pixart_folders_are_dropped(
    tmp_path: Path, pickled: bool
) -> None:
    folder = with_dead_buffers(save_tiny_pixart(tmp_path / "alpha", told=True), pickled)
    expected, converted = tiny_pixart(told=True), tmp_path / "converted"
    list(convert_folder(folder, converted))
    kept = read_headers(converted / "transformer" / "diffusion_pytorch_model.safetensors")
    assert set(kept.tensors) == set(expected.state_dict())
    assert list(convert_folder(folder, converted)) == [], "once is enough"
    for found in [converted] if pickled else [converted, folder]:
        loaded = load_checkpoint(found)
        assert loaded.fingerprint == fingerprint(expected)
        assert torch.equal(loaded.transformer.pos_embed.pos_embed, expected.pos_embed.pos_embed)
        assert loading_need(found).parameters == sum(p.numel() for p in expected.parameters())


def test_other_buffers_are_unexpected(tmp_path: Path) -> None:
    folder = with_dead_buffers(save_tiny_pixart(tmp_path / "alpha", told=True), False, "x.y")
    with pytest.raises(CheckpointError, match=r"got 1 unexpected keys: x\.y"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("diffusion_pytorch_model.bin.index.json", "got a pickle"),
        ("diffusion_pytorch_model.int8.safetensors", r"\.int8\.safetensors: rename it"),
    ],
)
def test_weights_under_other_names(stock: Path, tmp_path: Path, name: str, said: str) -> None:
    copy = changed(stock, tmp_path / "copy", SCHEDULE)
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name(name))
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(copy)


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


def test_folders_that_load_together_leave_torch_as_it_was(stock: Path) -> None:
    before = (torch.nn.Module.register_parameter, torch.nn.init.kaiming_uniform_)
    expected = build_random_checkpoint().fingerprint

    def work(number: int) -> str:
        if number == 0:  # somebody else builds modules meanwhile
            return ",".join(torch.nn.Linear(2, 2).weight.device.type for _ in range(500))
        return load_checkpoint(stock).fingerprint

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


def test_info_says_the_heads_that_loading_takes(
    stock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # as wide as the lender, with its heads; or not known
    for width, expected in ((32, "2"), (40, "not known.*name the number")):
        file = tmp_path / f"w{width}.pt"
        torch.save(random_state(Architecture(2, width, 2, 2, 4, 4, 8, 5)), file)
        heads = run_json(capsys, f"info {file} --like {stock}")["heads"]
        assert re.search(expected, str(heads))
    assert load_checkpoint(tmp_path / "w32.pt", like=stock).transformer.config[HEADS] == 2


def test_every_verb_loads_in_half_precision(
    stock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, calibration = "--samples 1 --steps 2", tmp_path / "c.safetensors"
    recipe, quantized, out = (tmp_path / name for name in "rqo")
    for verb in (
        f"info {stock}",
        f"calibrate {stock} {small} --tokens 4 --out {calibration}",
        f"search {stock} --calibration {calibration} --bits W8A8 --out {recipe}",
        f"quantize {stock} --recipe {recipe} --out {quantized}",
        f"compare {stock} {quantized} {small}",
        f"sample {stock} {small} --out {out}",
    ):
        run_json(capsys, f"{verb} --weights bfloat16")
