"""What a weight file says it holds, checked before any parser or allocation sees it.

A safetensors file is eight bytes (the header's length N), N bytes of JSON and the
tensors' bytes. Here the header is refused unless every byte of the file is accounted
for: one tensor after another, no gap, no overlap, nothing behind the last one. The
tensors are then read with plain reads into memory of the announced size, so that no
second parser can understand the same bytes otherwise.

Names do not matter: a file is what its first bytes say.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...models import CheckpointError

MAX_HEADER = 2**20  # bytes
MAX_TENSORS = 2_000
MAX_NAME = 300  # characters
MAX_DIMENSIONS = 8
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
FIELDS = {"dtype", "shape", "data_offsets"}
ARCHIVE = b"PK\x03\x04"
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before 1.6
# what else turns up under a weight file's name, by its first bytes
FOREIGN = {
    b"PK\x05\x06": "an empty zip archive",
    b"\x1f\x8b": "a gzip-compressed file; unpack it first",
    b"BZh": "a bzip2-compressed file; unpack it first",
    b"\xfd7zXZ": "an xz-compressed file; unpack it first",
    b"\x28\xb5\x2f\xfd": "a zstd-compressed file; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"version https://git-lfs": "a git-lfs pointer; fetch the file itself with git lfs pull",
    b"<": "a web page; download the file itself",
    b"GGUF": "a GGUF file",
    b"\x89HDF": "an HDF5 file",
    LEGACY: "torch.save's format from before version 1.6; load it with a recent torch and save "
    "it again",
    b"\x80": "a bare pickle, which could run code; save the state dict with torch.save or as "
    "safetensors",
}
REMEDY = "download or save the file again"


@dataclass(frozen=True)
class TensorHeader:
    """One tensor: its dtype, its shape and where its bytes lie behind the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int = 0
    stop: int = 0

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class Headers:
    """What a weight file holds; ``begin`` is where a safetensors file's tensors start."""

    name: str
    kind: str  # "safetensors" or "archive"
    file_bytes: int
    tensors: Mapping[str, TensorHeader]
    begin: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        return sum(tensor.count for tensor in self.tensors.values())

    def meta(self) -> dict[str, Tensor]:
        """The tensors without their values."""
        return {
            key: torch.empty(t.shape, dtype=t.dtype, device="meta")
            for key, t in self.tensors.items()
        }


@dataclass(frozen=True)
class OpenFile:
    """A regular file held open: what is checked and what is read is one and the same."""

    path: Path
    stream: BufferedReader
    size: int

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def held(self) -> str:
        """A path to this very file, whatever its name points to by now."""
        own = f"/proc/self/fd/{self.stream.fileno()}"
        return own if os.path.exists(own) else str(self.path)

    def at(self, offset: int, count: int) -> bytes:
        """Exactly ``count`` bytes from ``offset``."""
        self.stream.seek(offset)
        found = self.stream.read(count)
        if len(found) != count:
            raise CheckpointError(
                f"{self.name}: expected {count} B at {offset}, got {len(found)}; {REMEDY}"
            )
        return found

    def check_whole(self) -> None:
        """Raise a CheckpointError if the file was cut short since it was opened."""
        now = os.fstat(self.stream.fileno()).st_size
        if now < self.size:
            raise CheckpointError(
                f"{self.name}: expected {self.size} B from the first check to the last byte, got "
                f"{now}; it was cut short while it was read: {REMEDY}"
            )


