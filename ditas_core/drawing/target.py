"""Shards into what evaluations read: one .npz, or a folder of PNGs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..fidelity import write_npz
from ..writing import whole_file, whole_folder
from .shards import DrawSpec, ShardJournal


def check_disk(target: Path, spec: DrawSpec) -> None:
    """Raise OSError unless the shards and the file that is made of them fit beside it."""
    above = next(folder for folder in target.absolute().parents if folder.exists())
    need, free = 2 * int(np.prod(spec.shape)), shutil.disk_usage(above).free
    if free < need:
        raise OSError(
            f"{above}: expected {need / 1e9:.1f} GB of free disk, for {spec.count} images in "
            f"shards and once more in one file, found {free / 1e9:.1f} GB"
        )


def write_images_npz(target: Path, journal: ShardJournal, settings: dict[str, Any]) -> None:
    """``arr_0`` and ``arr_1`` of all shards (see ``write_npz``), a whole file or none."""
    spec = journal.spec
    with whole_file(target) as part:
        batches = (images.numpy() for images in journal.all_images())
        write_npz(part, spec.shape, batches, np.array(spec.labels), settings)


def write_images_png(
    target: Path, journal: ShardJournal, names: list[str], replaces: bool = False
) -> None:
    """A PNG per image, ``NNNNNN-CLASS.png``, and nothing else: a whole folder or none.

    names     of the image's class, one per image
    replaces  the same folder, whose journal an earlier run had no time to remove
    """
    number = 0
    with whole_folder(target, replaces) as work:
        for images in journal.all_images():
            for image in images.numpy():
                safe = "".join(c if c.isalnum() else "-" for c in names[number])[:40]
                Image.fromarray(image).save(work / f"{number:06d}-{safe}.png")
                number += 1
