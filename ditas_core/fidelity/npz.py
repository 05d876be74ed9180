"""Images by the thousand in one .npz, written and read a few at a time.

The form is what the evaluation suite of ADM reads (Dhariwal & Nichol 2021): ``arr_0`` uint8
(N, H, W, 3), and what ADM's sampling puts beside it, ``arr_1``, the class numbers, int64 (N,).
What the images were drawn with lies in it too, as ``settings.json``.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from .errors import FidelityError

IMAGES, LABELS, SETTINGS = "arr_0.npy", "arr_1.npy", "settings.json"
LARGEST_PX = 4096
THEN = (1980, 1, 1, 0, 0, 0)
"""When a member was written, as far as the file says: equal images give equal files."""


def write_npz(
    path: Path,
    shape: tuple[int, int, int, int],
    batches: Iterable[np.ndarray],
    labels: np.ndarray | None = None,
    settings: dict[str, Any] | None = None,
) -> None:
    """Stream uint8 batches (n, H, W, 3) into ``arr_0`` of ``shape`` (N, H, W, 3), uncompressed.

    One batch is in memory at a time.

    Raises:
        ValueError: batches that do not add up to ``shape``.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        # larger than 4 GB with 50,000 images of 256 px: the size is not known to the format yet
        with archive.open(zipfile.ZipInfo(IMAGES, THEN), "w", force_zip64=True) as member:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, header)
            written = 0
            for batch in batches:
                if batch.dtype != np.uint8 or batch.shape[1:] != shape[1:]:
                    raise ValueError(
                        f"batch: expected uint8 {('n', *shape[1:])}, got {batch.dtype} "
                        f"{batch.shape}"
                    )
                member.write(np.ascontiguousarray(batch).data)
                written += len(batch)
        if written != shape[0]:
            raise ValueError(f"batches: expected {shape[0]} images, got {written}")
        if labels is not None:
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asarray(labels, dtype=np.int64))
            archive.writestr(zipfile.ZipInfo(LABELS, THEN), buffer.getvalue())
        if settings is not None:
            text = json.dumps(settings, indent=1)
            archive.writestr(zipfile.ZipInfo(SETTINGS, THEN), text)


@contextmanager
def opened(path: Path, member: str) -> Iterator[tuple[IO[bytes], zipfile.ZipInfo]]:
    """A member of the archive, to be read from its beginning.

    Raises:
        FidelityError: no archive, or without that member.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise FidelityError(f"{path.name}: expected an .npz file, got {error}") from error
    with archive:
        try:
            info = archive.getinfo(member)
            file = archive.open(info)
        except (KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
            raise FidelityError(
                f"{path.name}: expected {member.removesuffix('.npy')} in it, found "
                f"{', '.join(archive.namelist()[:5]) or 'nothing'}"
            ) from error
        with file:
            yield file, info


def read_header(path: Path) -> tuple[int, int, int, int]:
    """The shape (N, H, W, 3) of the images, checked against the size of what is there.

    Raises:
        FidelityError: no such images.
    """
    with opened(path, IMAGES) as (file, info):
        return header_of(path, file, info)


def header_of(path: Path, file: IO[bytes], info: zipfile.ZipInfo) -> tuple[int, int, int, int]:
    wanted = f"{path.name}: expected arr_0 as uint8 of (N, H, W, 3)"
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, by_columns, dtype = np.lib.format.read_array_header_2_0(file)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise FidelityError(f"{wanted}, got no array that can be read") from error
    plain = dtype == np.uint8 and not by_columns and len(shape) == 4 and shape[-1] == 3
    if not plain or not shape[0] or not all(1 <= side <= LARGEST_PX for side in shape[1:3]):
        raise FidelityError(f"{wanted} with sides of up to {LARGEST_PX}, got {dtype} {shape}")
    count, height, width, _ = map(int, shape)
    if info.file_size != file.tell() + count * height * width * 3:
        raise FidelityError(f"{wanted} as its header says, got {info.file_size} bytes for {shape}")
    return count, height, width, 3


def read_rows(path: Path, batch: int) -> Iterator[np.ndarray]:
    """The images in order, uint8 (n, H, W, 3), ``batch`` at a time.

    Raises:
        FidelityError: no such images, or a file that is cut off or damaged.
    """
    with opened(path, IMAGES) as (file, info):
        count, height, width, _ = header_of(path, file, info)
        for first in range(0, count, batch):
            size = min(batch, count - first) * height * width * 3
            try:
                data = file.read(size)
            except (EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
                raise FidelityError(f"{path.name}: expected whole images, got {error}") from error
            if len(data) != size:
                raise FidelityError(f"{path.name}: expected {count} images, got {first}")
            yield np.frombuffer(data, np.uint8).reshape(-1, height, width, 3)
