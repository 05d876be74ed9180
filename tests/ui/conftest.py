"""What the tests of the page share: a bench, the page served, the bar's values, its listeners."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from gradio_client import Client
from PIL import Image

from ditas_core.bench.machine import DEMO
from ditas_core.bench.pages import SHORT, tiny_folder
from ditas_core.specs import CalibrationSpec
from ditas_core.ui import build_app, launch_options
from ditas_core.ui.stored.catalogue import PRECOMPUTED_VARIABLE, Entry, find_checkpoints
from ditas_core.ui.stored.results import DITAS
from ditas_core.ui.visitors.backend import Backend
from ditas_core.ui.visitors.session import Session

ROOT = Path(__file__).resolve().parents[2]
HUB = "facebook/DiT-XL-2-256"
CONVENTION: str = json.loads((ROOT / "assets/precomputed/results.json").read_text("utf-8"))[
    "convention"
]
"""That of what is shipped, in which the page opens."""


def bench_of(
    folder: Path = DEMO, spec: CalibrationSpec = SHORT, *others: str, **more: Any
) -> Backend:
    """About the checkpoint in this folder; the others lie on the hub and are not loaded."""
    entries = {folder.name: Entry(folder.name, folder.name, str(folder), True)}
    hub = find_checkpoints(folder / "none", others)
    return Backend(entries | {name: hub[name] for name in others}, spec, **more)


def measured(backend: Backend) -> Backend:
    """With its short calibration run."""
    for _ in backend.calibrated(backend.default, backend.spec):
        pass
    return backend


def at_once(work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """What the work returns for each item, a thread for each."""
    with ThreadPoolExecutor(len(items)) as crowd:
        return list(crowd.map(work, items))


class Watched:
    """A function that works as before: what it was asked and has found, how many at a time."""

    def __init__(self, work: Callable[..., Any], pause_s: float) -> None:
        self.work, self.pause_s, self.lock = work, pause_s, threading.Lock()
        self.asked: list[tuple[Any, ...]] = []
        self.found: list[Any] = []
        self.now = self.most = 0

    def __call__(self, *asked: Any, **more: Any) -> Any:
        with self.lock:
            self.asked.append(asked)
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            time.sleep(self.pause_s)
            found = self.work(*asked, **more)
            self.found.append(found)
            return found
        finally:
            with self.lock:
                self.now -= 1


def watch(patch: pytest.MonkeyPatch, place: str, pause_s: float = 0.0) -> Watched:
    """Watch the function of this module of the package from now on."""
    path, _, name = f"ditas_core.{place}".rpartition(".")
    module = import_module(path)
    found = Watched(getattr(module, name), pause_s)
    patch.setattr(module, name, found)
    return found


def closed_when(events: Iterator[Any], enough: Callable[[Any], bool]) -> list[Any]:
    """The events of a job that is closed after the first that is enough."""
    seen = []
    with closing(events):  # type: ignore[type-var]
        for event in events:
            seen.append(event)
            if enough(event):
                break
    return seen


def hooked(module: torch.nn.Module) -> bool:
    """Whether anything still listens to one of its parts."""
    return any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def bar(checkpoint: Any = DEMO.name, **changes: Any) -> list[Any]:
    """The bar's ten values."""
    values = {
        "checkpoint": checkpoint, "preset": "W4A8", "weight": 4, "activation": 8,
        "convention": CONVENTION, "recipe": DITAS, "inject": False, "strength": 60, "dark": False,
        "backend": "simulated",
    }  # fmt: skip
    assert set(changes) <= set(values)
    return list({**values, **changes}.values())


@contextmanager
def launched(demo: gr.Blocks) -> Iterator[str]:
    """Where the page is served."""
    _, url, _ = demo.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options()
    )
    try:
        yield url
    finally:
        demo.close()


def listener(demo: gr.Blocks, name: str) -> Any:
    """What the server runs under this name of the interface or of the code."""
    fns = [fn for fn in demo.fns.values() if fn.fn is not None]
    return next(fn for fn in fns if name in (fn.api_name, getattr(fn.fn, "__name__", "")))


def pictures(page: str) -> list[np.ndarray]:
    """The pixels of every picture in this text."""
    found = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    files = (io.BytesIO(base64.b64decode(text)) for text in found)
    return [np.asarray(Image.open(file).convert("RGB")) for file in files]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model with random weights."""
    return tiny_folder(tmp_path_factory.mktemp("page") / "tiny")


@pytest.fixture(scope="module")
def nothing_shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the shipped results, which has none."""
    folder = tmp_path_factory.mktemp("precomputed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PRECOMPUTED_VARIABLE, str(folder))
        yield folder


@pytest.fixture(scope="module")
def backend() -> Backend:
    """The demo with its shipped results, and a model of the hub; nothing is measured."""
    return bench_of(DEMO, SHORT, HUB)


@pytest.fixture()
def session() -> Session:
    return Session("somebody")


@pytest.fixture(scope="module")
def demo(backend: Backend) -> gr.Blocks:
    return build_app(backend)


@pytest.fixture(scope="module")
def url(demo: gr.Blocks) -> Iterator[str]:
    with launched(demo) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Client:
    return Client(url, verbose=False)
