"""``/device/``: the static site that draws on the visitor's own device, served beside the page.

It is the shipped checkpoint's (``ditas export --to web``), made once: in the background, by a
process of its own, when the first visitor asks, and kept in the package's cache; or beforehand by
the operator, in the folder that ``DITAS_SITE`` names. Until it is there, a small page says so.
"""

from __future__ import annotations

import atexit
import hashlib
import html
import logging
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from filelock import FileLock
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from ...checkpoints import ASSETS, load_folder, own_cache
from ...site import STATIC
from ..stored.catalogue import find_checkpoints, showcase
from .heartbeats import Receive, Scope, Send

ADDRESS = "/device"
VARIABLE = "DITAS_SITE"
AGAIN_S = 600.0
"""After a failure, until it is tried again."""
NICE = 10
HEADERS = {
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
KEPT, ASKED = "public, max-age=31536000, immutable", "no-cache"
TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".gz": "application/octet-stream"}
PERCENT = re.compile(r"making the site: +(\d+) ?%")
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Draw on your device</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'self'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">{refresh}
<link rel="icon" href="data:,"><link rel="stylesheet" href="style.css"></head>
<body><main><header><h1>Draw on your device</h1><p>{lead}</p></header>
<p class="notice" role="status">{said}</p></main></body></html>
"""  # noqa: E501
LEAD = "A diffusion transformer squeezed to 4 bits, drawing in your browser."
logger = logging.getLogger(__name__)


class Device:
    """ASGI application of everything below ``ADDRESS``; one process makes the site, whoever asks.

    folder  of a site that was made beforehand; None: ``DITAS_SITE``, else the cache
    source  folder of the checkpoint; None: the first that is shipped
    """

    def __init__(self, folder: Path | None = None, source: Path | None = None) -> None:
        named = os.environ.get(VARIABLE, "")
        self.folder = folder or (Path(named) if named else None)
        self.source = source
        self.lock = threading.Lock()
        self.worker: threading.Thread | None = None
        self.process: subprocess.Popen[str] | None = None
        self.failed_at = 0.0
        self.percent = 0
        self.files: dict[str, Path] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.answer(Request(scope))(scope, receive, send)

    def answer(self, request: Request) -> Any:
        """What is asked for; only files that lie in the site have an answer."""
        path = str(request.scope["path"])
        if path == ADDRESS:
            return RedirectResponse("device/")  # below whatever the page lies below
        name = path.removeprefix(f"{ADDRESS}/") or "index.html"
        if not self.ready():
            return self.waiting(name)
        file = self.files.get(name)
        if file is None:
            return Response(status_code=404)
        stat = file.stat()
        tag = f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'
        keep = KEPT if name.startswith("models/") else ASKED
        headers = {**HEADERS, "cache-control": keep, "etag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return FileResponse(file, headers=headers, media_type=TYPES.get(file.suffix))

    def ready(self) -> bool:
        """Whether the site is there; it is begun where it is not."""
        if self.files:
            return True
        if self.folder is None:
            with self.lock:
                if self.folder is None and self.find_source() is not None:
                    self.folder = place_of(self.source)
        if self.folder is not None and (self.folder / "manifest.json").is_file():
            self.files = files_in(self.folder)
            return True
        self.begin()
        return False

    def find_source(self) -> Path | None:
        """The shipped checkpoint's folder."""
        if self.source is None:
            shipped = [entry for entry in find_checkpoints(named=()).values() if entry.local]
            self.source = Path(shipped[0].source) if shipped else None
        return self.source

    def waiting(self, name: str) -> Response:
        """The small page; its style is the site's own."""
        if name == "style.css":
            return FileResponse(STATIC / name, headers={**HEADERS, "cache-control": ASKED})
        if name != "index.html":
            return Response(status_code=404)
        if self.worker is not None and self.worker.is_alive():
            said = (
                f"It is being made for its first visitor, {self.percent} % so far. That takes some "
                "minutes, once; this page looks again every five seconds."
            )
            refresh = '<meta http-equiv="refresh" content="5">'
        else:
            refresh, said = "", (
                "It cannot be made on this server now; its log says why. It is tried again in some "
                "minutes."
            )  # fmt: skip
        page = PAGE.format(lead=LEAD, said=html.escape(said), refresh=refresh)
        return HTMLResponse(page, headers={**HEADERS, "cache-control": "no-store"})

    def begin(self) -> None:
        """Make it, unless it is being made or could not be made just now."""
        with self.lock:
            alive = self.worker is not None and self.worker.is_alive()
            tired = self.failed_at and time.monotonic() - self.failed_at < AGAIN_S
            if alive or tired or self.source is None or self.folder is None:
                return
            self.percent = 0
            self.worker = threading.Thread(target=self.make, name="device site", daemon=True)
            self.worker.start()

    def make(self) -> None:
        """Run ``ditas export`` to its end; one process of all that share the cache."""
        assert self.folder is not None
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.folder}.lock"):
                if not (self.folder / "manifest.json").is_file():
                    self.export()
        except (OSError, RuntimeError) as error:
            self.failed_at = time.monotonic()
            logger.warning("device: the site could not be made: %s", error)

    def export(self) -> None:
        """The command in a process of its own, which visitors' own work goes before.

        Raises:
            RuntimeError: it failed; with its last line.
        """
        names = load_folder(Path(str(self.source))).class_names
        words = [
            *(sys.executable, "-m", "ditas_core", "export", str(self.source), "--to", "web"),
            *("--open", showcase(names, 1)[0], "--out", str(self.folder)),
        ]
        hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            words, cwd=ASSETS.parent, env=hidden, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.process = process
        atexit.register(process.terminate)
        last = ""
        try:
            os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
            for line in process.stderr or ():
                last = line.strip() or last
                found = PERCENT.search(line)
                self.percent = int(found[1]) if found else self.percent
            if process.wait() != 0:
                raise RuntimeError(last[:300])
        finally:
            process.terminate()
            atexit.unregister(process.terminate)


def place_of(source: Path | None) -> Path:
    """Where the site of a checkpoint lies in the cache; another one for every other page or
    weights."""
    digest = hashlib.sha256()
    weights = Path(str(source)).rglob("*.safetensors")
    for path in (*sorted(STATIC.iterdir()), *sorted(weights)):
        digest.update(path.read_bytes())
    return own_cache() / "sites" / digest.hexdigest()[:20]


def files_in(folder: Path) -> dict[str, Path]:
    """Every file of a site by its address below it."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in found}
