"""Train the class-conditional latent DiT in the stock diffusers layout.

eps prediction, linear schedule, adaLN-Zero, label dropout 0.1, EMA. The
timestep and label embedders are one module shared by all blocks, as in the
original DiT (Peebles & Xie, 2023), so the weights also exist in its layout.

The optimiser lets outlier features grow, as long training of large models does: a high and
constant rate, a tiny epsilon, a short memory of squares, no weight decay (He et al., NeurIPS
2024). The anneal at the end gives the looks back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from diffusers import DDIMScheduler, DiTTransformer2DModel
from diffusers.models.attention_processor import AttnProcessor

from ditas_core.models import NULL_CLASS

from .latents import Latents
from .routing import draw_kept, routed_forward
from .runs import Log, Run


@dataclass(frozen=True)
class DiTConfig:
    """Hyper-parameters of the transformer's training.

    ``minutes`` bounds the wall time of the run over all its sessions: the rate is constant until
    ``anneal_minutes`` before its end and falls to zero there. A run of open end is given many
    minutes first, and resumed with fewer when it is to end.
    """

    minutes: float = 600.0
    anneal_minutes: float = 90.0
    batch: int = 64
    layers: int = 8
    heads: int = 4
    head_dim: int = 64
    patch: int = 4
    peak_rate: float = 1.5e-3
    modulation_rate: float = 2.0  # of adaLN's layers, in multiples of the rate
    second_moment: float = 0.95
    epsilon: float = 1e-12
    warmup: int = 500
    group_share: float = 0.12
    look_share: float = 1.0  # of the looks at each image: fewer are learned sooner
    label_dropout: float = 0.1
    kept_share: float = 1.0  # of the tokens in the middle blocks, until the anneal
    weight_decay: float = 0.0
    snr_cap: float = 5.0
    snr_floor: float = 0.05
    ema_halflife: int = 1000
    seed: int = 0
    save_minutes: float = 8.0
    look_minutes: float = 60.0
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
        patch_size=config.patch,
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


def optimiser(model: DiTTransformer2DModel, config: DiTConfig) -> torch.optim.Optimizer:
    """AdamW with adaLN's layers in a group of their own, whose ``lr_scale`` is theirs."""
    named = list(model.named_parameters())
    modulation = [weight for name, weight in named if ".norm1.linear." in name]
    others = [weight for name, weight in named if ".norm1.linear." not in name]
    return torch.optim.AdamW(
        [
            {"params": others, "lr_scale": 1.0},
            {"params": modulation, "lr_scale": config.modulation_rate},
        ],
        lr=config.peak_rate,
        betas=(0.9, config.second_moment),
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )


def noise_weights(snr: torch.Tensor, config: DiTConfig) -> torch.Tensor:
    """Weight of the noise's error at each timestep: clamp(SNR, floor, cap) / SNR, 0.05 to 30.

    The cap is min-SNR (Hang et al. 2023). The floor makes the noisy half of the linear schedule
    count, in which the image is still hidden and the label says what it is to be.
    """
    weights: torch.Tensor = (snr.clamp(config.snr_floor, config.snr_cap) / snr).clamp(0.05, 30)
    return weights


def rate_at(seconds: float, step: int, config: DiTConfig) -> float:
    """Linear warm-up, constant, linear to zero in the last ``anneal_minutes``.

    step  since the optimiser began
    """
    left = (config.minutes * 60 - seconds) / max(1e-9, config.anneal_minutes * 60)
    return config.peak_rate * min(1.0, (step + 1) / config.warmup) * min(1.0, max(0.0, left))


def load_weights_(model: DiTTransformer2DModel, exported: Path) -> None:
    """Weights of an exported checkpoint into a model with shared embedders."""
    trained = DiTTransformer2DModel.from_pretrained(exported / "transformer", use_safetensors=True)
    model.load_state_dict(trained.float().state_dict())


