"""Weight files before anything parses them: what is refused, how fast, and by what words."""

from __future__ import annotations

import json
import os
import random
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DEMO
from safetensors.torch import load_file, save_file

from ditas_core.checkpoints import CheckpointError
from ditas_core.checkpoints.archives import check_archive
from ditas_core.checkpoints.headers import MAX_TENSORS, kind_of, open_file
from ditas_core.checkpoints.weights import read_headers, read_weights

Document = dict[str, Any]
SMALL = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


def pack(document: Document | bytes, body: bytes = b"") -> bytes:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return len(raw).to_bytes(8, "little") + raw + body


def entry(*shape: Any, at: int = 0, dtype: Any = "F32", size: int | None = None) -> Document:
    if size is None:
        size = 4
        for n in shape:
            size *= n
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}


def write(tmp_path: Path, content: bytes, name: str = "x.safetensors") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


# What is right


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt", "x.bin", "renamed.safetensors.txt"])
@pytest.mark.parametrize("kind", ["safetensors", "archive"])
def test_files_are_told_by_content_and_read_whole(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    save_file(SMALL, path) if kind == "safetensors" else torch.save(SMALL, path)
    headers = read_headers(path)
    assert headers.kind == kind and headers.name == name
    assert headers.file_bytes == path.stat().st_size and headers.parameters == 10
    assert {k: (t.dtype, t.shape, t.nbytes) for k, t in headers.tensors.items()} == {
        "a": (torch.float32, (2, 3), 24),
        "b": (torch.bfloat16, (4,), 8),
    }
    assert all(v.is_meta for v in headers.meta().values())
    found = read_weights(path)
    assert all(torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in SMALL.items())
    assert {v.dtype for v in read_weights(path, torch.float32).values()} == {torch.float32}
    path.unlink()
    assert found["a"].sum() == 15  # in memory of its own


def test_odd_but_right_files_are_read(tmp_path: Path) -> None:
    tensors = {
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 4),
        "truth": torch.tensor([True, False]),
        "numbers": torch.arange(5),
    }
    for save in (save_file, torch.save):
        path = tmp_path / "x"
        save(tensors, path)
        found = read_weights(path)
        assert all(torch.equal(found[k], v) for k, v in tensors.items())
    view = torch.arange(12.0).reshape(3, 4).T[1:]
    torch.save({"view": view}, path)
    assert torch.equal(read_weights(path)["view"], view)
    torch.save({"module.a": view, "module.b": view}, path)
    assert set(read_headers(path).tensors) == {"a", "b"}
    torch.save({"w": torch.nn.Parameter(view)}, path)
    assert not read_weights(path)["w"].requires_grad


# Headers of safetensors

