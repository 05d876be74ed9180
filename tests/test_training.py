"""The recipe of the demo checkpoint at tiny sizes: rules, runs, export, measures."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn as nn
from diffusers import DiTPipeline
from PIL import Image, ImageColor
from safetensors.torch import load_file, save_file

from training.__main__ import main
from training.card import count_parameters, write_card
from training.classes import GROUPS, Emoji, class_name, class_names, groups_of, is_wanted
from training.data import composite_on_white, jitter
from training.dit import (
    DiTConfig,
    build_dit,
    load_weights_,
    noise_weights,
    optimiser,
    plain_dit,
    rate_at,
    train_dit,
)
from training.evaluate import (
    EvaluationConfig,
    load_pipeline,
    outlier_strength,
    read_looks,
    record_absmax,
    sample,
    sample_kept,
    training_record,
)
from training.export import export_checkpoint
from training.features import frechet_distance, right_label, wilson_interval
from training.latents import Latents, encode_looks, looks_of
from training.look import look
from training.pack import pack
from training.routing import draw_kept, routed_forward
from training.runs import Run, cosine_rate, read_config, read_log
from training.sheets import COLOURS, contact_sheet, loss_curve, outlier_curve
from training.vae import VAEConfig, adapt_vae, build_vae, edges, train_vae, vae_loss

pytestmark = pytest.mark.numeric

SIZE = 16
TINY_VAE = VAEConfig(steps=6, batch=2, save_every=3)
TINY_DIT = DiTConfig(minutes=0.02, layers=2, heads=2, head_dim=16, patch=2, batch=4)
NAMES = ["fox", "pizza", "rocket", "any animal"]


class Interrupted(Exception):
    """Stands for a kill."""


def silent(_: str) -> None:
    """A log nobody reads."""


def same_tensors(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``prepare`` writes: the class -1 and three emoji, the first of which has a group."""
    generator = torch.Generator().manual_seed(0)
    path = tmp_path_factory.mktemp("data") / f"images-{SIZE}.safetensors"
    index = torch.arange(44)
    labels = index % 4 - 1
    tensors = {
        "images": torch.randint(256, (44, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8),
        "labels": labels,
        "groups": torch.where(labels == 0, 3, -1)[:, None].repeat(1, 3),
        "held_out": index % 11 == 0,
        "mirror": index % 2 == 0,
    }
    save_file(tensors, path)
    return path


@pytest.fixture(scope="session")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished tiny runs of the VAE, for half the size, and the DiT."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "classes.json").write_text(json.dumps(NAMES), encoding="utf-8")
    trained = train_vae(images, folder / "vae", TINY_VAE, silent)
    small = torch.rand(4, 3, SIZE // 2, SIZE // 2) * 2 - 1
    vae = adapt_vae(trained, small, SIZE // 2, folder / "vae" / "vae")
    encode_looks(images, vae, folder / "latents.safetensors", SIZE // 2, silent)
    train_dit(folder / "latents.safetensors", folder / "dit", TINY_DIT, silent)
    for name in ("vae", "dit"):  # too short to have logged a loss
        Run(folder / name, silent).record(step=50, loss=0.5)
        Run(folder / name, silent).record(step=100, loss=0.25)
    return folder


@pytest.fixture(scope="session")
def checkpoint(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("assets") / "tiny"
    state = run / "dit" / "state.pt"
    return export_checkpoint(run / "vae" / "vae", state, target, TINY_DIT, NAMES)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("fox", "fox"),
        ("woman astronaut", "astronaut"),
        ("man in tuxedo", "person in tuxedo"),
        ("man: red hair", "man"),
        ("woman’s boot", "woman’s boot"),
        ("old woman", "old woman"),
        ("three-thirty", "clock"),
    ],
)
def test_people_and_hours_go_under_one_label(label: str, name: str) -> None:
    assert class_name(label, {"astronaut", "person in tuxedo", "man", "boot"}) == name


def test_classes_are_emoji_in_their_order_and_then_the_groups() -> None:
    fox, flag = Emoji("fox", "animals-nature", "animal-mammal"), Emoji("flag: Fiji", "flags", "x")
    bus, man = Emoji("bus stop", "travel", "transport-ground"), Emoji("man cook", "people", "role")
    cook = Emoji("cook", "people", "role")
    assert [is_wanted(each) for each in (fox, flag, bus, cook)] == [True, False, False, True]
    names = class_names([fox, flag, cook, bus, man], {"fox", "cook"})
    assert names == ["fox", "cook", *(group.name for group in GROUPS)]
    assert groups_of("animal-mammal") == ["any animal", "any mammal"]
    assert groups_of("science") == []


def test_jitter_keeps_white_and_mirrors_only_what_may_be() -> None:
    images = torch.full((64, 3, 32, 32), 255, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    white = jitter(images, torch.ones(64).bool(), 16, generator)
    assert float((white - 1).abs().max()) < 1e-5
    images[..., :16] = 0  # the left half is black
    looks = jitter(images, torch.arange(64) % 2 == 0, 16, generator)
    assert looks.shape == (64, 3, 16, 16) and float(looks.abs().max()) < 1 + 1e-5
    flipped = looks[..., :8].mean((1, 2, 3)) > looks[..., 8:].mean((1, 2, 3))
    assert not flipped[1::2].any()
    assert 5 < flipped[::2].sum() < 27
    assert len({tuple(look.flatten().tolist()) for look in looks}) == 64


def test_latents_have_unit_variance_and_draw_groups_at_their_share(run: Path) -> None:
    data = Latents(run / "latents.safetensors", group_share=0.5)
    assert data.latents.shape[1:] == (4, SIZE // 8, SIZE // 8)
    assert looks_of(torch.tensor([0, 1, 1, 1])).tolist() == [16, 5, 5, 5]
    latents, labels = data.draw(4000, torch.Generator().manual_seed(0))
    assert latents.dtype == torch.float32
    share = torch.bincount(labels, minlength=4) / 4000
    torch.testing.assert_close(share, torch.tensor([1 / 6, 1 / 3, 1 / 3, 1 / 6]), atol=0.03, rtol=0)


def test_fewer_looks_leave_every_class_as_often(run: Path) -> None:
    path = run / "latents.safetensors"
    every, some = Latents(path, group_share=0.0), Latents(path, group_share=0.0, look_share=0.25)
    assert len(some.latents) == -(-len(every.latents) // 4)
    for data in (every, some):
        _, labels = data.draw(4000, torch.Generator().manual_seed(0))
        share = torch.bincount(labels, minlength=4) / 4000
        torch.testing.assert_close(share, torch.tensor([1 / 3, 1 / 3, 1 / 3, 0]), atol=0.03, rtol=0)


def test_composite_puts_transparency_on_white(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 4), dtype=np.uint8)
    pixels[:, 4:] = (255, 0, 0, 255)  # left half transparent black, right half red
    Image.fromarray(pixels).save(tmp_path / "half.png")
    out = composite_on_white(tmp_path / "half.png", 8)
    assert out.shape == (8, 8, 3) and out.dtype == np.uint8
    assert (out[:, :4] == 255).all()
    assert (out[:, 4:] == (255, 0, 0)).all()


def test_vae_loss_starts_with_mse_and_ramps_up_the_absolute_terms() -> None:
    config = VAEConfig(absolute_from=100, kl_weight=0.5)
    target, decoded, kl = torch.zeros(2, 3, 8, 8), torch.rand(2, 3, 8, 8), torch.tensor(2.0)
    squared = decoded.square().mean()
    absolute = 0.3 * decoded.abs().mean() + config.edge_weight * edges(decoded).abs().mean()
    for step, share in ((0, 0.0), (99, 0.0), (100, 0.0), (300, 0.5), (500, 1.0), (9000, 1.0)):
        loss = vae_loss(target, decoded, kl, step, config)
        torch.testing.assert_close(loss, squared + 1.0 + share * absolute)


def test_cosine_rate_warms_up_and_ends_at_its_floor() -> None:
    assert cosine_rate(0, 100, 1.0, 10) == pytest.approx(0.1)
    assert cosine_rate(10, 100, 1.0, 10) == pytest.approx(1.0)
    # a cosine of -1 in float32 is one unit off at most
    assert cosine_rate(100, 100, 1.0, 10) == pytest.approx(0.02, abs=1e-7)
    assert cosine_rate(500, 100, 1.0, 10) == pytest.approx(0.02, abs=1e-7)


def test_a_resumed_vae_run_ends_where_an_uninterrupted_one_does(
    images: Path, run: Path, tmp_path: Path
) -> None:
    def stop_at_the_end(line: str) -> None:
        if "step 6" in line:
            raise Interrupted

    with pytest.raises(Interrupted):
        train_vae(images, tmp_path, TINY_VAE, stop_at_the_end)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 3
    lines: list[str] = []
    train_vae(images, tmp_path, TINY_VAE, lines.append)
    assert lines[0].startswith("resuming at step 3")

    whole = torch.load(run / "vae" / "state.pt", weights_only=True)
    resumed = torch.load(tmp_path / "state.pt", weights_only=True)
    assert resumed["step"] == whole["step"] == 6
    assert same_tensors(resumed["model"], whole["model"])
    assert same_tensors(resumed["ema"], whole["ema"])
    assert torch.equal(resumed["generator"], whole["generator"])
    weights = "vae/diffusion_pytorch_model.safetensors"
    assert same_tensors(load_file(tmp_path / weights), load_file(run / "vae" / weights))


def test_rate_is_constant_until_the_anneal() -> None:
    config = DiTConfig(minutes=100, anneal_minutes=10, peak_rate=1.0, warmup=10)
    assert rate_at(0, 0, config) == pytest.approx(0.1)
    for minute, rate in ((0, 1.0), (90, 1.0), (95, 0.5), (100, 0.0), (101, 0.0)):
        assert rate_at(minute * 60, 9, config) == pytest.approx(rate)


def test_noise_is_weighed_between_its_floor_and_cap() -> None:
    snr = torch.tensor([1e-6, 0.01, 0.05, 1.0, 5.0, 10.0, 1e6])
    weights = noise_weights(snr, DiTConfig(snr_floor=0.05, snr_cap=5.0))
    torch.testing.assert_close(weights, torch.tensor([30.0, 5.0, 1.0, 1.0, 1.0, 0.5, 0.05]))


def test_modulation_has_a_rate_of_its_own() -> None:
    groups = optimiser(build_dit(4, TINY_DIT), TINY_DIT).param_groups
    assert [group["lr_scale"] for group in groups] == [1.0, TINY_DIT.modulation_rate]
    assert len(groups[1]["params"]) == 2 * TINY_DIT.layers  # weights and biases


def test_a_dit_run_that_was_stopped_resumes_to_the_same_weights(run: Path, tmp_path: Path) -> None:
    config = replace(TINY_DIT, minutes=60.0, save_minutes=0.0, look_minutes=0.0)
    seen: list[int] = []
    data = run / "latents.safetensors"
    train_dit(data, tmp_path, config, silent, stop=lambda: len(seen) == 4, look=seen.append)
    assert seen == [1, 2, 3, 4]
    before = torch.load(tmp_path / "state.pt", weights_only=True)
    assert before["step"] == 4
    other = replace(TINY_DIT, minutes=0.0, modulation_rate=3.0, epsilon=1e-8)
    train_dit(data, tmp_path, other, silent)
    after = torch.load(tmp_path / "state.pt", weights_only=True)
    assert after["step"] == 4
    assert same_tensors(after["model"], before["model"])
    assert same_tensors(after["ema"], before["ema"])
    assert after["optimizer"]["state"].keys() == before["optimizer"]["state"].keys()
    groups = after["optimizer"]["param_groups"]
    assert [(group["lr_scale"], group["eps"]) for group in groups] == [(1.0, 1e-8), (3.0, 1e-8)]


def test_a_packed_run_goes_on_elsewhere(run: Path, tmp_path: Path) -> None:
    packed = pack(run, tmp_path / "packed")
    was = torch.load(run / "dit" / "state.pt", weights_only=True)
    assert (packed / "dit" / "state.pt").stat().st_size < 0.3 * (
        run / "dit" / "state.pt"
    ).stat().st_size
    assert (packed / "classes.json").read_bytes() == (run / "classes.json").read_bytes()
    moved = shutil.copytree(packed, tmp_path / "elsewhere")
    lines: list[str] = []
    data = run / "latents.safetensors"
    train_dit(data, moved / "dit", replace(TINY_DIT, minutes=0.0), lines.append)
    assert lines[0].startswith(f"resuming at step {was['step']} ")
    found = torch.load(moved / "dit" / "state.pt", weights_only=True)
    assert (
        found["begun"] == found["step"] == was["step"] and found["ema"].keys() == was["ema"].keys()
    )
    for name, value in was["ema"].items():
        assert found["ema"][name].dtype == value.dtype
        torch.testing.assert_close(found["ema"][name], value, rtol=1e-3, atol=1e-6)
        assert torch.equal(found["model"][name], found["ema"][name])
    steps: list[int] = []
    go_on = replace(TINY_DIT, minutes=1000.0, save_minutes=0.0, look_minutes=0.0)
    train_dit(data, moved / "dit", go_on, silent, stop=lambda: len(steps) == 2, look=steps.append)
    assert steps == [was["step"] + 1, was["step"] + 2]
    with pytest.raises(FileNotFoundError, match="expected a training run"):
        pack(tmp_path, tmp_path / "none")


def test_a_run_is_not_packed_over_itself(tmp_path: Path) -> None:
    state = tmp_path / "run" / "dit" / "state.pt"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"whole")
    for out in (tmp_path / "run", tmp_path, state.parent, tmp_path / "run" / ".." / "run"):
        with pytest.raises(ValueError, match="apart from the run"):
            pack(tmp_path / "run", out)
    assert state.read_bytes() == b"whole"


def test_tokens_are_routed_past_the_middle_blocks() -> None:
    model = build_dit(8, replace(TINY_DIT, layers=6))
    for index, weight in enumerate(model.parameters()):
        nn.init.normal_(weight, std=0.2, generator=torch.Generator().manual_seed(index))
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(3, 4, 8, 8, generator=generator)
    conditions = torch.tensor([0, 500, 999]), torch.tensor([1, 2, 1000])
    stock = model(latents, *conditions).sample
    whole = draw_kept(3, 16, 1.0, generator)
    assert torch.equal(routed_forward(model, latents, *conditions, whole), stock)
    kept = draw_kept(3, 16, 0.5, generator)
    assert kept.shape == (3, 8) and bool((kept.diff(dim=1) > 0).all())
    assert len({tuple(row) for row in kept.tolist()}) == 3
    routed = routed_forward(model, latents, *conditions, kept)
    assert routed.shape == stock.shape and not torch.allclose(routed, stock)

    # middle blocks that change nothing: then it does not matter who passes through them
    for block in model.transformer_blocks[2:4]:
        nn.init.zeros_(block.norm1.linear.weight)
        nn.init.zeros_(block.norm1.linear.bias)
    routed = routed_forward(model, latents, *conditions, kept)
    torch.testing.assert_close(routed, model(latents, *conditions).sample)
    with pytest.raises(ValueError, match="expected more than 4 blocks to route past, got 2"):
        routed_forward(build_dit(8, TINY_DIT), latents, *conditions, kept)


def test_a_run_is_routed_until_the_anneal(run: Path, tmp_path: Path) -> None:
    """The generator tells: the routed steps draw tokens from it, the others do not."""
    drawn = []
    for minutes, share in ((60.0, 0.5), (60.0, 1.0), (1.0, 0.5)):
        config = replace(
            TINY_DIT, layers=5, minutes=minutes, anneal_minutes=2.0, kept_share=share,
            save_minutes=0.0, look_minutes=0.0,
        )  # fmt: skip
        folder, seen = tmp_path / f"{minutes}-{share}", list[int]()

        def stop(seen: list[int] = seen) -> bool:
            return len(seen) == 2

        train_dit(run / "latents.safetensors", folder, config, silent, stop=stop, look=seen.append)
        drawn.append(torch.load(folder / "state.pt", weights_only=True)["generator"])
    routed, whole, annealing = drawn
    assert torch.equal(whole, annealing) and not torch.equal(routed, whole)


def test_a_look_leaves_a_sheet_outliers_and_weights(run: Path) -> None:
    sheet = look(run, ("fox", "any animal"), silent)
    row = json.loads((run / "looks" / "outliers.jsonl").read_text().splitlines()[-1])
    assert len(row["layers"]) == 2 * 4 and row["largest"] >= row["median"] >= 1
    weights = load_file(sheet.with_suffix(".safetensors"))
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    with pytest.raises(ValueError, match="got \\['ox'\\]"):
        look(run, ("ox",), silent)


def test_a_run_refuses_another_shape(run: Path) -> None:
    with pytest.raises(ValueError, match=r"expected layers = 2, .* got 3"):
        Run(run / "dit", silent).configure(replace(TINY_DIT, layers=3), fixed=("layers",))
    assert read_config(run / "dit", DiTConfig) == TINY_DIT


def test_log_counts_a_repeated_step_once(tmp_path: Path) -> None:
    run = Run(tmp_path, silent)
    for step, loss in ((50, 3.0), (100, 2.0), (100, 1.0)):
        run.record(step=step, loss=loss)
    assert [(row["step"], row["loss"]) for row in read_log(tmp_path)] == [(50, 3.0), (100, 1.0)]


def test_embedders_are_shared_while_training() -> None:
    model = build_dit(4, TINY_DIT)
    first, second = model.transformer_blocks
    assert first.norm1.emb is second.norm1.emb
    noisy, timesteps = torch.randn(2, 4, 4, 4), torch.tensor([10, 900])
    out = model(noisy, timestep=timesteps, class_labels=torch.tensor([0, 1000])).sample
    assert torch.equal(out, torch.zeros_like(out))  # adaLN-Zero: the last layer starts at zero


def test_stock_pipeline_loads_the_averaged_weights_and_samples(run: Path, checkpoint: Path) -> None:
    pipeline = DiTPipeline.from_pretrained(checkpoint)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.labels == {name: label for label, name in enumerate(NAMES)}
    ema = torch.load(run / "dit" / "state.pt", weights_only=True)["ema"]
    loaded = pipeline.transformer.state_dict()
    assert loaded.keys() == ema.keys()
    for name, weight in ema.items():
        assert torch.equal(loaded[name], weight.half().float()), name
    result = pipeline(
        class_labels=[0, 3],
        guidance_scale=2.0,
        num_inference_steps=2,
        generator=[torch.Generator().manual_seed(seed) for seed in (0, 1)],
        output_type="np",
    ).images
    assert result.shape == (2, SIZE // 2, SIZE // 2, 3)
    assert np.isfinite(result).all()


def test_checkpoint_is_half_precision_complete_and_names_no_folder(checkpoint: Path) -> None:
    for part in ("transformer", "vae"):
        tensors = load_file(checkpoint / part / "diffusion_pytorch_model.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert {path.name for path in checkpoint.parent.iterdir()} == {"tiny"}
    for path in checkpoint.rglob("*.json"):
        assert "_name_or_path" not in path.read_text(encoding="utf-8")


def test_export_replaces_a_checkpoint_but_nothing_else(run: Path, tmp_path: Path) -> None:
    vae, state = run / "vae" / "vae", run / "dit" / "state.pt"
    target = tmp_path / "tiny"
    target.mkdir()
    with pytest.raises(FileExistsError):
        export_checkpoint(vae, state, target, TINY_DIT, NAMES)
    (target / "model_index.json").touch()
    (target / "evaluate.json").touch()
    export_checkpoint(vae, state, target, TINY_DIT, NAMES)
    assert not (target / "evaluate.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_parameters_count_shared_embedders_once(checkpoint: Path) -> None:
    weights = checkpoint / "transformer" / "diffusion_pytorch_model.safetensors"
    distinct = sum(weight.numel() for weight in build_dit(4, TINY_DIT).parameters())
    stored = sum(weight.numel() for weight in load_file(weights).values())
    assert count_parameters(weights) == (stored, distinct)


def test_samples_depend_on_their_own_seed_only(checkpoint: Path) -> None:
    pipeline = load_pipeline(checkpoint)
    together = sample(pipeline, [1, 2, 3], EvaluationConfig(steps=2, batch=3), silent)
    apart = sample(pipeline, [1, 2, 3], EvaluationConfig(steps=2, batch=1), silent)
    assert together.dtype == torch.uint8
    assert (together.int() - apart.int()).abs().max() <= 1


def test_frechet_distance_of_equal_sets_is_zero() -> None:
    features = torch.randn(50, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(features, features.flip(0)) == pytest.approx(0, abs=1e-9)
    few = features[:5]  # fewer images than features: singular covariances
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_has_the_closed_form_of_gaussians() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(200, 3, dtype=torch.float64, generator=generator)
    white = drawn - drawn.mean(0)
    white = (
        white @ torch.linalg.inv(torch.linalg.cholesky(white.T.cov())).T
    )  # exactly unit covariance
    first_std = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    second_std = torch.tensor([2.0, 2.0, 0.5], dtype=torch.float64)
    shift = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    expected = float((first_std - second_std).square().sum() + shift.square().sum())
    actual = frechet_distance(white * first_std, white * second_std + shift)
    assert actual == pytest.approx(expected, rel=1e-9)


def test_outlier_strength_of_every_projection(checkpoint: Path) -> None:
    pipeline = load_pipeline(checkpoint)
    strengths = outlier_strength(pipeline, [0, 1], EvaluationConfig(steps=2, batch=2))
    assert len(strengths) == 2 * 4
    assert all(ratio >= 1 for ratio in strengths.values())


def test_right_label_of_the_nearest_image() -> None:
    images, labels = torch.eye(3), torch.tensor([0, 1, 2])
    samples, asked = 0.9 * torch.eye(3)[[0, 0, 0, 1, 1]], torch.tensor([0, 0, 0, 1, 2])
    right = right_label(samples, asked, images, labels)
    assert right.tolist() == [True, True, True, True, False]
    low, high = wilson_interval(1800, 2000)
    assert (low, high) == pytest.approx((0.8861, 0.9124), abs=1e-4)
    assert wilson_interval(5, 5)[1] == pytest.approx(1)


def test_samples_that_were_kept_are_not_drawn_again(checkpoint: Path, tmp_path: Path) -> None:
    pipeline = load_pipeline(checkpoint)
    config = EvaluationConfig(steps=2, batch=2, frechet_bfloat16=False)
    labels = [0, 1, 2, 3, 0]
    lines: list[str] = []

    def interrupt(line: str) -> None:
        lines.append(line)
        if line == "sampled 4 of 5":
            raise Interrupted

    with pytest.raises(Interrupted):
        sample_kept(checkpoint, pipeline, labels, config, tmp_path, interrupt)
    whole = sample_kept(checkpoint, pipeline, labels, config, tmp_path, lines.append)
    assert lines == ["sampled 2 of 5", "sampled 4 of 5", "sampled 5 of 5"]
    assert torch.equal(whole, sample(pipeline, labels, config, silent))
    other_sheet = replace(config, outlier_steps=3)
    sample_kept(checkpoint, pipeline, labels, other_sheet, tmp_path, silent)
    assert len(list(tmp_path.iterdir())) == 1
    sample_kept(checkpoint, pipeline, labels, replace(config, steps=3), tmp_path, silent)
    assert len(list(tmp_path.iterdir())) == 2


def test_record_absmax_keeps_the_largest_and_leaves_no_hook(checkpoint: Path) -> None:
    transformer = load_pipeline(checkpoint).transformer
    proj = transformer.transformer_blocks[0].ff.net[0].proj
    with record_absmax(transformer) as act_absmax:
        proj(torch.full((1, 2, 32), -3.0))
        proj(torch.ones(1, 2, 32))
    assert torch.equal(act_absmax["transformer_blocks.0.ff.net.0.proj"], torch.full((32,), 3.0))
    assert not proj._forward_pre_hooks


def test_contact_sheet_places_every_image() -> None:
    tiles = torch.zeros(8, 3, 128, 128, dtype=torch.uint8)
    tiles[4:] = 200
    sheet = np.asarray(contact_sheet(tiles, ["left", "right"]))
    assert (sheet == 0).all(-1).sum() >= 4 * 128 * 128
    assert (sheet == 200).all(-1).sum() >= 4 * 128 * 128


def test_a_sheet_of_all_classes_is_small() -> None:
    tiles = torch.zeros(7, 3, 128, 128, dtype=torch.uint8)
    names = ["a", "person in suit levitating", *"bcdef"]
    sheet = contact_sheet(tiles, names, per_class=1, a_row=3, cell=64)
    assert sheet.width < 3 * 100 and sheet.height < 3 * 100
    assert (np.asarray(sheet) == 0).all(-1).sum() >= 7 * 64 * 64


def test_outliers_over_training_are_a_curve(tmp_path: Path) -> None:
    assert read_looks(tmp_path) == []
    (tmp_path / "looks").mkdir()
    rows = [{"step": s, "median": 2.0, "largest": 5.0 * s, "layers": {"a": 1}} for s in (1, 2, 3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "looks" / "outliers.jsonl").write_text(lines, encoding="utf-8")
    looks = read_looks(tmp_path)
    assert looks[2] == {"step": 3, "median": 2.0, "largest": 15.0}
    drawn = {tuple(pixel) for pixel in np.asarray(outlier_curve(looks)).reshape(-1, 3).tolist()}
    assert {ImageColor.getrgb(colour) for colour in COLOURS} <= drawn


def test_card_takes_its_figures_from_the_files(
    run: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["card", str(checkpoint)]) == 2
    assert capsys.readouterr().err.startswith("error: expected ")
    group = {"images": 4, "distance": 123.456}
    names = ("samples", "first_samples", "training_subset")
    looks = read_looks(run)
    report = {
        "config": EvaluationConfig().__dict__,
        "image_size": SIZE,
        "classes": {name: 7 for name in NAMES},
        "right_label": {"samples": 1500, "share": 0.934, "ci95": [0.912, 0.956]},
        "outliers_over_training": looks,
        "frechet": {"reference_images": 357, **dict.fromkeys(names, group)},
        "vae": {"held_out_images": 5, "psnr_db": 28.765},
        "outliers": {"transformer_blocks.1.ff.net.2": 17.25},
        "training": training_record(run),
    }
    (checkpoint / "evaluate.json").write_text(json.dumps(report), encoding="utf-8")
    card = write_card(checkpoint).read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: mit\n")
    for figure in (
        "357 training images",
        "123.46",
        "93.4% (95 % interval 91.2% to 95.6%)",
        "28.77 dB",
        "| `ff.net.2` | 17.2 | 17.2 | 1 |",
    ):
        assert figure in card
    assert loss_curve(run).size == (1280, 420)


def test_command_line_says_one_line_and_exits_with_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--data", str(tmp_path), "--out", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert "images-256.safetensors" in error and error.count("\n") == 1
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "x", "--data", "d", "--run", "r", "--samples", "0"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_vae_reconstructs_the_size_it_was_given() -> None:
    vae = build_vae(SIZE)
    latent = vae.encode(torch.zeros(1, 3, SIZE, SIZE)).latent_dist.mean
    assert latent.shape == (1, 4, SIZE // 4, SIZE // 4)
    assert vae.decode(latent).sample.shape == (1, 3, SIZE, SIZE)


def test_a_run_starts_from_an_exported_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = replace(TINY_DIT, layers=2)
    donor = plain_dit(8, config)
    donor.save_pretrained(tmp_path / "donor" / "transformer")
    model = build_dit(8, config)
    shared = model.transformer_blocks[0].norm1.emb
    load_weights_(model, tmp_path / "donor")
    assert model.transformer_blocks[1].norm1.emb is shared
    assert torch.equal(model.proj_out_2.weight, donor.proj_out_2.weight)
