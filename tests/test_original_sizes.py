"""Original DiT files of every published size load, and compute what the original computes."""

from __future__ import annotations

import argparse
import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel
from original_dit import original_dit
from safetensors.torch import save_file
from torch import Tensor

from ditas_core.checkpoints import (
    Architecture,
    CheckpointError,
    from_original,
    load_checkpoint,
    need_of_original,
    recognise_file,
    write_state,
)
from ditas_core.checkpoints.files.headers import Headers, TensorHeader
from ditas_core.checkpoints.preflight import diffusers_parameters
from ditas_core.sampling import sample_latents
from ditas_core.specs import SamplingSpec

pytestmark = pytest.mark.numeric

SIZES = {
    "S": (12, 384, 6, 33),
    "B": (12, 768, 12, 130),
    "L": (24, 1024, 16, 458),
    "XL": (28, 1152, 16, 675),
}
"""Blocks, width, heads, and the published millions of parameters at patches of 2."""
TABLE = "y_embedder.embedding_table.weight"


def positions(width: int, grid: int) -> Tensor:
    """The original's fixed embedding, (1, T, D): sines and cosines of column, then of row."""
    omega = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    angles = [axis.reshape(-1, 1).double() * omega for axis in (column, row)]  # (T, D / 4) each
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1).float()[None]