BAD: dict[str, tuple[str, bytes]] = {
    "huge length": ("at most 1048576 B", (2**63 + 5).to_bytes(8, "little") + b"{}" * 50),
    "2 MiB header": ("at most 1048576 B", pack(b"{" + b" " * 2**21 + b"}")),
    "length behind the file": ("cut short", pack({"a": entry(1)}, b"")[:20]),
    "zero length": ("got one of 0 B", bytes(8) + b"{}" * 10),
    "no tensors": ("got 0", pack({}, bytes(8))),
    "metadata of numbers": ("__metadata__", pack({"__metadata__": {"a": 1}, "a": entry(0)})),
    "a list": ("begin with", pack([1, 2, 3, 4])),
    "no UTF-8": ("JSON", pack(b'{"\xff\xfe": 1}')),
    "nested": ("nested|JSON", pack(b'{"a":' + b"[" * 500_000)),
    "a number of a megabyte": ("JSON", pack(b'{"a": ' + b"9" * 1_000_000 + b"}")),
    "NaN": ("NaN", pack(b'{"a": NaN, "b": 1234}')),
    "two of one name": (
        "twice",
        pack(b'{"a": %s, "a": %s}' % ((json.dumps(entry(1)).encode(),) * 2), bytes(4)),
    ),
    "two shapes": (
        "twice",
        pack(b'{"a": {"dtype":"F32","shape":[1],"shape":[2],"data_offsets":[0,4]}}', bytes(4)),
    ),
    "unknown key": ("and no others", pack({"a": {**entry(1), "code": "x"}}, bytes(4))),
    "unknown dtype": ("expected a dtype", pack({"a": entry(1, dtype="F4")}, bytes(4))),
    "dtype is a number": ("expected a dtype", pack({"a": entry(1, dtype=32)}, bytes(4))),
    "another dtype": ("expected 8 B", pack({"a": entry(1, dtype="I64")}, bytes(4))),
    "negative shape": ("shape in whole numbers", pack({"a": entry(-1, size=4)}, bytes(4))),
    "shape of truth": ("shape in whole numbers", pack({"a": entry(True, size=4)}, bytes(4))),
    "overflowing shape": ("fewer than 2.62 B", pack({"a": entry(2**61, 2**61, size=0)})),
    "overflow behind a 0": ("fewer than 2.62 B", pack({"a": entry(0, 2**61, 2**61, size=0)})),
    "huge number in the shape": ("shape in whole", pack({"a": entry(10**300, size=0)})),
    "three offsets": (
        "two offsets",
        pack({"a": {**entry(1), "data_offsets": [0, 4, 4]}}, bytes(4)),
    ),
    "offsets backwards": ("offsets 4 to 0", pack({"a": {**entry(1), "data_offsets": [4, 0]}})),
    "negative offsets": ("data_offsets in", pack({"a": {**entry(1), "data_offsets": [-4, 0]}})),
    "a gap": ("a gap", pack({"a": entry(1), "b": entry(1, at=8)}, bytes(12))),
    "an overlap": ("an overlap", pack({"a": entry(2), "b": entry(1, at=4)}, bytes(8))),
    "trailing bytes": ("appended", pack({"a": entry(1)}, bytes(5))),
    "truncated": ("cut short", pack({"a": entry(100)}, bytes(399))),
    "300,000 empty tensors": ("header", pack({f"{i}": entry(0) for i in range(300_000)})),
    "2,001 empty tensors": ("1 to 2000", pack({f"{i}": entry(0) for i in range(2_001)})),
    "a long name": ("printable", pack({"a" * 301: entry(1)}, bytes(4))),
    "a name with a line break": ("printable", pack({"a\nb": entry(1)}, bytes(4))),
}


@pytest.mark.parametrize(("words", "content"), BAD.values(), ids=BAD.keys())
def test_bad_headers_are_refused_at_once(tmp_path: Path, words: str, content: bytes) -> None:
    path = write(tmp_path, content)
    started = time.thread_time()
    with pytest.raises(CheckpointError, match=words) as caught:
        read_headers(path)
    assert time.thread_time() - started < 1
    assert "expected" in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    with pytest.raises(CheckpointError):
        read_weights(path)


def test_as_many_tensors_as_allowed_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, pack({f"{i}": entry(0) for i in range(MAX_TENSORS)}))
    assert len(read_headers(path).tensors) == MAX_TENSORS


FOREIGN = {
    "gzip": b"\x1f\x8b\x08" + bytes(50),
    "bzip2": b"BZh9" + bytes(50),
    "xz": b"\xfd7zXZ\x00" + bytes(50),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(50),
    "git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "web page": b"<!DOCTYPE html><html></html>",
    "GGUF": b"GGUF" + bytes(50),
    "HDF5": b"\x89HDF\r\n" + bytes(50),
    "pickle": b"\x80\x04]\x94K\x01a." + bytes(20),
    "before version 1.6": b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." + bytes(20),
    "tar": bytes([97] * 10) + bytes(247) + b"ustar\x0000" + bytes(248),
    "0 B": b"",
    "9 B": b"123456789",
    "empty zip": b"PK\x05\x06" + bytes(18),
}


@pytest.mark.parametrize(("words", "content"), FOREIGN.items(), ids=FOREIGN.keys())
def test_other_formats_are_refused_by_name(tmp_path: Path, words: str, content: bytes) -> None:
    for name in ("x.safetensors", "x.pt"):
        with pytest.raises(CheckpointError, match=words):
            read_headers(write(tmp_path, content, name))


