"""What a file of ``torch.save`` holds, checked before torch opens it.

Such a file is a zip archive: one small pickle that describes the tensors and one entry
per storage. ``weights_only`` keeps the pickle from running code, but not the archive
from unpacking to a thousand times its size. So every entry must be stored, not
compressed, lie inside the file and overlap no other; what the pickle names must be on
a short list. Only then does torch read it, and again with ``weights_only``.

The directory is read strictly (it ends the file, nothing behind it, each entry's own
header agrees), so that torch's reader cannot find another one.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from ...models import CheckpointError
from .headers import REMEDY, OpenFile
from .pickles import check_pickle, refusal

MAX_ENTRIES = 8_192
MAX_DIRECTORY = 2 * 2**20  # bytes
MAX_PICKLE = 4 * 2**20  # bytes
MAX_SMALL = 2**16  # bytes; entries that are neither the pickle nor a tensor
END = struct.Struct("<4s4H2LH")
END_64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR_64 = struct.Struct("<4sLQL")
CENTRAL = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
FULL_16, FULL_32 = 0xFFFF, 0xFFFFFFFF
# torch.save calls the archive's one folder by the file's own name, whatever that is
SAFE_NAME = re.compile(r"[^/\\]+(/[A-Za-z0-9_.\-+= ]+){1,4}")


@dataclass(frozen=True)
class Entry:
    """One file in the archive: its name and the bytes of its content."""

    name: str
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start


def check_archive(file: OpenFile) -> dict[str, Entry]:
    """Check a ``torch.save`` archive and what its pickle names; the entries by name.

    Raises:
        CheckpointError: compressed, oversize, overlapping, misnamed or damaged; no state
            dict's archive; or its pickle asks for something else than tensors.
    """
    entries = read_directory(file)
    root = next(iter(entries)).split("/")[0]
    for name, entry in entries.items():
        first, _, rest = name.partition("/")
        if first != root:
            raise refusal(file, f"one folder in the archive, got {first!r} beside {root!r}")
        if rest == "constants.pkl" or rest.startswith("code/"):
            raise a_program(file)
        limit = MAX_PICKLE if rest == "data.pkl" else MAX_SMALL
        if not re.fullmatch(r"data/\d+", rest) and entry.nbytes > limit:
            raise refusal(file, f"at most {limit} B in {name}, got {entry.nbytes}")
    described = entries.get(f"{root}/data.pkl")
    if described is None:
        raise refusal(file, f"{root}/data.pkl, as torch.save writes it, found none")
    check_pickle(file, file.at(described.start, described.nbytes))
    return entries


def a_program(file: OpenFile) -> CheckpointError:
    return CheckpointError(
        f"{file.name}: expected a state dict, got a TorchScript program; save the "
        "module's state_dict() instead"
    )


def find_directory(file: OpenFile) -> tuple[int, int, int]:
    """Entries, offset and size of the central directory; it and its end close the file."""
    tail = file.size - END.size
    if tail < 0:
        raise refusal(file, f"a whole zip archive, got {file.size} B: {REMEDY}")
    magic, disk, first_disk, here, count, size, offset, comment = END.unpack(
        file.at(tail, END.size)
    )
    if magic != b"PK\x05\x06" or comment or disk or first_disk or here != count:
        raise refusal(
            file,
            f"a zip archive that ends with its directory, got one cut short or altered: {REMEDY}",
        )
    close = tail
    if tail >= LOCATOR_64.size:
        locator = LOCATOR_64.unpack(file.at(tail - LOCATOR_64.size, LOCATOR_64.size))
        if locator[0] == b"PK\x06\x07":
            close = tail - LOCATOR_64.size - END_64.size
            if close < 0 or locator[1] or locator[2] != close or locator[3] != 1:
                raise refusal(file, "the zip64 directory's end before its locator, found none")
            end = END_64.unpack(file.at(close, END_64.size))
            if end[0] != b"PK\x06\x06" or end[1] != END_64.size - 12 or end[4] or end[5]:
                raise refusal(file, "a zip64 directory's end, got a damaged one")
            wide = (end[7], end[8], end[9])
            for short, long, full in zip(
                (count, size, offset), wide, (FULL_16, FULL_32, FULL_32), strict=True
            ):
                if short not in (long, full):
                    raise refusal(file, "one account of the directory, got two")
            if end[6] != end[7]:
                raise refusal(file, "an archive in one part, got several")
            count, size, offset = wide
    if not 0 < count <= MAX_ENTRIES or size > MAX_DIRECTORY:
        raise refusal(
            file,
            f"1 to {MAX_ENTRIES} entries in a directory of at most {MAX_DIRECTORY} B, "
            f"got {count} in {size} B",
        )
    if offset + size != close:
        raise refusal(file, "the directory right before its end, got another place")
    return count, offset, size


def read_directory(file: OpenFile) -> dict[str, Entry]:
    """All entries, in the order of their bytes."""
    count, offset, size = find_directory(file)
    raw = file.at(offset, size)
    found: dict[str, Entry] = {}
    at = 0
    for _ in range(count):
        if at + CENTRAL.size > size:
            raise refusal(file, f"{count} entries in the directory, got {len(found)}")
        fields = CENTRAL.unpack_from(raw, at)
        lengths = fields[10:13]  # name, extra, comment
        stop = at + CENTRAL.size + sum(lengths)
        if fields[0] != b"PK\x01\x02" or stop > size or lengths[2]:
            raise refusal(file, f"an entry of the directory at {at}, got a damaged one")
        name_at = at + CENTRAL.size
        name = raw[name_at : name_at + lengths[0]]
        extra = raw[name_at + lengths[0] : stop]
        entry = check_entry(file, name, fields, extra, offset)
        if entry.name in found:
            raise refusal(file, f"every name once, got {entry.name} twice")
        found[entry.name] = entry
        at = stop
    if at != size:
        raise refusal(file, f"{count} entries in the directory, got {size - at} B more")
    last = 0
    ordered = sorted(found.values(), key=lambda entry: (entry.start, entry.stop))
    for entry in ordered:
        if entry.start - LOCAL.size - len(entry.name) < last:
            raise refusal(file, f"entries apart, got {entry.name} over another one")
        last = entry.stop
    return {entry.name: entry for entry in ordered}


def check_entry(
    file: OpenFile, raw_name: bytes, fields: tuple[int, ...], extra: bytes, limit: int
) -> Entry:
    """One entry of the directory against its own header in the file."""
    flags, method = fields[3], fields[4]
    name = raw_name.decode("utf-8", errors="replace")
    if name.split("/")[1:2] == ["code"]:  # its paths are longer than any tensor's
        raise a_program(file)
    plain = SAFE_NAME.fullmatch(name) and name.isprintable() and len(name) <= 300
    if not plain or {"..", "."} & set(name.split("/")):
        raise refusal(file, f"plain names such as archive/data/0, got {name[:60]!r}")
    if method != 0 or flags & 1:
        raise refusal(
            file,
            f"{name} as it is, got it compressed or encrypted (method {method}), which torch.save "
            "never writes and which may unpack to any size",
        )
    packed, unpacked, at = widen(file, name, (fields[8], fields[9], fields[16]), extra)
    if packed != unpacked or at + LOCAL.size > limit:
        raise refusal(file, f"{name} inside the file at its own size, got {unpacked} B at {at}")
    local = LOCAL.unpack(file.at(at, LOCAL.size))
    start = at + LOCAL.size + local[9] + local[10]
    own_name = file.at(at + LOCAL.size, min(local[9], 400))
    if local[0] != b"PK\x03\x04" or local[3] != 0 or local[2] & 1 or own_name != raw_name:
        raise refusal(file, f"{name} where the directory says, got another entry")
    # 0 where a descriptor behind the content holds the size
    if local[7] not in (0, FULL_32, packed) or local[8] not in (0, FULL_32, unpacked):
        raise refusal(file, f"one size for {name}, got two")
    if start + unpacked > limit:
        raise refusal(file, f"{name} within the file's {file.size} B, got {unpacked} B at {start}")
    return Entry(name, start, start + unpacked)


def widen(
    file: OpenFile, name: str, narrow: tuple[int, int, int], extra: bytes
) -> tuple[int, int, int]:
    """Packed size, unpacked size and offset, from the zip64 field where they do not fit."""
    packed, unpacked, offset = narrow
    if FULL_32 not in narrow:
        return narrow
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = list(struct.unpack_from(f"<{length // 8}Q", extra[: at + 4 + length], at + 4))
            try:
                # in this order, and only those that do not fit
                unpacked = wide.pop(0) if unpacked == FULL_32 else unpacked
                packed = wide.pop(0) if packed == FULL_32 else packed
                offset = wide.pop(0) if offset == FULL_32 else offset
            except IndexError:
                break
            return packed, unpacked, offset
        at += 4 + length
    raise refusal(file, f"sizes of {name}, found none")