def random_state(model: Architecture, seed: int = 0) -> dict[str, Tensor]:
    """Normal weights of unit gain, modulation and biases included."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in model.shapes().items():
        noise = torch.randn(shape, generator=generator)
        state[key] = noise / (noise[0].numel() ** 0.5 if noise.ndim > 1 else 10)
    state["pos_embed"] = positions(model.width, model.latent_size // model.patch)
    return state


QUICK = {("S", 2, 32), ("B", 4, 32), ("L", 8, 64), ("XL", 8, 32)}


def every_size() -> list[Any]:
    """All 24; those that take long on one core are marked slow."""
    cases = []
    for size, patch, latent in product(SIZES, (2, 4, 8), (32, 64)):
        marks = [] if (size, patch, latent) in QUICK else [pytest.mark.slow]
        name = f"DiT-{size}/{patch}-{8 * latent}px"
        cases.append(pytest.param(size, patch, latent, marks=marks, id=name))
    return cases


@pytest.mark.parametrize(("size", "patch", "latent"), every_size())
@torch.no_grad()
def test_every_size_computes_what_the_original_does(size: str, patch: int, latent: int) -> None:
    """True widths, heads and tokens; two blocks of them."""
    _, width, heads, _ = SIZES[size]
    outputs = 8 if patch != 4 else 4  # with and without a learned variance
    model = Architecture(2, width, heads, patch, 4, outputs, latent, 1000)
    state = random_state(model)
    transformer = from_original(state)
    assert transformer.config.num_attention_heads == heads
    x = torch.randn(1, 4, latent, latent, generator=torch.Generator().manual_seed(1))
    t, y = torch.tensor([500]), torch.tensor([1000])
    expected = original_dit(state, heads, x, t, y)
    found = transformer(x, timestep=t, class_labels=y).sample
    assert found.shape == (1, outputs, latent, latent)
    assert expected.abs().mean() > 0.1
    assert (found - expected).abs().max() <= 1e-4


# Files


def tiny(classes: int = 1000, latent: int = 8, channels: int = 4) -> Architecture:
    return Architecture(2, 32, 2, 2, channels, 2 * channels, latent, classes)


WRAPPINGS: dict[str, Any] = {
    "bare": lambda s: s,
    "training": lambda s: {
        "model": {k: torch.zeros_like(v) for k, v in s.items()},
        "ema": s,
        "opt": {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3)}}},
        "args": argparse.Namespace(model="DiT-S/2", lr=1e-4, results=["a"]),
    },
    "distributed": lambda s: {"model": {f"module.{k}": v for k, v in s.items()}},
    "lightning": lambda s: {"state_dict": s, "epoch": 3},
}


@pytest.mark.parametrize("suffix", ["pt", "safetensors", "weights"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_files_of_either_kind_load_by_content(
    tmp_path: Path, stock: Path, suffix: str, wrapping: str
) -> None:
    state = random_state(tiny())
    path = tmp_path / f"model.{suffix}"
    if suffix == "safetensors":
        save_file(state, path)
    else:
        torch.save(WRAPPINGS[wrapping](state), path)
    checkpoint = load_checkpoint(path, like=stock, heads=2)
    expected = from_original(state, heads=2)
    own = checkpoint.transformer.state_dict()
    assert all(torch.equal(own[k], v) for k, v in expected.state_dict().items())
    assert checkpoint.name == "model" and checkpoint.path == path and checkpoint.licence == "mit"
    assert checkpoint.latent_shape == (4, 8, 8) and len(checkpoint.class_names) == 1000


def test_classes_come_from_the_table_and_no_class_is_its_last_row(
    tmp_path: Path, stock: Path
) -> None:
    state = random_state(tiny(classes=10))
    write_state(tmp_path / "model.pt", state)
    checkpoint = load_checkpoint(tmp_path / "model.pt", like=stock, heads=2)
    assert checkpoint.class_names == tuple("0123456789")
    labels = torch.tensor([3, 9])
    arguments = (checkpoint.scheduler, labels, checkpoint.latent_shape, SamplingSpec(steps=3))
    found = sample_latents(checkpoint.transformer, *arguments, seed=1)
    # with a thousand classes, of which rows 0 to 9 and the last one are the same
    more = random_state(tiny())
    more |= {k: v for k, v in state.items() if k != TABLE}
    more[TABLE][:10], more[TABLE][-1] = state[TABLE][:10], state[TABLE][-1]
    expected = sample_latents(from_original(more, heads=2), *arguments, seed=1)
    assert torch.equal(found, expected)


def test_the_published_parts_are_taken_from_the_hub_cache(
    tmp_path: Path, stock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Architecture(1, 384, 6, 8, 4, 8, 32, 1000)
    write_state(tmp_path / "S-8.pt", random_state(model))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(CheckpointError, match=r"sd-vae-ft-ema in the hub's cache.*--like.*hf down"):
        load_checkpoint(tmp_path / "S-8.pt")
    asked = []

    def cached(repo: str, name: str) -> str:
        asked.append(repo)
        return str(stock / "vae" / name)

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    checkpoint = load_checkpoint(tmp_path / "S-8.pt")
    assert set(asked) == {"stabilityai/sd-vae-ft-ema"}
    assert checkpoint.scheduler["beta_end"] == 0.02 and checkpoint.licence == "unknown"
    assert checkpoint.transformer.config.num_attention_heads == 6
    write_state(tmp_path / "odd.pt", random_state(tiny()))
    with pytest.raises(CheckpointError, match=r"not for 4 of 8 x 8.*--like"):
        load_checkpoint(tmp_path / "odd.pt", heads=2)


def test_a_lender_that_is_none_is_refused(tmp_path: Path, stock: Path) -> None:
    file = tmp_path / "model.pt"
    write_state(file, random_state(tiny()))
    for wrong in ("nowhere", "facebook/other", file, "\0"):
        with pytest.raises(CheckpointError, match="like: expected"):
            load_checkpoint(file, like=wrong)
    with pytest.raises(CheckpointError, match="expected the state dict of an original DiT"):
        load_checkpoint(stock / "transformer" / "diffusion_pytorch_model.safetensors", like=stock)


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes_are_told_by_the_header(size: str) -> None:
    depth, width, heads, millions = SIZES[size]
    for patch, latent in product((2, 4, 8), (32, 64)):
        model = Architecture(depth, width, heads, patch, 4, 8, latent, 1000)
        tensors = {key: TensorHeader(torch.float32, shape) for key, shape in model.shapes().items()}
        headers = Headers("x", "archive", 0, tensors)
        assert recognise_file(headers) == model
        if patch == 2:
            count = sum(math.prod(shape) for shape in model.shapes().values())
            assert count == pytest.approx(millions * 1e6, rel=0.01)
        options = {"num_layers": depth, "patch_size": patch, "out_channels": 8}
        with torch.device("meta"):
            transformer = DiTTransformer2DModel(heads, width // heads, **options)
        count = sum(p.numel() for p in transformer.parameters())
        assert diffusers_parameters(model) == count
        assert need_of_original(headers, model, None).parameters == count
