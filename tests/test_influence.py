"""How far errors reach: against perturbed trajectories, and as a part of a calibration's file."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_pixart import save_tiny_pixart
from torch import Tensor

from ditas_core.calibration import (
    Calibration,
    CalibrationError,
    Influence,
    InfluenceProgress,
    iterate_influence,
    measure_influence,
)
from ditas_core.calibration.influence import probes, there_and_back
from ditas_core.checkpoints import Checkpoint, fingerprint, load_checkpoint
from ditas_core.sampling import (
    build_scheduler,
    initial_noise,
    predict_eps,
    scheduler_step,
    spread_labels,
)
from ditas_core.specs import SamplingSpec, SpecError

pytestmark = pytest.mark.numeric

STEPS, SEED = 3, 7
DDIM = SamplingSpec(steps=STEPS, guidance_scale=2.5, guided_channels=3)
PARTLY = replace(DDIM, scheduler="ddpm")
SIZE = 1e-1
Change = Callable[[Tensor], Tensor]


@pytest.fixture(scope="module")
def one(random_checkpoint: Checkpoint) -> Influence:
    return measure_influence(random_checkpoint, DDIM, 1, SEED)


@torch.no_grad()
def final_latents(
    checkpoint: Checkpoint, spec: SamplingSpec, copies: int, step: int, change: Change
) -> tuple[Tensor, Tensor]:
    """Of ``copies`` of one sample whose predictions at one step are changed, and the exact
    prediction of that step; each step written out, in double precision: differences of results
    in single precision are noise where an error hardly reaches."""
    transformer = copy.deepcopy(checkpoint.transformer).double()
    scheduler = build_scheduler(checkpoint.scheduler, spec)
    labels = spread_labels(1, len(checkpoint.class_names)).expand(copies)
    streams = [torch.Generator().manual_seed(SEED) for _ in range(copies)]
    noise = initial_noise(checkpoint.latent_shape, streams).double()
    latents, exact = noise * float(scheduler.init_noise_sigma), noise
    for index, t in enumerate(scheduler.timesteps.tolist()):
        prediction = predict_eps(transformer, latents, t, labels, spec, checkpoint.conditions)
        if index == step:
            exact, prediction = prediction[:1], change(prediction)
        latents = scheduler_step(scheduler, prediction, t, latents, streams)
    return latents, exact[0]


@pytest.mark.parametrize("spec", [DDIM, PARTLY], ids=["ddim", "ddpm"])
def test_influence_of_a_step_is_that_of_perturbed_predictions(
    random_checkpoint: Checkpoint, spec: SamplingSpec
) -> None:
    """Every element of the prediction is moved up and down by itself."""
    found = measure_influence(random_checkpoint, spec, 1, SEED)
    size = int(torch.tensor(random_checkpoint.latent_shape).prod())
    moves = SIZE * torch.eye(size).reshape(size, *random_checkpoint.latent_shape)
    for step in range(STEPS):
        final, exact = final_latents(
            random_checkpoint, spec, 2 * size, step, lambda p: p + torch.cat([moves, -moves])
        )
        plain = final_latents(random_checkpoint, spec, 1, step, lambda p: p)[0].float()
        v = probes(plain, SEED)[0].double().flatten()
        along = final.double().flatten(1) @ v  # v over |z|
        slopes = (along[:size] - along[size:]) / (2 * SIZE)
        expected = float(exact.double().square().mean() * slopes.square().sum())
        assert float(found.steps[step]) == pytest.approx(expected, rel=5e-3)


def test_shapes_hooks_and_weights(random_checkpoint: Checkpoint) -> None:
    before = fingerprint(random_checkpoint.transformer)
    *events, found = iterate_influence(random_checkpoint, DDIM, 3, SEED, batch=2)
    assert events == [InfluenceProgress(i + 1, 4 * STEPS) for i in range(4 * STEPS)]
    assert isinstance(found, Influence) and found.steps.shape == (STEPS,)
    assert float(found.steps.min()) > 0
    assert fingerprint(random_checkpoint.transformer) == before
    modules = random_checkpoint.transformer.modules()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)
    assert all(p.grad is None for p in random_checkpoint.transformer.parameters())


def test_several_samples_are_their_geometric_mean_whatever_the_batch(
    random_checkpoint: Checkpoint,
) -> None:
    """Sample by sample with the labels that all of them have together."""
    names = random_checkpoint.class_names
    first = measure_influence(random_checkpoint, DDIM, 1, SEED)
    labels = spread_labels(2, len(names))
    *_, second = there_and_back(random_checkpoint, DDIM, labels[1:], SEED + 1)
    assert second is not None
    expected = (first.steps * second[:, 0].float()).sqrt()
    for batch in (1, 2):
        found = measure_influence(random_checkpoint, DDIM, 2, SEED, batch)
        assert torch.allclose(found.steps, expected, rtol=1e-3)


def test_it_is_the_same_inside_no_grad(random_checkpoint: Checkpoint, one: Influence) -> None:
    with torch.no_grad():
        again = measure_influence(random_checkpoint, DDIM, 1, SEED)
    assert torch.allclose(again.steps, one.steps, rtol=1e-4)


def test_a_text_conditioned_model_has_one_too(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(save_tiny_pixart(tmp_path / "pixart", told=False)))
    found = measure_influence(checkpoint, replace(DDIM, guided_channels=0), 2, SEED)
    assert float(found.steps.min()) > 0


@pytest.mark.parametrize("samples", [0, 257, True, 1.0])
def test_numbers_of_samples_are_checked(random_checkpoint: Checkpoint, samples: int) -> None:
    with pytest.raises(
        SpecError, match="influence: samples: expected a whole number from 1 to 256"
    ):
        measure_influence(random_checkpoint, DDIM, samples)


@pytest.fixture(scope="module")
def with_influence(random_checkpoint: Checkpoint, random_calibration: Calibration) -> Calibration:
    sampling = random_calibration.spec.sampling
    return replace(
        random_calibration, influence=measure_influence(random_checkpoint, sampling, 1, SEED)
    )


def test_a_file_keeps_it_and_the_calibration_stays_the_same(
    random_calibration: Calibration, with_influence: Calibration, tmp_path: Path
) -> None:
    path = tmp_path / "calibration.safetensors"
    with_influence.save(path)
    again = Calibration.load(path)
    kept, influence = again.influence, with_influence.influence
    assert kept is not None and influence is not None and kept.sha256 == influence.sha256
    assert (kept.samples, kept.seed) == (1, SEED)
    assert again.sha256 == with_influence.sha256 == random_calibration.sha256
    assert set(again.groups) == set(random_calibration.groups)


def test_a_file_without_it_is_as_it_was(random_calibration: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "calibration.safetensors"
    random_calibration.save(path)
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["format"] == "ditas-calibration-2"
    assert Calibration.load(path).influence is None


@pytest.mark.parametrize(
    "harm",
    [
        lambda tensors, said: tensors.pop("influence"),
        lambda tensors, said: tensors["influence"].fill_(-1.0),
        lambda tensors, said: tensors["influence"].fill_(float("nan")),
        lambda tensors, said: tensors.update(influence=torch.ones(2)),
        lambda tensors, said: tensors.update(influence=torch.ones(4).double()),
        lambda tensors, said: tensors.update({"more.influence": torch.ones(4)}),
        lambda tensors, said: said.update(influence="[]"),
        lambda tensors, said: said.update(influence="[1, -1]"),
        lambda tensors, said: said.update(influence='["a", 0]'),
        lambda tensors, said: said.pop("influence"),
    ],
)
def test_a_damaged_file_is_refused(
    with_influence: Calibration, tmp_path: Path, harm: Callable[..., object]
) -> None:
    path = tmp_path / "calibration.safetensors"
    with_influence.save(path)
    with safe_open(path, framework="pt") as file:
        said = dict(file.metadata())
    tensors = load_file(path)
    harm(tensors, said)
    save_file(tensors, path, metadata=said)
    with pytest.raises(CalibrationError, match="expected a file written by calibrate"):
        Calibration.load(path)


def test_hashes_tell_influences_apart(one: Influence) -> None:
    other = replace(one, steps=one.steps * 2)
    assert one.sha256 != other.sha256 != replace(one, seed=one.seed + 1).sha256
