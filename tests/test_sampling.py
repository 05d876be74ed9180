"""The denoising loop: the stock pipeline's images, guidance, noise streams, its steps."""

from __future__ import annotations

import pytest
import torch
from conftest import build_random_checkpoint
from diffusers import DDIMScheduler, DDPMScheduler, DiTPipeline
from torch import Tensor

from ditas_core.checkpoints import Checkpoint
from ditas_core.models import NULL_CLASS
from ditas_core.sampling import (
    build_scheduler,
    decode_latents,
    generators,
    guided_eps,
    initial_noise,
    iterate_latents,
    sample_latents,
    spread_labels,
)
from ditas_core.specs import SamplingSpec, SpecError

pytestmark = pytest.mark.numeric

LABELS = torch.tensor([3, 0, 4])


def sample(
    checkpoint: Checkpoint, spec: SamplingSpec, labels: Tensor = LABELS, seed: int = 7
) -> Tensor:
    return sample_latents(
        checkpoint.transformer,
        checkpoint.scheduler,
        labels,
        checkpoint.latent_shape,
        spec,
        seed,
    )


@pytest.mark.parametrize("out_channels", [4, 8], ids=["eps", "learned-variance"])
@pytest.mark.parametrize("guidance", [1.5, 4.0])
def test_ddim_draws_the_stock_pipelines_images(out_channels: int, guidance: float) -> None:
    checkpoint = build_random_checkpoint(out_channels)
    pipeline = DiTPipeline(
        transformer=checkpoint.transformer,
        vae=checkpoint.vae,
        scheduler=DDIMScheduler.from_config(checkpoint.scheduler),
    )
    pipeline.set_progress_bar_config(disable=True)
    stock = pipeline(
        class_labels=LABELS.tolist(),
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(7 + i) for i in range(3)],
        num_inference_steps=6,
        output_type="pt",
    ).images
    latents = sample(checkpoint, SamplingSpec(steps=6, guidance_scale=guidance))
    ours = decode_latents(checkpoint.vae, latents, batch=2)
    assert float(stock.std()) > 0.01
    assert torch.allclose(ours, stock, atol=1e-5)


