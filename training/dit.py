"""Train the class-conditional latent DiT in the stock diffusers layout.

eps prediction, linear schedule, adaLN-Zero, label dropout 0.1, EMA. The
timestep and label embedders are one module shared by all blocks, as in the
original DiT (Peebles & Xie, 2023), so the weights also exist in its layout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel
from diffusers.models.attention_processor import AttnProcessor

from ditas_core.models import NULL_CLASS

from .data import load_images, to_float
from .runs import Log, Run, cosine_rate


@dataclass(frozen=True)
class DiTConfig:
    """Hyper-parameters of the transformer's training.

    ``minutes`` bounds the wall time of the run over all its sessions: the rate
    decays with time spent, so a run that is cut short still ends annealed.

    For the first ``coarse_share`` of that time the images are halved: a quarter
    of the tokens, so ``coarse_batch`` images cost what ``batch`` do afterwards.
    Positions are scaled to the full grid, so the weights carry over as they are.
    """

    minutes: float = 47.0
    batch: int = 32
    coarse_share: float = 0.45
    coarse_batch: int = 96
    layers: int = 8
    heads: int = 4
    head_dim: int = 64
    peak_rate: float = 1.2e-3
    warmup: int = 200
    label_dropout: float = 0.1
    weight_decay: float = 0.0
    snr_cap: float = 5.0
    ema_halflife: int = 400
    seed: int = 0
    save_every: int = 250
    compile: bool = False


def plain_dit(latent_size: int, config: DiTConfig) -> DiTTransformer2DModel:
    """The stock transformer, every block with embedders of its own."""
    return DiTTransformer2DModel(
        num_attention_heads=config.heads,
        attention_head_dim=config.head_dim,
        in_channels=4,
        out_channels=4,
        num_layers=config.layers,
        sample_size=latent_size,
        patch_size=2,
        num_embeds_ada_norm=NULL_CLASS,
    )


def build_dit(latent_size: int, config: DiTConfig) -> DiTTransformer2DModel:
    """An adaLN-Zero DiT whose embedders are shared by all blocks."""
    model = plain_dit(latent_size, config)
    shared = model.transformer_blocks[0].norm1.emb
    for block in model.transformer_blocks:
        block.norm1.emb = shared
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    patch = model.pos_embed.proj
    nn.init.xavier_uniform_(patch.weight.view(patch.weight.shape[0], -1))
    nn.init.zeros_(patch.bias)
    nn.init.normal_(shared.class_embedder.embedding_table.weight, std=0.02)
    nn.init.normal_(shared.timestep_embedder.linear_1.weight, std=0.02)
    nn.init.normal_(shared.timestep_embedder.linear_2.weight, std=0.02)
    zeroed = [block.norm1.linear for block in model.transformer_blocks]
    for linear in [*zeroed, model.proj_out_1, model.proj_out_2]:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    model.eval()  # diffusers would drop labels again, in each block on its own
    for block in model.transformer_blocks:  # batched products: the fast backward on a CPU
        block.attn1.set_processor(AttnProcessor())
    return model


def build_scheduler() -> DDIMScheduler:
    """DDIM over the linear schedule of the original DiT."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type="epsilon",
    )


