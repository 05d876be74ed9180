"""The static site in a browser: what it weighs, how soon it draws, how far two runtimes part.

python -m ditas_core bench site --json
"""

from __future__ import annotations

import argparse
import functools
import gzip
import http.server
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ditas_core.checkpoints import Checkpoint, load_checkpoint
from ditas_core.cli import main
from ditas_core.cli.parsing import number
from ditas_core.evaluation import sqnr_db
from ditas_core.onnx_runtime import OnnxTransformer
from ditas_core.sampling import iterate_latents
from ditas_core.specs import SamplingSpec

from .machine import DEMO, describe

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
FULL = "full"
LABEL, SEED, STEPS, GUIDANCE = 1, 7, 20, 2.5
TARGETS = {
    "download_mb": 8.0,
    "code_mb": 16.0,
    "first_s": 10.0,
    "next_s": 3.0,
    "full_latents": 1e-3,
}
WAIT_MS = 120_000
DRAW = """([keys, label, seed, steps, guidance]) => new Promise((resolve, reject) => {
  const worker = new Worker("engine.js", { type: "module" }), found = {};
  worker.onerror = (event) => reject(event.message);
  worker.onmessage = ({ data }) => {
    if (data.kind === "drawn") {
      found[data.key] = { ms: data.ms, latents: [...data.latents] };
    } else if (data.kind === "failed") reject(data.text);
    else if (data.kind === "done") {
      worker.terminate();
      resolve(found);
    }
  };
  worker.postMessage({ kind: "draw", job: 1, keys, label, seed, steps, guidance });
})"""
"""The page's own worker, asked once; each model's milliseconds per step and final latents."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--site", type=Path, help="a site of the demo; default: one is made")
    parser.add_argument(
        "--draws", type=number(int, 1, 100), default=5, help="after the first (%(default)s)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Sizes, times of one thread, and the distance of the browser's latents from Python's."""
    if args.site is not None:
        return measured(args.site, args.draws)
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        if main(["export", str(DEMO), "--to", "web", "--out", str(site), "--json"]):
            raise ValueError("site: expected one of the demo to be made")
        return measured(site, args.draws)


