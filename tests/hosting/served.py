"""The page in a process of its own, under the limits of a Space, and a walk through it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from gradio_client import Client
from processes import free_port

ROOT = Path(__file__).resolve().parents[2]
GUARDS = Path(__file__).parent / "guards"
FAKES = Path(__file__).parent / "fakes"
START_S, JOB_S = 240.0, 600.0
KEPT = ("PATH", "LANG", "LC_ALL", "VIRTUAL_ENV", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "HOME")


@dataclass
class Served:
    """A running page; ``log`` is what the guards noted."""

    url: str
    process: subprocess.Popen[bytes]
    output: Path
    log: Path
    started_s: float
    client: Client = field(repr=False)

    def noted(self, kind: str) -> list[list[str]]:
        """What the guards saw of a kind: "socket" or "write"."""
        if not self.log.is_file():
            return []
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line[1:] for line in lines if line[0] == kind]

    def peak_mb(self) -> float:
        """The most memory that was resident so far (VmHWM)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found.group(1)) / 1024

    def values(self, endpoint: str, **changes: Any) -> list[Any]:
        """The endpoint's values as the page opens, some changed by label."""
        known = self.client.view_api(return_format="dict", print_info=False)
        values = [  # labels are not unique
            (each["label"], each["parameter_default"] if each["parameter_has_default"] else None)
            for each in known["named_endpoints"][endpoint]["parameters"]
        ]
        assert set(changes) <= {label for label, _ in values}, (sorted(changes), values)
        return [changes.get(label, value) for label, value in values]

    def ask(self, endpoint: str, **changes: Any) -> str:
        """Everything that an endpoint answers, as text."""
        job = self.client.submit(*self.values(endpoint, **changes), api_name=endpoint)
        return json.dumps(job.result(timeout=JOB_S), ensure_ascii=False, default=str)


@contextmanager
def served(
    folder: Path,
    environment: dict[str, str] | None = None,
    command: tuple[str, ...] = (),
    limit: Callable[[], None] | None = None,
    **more: Any,
) -> Iterator[Served]:
    """``python app.py`` on a free port with almost nothing of this process's environment.

    folder   its temporary folder, where its output and the guards' notes lie too
    command  what the process is started through
    limit    called in the process before it starts
    """
    port = free_port()
    output, log = folder / "output.txt", folder / "guard.jsonl"
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    given = {
        **kept,
        "TMPDIR": str(folder),
        "GRADIO_SERVER_PORT": str(port),
        "PYTHONPATH": str(GUARDS),
        "PYTHONDONTWRITEBYTECODE": "1",
        "DITAS_GUARD_LOG": str(log),
        **(environment or {}),
    }
    given = {name: value for name, value in given.items() if value != ""}
    began = time.monotonic()
    with output.open("wb") as sink:
        process = subprocess.Popen(
            [*command, sys.executable, "app.py"], cwd=ROOT, env=given, stdout=sink,
            stderr=subprocess.STDOUT, preexec_fn=limit, **more,
        )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}"
            client = wait_for(process, url, output)
            seconds = time.monotonic() - began
            yield Served(url, process, output, log, seconds, client)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)


def wait_for(process: subprocess.Popen[bytes], url: str, output: Path) -> Client:
    """A client once the page answers; an error if the process ends before."""
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        assert process.poll() is None, output.read_text()[-3000:]
        try:
            if httpx.get(f"{url}/config", timeout=20).status_code == 200:
                return Client(url, verbose=False)
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(f"no page after {START_S:g} s: {output.read_text()[-3000:]}")


def demo(page: Served, method: str = "search") -> list[str]:
    """Describe, outliers, lab, search, compare, take away: what a visitor does in ten minutes.

    method  of the search: "ditas" takes longest
    Returns what was done, one line each.
    """
    said = []

    def step(endpoint: str, expected: str, **changes: Any) -> None:
        began = time.monotonic()
        answer = page.ask(endpoint, **changes)
        assert re.search(expected, answer), (endpoint, expected, answer[:1500])
        said.append(f"{endpoint} {time.monotonic() - began:.1f} s")

    step("/describe", "W4A8 · integer · recipe: DiTAS")
    step("/draw_overview", "DiTAS")
    step("/draw_outliers", "×")
    step("/measure", "Measured: 50 steps of 8 samples")
    step("/draw_lab", "dB")
    step("/search", "32 of 32 layers", Method=method)
    step("/compare", "samples · seed 7 · steps 10", Steps=10)
    step("/takeaway", r"report\.html")
    return said
