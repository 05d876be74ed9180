"""Pages that benchmarks and tests serve over loopback, and visitors that speak plain HTTP."""

from __future__ import annotations

import gc
import json
import os
import socket
import ssl
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel

from ditas_core.specs import CalibrationSpec, SamplingSpec
from ditas_core.ui import Backend, build_app, launch_options
from ditas_core.ui.page.bar import first_choice
from ditas_core.ui.serving.limits import Limits
from ditas_core.ui.stored.catalogue import Entry

API = "/gradio_api"
TLS = ssl.create_default_context()  # never used over loopback, but slow to make
SHORT = CalibrationSpec(SamplingSpec(steps=4), samples=1)
NAMES = ("cat", "dog", "fox", "owl", "bee")


def tiny_folder(path: Path, names: Sequence[str] = NAMES) -> Path:
    """A diffusers folder of a model with random weights, two blocks wide 32: no trained model."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4,
        num_layers=2, sample_size=8, patch_size=2,
    )  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16), norm_num_groups=4, latent_channels=4, sample_size=16,
        scaling_factor=0.5,
    )  # fmt: skip
    for module in (transformer, vae):
        for parameter in module.parameters():
            parameter.data.copy_(torch.randn(parameter.shape) / 6)
    transformer.save_pretrained(path / "transformer")
    vae.save_pretrained(path / "vae")
    DDIMScheduler(clip_sample=False).save_pretrained(path / "scheduler")
    index = {
        "_class_name": "DiTPipeline",
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "id2label": {str(i): name for i, name in enumerate(names)},
    }
    (path / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return path


@dataclass
class Served:
    """A page that answers on loopback."""

    backend: Backend
    demo: Any
    url: str

    @property
    def checkpoint(self) -> str:
        return self.backend.default.key

    def bar(self, **changes: Any) -> list[Any]:
        """The bar's ten values, in the convention that the page opens with."""
        values = {
            "checkpoint": self.checkpoint, "preset": "W4A8", "weight": 4, "activation": 8,
            "convention": first_choice(self.backend).convention, "recipe": "plain rounding",
            "inject": False, "strength": 60, "dark": False, "backend": "simulated",
        }  # fmt: skip
        return list({**values, **changes}.values())

    def compare(self, seed: int = 0, steps: int = 4, **changes: Any) -> list[Any]:
        """The inputs of "compare": one sample, plain rounding."""
        names = list(self.backend.checkpoint(self.backend.default).class_names)
        return [names[:1], 1, seed, steps, 2.5, ["plain rounding"], *self.bar(**changes)]


@contextmanager
def served(folder: Path, limits: Limits | None = None, demo: Any = None) -> Iterator[Served]:
    """The whole page about the checkpoint in this folder."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    entry = Entry(folder.name, folder.name, str(folder), True)
    backend = Backend({folder.name: entry}, SHORT, limits or Limits())
    page = build_app(backend) if demo is None else demo(backend)
    _, url, _ = page.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options()
    )
    try:
        yield Served(backend, page, url.rstrip("/"))
    finally:
        page.close()
        torch.set_num_threads(threads)


class Visitor:
    """One browser tab, without the browser: a session, its questions and what comes back."""

    def __init__(self, url: str, session: str = "") -> None:
        self.url = url
        self.session = session or uuid.uuid4().hex[:12]
        headers = {"content-type": "application/json"}
        self.http = httpx.Client(base_url=url, timeout=120.0, headers=headers, verify=TLS)
        self.beats: socket.socket | None = None

    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get("/config").json()
        return found

    def number(self, api_name: str) -> int:
        """The listener's number."""
        for each in self.config()["dependencies"]:
            if each["api_name"] == api_name:
                return int(each["id"])
        raise KeyError(api_name)

    def join(self, number: int, data: Any, **more: Any) -> httpx.Response:
        body = {"fn_index": number, "data": data, "session_hash": self.session, **more}
        return self.http.post(f"{API}/queue/join", content=json.dumps(body))

    def listen(self) -> Iterator[dict[str, Any]]:
        """Messages until the server has no more."""
        address = f"{API}/queue/data?session_hash={self.session}"
        with self.http.stream("GET", address) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    message = json.loads(line[6:])
                    if message["msg"] == "close_stream":
                        return
                    yield message

    def ask(self, number: int, data: Any, **more: Any) -> dict[str, Any]:
        """The last message of one question."""
        answer = self.join(number, data, **more)
        if answer.status_code != 200:
            return {"msg": "refused", "status": answer.status_code, "text": answer.text}
        last: dict[str, Any] = {}
        for message in self.listen():
            if message["msg"] == "process_completed":
                last = message
        return last

    def open(self) -> None:
        """Keep a heartbeat, as a page does."""
        self.beats = raw(self.url, f"GET {API}/heartbeat/{self.session} HTTP/1.1")

    def cancel(self, number: int, event: str) -> None:
        """What the Cancel button's script sends."""
        body = {"fn_index": number, "event_id": event, "session_hash": self.session}
        assert self.http.post(f"{API}/cancel", json=body).status_code == 200

    def close(self) -> None:
        """The tab is closed."""
        if self.beats is not None:
            self.beats.close()
        self.http.close()


def raw(url: str, request: str, body: bytes = b"", headers: Sequence[str] = ()) -> socket.socket:
    """A connection on which this was sent; whoever closes it is gone."""
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None
    link = socket.create_connection((parts.hostname, parts.port), timeout=60)
    lines = [request, f"Host: {parts.hostname}:{parts.port}", *headers, "", ""]
    link.sendall("\r\n".join(lines).encode() + body)
    return link


def rss_mb() -> float:
    """Resident memory of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def until(condition: Any, seconds: float = 60) -> float:
    """How long it took to become true."""
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        assert waited < seconds, f"expected within {seconds:g} s"
        time.sleep(0.02)
    return time.monotonic() - began