@contextmanager
def open_file(path: Path) -> Iterator[OpenFile]:
    """Open a regular file for reading; refused if its name leads elsewhere afterwards.

    Raises:
        CheckpointError: no file, not a regular one, or replaced or changed while it was read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{path}: expected a .pt or .safetensors file, got none ({reason})"
        ) from None
    before = os.fstat(descriptor)
    if not stat.S_ISREG(before.st_mode):
        os.close(descriptor)
        raise CheckpointError(
            f"{path}: expected a .pt or .safetensors file, got a folder or a device"
        )
    with os.fdopen(descriptor, "rb") as stream:
        yield OpenFile(path, stream, before.st_size)
        try:
            after = os.stat(path)
        except OSError:
            after = None
        if after is None or any(
            getattr(before, key) != getattr(after, key)
            for key in ("st_dev", "st_ino", "st_size", "st_mtime_ns")
        ):
            raise CheckpointError(
                f"{path.name}: expected one file from the first check to the last byte, got "
                "another one under its name, or a change to it; load it again"
            )


def kind_of(file: OpenFile) -> str:
    """ "safetensors" or "archive", by content.

    Raises:
        CheckpointError: it is neither; says what it is.
    """
    if file.size < 10:
        raise CheckpointError(
            f"{file.name}: expected a weight file, got {file.size} B; the download or copy was "
            f"cut short: {REMEDY}"
        )
    start = file.at(0, min(file.size, 264))
    if start.startswith(ARCHIVE):
        return "archive"
    for magic, what in FOREIGN.items():
        if start.startswith(magic):
            # eight bytes of length may begin with any byte; a header follows them
            if len(magic) <= 2 and start[8:9] == b"{" and not any(start[4:8]):
                break
            raise CheckpointError(
                f"{file.name}: expected safetensors or what torch.save writes, got {what}"
            )
    if start[257:262] == b"ustar":
        raise CheckpointError(
            f"{file.name}: expected safetensors or what torch.save writes, got a tar archive; "
            "unpack it, or save the state dict with a recent torch"
        )
    return "safetensors"


def read_safetensors_header(file: OpenFile, max_tensors: int = MAX_TENSORS) -> Headers:
    """Parse and check the header; the tensors' bytes are not touched.

    Raises:
        CheckpointError: anything in it is unknown, twice, out of bounds or does not add up.
    """
    name = file.name
    length = int.from_bytes(file.at(0, 8), "little")
    if not 2 <= length <= min(MAX_HEADER, file.size - 8):
        raise CheckpointError(
            f"{name}: expected a safetensors header of at most {MAX_HEADER} B within the file's "
            f"{file.size} B, got one of {length} B; it is another format, cut short or damaged"
        )
    document = parse_header(name, file.at(8, length))
    metadata = check_metadata(name, document.pop("__metadata__", {}))
    if not 0 < len(document) <= max_tensors:
        raise CheckpointError(f"{name}: expected 1 to {max_tensors} tensors, got {len(document)}")
    tensors = {key: check_entry(name, key, entry) for key, entry in document.items()}
    end = 0
    for key, tensor in sorted(tensors.items(), key=lambda pair: (pair[1].start, pair[1].stop)):
        if tensor.start != end:
            what = "a gap" if tensor.start > end else "an overlap"
            raise CheckpointError(
                f"{name}: expected the bytes of {key} from {end} on, got {what}: {tensor.start}"
            )
        end = tensor.stop
    if 8 + length + end != file.size:
        raise CheckpointError(
            f"{name}: expected {8 + length + end} B, as its header says, got {file.size} B; "
            + (
                f"the download or copy was cut short: {REMEDY}"
                if file.size < 8 + length + end
                else "something was appended to it"
            )
        )
    return Headers(name, "safetensors", file.size, tensors, 8 + length, metadata)


def parse_header(name: str, raw: bytes) -> dict[str, Any]:
    """The JSON object; one name never stands for two things."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("the same key twice")
        return found

    def constant(word: str) -> Any:
        raise ValueError(f"{word} is no number")

    try:
        if raw[:1] != b"{":
            raise ValueError("it does not begin with {")
        document = json.loads(
            raw.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant
        )
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]
        raise CheckpointError(
            f"{name}: expected a safetensors header in JSON, got a damaged one ({reason}); {REMEDY}"
        ) from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{name}: expected a JSON object, got {type(document).__name__}")
    return document


def check_metadata(name: str, metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{name}: expected __metadata__ to map text to text")
    return metadata


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def check_entry(name: str, key: str, entry: Any) -> TensorHeader:
    """One tensor's entry; its shape, dtype and offsets must say the same size."""
    if not (0 < len(key) <= MAX_NAME and key.isprintable()):
        raise CheckpointError(
            f"{name}: expected printable tensor names of at most {MAX_NAME} characters, "
            f"got {key[:40]!r}"
        )
    if not isinstance(entry, dict) or set(entry) != FIELDS:
        raise CheckpointError(f"{name}: {key}: expected dtype, shape, data_offsets and no others")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise CheckpointError(
            f"{name}: {key}: expected a dtype of {', '.join(DTYPES)}, "
            f"got {str(entry['dtype'])[:40]!r}"
        )
    shape, offsets = entry["shape"], entry["data_offsets"]
    for what, value in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(value, list) or not all(map(is_count, value)):
            raise CheckpointError(f"{name}: {key}: expected {what} in whole numbers from 0 up")
    if len(shape) > MAX_DIMENSIONS or len(offsets) != 2:
        raise CheckpointError(
            f"{name}: {key}: expected at most {MAX_DIMENSIONS} dimensions and two offsets, "
            f"got {len(shape)} and {len(offsets)}"
        )
    # torch multiplies what a dimension of 0 hides here
    if math.prod(max(1, length) for length in shape) * dtype.itemsize >= 2**62:
        raise CheckpointError(f"{name}: {key}: expected a shape of fewer than 2^62 B, got {shape}")
    tensor = TensorHeader(dtype, tuple(shape), *offsets)
    if tensor.stop - tensor.start != tensor.nbytes:
        raise CheckpointError(
            f"{name}: {key}: expected {tensor.nbytes} B for shape {tensor.shape}, "
            f"got offsets {tensor.start} to {tensor.stop}"
        )
    return tensor


def read_safetensors(
    file: OpenFile, headers: Headers, dtype: torch.dtype | None = None
) -> Iterator[tuple[str, Tensor]]:
    """The tensors in the order of their bytes, one at a time, each in memory of its own.

    dtype  floating-point tensors are converted to it; None leaves them as stored
    """
    for key, header in sorted(headers.tensors.items(), key=lambda pair: pair[1].start):
        tensor = torch.empty(header.shape, dtype=header.dtype)
        if header.nbytes:
            room: Any = tensor.view(-1).view(torch.uint8).numpy()
            file.stream.seek(headers.begin + header.start)
            if file.stream.readinto(room) != header.nbytes:
                raise CheckpointError(
                    f"{file.name}: expected {header.nbytes} B for {key}, got fewer; {REMEDY}"
                )
        convert = dtype is not None and tensor.is_floating_point()
        yield key, tensor.to(dtype) if convert else tensor
