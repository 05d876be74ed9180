"""Images for display: uint8 arrays, enlarged views, amplified differences, strips."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def to_uint8(images: ArrayLike) -> Pixels:
    """(N, 3, H, W) in [0, 1] -> (N, H, W, 3) bytes."""
    values = np.asarray(images, dtype=np.float32).transpose(0, 2, 3, 1)
    return np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)


def enlarge(image: Pixels, size: int) -> Image.Image:
    """(H, W, 3) -> a square view of ``size`` pixels; never smaller than the image."""
    side = max(size, *image.shape[:2])
    return Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)


def difference(reference: ArrayLike, other: ArrayLike, gain: float) -> Pixels:
    """Mid-grey where equal; gain times the signed difference elsewhere, of values up to 255."""
    signed = np.asarray(other, dtype=np.float32) - np.asarray(reference, dtype=np.float32)
    return np.clip(128 + gain * signed, 0, 255).round().astype(np.uint8)


def contact_strip(images: Pixels) -> Image.Image:
    """(N, H, W, 3) -> one row of N images."""
    return Image.fromarray(np.concatenate(list(images), axis=1))


def split_strip(strip: Image.Image, count: int) -> Pixels:
    """Inverse of ``contact_strip``.

    Raises:
        ValueError: the strip is not ``count`` images wide.
    """
    pixels = np.asarray(strip.convert("RGB"), dtype=np.uint8)
    if count < 1 or pixels.shape[1] != pixels.shape[0] * count:
        raise ValueError(f"strip: expected {count} square images, got {pixels.shape[:2]}")
    return np.stack(np.split(pixels, count, axis=1))
