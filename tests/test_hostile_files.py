"""Files made to do harm: nothing runs, nothing swells, nothing outside is read."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import subprocess
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from children import growth_of, told_by_child
from conftest import DEMO
from tiny_pipelines import edit_json

from ditas_core.artifact import load_quantized
from ditas_core.checkpoints import CheckpointError, load_checkpoint, loading_need
from ditas_core.checkpoints.files.headers import MAX_TENSORS
from ditas_core.checkpoints.files.weights import iterate_weights, read_headers, read_weights
from ditas_core.checkpoints.hub.pickled_folder import convert_folder
from ditas_core.cli import main

WEIGHTS = "diffusion_pytorch_model"
EXTENSIONS = ("pt", "bin", "ckpt", "pth", "pkl", "safetensors")


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


class Later:
    """Pickles as a harmless object whose state is set by a call."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (), None, None, iter([("key", self.call)])


def text(module: str, name: str, argument: str) -> bytes:
    """Protocol 0: ``module.name(argument)`` in plain text."""
    return f"c{module}\n{name}\n(V{argument}\ntR.".encode()


def payloads(witness: Path) -> dict[str, bytes]:
    """Twelve pickles, each of which would create ``witness``."""
    shell, code = f"touch {witness}", f"open({str(witness)!r}, 'w').close()"
    tensor = torch.zeros(2)
    calls: dict[str, Any] = {
        "system": Call(os.system, shell),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "open": Call(open, str(witness), "w"),
        "popen": Call(subprocess.Popen, ["touch", str(witness)]),
        "path": Call(Path.touch, witness),
        "beside weights": {
            "x_embedder.proj.weight": tensor.numpy(),
            "extra": Call(os.system, shell),
        },
        "as a key's value, later": Later(Call(os.system, shell)),
        "copy": Call(shutil.copyfile, "/etc/hostname", str(witness)),
    }
    found = {name: pickle.dumps(call, 2) for name, call in calls.items()}
    found["newer protocol"] = pickle.dumps(calls["system"], 4)
    found["plain text"] = text("posix", "system", shell)
    found["instance"] = f"(S'{shell}'\niposix\nsystem\n.".encode()
    assert len(found) == 12
    return found


def zipped(raw: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive as ``torch.save`` writes it around a pickle."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", compression) as archive:
        archive.writestr("archive/data.pkl", raw)
        archive.writestr("archive/version", "3\n")
    return whole.getvalue()


def legacy(raw: bytes) -> bytes:
    """The format from before the archive: its magic number, then pickles."""
    head = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join(head) + raw


CONTAINERS = {"archive": zipped, "bare pickle": bytes, "legacy": legacy}


@pytest.mark.parametrize("container", CONTAINERS)
def test_no_pickle_runs(tmp_path: Path, container: str) -> None:
    """12 payloads x 6 names x 3 containers x every way in."""
    witness = tmp_path / "witness"
    for name, raw in payloads(witness).items():
        pickle.loads(raw)  # the payload works
        for _ in range(100):
            if witness.exists():
                break
            time.sleep(0.02)
        assert witness.exists(), name
        witness.unlink()
        content = CONTAINERS[container](raw)
        for extension in EXTENSIONS:
            path = tmp_path / f"model.{extension}"
            path.write_bytes(content)
            ways: list[Callable[[], object]] = [
                lambda path=path: read_headers(path),
                lambda path=path: read_weights(path),
                lambda path=path: loading_need(path, like=DEMO),
                lambda path=path: load_checkpoint(path, like=DEMO),
            ]
            for way in ways:
                with pytest.raises(CheckpointError, match="expected"):
                    way()
            path.unlink()
            assert list(tmp_path.iterdir()) == [], (name, extension)


def test_what_a_pickle_asked_for_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(zipped(payloads(tmp_path / "w")["system"]))
    with pytest.raises(
        CheckpointError, match=r"asks for posix.system.*ask whoever made the file"
    ) as caught:
        read_weights(path)
    assert "nothing in it was run" in str(caught.value)


def keyed(made: bytes) -> bytes:
    """A dictionary with one key, which the instructions ``made`` leave on the stack."""
    return b"\x80\x02}(" + made + b"K\x01u."


COSTLY = {
    "a key 2,000 tuples deep": keyed(b")" + b"\x85" * 2_000),
    "a key 190,000 tuples deep": keyed(b")" + b"\x85" * 190_000),
    "a value 190,000 tuples deep": b"\x80\x02}(X\x01\x00\x00\x00a"
    + b")"
    + b"\x85" * 190_000
    + b"u.",
    "a key doubled 40 times": keyed(b")" + b"q\x00h\x00\x86" * 40),
    "a size doubled 40 times": keyed(b"ctorch\nSize\n" + b")" + b"q\x00h\x00\x86" * 40 + b"\x85R"),
    "a storage's key doubled 40 times": keyed(
        b"X\x07\x00\x00\x00storage" + b")" + b"q\x00h\x00\x86" * 40 + b"\x86Q"
    ),
    "whole numbers that hash alike": keyed(
        b"".join(b"\x8a\x14" + ((2**61 - 1) * k << 60).to_bytes(20, "little") for k in range(9))
    ),
    "more is taken than there is": b"\x80\x02}(\x85\x85u.",
    "an object that was never kept": keyed(b"h\x07"),
    "a mark that was never set": b"\x80\x02}u.",
}


