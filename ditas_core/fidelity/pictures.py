"""Sets of images on disk: an .npz, or a folder of PNGs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .errors import FidelityError
from .frechet import Gaussian
from .npz import read_header, read_rows

SHEET = "contact-sheet.png"
"""What ``ditas sample --out`` puts beside the images; no image of the set."""


@dataclass(frozen=True)
class Pictures:
    """``count`` images of ``size`` (height, width); ``batches`` gives them in order, as uint8
    (n, 3, H, W) of at most so many."""

    name: str
    count: int
    size: tuple[int, int]
    batches: Callable[[int], Iterator[Tensor]]


def open_pictures(path: Path) -> Pictures:
    """What lies there; the images are read when they are asked for.

    Raises:
        FidelityError: neither an .npz with images nor a folder with PNGs.
    """
    if path.is_dir():
        return open_folder(path)
    if not path.is_file():
        raise FidelityError(f"{path}: expected an .npz file or a folder of PNGs, found neither")
    count, height, width, _ = read_header(path)

    def batches(size: int) -> Iterator[Tensor]:
        for rows in read_rows(path, size):
            yield torch.from_numpy(rows.transpose(0, 3, 1, 2).copy())  # (n, 3, H, W)

    return Pictures(path.name, count, (height, width), batches)


def open_folder(folder: Path) -> Pictures:
    """The PNGs of a folder, by name, a contact sheet left out; all of one size.

    Raises:
        FidelityError: none there.
    """
    paths = sorted(path for path in folder.glob("*.png") if path.name != SHEET)
    if not paths:
        raise FidelityError(f"{folder}: expected PNG files, found none")
    first = read_image(paths[0])
    height, width = first.shape[:2]

    def batches(size: int) -> Iterator[Tensor]:
        for start in range(0, len(paths), size):
            images = [read_image(path) for path in paths[start : start + size]]
            for path, image in zip(paths[start:], images, strict=False):
                if image.shape != first.shape:
                    raise FidelityError(
                        f"{path.name}: expected {width} x {height} pixels like the images before "
                        f"it, got {image.shape[1]} x {image.shape[0]}"
                    )
            yield torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy())

    return Pictures(folder.name, len(paths), (height, width), batches)


def read_image(path: Path) -> np.ndarray:
    """uint8 (H, W, 3).

    Raises:
        FidelityError: no image.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise FidelityError(f"{path.name}: expected a PNG, got {error}") from error


def stored_gaussian(path: Path, dimensions: int) -> Gaussian | None:
    """``mu`` (D,) and ``sigma`` (D, D) of a reference batch of ADM: Inception's moments of the
    whole data set, of which it holds 10,000 images; None where there are none.

    Raises:
        FidelityError: moments of other features.
    """
    if not path.is_file():
        return None
    try:
        with np.load(path) as found:
            if not {"mu", "sigma"} <= set(found.files):
                return None
            mean, covariance = (np.asarray(found[key]) for key in ("mu", "sigma"))
    except (OSError, ValueError, EOFError) as error:
        raise FidelityError(f"{path.name}: expected an .npz file, got {error}") from error
    shapes = mean.shape, covariance.shape
    if shapes != ((dimensions,), (dimensions, dimensions)) or mean.dtype.kind != "f":
        raise FidelityError(
            f"{path.name}: expected mu and sigma of {dimensions} features, got {shapes}"
        )
    return Gaussian(torch.from_numpy(mean).double(), torch.from_numpy(covariance).double())