def test_a_header_may_be_as_long_as_a_magic_number(tmp_path: Path) -> None:
    """Its length is the file's first bytes, and must not be taken for another format."""
    for length in (0x80, 0x3C, 0x8B1F):  # a pickle, a web page, gzip
        raw = json.dumps({"a": entry(1)}).encode().ljust(length)
        assert set(read_headers(write(tmp_path, pack(raw, bytes(4)))).tensors) == {"a"}


# Files that change


def test_a_file_swapped_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path, other = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    for name in (path, other):
        save_file(SMALL, name)
    swaps: list[Callable[[], object]] = [
        lambda: os.replace(other, path),
        lambda: path.unlink() or path.symlink_to(other),  # type: ignore[func-returns-value]
        lambda: path.unlink(),
    ]
    for swap in swaps:
        path.unlink(missing_ok=True)
        save_file(SMALL, path)
        save_file(SMALL, other)
        refused = pytest.raises(CheckpointError, match="another one under its name")
        with refused, open_file(path) as file:
            assert kind_of(file) == "safetensors"
            swap()
    save_file(SMALL, path)
    refused = pytest.raises(CheckpointError, match="another one under its name")
    with refused, open_file(path), path.open("ab") as more:
        more.write(b"more")


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("pipe", "loop", "", "absent", "a\0b", "/dev/zero", "/proc/self/mem"):
        with pytest.raises(CheckpointError, match="expected"):
            read_headers(tmp_path / name)


# Archives


