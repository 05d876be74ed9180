"""Checkpoints that the tests share."""

# ruff: noqa: E402

from __future__ import annotations

import os
from pathlib import Path

from ditas_core.heap import keep_freed_memory
from ditas_core.threads import share_cores

share_cores()  # before torch is loaded
keep_freed_memory()
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers share the cores out

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel
from hypothesis import HealthCheck, settings

from ditas_core.bench.machine import DEMO
from ditas_core.calibration import Calibration, calibrate
from ditas_core.checkpoints import Checkpoint, load_checkpoint
from ditas_core.specs import CalibrationSpec, SamplingSpec

settings.register_profile(
    "default",
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("default")

THOROUGH = {
    # the page: its parts, its server, as a Space
    "ui",
    "load",
    "hosting",
    # what takes tens of seconds and looks at results, not at the core
    "test_bench",
    # files, downloads and processes that are killed, each many times over
    "test_distributed",
    "test_hostile_files",
    "test_hub",
    "test_hub_refused",
    "test_memory",
    "test_preflight",
    "test_resume",
    "test_wrong_folders",
    "test_training",
}
"""Folders and files that `make thorough` adds to `make test`; a new file is in both."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        where = Path(item.path).relative_to(Path(__file__).parent).with_suffix("")
        if THOROUGH & set(where.parts):
            item.add_marker(pytest.mark.thorough)


def randomize_(module: torch.nn.Module, seed: int) -> None:
    """Normal weights everywhere, modulation and biases included, so that everything matters."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(noise / fan_in**0.5)
    for name, parameter in module.named_parameters():
        if "norm" in name and parameter.ndim == 1 and name.endswith("weight"):
            parameter.data.add_(1.0)  # a group norm's gain stays near one


def tiny_transformer(seed: int = 0, out_channels: int = 4) -> DiTTransformer2DModel:
    """Two blocks of two heads x 16 on 8 x 8 latents, random weights."""
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=out_channels,
        num_layers=2,
        sample_size=8,
        patch_size=2,
    )
    randomize_(transformer, seed)
    return transformer.requires_grad_(False).eval()


def tiny_vae(seed: int = 1) -> AutoencoderKL:
    """Four latent channels, 16 px images, random weights."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(8, 16),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
        scaling_factor=0.5,
    )
    randomize_(vae, seed)
    return vae.requires_grad_(False).eval()


def build_random_checkpoint(out_channels: int = 4) -> Checkpoint:
    """A checkpoint that no training has touched: for tests only."""
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False)
    return Checkpoint(
        name="random",
        path=Path("random"),
        transformer=tiny_transformer(out_channels=out_channels),
        vae=tiny_vae(),
        scheduler=dict(scheduler.config),
        class_names=("cat", "dog", "fox", "owl", "bee"),
        licence="none",
    )


@pytest.fixture(scope="session")
def random_checkpoint() -> Checkpoint:
    """Tiny, with random weights: test-only, no model."""
    return build_random_checkpoint()


@pytest.fixture(scope="session")
def random_calibration(random_checkpoint: Checkpoint) -> Calibration:
    """Four steps of three samples through the random checkpoint."""
    spec = CalibrationSpec(SamplingSpec(steps=4), samples=3, seed=5, tokens=6)
    return calibrate(random_checkpoint, spec)


@pytest.fixture(scope="session")
def demo_checkpoint() -> Checkpoint:
    """The shipped checkpoint, or the one DITAS_TEST_CHECKPOINT names where it is absent."""
    path = DEMO if DEMO.is_dir() else os.environ.get("DITAS_TEST_CHECKPOINT", "")
    if not path:
        pytest.fail("expected a checkpoint in assets, found none")
    return load_checkpoint(path)


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random checkpoint as a stock pipeline folder, to be read only."""
    from tiny_pipelines import save_tiny  # builds on this module

    return save_tiny(tmp_path_factory.mktemp("stock") / "tiny")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny repository for a hub on loopback, one for each file of tests."""
    from hub_server import build_repository  # builds on this module

    folder = tmp_path_factory.mktemp("hub") / "repository"
    build_repository(folder)
    return folder
