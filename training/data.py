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
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from ditas_core.writing import whole_file, write_text

from .classes import NO_MIRROR, Emoji, class_name, class_names, groups_of, is_wanted

IMAGE_PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
NAMES_PACKAGE = "emojibase-data@17.0.0"
HELD_OUT_EVERY = 11  # one emoji in eleven is kept for the autoencoder's figures
MOST_GROUPS = 3  # that one emoji belongs to


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


def read_emoji(names_root: Path) -> dict[str, tuple[int, Emoji]]:
    """Code points, skin tones included -> (number of the emoji, the emoji)."""
    listed = json.loads((names_root / "en" / "data.json").read_text(encoding="utf-8"))
    meta = json.loads((names_root / "meta" / "groups.json").read_text(encoding="utf-8"))
    found = {}
    for index, entry in enumerate(listed):
        if "subgroup" not in entry:
            continue
        group, subgroup = meta["groups"][str(entry["group"])], meta["subgroups"]
        emoji = Emoji(entry["label"], group, subgroup[str(entry["subgroup"])])
        for variant in [entry, *entry.get("skins", [])]:
            found[variant["hexcode"].lower().replace("-fe0f", "")] = (index, emoji)
    return found


def prepare(folder: Path, size: int, log: Callable[[str], None]) -> Path:
    """Write ``folder/images-SIZE.safetensors`` and ``folder/classes.json``, the classes' names.

    images    uint8 (N, 3, size, size)
    labels    int64 (N,), -1 where the emoji belongs to no class (VAE training only)
    groups    int64 (N, 3), labels of the groups that hold it, repeated; -1 where there are none
    held_out  bool (N,), kept from the VAE; skin-tone variants of one emoji stay on one side
    mirror    bool (N,), whether a left-right flip keeps the meaning
    """
    out = folder / f"images-{size}.safetensors"
    if out.is_file() and (folder / "classes.json").is_file():
        return out
    images_root = fetch_package(IMAGE_PACKAGE, folder / "raw") / "assets"
    by_code = read_emoji(fetch_package(NAMES_PACKAGE, folder / "raw"))
    files = {path.stem.replace("-fe0f", ""): path for path in sorted(images_root.glob("*.webp"))}
    drawn = [emoji for code, (_, emoji) in by_code.items() if code in files]
    known = {emoji.label for emoji in drawn}
    names = class_names(drawn, known)
    number = {name: label for label, name in enumerate(names)}

    nothing = (-1, Emoji("", "flags", ""))
    pixels, labels, groups, held_out, mirror = [], [], [], [], []
    for code, path in files.items():
        index, emoji = by_code.get(code, nothing)
        wanted = is_wanted(emoji)
        within = [number[name] for name in groups_of(emoji.subgroup)] if wanted else []
        pixels.append(composite_on_white(path, size))
        labels.append(number[class_name(emoji.label, known)] if wanted else -1)
        groups.append((within * MOST_GROUPS or [-1] * MOST_GROUPS)[:MOST_GROUPS])
        held_out.append(index % HELD_OUT_EVERY == 0)
        mirror.append(wanted and not NO_MIRROR.search(emoji.label))
    tensors = {
        "images": torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(),
        "labels": torch.tensor(labels),
        "groups": torch.tensor(groups),
        "held_out": torch.tensor(held_out),
        "mirror": torch.tensor(mirror),
    }
    with whole_file(out) as part:
        save_file(tensors, part)
    write_text(folder / "classes.json", json.dumps(names, indent=1, ensure_ascii=False) + "\n")
    log(f"{len(names)} classes; {len(labels)} images, {labels.count(-1)} outside the classes")
    return out


def load_images(path: Path) -> dict[str, torch.Tensor]:
    """The tensors that ``prepare`` wrote."""
    return load_file(path)


def read_classes(folder: Path) -> list[str]:
    """The classes' names that ``prepare`` wrote, in the order of their labels."""
    names: list[str] = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
    return names


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 [0, 255] -> float32 [-1, 1]."""
    return images.float() / 127.5 - 1.0


def jitter(
    images: torch.Tensor, mirror: torch.Tensor, size: int, generator: torch.Generator
) -> torch.Tensor:
    """Another look at each image: turned, scaled, moved, mirrored, tinted; halved at the end.

    uint8 (B, 3, 2 size, 2 size), bool (B,) -> float32 (B, 3, size, size) in [-1, 1].
    Up to 8 degrees, 0.85 to 1.05 of the size, 3 % of the side, each channel
    raised to a power of 0.87 to 1.15: white stays white.
    """

    def within(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(len(images), generator=generator)

    angle, scale = within(-8, 8).deg2rad(), within(0.85, 1.05)
    flip = torch.where((within(0, 1) < 0.5) & mirror, -1.0, 1.0)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    right, down = within(-0.06, 0.06), within(-0.06, 0.06)  # a side is 2 wide
    rows = [torch.stack([flip * cos, -flip * sin, right], 1), torch.stack([sin, cos, down], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    dark = 1 - images.float() / 255  # so that what lies outside is white
    moved = 1 - F.grid_sample(dark, grid, "bicubic", "zeros", align_corners=False)
    power = 2 ** torch.stack([within(-0.2, 0.2) for _ in range(3)], 1)  # (B, 3)
    small = F.interpolate(moved, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    tinted: torch.Tensor = small.pow(power[:, :, None, None]) * 2 - 1
    return tinted