def test_guidance_over_the_first_channels_or_all() -> None:
    eps = torch.randn(6, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    for guided, expected_channels in ((0, 4), (3, 3), (1, 1), (4, 4), (9, 4)):
        got = guided_eps(eps, SamplingSpec(guidance_scale=2.5, guided_channels=guided))
        for n in range(3):
            for c in range(4):
                conditional, unconditional = eps[n, c], eps[n + 3, c]
                wanted = conditional
                if c < expected_channels:
                    wanted = unconditional + 2.5 * (conditional - unconditional)
                assert torch.equal(got[n, c], wanted)


def test_guidance_of_one_is_the_conditional_model(random_checkpoint: Checkpoint) -> None:
    scheduler = DDIMScheduler.from_config(random_checkpoint.scheduler)
    scheduler.set_timesteps(3)
    latents = initial_noise(random_checkpoint.latent_shape, generators(7, 3))
    for t in scheduler.timesteps:
        with torch.no_grad():
            eps = random_checkpoint.transformer(
                latents, timestep=t.expand(3), class_labels=LABELS
            ).sample
        latents = scheduler.step(eps, t, latents).prev_sample
    ours = sample(random_checkpoint, SamplingSpec(steps=3, guidance_scale=1.0))
    # three predictions, some 20 operations in a row each, one unit (1.2e-7) off
    assert (ours - latents).abs().max() <= 1e-5 * latents.abs().max()


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
def test_every_step_is_seen(random_checkpoint: Checkpoint, scheduler: str) -> None:
    of, spec = random_checkpoint, SamplingSpec(steps=5, scheduler=scheduler)
    seen = list(iterate_latents(of.transformer, of.scheduler, LABELS, of.latent_shape, spec, 7))
    final = sample(random_checkpoint, spec)
    assert [step.index for step in seen] == [0, 1, 2, 3, 4]
    assert {step.total for step in seen} == {5}
    assert [step.timestep for step in seen] == [800, 600, 400, 200, 0]
    assert all(step.latents.shape == (3, 4, 8, 8) for step in seen)
    assert torch.equal(seen[-1].latents, final)
    assert len({float(step.latents.sum()) for step in seen}) == 5


def test_gradients_are_left_as_they_were_between_steps_and_at_an_early_end(
    random_checkpoint: Checkpoint,
) -> None:
    of, spec = random_checkpoint, SamplingSpec(steps=1000)
    steps = iterate_latents(of.transformer, of.scheduler, LABELS, of.latent_shape, spec, 0)
    for index in range(2):
        assert next(steps).index == index and torch.is_grad_enabled()
    steps.close()
    assert torch.is_grad_enabled()


def test_same_seed_same_noise_whatever_the_batch() -> None:
    shape = (4, 8, 8)
    noise = initial_noise(shape, generators(11, 5))
    assert torch.equal(noise, initial_noise(shape, generators(11, 5)))
    assert torch.equal(noise[:2], initial_noise(shape, generators(11, 2)))
    assert torch.equal(noise[3:], initial_noise(shape, generators(14, 2)))
    assert not torch.equal(noise, initial_noise(shape, generators(12, 5)))
    assert len({float(n.sum()) for n in noise}) == 5


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
def test_a_sample_does_not_depend_on_its_batch(
    random_checkpoint: Checkpoint, scheduler: str
) -> None:
    spec = SamplingSpec(steps=4, scheduler=scheduler)
    together = sample(random_checkpoint, spec)
    for i in range(3):
        alone = sample(random_checkpoint, spec, LABELS[i : i + 1], seed=7 + i)
        assert float((alone[0] - together[i]).norm() / together[i].norm()) <= 1e-5


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
def test_sampling_is_repeatable_and_ignores_the_global_stream(
    random_checkpoint: Checkpoint, scheduler: str
) -> None:
    spec = SamplingSpec(steps=4, scheduler=scheduler)
    torch.manual_seed(1)
    first = sample(random_checkpoint, spec)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = sample(random_checkpoint, spec)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.allclose(first, sample(random_checkpoint, spec, seed=8))


def test_ddpm_equals_the_stock_schedulers_steps(random_checkpoint: Checkpoint) -> None:
    scheduler = DDPMScheduler.from_config(random_checkpoint.scheduler)
    scheduler.set_timesteps(4)
    stream = torch.Generator().manual_seed(7)
    latents = torch.randn(1, 4, 8, 8, generator=stream)
    classes = torch.tensor([3, NULL_CLASS])
    for t in scheduler.timesteps:
        with torch.no_grad():
            eps = random_checkpoint.transformer(
                torch.cat([latents, latents]), timestep=t.expand(2), class_labels=classes
            ).sample
        eps = eps[1:] + 1.5 * (eps[:1] - eps[1:])
        latents = scheduler.step(eps, t, latents, generator=stream).prev_sample
    ours = sample(random_checkpoint, SamplingSpec(steps=4, scheduler="ddpm"), LABELS[:1])
    assert torch.isfinite(ours).all()
    assert float((ours - latents).norm() / latents.norm()) <= 1e-5
    ddim = sample(random_checkpoint, SamplingSpec(steps=4), LABELS[:1])
    assert not torch.allclose(ours, ddim, atol=1e-2)


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
def test_the_checkpoints_own_schedule_is_used(
    random_checkpoint: Checkpoint, scheduler: str
) -> None:
    config = {**random_checkpoint.scheduler, "beta_end": 0.05, "variance_type": "learned_range"}
    built = build_scheduler(config, SamplingSpec(steps=10, scheduler=scheduler))
    assert float(built.betas[-1]) == pytest.approx(0.05)
    assert len(built.timesteps) == 10
    assert built.config.clip_sample is False


def test_images_are_in_range_and_independent_of_the_batch(random_checkpoint: Checkpoint) -> None:
    latents = initial_noise((4, 8, 8), generators(0, 5)) * 4
    images = decode_latents(random_checkpoint.vae, latents)
    assert images.shape == (5, 3, 16, 16)
    assert float(images.min()) >= 0 and float(images.max()) <= 1
    assert torch.allclose(
        decode_latents(random_checkpoint.vae, latents, batch=2), images, atol=1e-5
    )


@pytest.mark.parametrize(
    ("count", "classes", "expected"),
    [
        (4, 4, [0, 1, 2, 3]),
        (3, 9, [0, 3, 6]),
        (5, 2, [0, 1, 0, 1, 0]),
        (1, 40, [0]),
        (4, 39, [0, 9, 19, 29]),
    ],
)
def test_labels_are_spread_over_all_classes(count: int, classes: int, expected: list[int]) -> None:
    assert spread_labels(count, classes).tolist() == expected


def test_explicit_generators_are_the_seeds_streams(random_checkpoint: Checkpoint) -> None:
    def run(seed: int | list[torch.Generator], scheduler: str) -> torch.Tensor:
        return sample_latents(
            random_checkpoint.transformer,
            random_checkpoint.scheduler,
            torch.tensor([0, 1]),
            random_checkpoint.latent_shape,
            SamplingSpec(steps=2, scheduler=scheduler),
            seed,
        )

    for scheduler in ("ddim", "ddpm"):
        streams = [torch.Generator().manual_seed(9 + i) for i in range(2)]
        assert torch.equal(run(9, scheduler), run(streams, scheduler))
    with pytest.raises(ValueError, match="expected 2, got 1"):
        run([torch.Generator()], "ddim")


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
@pytest.mark.parametrize(("offset", "most"), [(0, 10), (1, 9)])
def test_more_steps_than_the_schedule_has_are_refused(
    scheduler: str, offset: int, most: int
) -> None:
    config = {"num_train_timesteps": 10, "steps_offset": offset, "timestep_spacing": "leading"}
    for steps in (most, most + 1, most + 7):
        spec = SamplingSpec(steps, scheduler=scheduler)
        if steps == most:
            assert int(build_scheduler(config, spec).timesteps.max()) < 10
        else:
            with pytest.raises(SpecError, match="steps: expected at most"):
                build_scheduler(config, spec)
