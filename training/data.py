"""Fetch and prepare the training images: Microsoft's Fluent 3D emoji (MIT).

The images come from the npm package ``@lobehub/fluent-emoji-3d`` (256 x 256
RGBA WebP), the Unicode subgroups from ``emojibase-data`` (MIT). Both are
fetched by name with ``npm pack`` at pinned versions and composited on white.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ditas_core.writing import whole_file

from .classes import CLASS_RULES, classify

IMAGE_PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
NAMES_PACKAGE = "emojibase-data@17.0.0"
HELD_OUT_EVERY = 11  # one emoji in eleven is kept for the metrics


def fetch_package(package: str, folder: Path) -> Path:
    """``npm pack`` one package into ``folder`` and unpack it; returns its root."""
    target = folder / package.replace("/", "-").replace("@", "_")
    if (target / "package").is_dir():
        return target / "package"
    target.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["npm", "pack", package, "--silent"], cwd=target, capture_output=True, text=True, check=True
    )
    archive = target / done.stdout.strip().splitlines()[-1]
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    archive.unlink()
    return target / "package"


def composite_on_white(path: Path, size: int) -> np.ndarray:
    """RGBA image -> uint8 (size, size, 3) on white, Lanczos-resampled once."""
    rgba = Image.open(path).convert("RGBA")
    canvas = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    canvas.alpha_composite(rgba)
    return np.asarray(canvas.convert("RGB").resize((size, size), Image.Resampling.LANCZOS))


def prepare(folder: Path, size: int, log: Callable[[str], None]) -> Path:
    """Write ``folder/images-SIZE.safetensors``: images, labels, held_out, mirror.

    images    uint8 (N, 3, size, size)
    labels    int64 (N,), -1 where the emoji belongs to no class (VAE training only)
    held_out  bool (N,); skin-tone variants of one emoji stay on one side
    mirror    bool (N,); whether a left-right flip keeps the meaning
    """
    out = folder / f"images-{size}.safetensors"
    if out.is_file():
        return out
    images_root = fetch_package(IMAGE_PACKAGE, folder / "raw") / "assets"
    names_root = fetch_package(NAMES_PACKAGE, folder / "raw")
    emojis = json.loads((names_root / "en" / "data.json").read_text(encoding="utf-8"))
    groups = json.loads((names_root / "meta" / "groups.json").read_text(encoding="utf-8"))
    subgroups = groups["subgroups"]
    by_code: dict[str, tuple[int, str, str]] = {}
    for index, emoji in enumerate(emojis):
        if "subgroup" not in emoji:
            continue
        subgroup = subgroups[str(emoji["subgroup"])]
        for variant in [emoji, *emoji.get("skins", [])]:
            code = variant["hexcode"].lower().replace("-fe0f", "")
            by_code[code] = (index, subgroup, emoji["label"])

    pixels, labels, held_out, mirror = [], [], [], []
    for path in sorted(images_root.glob("*.webp")):
        code = path.stem.replace("-fe0f", "").replace("_", "-")
        if code.endswith("-20e3"):
            index, subgroup, name = -1, "keycap", code
        else:
            index, subgroup, name = by_code.get(code, (-1, "", ""))
        label = classify(subgroup, name)
        pixels.append(composite_on_white(path, size))
        labels.append(-1 if label is None else label)
        held_out.append(index % HELD_OUT_EVERY == 0)
        mirror.append(label is not None and CLASS_RULES[label].flip)
    stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    tensors = {
        "images": stacked,  # (N, 3, size, size)
        "labels": torch.tensor(labels),
        "held_out": torch.tensor(held_out),
        "mirror": torch.tensor(mirror),
    }
    with whole_file(out) as part:
        save_file(tensors, part)
    counts = np.bincount([v for v in labels if v >= 0], minlength=len(CLASS_RULES))
    for rule, count in zip(CLASS_RULES, counts, strict=True):
        log(f"{rule.name}: {count}")
    log(f"{len(labels)} images, {sum(held_out)} held out, {labels.count(-1)} outside the classes")
    return out


def load_images(path: Path) -> dict[str, torch.Tensor]:
    """The tensors that ``prepare`` wrote."""
    return load_file(path)


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 [0, 255] -> float32 [-1, 1]."""
    return images.float() / 127.5 - 1.0
