"""Latents of many looks at every training image, in one file: what the transformer learns from."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from ditas_core.writing import whole_file

from .data import jitter, load_images
from .runs import Log

LOOKS = 16  # of a class with one image; with more images, fewer of each


def looks_of(labels: torch.Tensor) -> torch.Tensor:
    """How often each image is jittered, (N,): about ``LOOKS`` times a class, thrice at least."""
    counts = torch.bincount(labels)[labels]
    looks: torch.Tensor = (LOOKS // counts).clamp(min=3)
    return looks


@torch.no_grad()
def encode_looks(data: Path, vae: AutoencoderKL, out: Path, size: int, log: Log) -> Path:
    """Write ``out`` from the images of ``2 size`` pixels that ``prepare`` wrote.

    latents  float16 (M, C, h, w), the scaled means
    labels   int64 (M,)
    groups   int64 (M, 3), -1 where there are none
    weights  float32 (M,), how often to draw each: classes in proportion to sqrt(images)
    """
    if out.is_file():
        return out
    tensors = load_images(data)
    kept = (tensors["labels"] >= 0).nonzero()[:, 0]
    labels = tensors["labels"][kept]
    looks = looks_of(labels)
    rows = kept.repeat_interleave(looks)  # (M,)
    generator = torch.Generator().manual_seed(0)
    scale = float(vae.config.scaling_factor)
    vae = vae.to(memory_format=torch.channels_last)
    chunks = []
    for done, part in enumerate(rows.split(32)):
        images = jitter(tensors["images"][part], tensors["mirror"][part], size, generator)
        images = images.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = vae.encoder(images)
        moments = vae.quant_conv(features.float())
        chunks.append((moments.chunk(2, 1)[0] * scale).half())
        if done % 50 == 0:
            log(f"encoded {done * 32} of {len(rows)}")
    drawn = tensors["labels"][rows]
    images_of, rows_of = torch.bincount(labels).clamp(min=1), torch.bincount(drawn).clamp(min=1)
    found = {
        "latents": torch.cat(chunks).contiguous(),
        "labels": drawn,
        "groups": tensors["groups"][rows],
        "weights": (images_of.sqrt() / rows_of)[drawn].float(),
    }
    with whole_file(out) as part_file:
        save_file(found, part_file)
    return out


class Latents:
    """What ``encode_looks`` wrote, and random batches of it.

    look_share  of the looks that are drawn: one in round(1 / look_share), for every class as often
                as with all of them
    """

    def __init__(self, path: Path, group_share: float, look_share: float = 1.0) -> None:
        found = load_file(path)
        labels = found["labels"]
        kept = slice(None, None, round(1 / look_share))
        self.latents, self.labels = found["latents"][kept].clone(), labels[kept]
        self.groups = found["groups"][kept]
        rows, left = (torch.bincount(each, minlength=1000) for each in (labels, self.labels))
        self.weights = (found["weights"] * rows[labels])[kept] / left[self.labels]
        self.group_share = group_share

    def draw(self, batch: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 (B, C, h, w), and its label: for ``group_share`` of them that of a group."""
        picked = torch.multinomial(self.weights, batch, replacement=True, generator=generator)
        which = torch.randint(self.groups.shape[1], (batch,), generator=generator)
        group = self.groups[picked, which]
        broad = (torch.rand(batch, generator=generator) < self.group_share) & (group >= 0)
        return self.latents[picked].float(), torch.where(broad, group, self.labels[picked])
