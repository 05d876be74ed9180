"""Folders as diffusers writes them: shards, half precision, no biases, other schedules."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from closeness import assert_close
from conftest import randomize_, tiny_transformer, tiny_vae
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
)
from safetensors.torch import load_file, save_file
from tiny_pixart import save_tiny_pixart, tiny_pixart

import ditas_core as ditas
from ditas_core.artifact import save_quantized
from ditas_core.calibration import calibrate
from ditas_core.checkpoints import CheckpointError, fingerprint, load_checkpoint, preflight
from ditas_core.checkpoints import patches as patch_embedding
from ditas_core.cli import main
from ditas_core.conversion import quantize_transformer
from ditas_core.sampling import sample_latents
from ditas_core.search import SearchSpec, search
from ditas_core.specs import BitWidths, CalibrationSpec, SamplingSpec

STEM = "diffusion_pytorch_model"
INDEX = f"{STEM}.safetensors.index.json"
BETAS = {"beta_start": 1e-4, "beta_end": 0.02}
LABELS = torch.tensor([1, 7])


def written(folder: Path, scheduler: Any = None, **options: Any) -> Path:
    """A tiny pipeline, saved by diffusers itself with these options."""
    model = options.pop("model", None) or tiny_transformer()
    scheduler = scheduler or DDIMScheduler(**BETAS, clip_sample=False)
    dtype = options.pop("dtype", torch.float32)
    DiTPipeline(model, tiny_vae(), scheduler).to(dtype).save_pretrained(folder, **options)
    return folder


SAVED: dict[str, dict[str, Any]] = {
    "shards": {"max_shard_size": "150KB"},
    "fp16": {"variant": "fp16", "dtype": torch.float16},
    "bf16": {"variant": "bf16", "dtype": torch.bfloat16},
    "fp16 in shards": {"variant": "fp16", "dtype": torch.float16, "max_shard_size": "100KB"},
}


@pytest.mark.parametrize("options", SAVED.values(), ids=SAVED)
def test_what_stock_tools_write_is_read(tmp_path: Path, options: dict[str, Any]) -> None:
    dtype = options.get("dtype", torch.float32)
    folder = written(tmp_path / "model", **options)
    files = list((folder / "transformer").glob("*.safetensors"))
    assert (len(files) > 1) == ("max_shard_size" in options)
    checkpoint = load_checkpoint(folder)
    assert {p.dtype for p in checkpoint.transformer.parameters()} == {torch.float32}
    assert checkpoint.fingerprint == fingerprint(tiny_transformer().to(dtype).float())
    assert preflight(folder).parameters == sum(p.numel() for p in tiny_transformer().parameters())
    assert load_checkpoint(folder, dtype=torch.bfloat16).transformer.dtype == torch.bfloat16


def test_full_precision_is_taken_before_half(tmp_path: Path) -> None:
    folder = written(tmp_path / "model")
    other = tiny_transformer(seed=5).half()
    other.save_pretrained(folder / "transformer", variant="fp16")
    assert load_checkpoint(folder).fingerprint == fingerprint(tiny_transformer())


def test_shards_of_pixart_and_of_the_autoencoder(tmp_path: Path) -> None:
    folder = save_tiny_pixart(tmp_path / "model", told=False)
    whole = load_checkpoint(folder).fingerprint
    for part, model in (("transformer", tiny_pixart(told=False)), ("vae", tiny_vae())):
        (folder / part / f"{STEM}.safetensors").unlink()
        model.save_pretrained(folder / part, max_shard_size="20KB")
    assert (folder / "vae" / INDEX).is_file()
    assert load_checkpoint(folder).fingerprint == whole


def edited(change: Callable[[dict[str, str]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        document = json.loads((folder / INDEX).read_text())
        found = change(document["weight_map"])
        document["weight_map"] = document["weight_map"] if found is None else found
        (folder / INDEX).write_text(json.dumps(document))

    return edit


def moved_out(folder: Path) -> None:
    shard = min(folder.glob("*-00001-*"))
    target = folder.parents[1] / "elsewhere.safetensors"
    shutil.move(shard, target)
    shard.symlink_to(target)


def doubled(folder: Path) -> None:
    """A tensor of the first shard in the second, too."""
    first, second = sorted(folder.glob("*.safetensors"))[:2]
    name = min(load_file(first))
    save_file({**load_file(second), name: load_file(first)[name]}, second)


HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no map": (edited(lambda m: []), "expected a weight_map"),
    "empty": (edited(lambda m: {}), "expected a weight_map"),
    "path": (edited(lambda m: m.update(dict.fromkeys(list(m)[:1], "../x.safetensors"))), "names"),
    "absolute": (edited(lambda m: m.update(dict.fromkeys(m, f"/{STEM}.safetensors"))), "names"),
    "pickle": (edited(lambda m: m.update(dict.fromkeys(list(m)[:1], f"{STEM}.bin"))), "names"),
    "number": (edited(lambda m: m.update(dict.fromkeys(list(m)[:1], 3))), "names"),
    "too many": (
        edited(lambda m: {f"t{i}": f"{STEM}-{i}.safetensors" for i in range(101)}),
        "at most 100 shards",
    ),
    "tensor unknown": (edited(lambda m: m.update(strange=min(m.values()))), "1 missing"),
    "tensor unsaid": (edited(lambda m: m.pop(min(m)) and None), "1 others"),
    "shard missing": (lambda f: min(f.glob("*-00001-*")).unlink(), "found none"),
    "link": (moved_out, "outside it"),
    "twice": (doubled, "1 others"),
    "large": (lambda f: (f / INDEX).write_text("{" + " " * 1_000_001 + "}"), "at most 1 MB"),
    "no JSON": (lambda f: (f / INDEX).write_text("{"), "expected JSON"),
    "damaged": (lambda f: min(f.glob("*-00001-*")).write_bytes(b"\0" * 100), "00001"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_wrong_index_is_refused(tmp_path: Path, kind: str) -> None:
    spoil, said = HOSTILE[kind]
    folder = written(tmp_path / "model", max_shard_size="150KB")
    spoil(folder / "transformer")
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(folder)


@pytest.mark.numeric
@pytest.mark.parametrize("family", ["DiT", "PixArt"])
def test_attention_without_biases(tmp_path: Path, family: str) -> None:
    if family == "DiT":
        config = {k: v for k, v in tiny_transformer().config.items() if not k.startswith("_")}
        model = DiTTransformer2DModel.from_config({**config, "attention_bias": False})
        randomize_(model, 3)
        folder = written(tmp_path / "model", model=model.eval())
    else:
        folder = save_tiny_pixart(tmp_path / "model", told=False)
        model = tiny_pixart(told=False, attention_bias=False)
        model.save_pretrained(folder / "transformer")
    checkpoint = load_checkpoint(folder)
    assert checkpoint.transformer.transformer_blocks[0].attn1.to_q.bias is None
    spec = CalibrationSpec(SamplingSpec(steps=2), samples=2)
    calibration = calibrate(checkpoint, spec)
    recipe = search(checkpoint, calibration, SearchSpec(BitWidths(8, 8)))
    rounded = quantize_transformer(checkpoint, recipe, calibration)
    save_quantized(tmp_path / "quantized", checkpoint, rounded, recipe)
    quantized = ditas.load(tmp_path / "quantized")
    labels = torch.arange(2)
    spec = SamplingSpec(steps=3)
    full, rounded = (
        sample_latents(c.transformer, c.scheduler, labels, c.latent_shape, spec, 1,
                       conditions=c.conditions)
        for c in (checkpoint, quantized)
    )  # fmt: skip
    assert 0 < float((full - rounded).norm() / full.norm()) < 0.2


# Schedules


@pytest.mark.numeric
@pytest.mark.parametrize("steps", [1, 4, 10])
@pytest.mark.parametrize("spacing", ["trailing", "linspace", "leading"])
def test_zero_terminal_snr_is_sampled_as_diffusers_does(
    tmp_path: Path, steps: int, spacing: str
) -> None:
    own = DDIMScheduler(
        **BETAS, clip_sample=False, rescale_betas_zero_snr=True, timestep_spacing=spacing,
        prediction_type="v_prediction",
    )  # fmt: skip
    assert float(own.alphas_cumprod[-1]) == 0
    checkpoint = load_checkpoint(written(tmp_path / "model", scheduler=own))
    spec = SamplingSpec(steps=steps, guidance_scale=1.0)
    found = sample_latents(
        checkpoint.transformer, checkpoint.scheduler, LABELS, checkpoint.latent_shape, spec, 3
    )
    latents = torch.stack(
        [torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(3 + i)) for i in range(2)]
    )
    own.set_timesteps(steps)
    for t in own.timesteps:
        with torch.no_grad():
            out = checkpoint.transformer(latents, timestep=t.expand(2), class_labels=LABELS)
        latents = own.step(out.sample, t, latents, eta=0.0).prev_sample
    assert torch.isfinite(found).all()
    # a step's sums of up to 128 terms, and what guidance takes apart and joins again
    assert_close(found.flatten(1), latents.flatten(1), terms=128 * steps)


@pytest.mark.parametrize("scheduler", [DDIMScheduler, DDPMScheduler])
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
def test_zero_terminal_snr_with_noise_prediction_is_refused(
    tmp_path: Path, scheduler: Any, spacing: str
) -> None:
    own = scheduler(**BETAS, rescale_betas_zero_snr=True, timestep_spacing=spacing)
    folder = written(tmp_path / "model", scheduler=own)
    with pytest.raises(CheckpointError, match="ratio of zero, where a noise prediction says"):
        load_checkpoint(folder)


def test_another_sampler_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path / "solver", scheduler=DPMSolverMultistepScheduler(**BETAS))
    assert load_checkpoint(folder).notes == (
        "sampled with DDIM: the checkpoint's own sampler is DPMSolverMultistepScheduler",
    )
    assert main(["info", str(folder)]) == 0
    assert "own sampler is DPMSolverMultistepScheduler" in capsys.readouterr().out
    _, report = ditas.quantize(folder, "W8A8", method="plain", progress=False)
    assert any("own sampler is DPMSolver" in note for note in report.notes)
    assert load_checkpoint(written(tmp_path / "ddim")).notes == ()


# The patch embedding in bfloat16


def faulty(x: torch.Tensor, weight: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
    """A convolution that is wrong in bfloat16 alone, as one of oneDNN's is with AMX."""
    y = REAL(x, weight, *rest, **more)
    return y if x.dtype != torch.bfloat16 else y.roll(1, dims=1)