@contextmanager
def served(site: Path, isolated: bool = False) -> Iterator[str]:
    """A site's address on loopback; ``isolated``: with the headers that allow several threads."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            if isolated:
                self.send_header("Cross-Origin-Opener-Policy", "same-origin")
                self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            super().end_headers()

        def log_message(self, *_: object) -> None:
            return

    handler = functools.partial(Handler, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def sizes(site: Path) -> dict[str, Any]:
    """Bytes to download of every model, and of code and runtime before and after compression."""
    manifest = json.loads((site / "manifest.json").read_text(encoding="utf-8"))
    code = packed = 0
    for path in site.rglob("*"):
        # models and recorded results are no code, and what is for people only is not loaded
        other = path.parent.name == "models" or path.name == "story.html" or path.suffix == ".md"
        if other or not path.is_file():
            continue
        content = path.read_bytes()
        whole = gzip.decompress(content) if path.suffix == ".gz" else content
        code += len(whole)
        packed += len(content) if path.suffix == ".gz" else len(gzip.compress(content, 6))
    return {
        "models": {each["key"]: each["bytes"] for each in manifest["models"]},
        "decoder": manifest["decoder"]["bytes"],
        "decoder_psnr": manifest["decoder"]["psnr"],
        "code": code,
        "code_compressed": packed,
    }


def measured(site: Path, draws: int) -> dict[str, Any]:
    """The report.

    Raises:
        ValueError: a site that has no model of four bits or no full precision.
    """
    from playwright.sync_api import sync_playwright

    found = sizes(site)
    key = next((key for key in found["models"] if key.startswith("W4") and "ditas" in key), "")
    if not key or FULL not in found["models"]:
        raise ValueError(f"site: expected models of four bits and in full precision, got {site}")
    with served(site) as url, sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        seconds, worked = drawing_times(page, url, draws + 1)
        apart = page.evaluate(DRAW, [[FULL, key], LABEL, SEED, STEPS, GUIDANCE])
        browser.close()
    checkpoint = load_checkpoint(str(DEMO))
    full = reference(checkpoint, checkpoint.transformer)
    shape = full.shape
    latents = {name: torch.tensor(each["latents"]).reshape(shape) for name, each in apart.items()}
    same = reference(checkpoint, same_file(site, key, checkpoint))
    return {
        "sizes": found,
        "model": key,
        "seconds": seconds,
        "processor_seconds": worked,
        "step_ms": {name: each["ms"] for name, each in apart.items()},
        "values": {
            "download_mb": (found["models"][key] + found["decoder"]) / 1e6,
            "code_mb": found["code"] / 1e6,
            "first_s": seconds[0],
            "next_s": statistics.median(seconds[1:]),
            "full_latents": float((latents[FULL] - full).abs().max()),
        },
        "targets": TARGETS,
        "apart_db": {
            "browser and Python, the same file": float(sqnr_db(same, latents[key])),
            "browser and full precision": float(sqnr_db(full, latents[key])),
            "Python and full precision": float(sqnr_db(full, same)),
        },
        "machine": describe(),
    }


def drawing_times(page: Any, url: str, count: int) -> tuple[list[float], list[float]]:
    """Seconds from the click to the finished picture, and of the browser's work in between.

    The first click comes as soon as the page can be used: all is loaded after it.
    """
    page.goto(url)
    page.wait_for_selector("html[data-ready=yes]")
    found, worked = [], []
    for _ in range(count):
        started, before = time.perf_counter(), work_of_children()
        page.click("#draw")
        page.wait_for_selector("#status.busy")
        page.wait_for_selector("#status.done", timeout=WAIT_MS)
        found.append(round(time.perf_counter() - started, 2))
        worked.append(round(work_of_children() - before, 2))
    return found, worked


def work_of_children() -> float:
    """Processor seconds of all processes that this one has started, and theirs; Linux."""
    above, spent = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        pid = int(path.parent.name)
        above[pid], spent[pid] = int(fields[1]), int(fields[11]) + int(fields[12])

    def ours(pid: int) -> bool:
        while pid in above:
            pid = above[pid]
            if pid == os.getpid():
                return True
        return False

    return sum(ticks for pid, ticks in spent.items() if ours(pid)) / os.sysconf("SC_CLK_TCK")


def reference(checkpoint: Checkpoint, transformer: Any) -> torch.Tensor:
    """Final latents of the same class, seed, steps and guidance in Python."""
    spec = SamplingSpec(STEPS, GUIDANCE)
    *_, last = iterate_latents(
        transformer,
        checkpoint.scheduler,
        torch.tensor([LABEL]),
        checkpoint.latent_shape,
        spec,
        SEED,
    )
    return last.latents


def same_file(site: Path, key: str, checkpoint: Checkpoint) -> OnnxTransformer:
    """A model's own file, run by ONNX Runtime in this process."""
    (path,) = site.glob(f"models/{key}.*.onnx.gz")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "transformer.onnx"
        file.write_bytes(gzip.decompress(path.read_bytes()))
        return OnnxTransformer(file, checkpoint.transformer)


def lines(report: dict[str, Any]) -> list[str]:
    """One line per figure and its target."""
    machine, found = report["machine"], report["sizes"]
    out = [f"{machine['cpu']}, {machine['cores']} cores, one thread, load {machine['load'][0]}"]
    for name, value in report["values"].items():
        target = report["targets"][name]
        kept = "met" if value <= target else "MISSED"
        out.append(f"{name:14s} {value:10.6g}, at most {target:g}: {kept}")
    worked = report["processor_seconds"]
    out.append(
        f"of work: {worked[0]:.1f} s from the first click, then {statistics.median(worked[1:]):.1f}"
    )
    out += [f"{key:14s} {size / 1e6:6.2f} MB to download" for key, size in found["models"].items()]
    out += [f"{key:14s} {ms:6.0f} ms per step" for key, ms in report["step_ms"].items()]
    out.append(f"{'decoder':14s} {found['decoder'] / 1e6:6.2f} MB, {found['decoder_psnr']:.1f} dB")
    out.append(f"{'compressed':14s} {found['code_compressed'] / 1e6:6.2f} MB of code and runtime")
    out += [f"{db:6.1f} dB  {what}" for what, db in report["apart_db"].items()]
    return out