def train_dit(
    latents: Path,
    folder: Path,
    config: DiTConfig,
    log: Log,
    *,
    init: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
    look: Callable[[int], None] = lambda _: None,
) -> Path:
    """Train (or resume); ``folder/state.pt`` then holds the weights and their EMA.

    latents  the file of ``encode_looks``
    init     an exported checkpoint whose weights a new run starts from
    stop     asked after every step; the run is saved and left where it says so
    look     called with the step every ``look_minutes``, after a save
    """
    torch.manual_seed(config.seed)
    dataset = Latents(latents, config.group_share, config.look_share)
    model = build_dit(dataset.latents.shape[-1], config)
    if init is not None:
        load_weights_(model, init)
    ema = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = optimiser(model, config)
    generator = torch.Generator().manual_seed(config.seed)
    run = Run(folder, log)
    run.configure(config, fixed=("layers", "heads", "head_dim", "patch", "seed"))
    step = begun = 0
    if (state := run.restore()) is not None:
        ema, step = {key: value.float() for key, value in state["ema"].items()}, int(state["step"])
        model.load_state_dict(state.get("model", ema))
        generator.set_state(state["generator"])
        if "optimizer" in state:
            restore_optimiser_(optimizer, state["optimizer"], config)
            begun = int(state.get("begun", 0))
        else:  # a packed run
            begun = step

    signal = build_scheduler().alphas_cumprod  # (1000,)
    snr = signal / (1 - signal)  # (1000,)
    loss_weight = noise_weights(snr, config)
    forward = torch.compile(model) if config.compile else model
    routed = torch.compile(routed_forward) if config.compile else routed_forward
    tokens = (model.config.sample_size // config.patch) ** 2
    losses: list[float] = []
    saved = looked = run.seconds
    while run.seconds < config.minutes * 60 and not stop():
        rate = rate_at(run.seconds, step - begun, config)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        clean, labels = dataset.draw(config.batch, generator)
        dropped = torch.rand(len(labels), generator=generator) < config.label_dropout
        labels = torch.where(dropped, NULL_CLASS, labels)
        timesteps = torch.randint(1000, (len(labels),), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        level = signal[timesteps][:, None, None, None]
        noisy = level.sqrt() * clean + (1 - level).sqrt() * noise
        left = config.minutes * 60 - run.seconds
        with torch.autocast("cpu", dtype=torch.bfloat16):
            if config.kept_share < 1 and left > config.anneal_minutes * 60:
                kept = draw_kept(len(labels), tokens, config.kept_share, generator)  # (B, K)
                predicted = routed(model, noisy, timesteps, labels, kept)
            else:
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
            torch._foreach_lerp_(list(ema.values()), list(model.state_dict().values()), 1 - decay)
        losses.append(float(error.detach().mean()))
        if step % 50 == 0:
            if not math.isfinite(loss.item()):
                raise FloatingPointError(f"loss is {loss.item()} at step {step}")
            run.record(step=step, loss=sum(losses) / len(losses), rate=rate)
            losses.clear()
        if run.seconds - saved >= config.save_minutes * 60:
            save_state(run, model, ema, optimizer, generator, step, begun)
            saved = run.seconds
            if run.seconds - looked >= config.look_minutes * 60:
                look(step)
                looked = run.seconds
    save_state(run, model, ema, optimizer, generator, step, begun)
    return folder


def restore_optimiser_(
    optimizer: torch.optim.Optimizer, state: dict[str, Any], config: DiTConfig
) -> None:
    """Its moments, under the settings of ``config``: a resumed run may have others."""
    optimizer.load_state_dict(state)
    scales = (1.0, config.modulation_rate)
    for group, scale in zip(optimizer.param_groups, scales, strict=True):
        group |= {"lr_scale": scale, "eps": config.epsilon, "weight_decay": config.weight_decay}
        group["betas"] = (0.9, config.second_moment)


def save_state(
    run: Run,
    model: DiTTransformer2DModel,
    ema: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    step: int,
    begun: int,
) -> None:
    """Everything a resumed run needs; its moments are of the steps from ``begun`` on."""
    run.save(
        {
            "model": model.state_dict(),
            "ema": ema,
            "optimizer": optimizer.state_dict(),
            "generator": generator.get_state(),
            "step": step,
            "begun": begun,
        }
    )