def rezip(source: Path, target: Path, change: Callable[[str, bytes], Any] | None = None) -> None:
    """The same archive written anew by Python, entries changed or dropped (None)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            found = (name, content) if change is None else change(name, content)
            if found is not None:
                new.writestr(*found)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    torch.save(SMALL, path)
    return path


def test_an_archive_is_accounted_for(archive: Path, tmp_path: Path) -> None:
    with open_file(archive) as file:
        entries = check_archive(file)
    with zipfile.ZipFile(archive) as known:
        assert set(entries) == set(known.namelist())
        for name, found in entries.items():
            assert archive.read_bytes()[found.start : found.stop] == known.read(name)
    rezip(archive, tmp_path / "again.pt")  # stored by another writer
    assert torch.equal(read_weights(tmp_path / "again.pt")["a"], SMALL["a"])


def spoiled(archive: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Every way an archive can be wrong, with the words that refuse it."""
    whole = archive.read_bytes()

    def put(words: str, content: bytes) -> tuple[str, Path]:
        path = tmp_path / "bad.pt"
        path.write_bytes(content)
        return words, path

    yield put("cut short", whole[:-1])
    yield put("cut short", whole[: len(whole) // 2])
    yield put("cut short", whole + b"\0")
    yield put("cut short|before its locator", whole + whole)  # a second archive behind the first
    yield put("apart|where the directory says|before its locator", whole[:64] + whole)
    for magic in (b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"):
        at = whole.rindex(magic)
        for offset in range(4, 40):
            if at + offset < len(whole):
                damaged = bytearray(whole)
                damaged[at + offset] ^= 0xFF
                words, path = put("", bytes(damaged))
                try:
                    found = read_weights(path)
                except CheckpointError:
                    continue
                # what is left are bytes that mean nothing here: versions, dates, attributes
                assert all(torch.equal(found[k], v) for k, v in SMALL.items())
    bad = tmp_path / "bad.pt"
    changes: dict[str, Callable[[str, bytes], Any]] = {
        "data.pkl": lambda n, b: None if n.endswith("data.pkl") else (n, b),
        "one folder": lambda n, b: ("other/" + n.split("/", 1)[1] if "data/1" in n else n, b),
        "plain names": lambda n, b: (n.replace("data/1", "../../etc/passwd"), b),
        "plain names ": lambda n, b: (n.replace("model/data/1", "/etc/passwd"), b),
        "plain names  ": lambda n, b: (n.replace("/data/1", "\\data\\1"), b),
        "TorchScript": lambda n, b: (n.replace("version", "constants.pkl"), b),
        "65536 B": lambda n, b: (n, bytes(70_000) if n.endswith("version") else b),
        "4194304 B": lambda n, b: (n, b + bytes(2**22) if n.endswith("data.pkl") else b),
        "more behind": lambda n, b: (n, b + b"." if n.endswith("data.pkl") else b),
        "damaged": lambda n, b: (n, b[:40] if n.endswith("data.pkl") else b),
        "damaged ": lambda n, b: (n, b"\xff" + b if n.endswith("data.pkl") else b),
        "holds other things": lambda n, b: None if n.endswith("data/1") else (n, b),
        "entry of its size": lambda n, b: (n, b[:4] if n.endswith("data/0") else b),
    }
    for words, change in changes.items():
        rezip(archive, bad, change)
        yield words.strip(), bad
    with zipfile.ZipFile(bad, "w") as new:
        for _ in range(2):
            new.writestr("model/data.pkl", b"")
    yield "twice", bad
    with zipfile.ZipFile(bad, "w") as new:
        for i in range(8_193):
            new.writestr(f"model/data/{i}", b"")
    yield "1 to 8192 entries", bad
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(bad, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.comment = b"hello"
    yield "cut short", bad


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_bad_archives_are_refused(archive: Path, tmp_path: Path) -> None:
    seen = 0
    for words, path in spoiled(archive, tmp_path):
        started = time.thread_time()
        with pytest.raises(CheckpointError, match=words) as caught:
            read_weights(path)
        assert time.thread_time() - started < 1, words
        assert "expected" in str(caught.value) and "\n" not in str(caught.value)
        seen += 1
    assert seen == 21


# 5,000 damaged headers


def mutate(header: bytes, body: bytes, dice: random.Random) -> bytes:
    """One of the ways a header can be spoiled, or several."""
    raw = bytearray(header)
    length = None
    for _ in range(dice.choice([1, 1, 1, 2, 4])):
        kind = dice.randrange(7)
        at = dice.randrange(max(1, len(raw)))
        if kind == 0:
            raw[at : at + 1] = bytes([raw[at] ^ (1 << dice.randrange(8))]) if raw else b"x"
        elif kind == 1:
            del raw[at : at + dice.randrange(1, 200)]
        elif kind == 2:
            raw[at:at] = dice.randbytes(dice.randrange(1, 40))
        elif kind == 3:
            number = dice.choice([b"-1", b"1e999", b"9" * dice.randrange(1, 6000), b"18446744073"])
            digit = raw.find(b"[", at) + 1
            raw[digit : digit + 1] = number
        elif kind == 4:
            raw[at:at] = dice.choice([b"[", b'{"a":']) * dice.randrange(1, 50_000)
        elif kind == 5:
            length = dice.choice([0, 1, 7, 2**20, 2**31, 2**32 - 1, 2**63, 2**64 - 1, len(raw) - 1])
        else:
            body = body[: dice.randrange(len(body))] if body else b"x"
    size = len(raw) if length is None else length
    return (size % 2**64).to_bytes(8, "little") + bytes(raw) + body


def test_damaged_headers_never_crash_the_reader(tmp_path: Path) -> None:
    """Seeded mutations of the demo's header: a CheckpointError, or a file that adds up."""
    source = DEMO / "vae" / "diffusion_pytorch_model.safetensors"
    smallest = sorted(load_file(source).items(), key=lambda pair: pair[1].numel())[:12]
    save_file(dict(smallest), tmp_path / "some", {"format": "pt"})
    data = (tmp_path / "some").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length], data[8 + length :]
    dice = random.Random(0)
    path = tmp_path / "x.safetensors"
    refused = slowest = 0
    for _ in range(5_000):
        path.write_bytes(mutate(header, body, dice))
        started = time.thread_time()
        try:
            headers = read_headers(path)
        except CheckpointError as error:
            refused += 1
            assert "expected" in str(error) and len(str(error)) < 900
        else:
            assert sum(t.nbytes for t in headers.tensors.values()) <= path.stat().st_size
            assert sum(v.nbytes for v in read_weights(path).values()) <= path.stat().st_size
        slowest = max(slowest, time.thread_time() - started)
    assert refused > 4_000
    assert slowest < 0.2