@pytest.mark.parametrize("raw", COSTLY.values(), ids=COSTLY.keys())
def test_no_pickle_costs_more_than_its_bytes(tmp_path: Path, raw: bytes) -> None:
    """Unchecked, some of these end the process and others never end."""
    path = tmp_path / "model.pt"
    path.write_bytes(zipped(raw))
    started = time.thread_time()
    with pytest.raises(CheckpointError, match="nothing in it was run"):
        read_headers(path)
    assert time.thread_time() - started < 2


@pytest.mark.parametrize(
    "name", ["DiT#2", "~v2", "50%", "a&b'c", "{x}", "a;b:c", "$HOME", "!*?", "Modell-ä", "模型"]
)
def test_any_name_a_file_may_have(tmp_path: Path, name: str) -> None:
    """torch.save writes the file's name into the archive."""
    path = tmp_path / f"{name}.pt"
    state = {"a": torch.arange(6.0).reshape(2, 3)}
    torch.save({"ema": {}, "model": state}, path)
    assert torch.equal(read_weights(path)["a"], state["a"])


def test_a_file_cut_short_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({str(i): torch.rand(300_000) for i in range(3)}, path)
    weights = iterate_weights(path)
    next(weights)
    os.truncate(path, 100_000)
    with pytest.raises(CheckpointError, match="cut short while it was read"):
        next(weights)