@torch.no_grad()
def encode_all(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Scaled latent means of uint8 images, (N, 4, h, w)."""
    scale = float(vae.config.scaling_factor)
    chunks = [vae.encode(to_float(c)).latent_dist.mean * scale for c in images.split(64)]
    return torch.cat(chunks)


def label_weights(labels: torch.Tensor) -> torch.Tensor:
    """Per-image sampling weight: classes drawn in proportion to sqrt(size)."""
    counts = torch.bincount(labels).clamp(min=1).double()
    return counts[labels].rsqrt()


class Dataset:
    """Latents of the training images, ``shrink`` times smaller, and of their mirrored copies."""

    def __init__(self, data: Path, vae: AutoencoderKL, shrink: int = 1) -> None:
        tensors = load_images(data)
        keep = (tensors["labels"] >= 0) & ~tensors["held_out"]
        images, labels = tensors["images"][keep], tensors["labels"][keep]
        mirror = tensors["mirror"][keep]
        if shrink > 1:
            images = F.avg_pool2d(images.float(), shrink).round().to(torch.uint8)
        latents = encode_all(vae, images)
        mirrored = encode_all(vae, images.flip(-1))
        self.latents = torch.stack([latents, mirrored])  # (2, N, 4, h, w)
        self.labels = labels
        self.mirror = mirror
        self.weights = label_weights(labels)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        picked = torch.multinomial(self.weights, batch, replacement=True, generator=generator)
        flip = torch.rand(batch, generator=generator) < 0.5
        side = (flip & self.mirror[picked]).long()
        return self.latents[side, picked], self.labels[picked]


def load_weights_(model: DiTTransformer2DModel, exported: Path) -> None:
    """Weights of an exported checkpoint into a model with shared embedders."""
    trained = DiTTransformer2DModel.from_pretrained(exported / "transformer", use_safetensors=True)
    model.load_state_dict(trained.float().state_dict())


def train_dit(
    data: Path,
    vae_folder: Path,
    folder: Path,
    config: DiTConfig,
    log: Log,
    init: Path | None = None,
) -> Path:
    """Train (or resume); ``folder/state.pt`` then holds the weights and their EMA.

    A new run starts from the weights of the exported checkpoint ``init`` where given.
    """
    vae = AutoencoderKL.from_pretrained(vae_folder)
    torch.manual_seed(config.seed)
    dataset, coarse = Dataset(data, vae), Dataset(data, vae, shrink=2)
    model = build_dit(dataset.latents.shape[-1], config)
    if init is not None:
        load_weights_(model, init)
    ema = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.peak_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
    )
    generator = torch.Generator().manual_seed(config.seed)
    run = Run(folder, log)
    run.configure(config, fixed=("layers", "heads", "head_dim", "seed"))
    step = 0
    if (state := run.restore()) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema, step = state["ema"], int(state["step"])
        generator.set_state(state["generator"])

    signal = build_scheduler().alphas_cumprod  # (1000,)
    snr = signal / (1 - signal)
    loss_weight = (snr.clamp(max=config.snr_cap) / snr).clamp(min=0.05)  # min-SNR, Hang et al. 2023
    forward = torch.compile(model) if config.compile else model
    losses: list[float] = []
    while run.seconds < config.minutes * 60:
        spent = run.seconds / (config.minutes * 60)
        rate = cosine_rate(int(spent * 10_000), 10_000, config.peak_rate, 0)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / config.warmup)
        if spent < config.coarse_share:
            latents, labels = coarse.draw(config.coarse_batch, generator)
        else:
            latents, labels = dataset.draw(config.batch, generator)
        dropped = torch.rand(len(labels), generator=generator) < config.label_dropout
        labels = torch.where(dropped, NULL_CLASS, labels)
        timesteps = torch.randint(1000, (len(labels),), generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        level = signal[timesteps][:, None, None, None]
        noisy = level.sqrt() * latents + (1 - level).sqrt() * noise
        with torch.autocast("cpu", dtype=torch.bfloat16):
            predicted = forward(noisy, timestep=timesteps, class_labels=labels).sample
        error = F.mse_loss(predicted.float(), noise, reduction="none").flatten(1).mean(1)  # (B,)
        loss = (error * loss_weight[timesteps]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        decay = 0.5 ** (1 / min(config.ema_halflife, max(1, step / 4)))
        with torch.no_grad():
            live = [v for v in model.state_dict().values()]
            torch._foreach_lerp_(list(ema.values()), live, 1 - decay)
        losses.append(float(error.detach().mean()))
        if step % 50 == 0:
            rate = optimizer.param_groups[0]["lr"]
            run.record(step=step, loss=sum(losses) / len(losses), rate=rate)
            losses.clear()
            if not math.isfinite(loss.item()):
                raise FloatingPointError(f"loss is {loss.item()} at step {step}")
        if step % config.save_every == 0:
            save_state(run, model, ema, optimizer, generator, step)
    save_state(run, model, ema, optimizer, generator, step)
    return folder


def save_state(
    run: Run,
    model: DiTTransformer2DModel,
    ema: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    step: int,
) -> None:
    """Everything a resumed run needs."""
    run.save(
        {
            "model": model.state_dict(),
            "ema": ema,
            "optimizer": optimizer.state_dict(),
            "generator": generator.get_state(),
            "step": step,
        }
    )
