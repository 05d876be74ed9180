"""Train the autoencoder: a small ``AutoencoderKL``, 4 latent channels, 4 x down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from .data import load_images, to_float
from .runs import Log, Run, cosine_rate

EMPTY = 0.3  # of the median channel's standard deviation


@dataclass(frozen=True)
class VAEConfig:
    """Hyper-parameters of the autoencoder's training."""

    steps: int = 3400
    batch: int = 8
    peak_rate: float = 2e-3
    warmup: int = 100
    kl_weight: float = 2e-6
    edge_weight: float = 0.5
    absolute_from: int = 300  # L1 alone collapses to white on this data: start with MSE
    seed: int = 0
    save_every: int = 400


def build_vae(size: int) -> AutoencoderKL:
    """The stock diffusers autoencoder at a size two CPU cores can train."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=size,
        mid_block_add_attention=False,
    )


def latent_size(vae: AutoencoderKL) -> int:
    """Latents per side of an image of the size it was trained for."""
    return int(vae.config.sample_size) // 2 ** (len(vae.config.block_out_channels) - 1)


def edges(images: torch.Tensor) -> torch.Tensor:
    """Finite differences along both axes, flattened."""
    down = images[..., 1:, :] - images[..., :-1, :]
    right = images[..., 1:] - images[..., :-1]
    return torch.cat([down.flatten(), right.flatten()])


def vae_loss(
    images: torch.Tensor, decoded: torch.Tensor, kl: torch.Tensor, step: int, config: VAEConfig
) -> torch.Tensor:
    """MSE, then MSE + L1 + L1 of the edges, plus the weighted KL term."""
    squared = F.mse_loss(decoded, images)
    loss = squared + config.kl_weight * kl
    if step >= config.absolute_from:
        ramp = min(1.0, (step - config.absolute_from) / 400)
        sharp = F.l1_loss(edges(decoded), edges(images))
        loss = loss + ramp * (0.3 * F.l1_loss(decoded, images) + config.edge_weight * sharp)
    return loss


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKL, images: torch.Tensor) -> float:
    """Mean over images of 10 log10(4 / MSE), pixels in [-1, 1], from latent means."""
    total = 0.0
    for chunk in images.split(64):
        decoded = vae.decode(vae.encode(chunk).latent_dist.mean).sample.clamp(-1, 1)
        error = (decoded - chunk).square().flatten(1).mean(1)  # (B,)
        total += float((10 * torch.log10(4 / error)).sum())
    return total / len(images)


def train_vae(data: Path, folder: Path, config: VAEConfig, log: Log) -> Path:
    """Train (or resume) and write the diffusers folder ``folder/vae``."""
    tensors = load_images(data)
    images, held_out = tensors["images"], tensors["held_out"]
    training = images[~held_out]
    validation = to_float(images[held_out])
    torch.manual_seed(config.seed)
    vae = build_vae(images.shape[-1]).to(memory_format=torch.channels_last)
    ema = {key: value.clone() for key, value in vae.state_dict().items()}
    optimizer = torch.optim.AdamW(vae.parameters(), lr=config.peak_rate, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(config.seed)
    run = Run(folder, log)
    run.configure(config, fixed=("batch", "seed"))
    step = 0
    if (state := run.restore()) is not None:
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema, step = state["ema"], int(state["step"])
        generator.set_state(state["generator"])

    losses: list[float] = []
    while step < config.steps:
        for group in optimizer.param_groups:
            group["lr"] = cosine_rate(step, config.steps, config.peak_rate, config.warmup)
        picked = torch.randint(len(training), (config.batch,), generator=generator)
        batch = to_float(training[picked])  # (B, 3, H, W)
        flip = torch.rand(config.batch, generator=generator) < 0.5
        batch = torch.where(flip[:, None, None, None], batch.flip(-1), batch)
        batch = batch.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            posterior = vae.encode(batch).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator)
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        kl = posterior.kl().mean()
        loss = vae_loss(batch, decoded.float(), kl, step, config)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        decay = min(0.998, step / (step + 10))
        for key, value in vae.state_dict().items():
            ema[key].lerp_(value, 1 - decay)
        losses.append(loss.item())
        if step % 50 == 0:
            run.record(step=step, loss=sum(losses) / len(losses), kl=kl.item())
            losses.clear()
        if step % config.save_every == 0 or step == config.steps:
            live = {key: value.clone() for key, value in vae.state_dict().items()}
            vae.load_state_dict(ema)
            run.record(step=step, psnr=reconstruction_psnr(vae, validation[:128]))
            vae.load_state_dict(live)
            run.save(
                {
                    "model": live,
                    "ema": ema,
                    "optimizer": optimizer.state_dict(),
                    "generator": generator.get_state(),
                    "step": step,
                }
            )

    vae.load_state_dict(ema)
    vae.register_to_config(scaling_factor=1 / float(encode_means(vae, to_float(training)).std()))
    vae.save_pretrained(folder / "vae")
    run.record(step=step, held_out_psnr=reconstruction_psnr(vae, validation))
    return folder / "vae"


@torch.no_grad()
def encode_means(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Latent means of images, unscaled."""
    return torch.cat([vae.encode(chunk).latent_dist.mean for chunk in images.split(64)])


def adapt_vae(trained: Path, images: torch.Tensor, size: int, out: Path) -> AutoencoderKL:
    """Write the autoencoder ``trained`` for images of ``size`` pixels, latents of unit variance.

    It is convolutional: one trained on small images serves larger ones. A channel that
    the KL term has emptied is zero from here on, so that nothing learns to draw it.
    images  float32 (N, 3, size, size) in [-1, 1], from which the variance is taken
    """
    vae = AutoencoderKL.from_pretrained(trained).float()
    latents = encode_means(vae, images)  # (N, C, h, w)
    spread = latents.std((0, 2, 3))
    empty = (spread < EMPTY * spread.median()).nonzero()[:, 0]
    for parameter in (vae.quant_conv.weight, vae.quant_conv.bias):
        parameter.data[empty] = 0  # rows of the means come first
    vae.post_quant_conv.weight.data[:, empty] = 0
    latents[:, empty] = 0
    vae.register_to_config(sample_size=size, scaling_factor=1 / float(latents.std()))
    vae.save_pretrained(out)
    return vae
