"""Images to files."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image
from torch import Tensor


def to_uint8(images: Tensor) -> np.ndarray:
    """(N, 3, H, W) in [0, 1] -> uint8 (N, H, W, 3)."""
    array = images.clamp(0, 1).permute(0, 2, 3, 1).numpy()
    return np.asarray((array * 255).round(), dtype=np.uint8)


def contact_sheet(pixels: np.ndarray, gap: int = 4) -> Image.Image:
    """All images in a near-square grid on white."""
    count, height, width, _ = pixels.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), "white")
    for index, image in enumerate(pixels):
        x, y = index % columns, index // columns
        sheet.paste(Image.fromarray(image), (gap + x * (width + gap), gap + y * (height + gap)))
    return sheet
