"""Comparison results for display, and the shipped results of the demo checkpoint on disk."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ...comparison import Comparison, Trajectory
from ...evaluation import OutlierAtlas
from ...figures import contact_strip, split_strip, to_uint8
from ...search import LayerDone
from ...specs import Recipe

FORMAT = 2
REFERENCE = "full precision"
PLAIN, SMOOTHED, SEARCHED, DITAS = "plain rounding", "smoothing α = 0.5", "grid search", "DiTAS"
SQNR = "latent SQNR, dB"
BUILT_IN = (PLAIN, SMOOTHED, SEARCHED, DITAS)


@dataclass(frozen=True)
class Result:
    """Images, latents and metrics of one comparison.

    images      variant -> (N, H, W, 3) bytes; the reference is one of them
    metrics     variant -> metric -> one value per sample
    divergence  variant -> mean latent SQNR after every step
    frames      the steps whose latents are kept, by their number from 0
    latents     variant -> (F, N, C, h, w) half, what each kept step leaves
    recipes     variant -> the recipe's JSON; the reference has none
    settings    seed, guidance and the like, for the caption and the way to reproduce it
    """

    title: str
    labels: tuple[str, ...]
    timesteps: tuple[int, ...]
    images: dict[str, np.ndarray] = field(repr=False)
    metrics: dict[str, dict[str, list[float]]] = field(repr=False)
    divergence: dict[str, list[float]] = field(repr=False)
    frames: tuple[int, ...] = ()
    latents: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)
    recipes: dict[str, str] = field(default_factory=dict, repr=False)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def variants(self) -> list[str]:
        return [name for name in self.images if name != REFERENCE]

    @property
    def nbytes(self) -> int:
        """What it takes in memory, for the cache."""
        images = sum(pixels.nbytes for pixels in self.images.values())
        return images + sum(latents.nbytes for latents in self.latents.values())


def kept_frames(steps: int, most: int) -> tuple[int, ...]:
    """Up to ``most`` steps, evenly spread, the last among them."""
    if steps <= most:
        return tuple(range(steps))
    return tuple(round(i * (steps - 1) / (most - 1)) for i in range(most))


def make_result(
    title: str,
    labels: tuple[str, ...],
    reference: Trajectory,
    others: dict[str, tuple[Trajectory, Comparison]],
    recipes: dict[str, Recipe] | None = None,
    settings: dict[str, Any] | None = None,
    most_frames: int = 1000,
) -> Result:
    """Collect one reference and its quantized counterparts."""
    frames = kept_frames(len(reference.timesteps), most_frames)
    images = {REFERENCE: to_uint8(reference.images)}
    latents = {REFERENCE: reference.latents[list(frames)].half()}
    metrics, divergence = {}, {}
    for name, (run, comparison) in others.items():
        images[name] = to_uint8(run.images)
        latents[name] = run.latents[list(frames)].half()
        metrics[name] = {
            SQNR: comparison.latent_sqnr.tolist(),
            "PSNR, dB": comparison.psnr.tolist(),
            "SSIM": comparison.ssim.tolist(),
        }
        divergence[name] = comparison.divergence.mean(1).tolist()
    return Result(
        title,
        labels,
        reference.timesteps,
        images,
        metrics,
        divergence,
        frames,
        latents,
        {name: recipe.to_json() for name, recipe in (recipes or {}).items()},
        dict(settings or {}),
    )


@dataclass(frozen=True)
class Preset:
    """Shipped results at one bit-width: DiTAS, the grid search alone, a comparison of all."""

    recipe: Recipe
    searched: Recipe
    layers: tuple[LayerDone, ...]
    result: Result


@dataclass(frozen=True)
class Shipped:
    """Everything the page opens on."""

    fingerprint: str
    convention: str
    calibration: str
    atlas: OutlierAtlas
    presets: dict[str, Preset]

    @property
    def telling(self) -> str:
        """The preset that the page opens on: the one at which DiTAS gains most, in mean SQNR."""

        def lead(name: str) -> float:
            found = self.presets[name].result.metrics
            return fmean(found[DITAS][SQNR]) - fmean(found[PLAIN][SQNR])

        return max(self.presets, key=lead)


def save_result(result: Result, folder: Path, stem: str) -> dict[str, Any]:
    """Write one strip of images per variant and the latents; returns the rest as JSON."""
    files = {}
    for index, (name, pixels) in enumerate(result.images.items()):
        files[name] = f"{stem}-{index}.png"
        contact_strip(pixels).save(folder / files[name], optimize=True)
    save_file(
        {name: latents.contiguous() for name, latents in result.latents.items()},
        folder / f"{stem}-latents.safetensors",
    )
    return {
        "title": result.title,
        "labels": list(result.labels),
        "timesteps": list(result.timesteps),
        "images": files,
        "latents": f"{stem}-latents.safetensors",
        "frames": list(result.frames),
        "metrics": result.metrics,
        "divergence": result.divergence,
        "recipes": result.recipes,
        "settings": result.settings,
    }


def load_result(document: dict[str, Any], folder: Path) -> Result:
    """Inverse of ``save_result``."""
    labels = tuple(document["labels"])
    images = {}
    for name, file in document["images"].items():
        with Image.open(folder / Path(file).name) as strip:
            images[name] = split_strip(strip, len(labels))
    return Result(
        title=document["title"],
        labels=labels,
        timesteps=tuple(document["timesteps"]),
        images=images,
        metrics=document["metrics"],
        divergence=document["divergence"],
        frames=tuple(document["frames"]),
        latents=load_file(folder / Path(document["latents"]).name),
        recipes=document["recipes"],
        settings=document["settings"],
    )


def load_recipe(path: Path) -> Recipe:
    return Recipe.load(path)


def layer_from_json(document: dict[str, Any]) -> LayerDone:
    values = {**document, "grid": tuple(document["grid"]), "losses": tuple(document["losses"])}
    values["refined"] = tuple((alpha, loss) for alpha, loss in document["refined"])
    return LayerDone(**values)


def save_shipped(shipped: Shipped, folder: Path) -> None:
    """Write into an existing folder."""
    shipped.atlas.save(folder / "atlas.safetensors")
    presets = {}
    for name, preset in shipped.presets.items():
        for stem, recipe in ((name, preset.recipe), (f"{name}-search", preset.searched)):
            (folder / f"recipe-{stem}.json").write_text(recipe.to_json(), encoding="utf-8")
        presets[name] = {
            "layers": [asdict(layer) for layer in preset.layers],
            "result": save_result(preset.result, folder, name),
        }
    document = {
        "format": FORMAT,
        "fingerprint": shipped.fingerprint,
        "convention": shipped.convention,
        "calibration": shipped.calibration,
        "presets": presets,
    }
    (folder / "results.json").write_text(json.dumps(document) + "\n", encoding="utf-8")


def load_shipped(folder: Path, fingerprint: str) -> Shipped:
    """Inverse of ``save_shipped``.

    Raises:
        ValueError: missing, damaged, or made for another checkpoint.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise ValueError("none found in assets/precomputed")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, got {document['format']}")
        if document["fingerprint"] != fingerprint:
            raise ValueError(
                f"made for checkpoint {document['fingerprint'][:12]}, this is {fingerprint[:12]}"
            )
        presets = {}
        for name, preset in document["presets"].items():
            stem = f"recipe-{Path(name).name}"
            presets[name] = Preset(
                recipe=load_recipe(folder / f"{stem}.json"),
                searched=load_recipe(folder / f"{stem}-search.json"),
                layers=tuple(layer_from_json(layer) for layer in preset["layers"]),
                result=load_result(preset["result"], folder),
            )
        return Shipped(
            fingerprint=fingerprint,
            convention=document["convention"],
            calibration=document["calibration"],
            atlas=OutlierAtlas.load(folder / "atlas.safetensors"),
            presets=presets,
        )
    except (KeyError, TypeError, AttributeError, OSError) as error:
        raise ValueError(f"damaged: {type(error).__name__} {error}") from error