@pytest.mark.parametrize("key", [7, (1, 2), None, 1.5, b"a"])
def test_every_tensor_has_a_name(tmp_path: Path, key: Any) -> None:
    path = tmp_path / "model.pt"
    torch.save({key: torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="expected"):
        read_headers(path)


def test_no_pickle_runs_from_a_folder(stock: Path, tmp_path: Path) -> None:
    """Under the name of safetensors, or as the pickles that diffusers would fall back to."""
    witness = tmp_path / "witness"
    for name, raw in payloads(witness).items():
        for part in ("transformer", "vae"):
            for pretend in (True, False):
                folder = tmp_path / "folder"
                shutil.copytree(stock, folder)
                weights = folder / part / f"{WEIGHTS}.safetensors"
                weights.unlink()
                (weights if pretend else weights.with_suffix(".bin")).write_bytes(zipped(raw))
                with pytest.raises(CheckpointError, match="expected"):
                    load_checkpoint(folder)
                with pytest.raises(CheckpointError, match="expected"):
                    list(convert_folder(folder, tmp_path / "converted"))
                shutil.rmtree(folder)
        assert list(tmp_path.iterdir()) == [], name


def test_code_beside_the_weights_is_never_imported(stock: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(stock, tmp_path / "folder"))
    witness = tmp_path / "witness"
    for place in (folder, folder / "transformer"):
        for name in ("pipeline.py", "modeling.py", "__init__.py", "transformer.py"):
            (place / name).write_text(f"open({str(witness)!r}, 'w').close()")
    for file in (folder / "model_index.json", folder / "transformer" / "config.json"):
        edit_json(file, auto_map={"AutoModel": "modeling.Model"})
    load_checkpoint(folder)
    assert not witness.exists()


# Bombs

MUCH = 268_000_000


def deflated_zeros(count: int) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(1_000_000)
    return b"".join(deflate.compress(block) for _ in range(count // len(block))) + deflate.flush()


def bombs(tmp_path: Path) -> dict[str, Path]:
    """Small files that are, or say they are, large."""
    made = {}

    def write(name: str, content: bytes) -> None:
        made[name] = tmp_path / f"{name}.pt"
        made[name].write_bytes(content)

    good = tmp_path / "good.pt"
    torch.save({"x": torch.zeros(MUCH // 4)}, good)
    deflated = tmp_path / "deflated tensor.pt"
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert deflated.stat().st_size < 500_000
    made["deflated tensor"] = deflated
    good.unlink()
    write("deflated pickle", zipped(pickle.dumps({"a": "x" * MUCH}), zipfile.ZIP_DEFLATED))
    write("bzip2 pickle", zipped(pickle.dumps({"a": "x" * 50_000_000}), zipfile.ZIP_BZIP2))
    write("lzma pickle", zipped(pickle.dumps({"a": "x" * 50_000_000}), zipfile.ZIP_LZMA))
    nested: Any = "lol"
    for _ in range(40):
        nested = [nested] * 10
    write("laughs", zipped(pickle.dumps(nested, 2)))
    write("deep", zipped(b"\x80\x02" + b"]" * 500_000 + b"a" * 499_999 + b"."))
    write("bytearray", zipped(b"\x80\x02c__builtin__\nbytearray\n\x8a\x05" + b"\0\0\0\0\x04\x85R."))
    write("storage", zipped(b"\x80\x02ctorch\nFloatStorage\n\x8a\x05" + b"\0\0\0\0\x04\x85R."))
    write("long", zipped(b"\x80\x02\x8b" + (2**31 - 1).to_bytes(4, "little") + b"x" * 100))
    write(
        "many names",
        zipped(b"\x80\x02}(" + b"".join(b"K\x01K\x01" for _ in range(900_000)) + b"u."),
    )
    small = tmp_path / "small.pt"
    torch.save({"x": torch.zeros(4)}, small)
    whole = small.read_bytes()
    # sizes that lie, in the directory and in the entry's own header
    for width, name in ((4, "lying directory"), (8, "lying entry")):
        write(name, whole.replace((16).to_bytes(4, "little") * 2, b"\xf0\xff\xff\x7f" * 2, width))
    torch.save({"x": torch.zeros(1).expand(10**6, 10**6)}, small)
    write("a view of everything", small.read_bytes())
    torch.save({f"x{i}": torch.zeros(1) for i in range(3_000)}, small)
    write("three thousand tensors", small.read_bytes())
    small.unlink()
    return made


def read_in_every_way(path: Path, is_bomb: bool) -> str:
    """In a child: bytes and processor seconds until every way has read, or refused, the file."""

    def attempt() -> None:
        for way in (read_headers, read_weights, loading_need):
            try:
                way(path)  # type: ignore[operator]
            except CheckpointError as error:
                assert "expected" in str(error) and len(str(error)) < 900
                refused = True
            else:
                refused = False
            # loading_need also refuses what is no DiT
            assert refused or not is_bomb, "it loaded"
            assert is_bomb or not refused or way is loading_need, "it was refused"

    started = time.thread_time()
    grown = growth_of(attempt)
    return f"{grown} {time.thread_time() - started}"


def test_bombs_do_not_go_off(tmp_path: Path) -> None:
    """No bomb takes more memory or more time than a good file may."""
    largest = tmp_path / "largest.pt"
    torch.save({f"x{i}": torch.zeros(1) for i in range(MAX_TENSORS)}, largest)

    def cost(path: Path, is_bomb: bool) -> list[float]:
        told = told_by_child(read_in_every_way, tmp_path, path, is_bomb)
        return [float(figure) for figure in told.split()]

    _, allowed = cost(largest, False)
    for name, path in bombs(tmp_path).items():
        grown, seconds = cost(path, True)
        assert grown < 50_000_000, (name, grown)
        assert seconds < 4 * allowed, (name, seconds, allowed)


# Configurations and places


TRAVERSALS = [
    "../../etc/passwd",
    "..",
    "/etc/passwd",
    "/proc/self/environ",
    "/dev/zero",
    "facebook/../../etc",
    "facebook/DiT-XL-2-256@../..",
    "facebook/DiT-XL-2-256@main",
    f"../../etc@{'0' * 40}",
    f"http://169.254.169.254/x@{'0' * 40}",
    "file:///etc/passwd",
    "hf://facebook/DiT-XL-2-256",
    "other/model",
    f"other/model@{'0' * 41}",
    f"model@{'0' * 40}",
    f"other/the..model@{'0' * 40}",
    f"other/model@{'0' * 40}\n",
    f"other/mod\u00e9l@{'0' * 40}",
    "a" * 5_000,
    "\0",
    "model\n.pt",
    "$HOME",
]


@pytest.mark.parametrize("source", TRAVERSALS, ids=range(len(TRAVERSALS)))
def test_strange_names_are_refused_without_a_socket(
    source: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("socket.socket.connect", never)
    monkeypatch.setattr("socket.getaddrinfo", never)
    started = time.thread_time()
    with pytest.raises(CheckpointError, match="expected"):
        load_checkpoint(source)
    with pytest.raises(CheckpointError, match="expected"):
        load_checkpoint(DEMO.parent / "none.pt", like=source)
    assert main(["info", source]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert time.thread_time() - started < 2


def test_a_quantized_folder_is_checked_alike(tmp_path: Path) -> None:
    folder = tmp_path / "q"
    (folder / "transformer").mkdir(parents=True)
    (folder / "ditas.json").write_text('{"format": "ditas-quantized-3"}')
    (folder / "recipe.json").write_text("{}")
    witness = tmp_path / "witness"
    content = zipped(payloads(witness)["system"])
    (folder / "transformer" / "quantized.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="expected"):
        load_quantized(folder)
    assert not witness.exists()