REAL = F.conv2d


@pytest.mark.numeric
def test_a_wrong_bfloat16_kernel_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path / "model")
    labels, spec = torch.tensor([1]), SamplingSpec(steps=2)

    def drawn(dtype: torch.dtype) -> tuple[tuple[str, ...], torch.Tensor]:
        c = load_checkpoint(folder, dtype=dtype)
        latents = sample_latents(c.transformer, c.scheduler, labels, c.latent_shape, spec, 1)
        return c.notes, latents.float()

    _, full = drawn(torch.float32)
    notes, half = drawn(torch.bfloat16)
    assert (half - full).norm() / full.norm() < 0.1
    assert torch.isfinite(full).all()
    monkeypatch.setattr(F, "conv2d", faulty)
    told, kept = drawn(torch.bfloat16)
    assert told == (*notes, patch_embedding.NOTE) or told == notes == (patch_embedding.NOTE,)
    assert (kept - full).norm() / full.norm() < 0.1
    assert drawn(torch.float32)[0] == ()
    # in float32 it computes what it did; a copy in bfloat16 is settled, too
    checkpoint = load_checkpoint(folder)
    few = {"samples": 1, "steps": 2, "progress": False}
    assert torch.isfinite(ditas.calibrate(checkpoint, **few).groups["0.qkv"].absmax).all()


def test_half_precision_explains_its_own_rounding() -> None:
    for patch in (2, 4, 8):
        conv = torch.nn.Conv2d(4, 96, patch, patch)
        error = patch_embedding.bfloat16_error(conv)
        assert 2.0**-11 < error < patch_embedding.BOUND
