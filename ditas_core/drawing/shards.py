"""What an interrupted run leaves behind: one file per finished batch of images.

A shard is a batch, so that the images in it were computed together whatever the number of
processes and whenever a run stopped. Files appear by rename and carry a checksum.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..specs import SamplingSpec
from ..writing import Journal, whole_file, write_text

FORMAT = "ditas-images-1"
MARKER = "settings.json"


@dataclass(frozen=True)
class DrawSpec:
    """All that the images depend on.

    source   hash of the weights, the recipe and what they compute with
    labels   class of each image
    seed     image i starts from the noise of seed + i
    batch    images in one forward pass, which is also one shard
    size     height and width of an image
    """

    source: str
    sampling: SamplingSpec
    labels: tuple[int, ...]
    seed: int
    batch: int
    size: int

    @property
    def count(self) -> int:
        return len(self.labels)

    @property
    def shards(self) -> int:
        return -(-self.count // self.batch)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of all images, (N, H, W, 3)."""
        return self.count, self.size, self.size, 3

    def rows(self, shard: int) -> tuple[int, int]:
        """First and last (exclusive) image of a shard."""
        return shard * self.batch, min(self.count, (shard + 1) * self.batch)


class ShardJournal(Journal):
    """A folder for one run, which several processes write to, each its own shards."""

    run = "sampling"

    def __init__(self, path: Path, spec: DrawSpec) -> None:
        self.spec = spec
        super().__init__(path, json.dumps({"format": FORMAT, **asdict(spec)}, sort_keys=True))

    def read(self) -> None:
        marker = self.path / MARKER
        self.started = marker.is_file() and marker.read_bytes() == self.settings.encode()
        self.discards = not self.started and any(self.path.glob("images-*.safetensors"))

    def is_own(self) -> bool:
        ours = {MARKER, MARKER + ".part"}
        return self.path.is_dir() and all(
            path.name in ours or (path.name.startswith("images-") and path.is_file())
            for path in self.path.iterdir()
        )

    def start(self) -> None:
        """By one process, before the others look."""
        self.remove()
        write_text(self.path / MARKER, self.settings)
        self.started = True

    def shard_path(self, shard: int) -> Path:
        return self.path / f"images-{shard:06d}.safetensors"

    def add(self, shard: int, images: Tensor) -> None:
        """Keep uint8 (n, H, W, 3)."""
        with whole_file(self.shard_path(shard)) as part:
            save_file({"images": images}, part, metadata={"sha256": checksum(shard, images)})

    def images(self, shard: int) -> Tensor | None:
        """uint8 (n, H, W, 3); None where there is no shard, or a damaged one."""
        first, last = self.spec.rows(shard)
        try:
            with safe_open(self.shard_path(shard), framework="pt") as file:
                said = (file.metadata() or {}).get("sha256")
                found: Tensor = file.get_tensor("images")
        except (SafetensorError, OSError, ValueError):
            return None
        right = found.shape == (last - first, *self.spec.shape[1:]) and found.dtype == torch.uint8
        return found if right and said == checksum(shard, found) else None

    def all_images(self) -> Iterator[Tensor]:
        """Shard by shard, in order.

        Raises:
            OSError: one is missing.
        """
        for shard in range(self.spec.shards):
            found = self.images(shard)
            if found is None:
                raise OSError(
                    f"{self.shard_path(shard)}: expected the images that were drawn, found none "
                    "that are whole; the same command draws them again"
                )
            yield found

    def remove(self) -> None:
        """After the images are written."""
        shutil.rmtree(self.path, ignore_errors=True)


def checksum(shard: int, images: Tensor) -> str:
    digest = hashlib.sha256(f"{shard} {tuple(images.shape)}".encode())
    digest.update(images.contiguous().numpy().data)  # no copy
    return digest.hexdigest()
