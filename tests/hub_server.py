"""A hub on loopback: one repository in the official DiT layout, and faults on demand."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tiny_pipelines import edit_json, save_tiny

REVISION = "0123456789abcdef0123456789abcdef01234567"
RENAMED = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def build_repository(folder: Path) -> None:
    """The random checkpoint as the official repositories hold theirs.

    Pickled weights, diffusers' class name of early 2023, its attention's names in the
    autoencoder.
    """
    save_tiny(folder)
    old = {"num_vector_embeds": None, "cross_attention_dim": None}
    edit_json(folder / "transformer" / "config.json", _class_name="Transformer2DModel", **old)
    for part in ("transformer", "vae"):
        file = folder / part / "diffusion_pytorch_model.safetensors"
        state = load_file(file)
        for new, name in RENAMED.items():
            at, then = f"attentions.0.{new}.", f"attentions.0.{name}."
            state = {key.replace(at, then): value for key, value in state.items()}
        torch.save(state, file.with_suffix(".bin"))
        file.unlink()
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n", encoding="utf-8")


class Hub:
    """What the server does next, and what it was asked.

    A fault is a status, a status with headers, or a word: "drop" breaks off in the
    middle, "cut" before the first byte, "stall" says nothing after half, "wrong" has a bit
    changed, "all again" ignores where to start (", short": and breaks off), "a page" answers
    with something else.

    faults   of a path in the repository: what to do with its next requests for bytes
             (``GET``), or for what it is (``HEAD path``), one after another
    """

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder = folder
        self.endpoint = endpoint
        self.faults: dict[str, list[Any]] = defaultdict(list)
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.commit = ""
        self.over = threading.Event()

    def requests(self, method: str, path: str) -> list[dict[str, str]]:
        return [headers for m, p, headers in self.asked if (m, p) == (method, path)]


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.serve("HEAD")

    def do_GET(self) -> None:
        self.serve("GET")

    def serve(self, method: str) -> None:
        cdn = re.fullmatch(r"/cdn/(.+)", self.path)
        wanted = re.fullmatch(r"/[\w.-]+/[\w.-]+/resolve/(\w+)/(.+)", self.path)
        if cdn is None and wanted is None:
            return self.answer(404)
        path = cdn[1] if cdn else wanted[2]  # type: ignore[index]
        heavy = path.endswith((".bin", ".safetensors"))
        if method == "HEAD" or cdn or not heavy:
            self.hub.asked.append((method, path, {k.lower(): v for k, v in self.headers.items()}))
            faults = self.hub.faults[path if method == "GET" else f"HEAD {path}"]
            fault = faults.pop(0) if faults else None
            if isinstance(fault, int):
                return self.answer(fault)
            if isinstance(fault, tuple):
                return self.answer(*fault)
        else:
            fault = None
        file = self.hub.folder / path
        if not file.is_file():
            return self.answer(404)
        content = file.read_bytes()
        sha1 = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        etag = hashlib.sha256(content).hexdigest() if heavy else sha1
        revision = self.hub.commit or (wanted[1] if wanted else "")
        if wanted and heavy:
            other = self.hub.endpoint.replace("127.0.0.1", "localhost")
            return self.answer(
                302,
                {
                    "Location": f"{other}/cdn/{path}",
                    "X-Linked-Size": str(len(content)),
                    "X-Linked-ETag": f'"{etag}"',
                    "X-Repo-Commit": revision,
                },
            )
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": revision}
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if fault == "wrong":
            content = bytes([content[0] ^ 1]) + content[1:]
        again = isinstance(fault, str) and fault.startswith(("all again", "a page"))
        first = int(start[1]) if start and not again else 0
        status = 206 if first else 200
        body = content[first:]
        if isinstance(fault, str) and fault.startswith("a page"):
            body = b"<html>sign in"
        half = fault in ("drop", "stall", "all again, short")
        self.answer(status, headers, body, method, half=half, none=fault == "cut")
        if fault == "stall":
            self.hub.over.wait(60)

    def answer(
        self,
        status: int,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        method: str = "GET",
        half: bool = False,
        none: bool = False,
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if method == "GET":
            self.wfile.write(b"" if none else body[: len(body) // 2] if half else body)
        if half or none:
            self.wfile.flush()
            self.close_connection = True


@contextmanager
def serve_hub(folder: Path) -> Iterator[Hub]:
    """Serve a repository's files as long as the block lasts."""
    handler = type("Bound", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub = Hub(folder, f"http://127.0.0.1:{server.server_port}")
    handler.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def point_to(hub: Hub, monkeypatch: Any) -> None:
    """As ``HF_ENDPOINT`` does for a new process."""
    from huggingface_hub import constants

    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
