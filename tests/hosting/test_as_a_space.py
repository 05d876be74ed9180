"""The page under the limits of a hosted Space, in a process of its own: ``make hosting``.

Each test starts ``python app.py`` and walks through it with a client: describe, overview,
outliers with a calibration, lab, search, compare, take away.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("gradio")

from .served import FAKES, GUARDS, ROOT, demo, served

pytestmark = pytest.mark.slow
GB = 2**30
NOBODY = 65534
OFFLINE = {"HF_HUB_OFFLINE": "1", "DITAS_NO_NETWORK": "1"}


@pytest.fixture()
def open_folder() -> Iterator[Path]:
    """A temporary folder that everybody may write to; pytest's own are the user's alone."""
    with tempfile.TemporaryDirectory(prefix="ditas-hosting-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder


def report(capsys: pytest.CaptureFixture[str], *lines: str) -> None:
    """Figures for whoever runs this, past pytest's capturing."""
    with capsys.disabled():
        print("", *lines, sep="\n  ")


def test_the_guard_sees_sockets_and_writes(tmp_path):
    """The guard itself, in a plain process: what the other tests rely on."""
    code = """
import socket, pathlib, urllib.request
for work in (lambda: socket.create_connection(("192.0.2.1", 80), 1),
             lambda: socket.gethostbyname("example.invalid"),
             lambda: urllib.request.urlopen("http://example.invalid/", timeout=1)):
    try: work()
    except OSError as error: print(error)
    else: raise SystemExit("went through")
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).close()
pathlib.Path("outside.txt").write_text("x")
pathlib.Path("inside/in.txt").write_text("x")
"""
    (tmp_path / "inside").mkdir()
    log = tmp_path / "log"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(GUARDS), "DITAS_GUARD_LOG": str(log),
             "DITAS_NO_NETWORK": "1", "DITAS_WRITABLE": str(tmp_path / "inside"),
             "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = log.read_text().splitlines()
    assert sum('"socket"' in line for line in lines) == 3
    writes = [line for line in lines if '"write"' in line]
    assert len(writes) == 1 and "outside.txt" in writes[0]


def test_in_a_network_of_its_own_the_whole_demo_runs(tmp_path, capsys):
    """Enforced by the kernel: nothing but the loopback exists, for compiled code too."""
    alone = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*alone, "true"], capture_output=True).returncode
    ):
        pytest.skip("this user may not make a network namespace")
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, 'tests')\n"
        "from hosting.served import demo, served\n"
        "with served(Path(sys.argv[1]), {'HF_HUB_OFFLINE': '1'}) as page: print(*demo(page))"
    )
    done = subprocess.run(
        [*alone, sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "/takeaway" in done.stdout
    report(capsys, "own network: " + done.stdout.strip())


def read_only_mounts() -> list[str]:
    """A command that runs another one with every file system read-only but /tmp and /dev/shm."""
    script = (
        "set -e; mount --make-rprivate /; mount --bind / /; mount -o remount,bind,ro /; "
        'for m in $(awk \'$3 != "proc" && $3 != "sysfs" && $4 ~ /^rw/ {print $2}\' /proc/mounts); '
        'do case "$m" in /tmp*|/dev*|/proc*|/sys*|/) ;; *) mount -o remount,bind,ro "$m" || true;; '
        "esac; done; "
        'mount --bind "$KEPT" "$KEPT"; mount -o remount,bind,rw "$KEPT"; exec "$@"'
    )
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


def test_on_a_read_only_file_system(open_folder, capsys):
    """Enforced by the kernel: remounted read-only, all but one temporary folder."""
    command = read_only_mounts()
    os.environ["KEPT"] = str(open_folder)
    probe = ["sh", "-c", 'touch "$KEPT/x" && ! touch tests/x 2>/dev/null']
    try:
        tried = shutil.which("unshare") and subprocess.run(
            [*command, *probe], cwd=ROOT, capture_output=True
        )
    finally:
        os.environ.pop("KEPT")
    if not tried or tried.returncode:
        pytest.skip("this user may not make a mount namespace")
    environment = {"KEPT": str(open_folder), "HOME": "", **OFFLINE}
    with served(open_folder, environment, tuple(command)) as page:
        said = demo(page)
        assert page.noted("socket") == []
    assert not (ROOT / "tests" / "x").exists()
    report(capsys, "read-only file system:", *said)


def test_as_a_user_who_may_write_nowhere_else(open_folder, capsys):
    """Another user without a home: the project's folder is not writable, /tmp alone is."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    readable = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    probe = [*readable, sys.executable, "-c", "import torch, pathlib; pathlib.Path('x').touch()"]
    tried = subprocess.run(probe, cwd=ROOT, capture_output=True, text=True)
    if "PermissionError" not in tried.stderr and "Read-only" not in tried.stderr:
        pytest.skip(f"this checkout cannot be read by another user: {tried.stderr[-200:]}")
    before = snapshot()
    environment = {"HOME": "", "DITAS_WRITABLE": str(open_folder), **OFFLINE}
    with served(open_folder, environment, tuple(readable)) as page:
        said = demo(page)
        assert page.noted("socket") == []
        written = page.noted("write")
    assert written == [], "nothing is even tried outside the temporary folder"
    assert snapshot() == before
    report(capsys, "unprivileged, HOME unset:", *said)


def snapshot() -> set[tuple[str, int]]:
    """Every file of the project and when it was written."""
    skipped = {".git", "__pycache__", ".pytest_cache", "node_modules", ".venv", ".mypy_cache",
               ".ruff_cache", ".hypothesis"}  # fmt: skip
    return {
        (str(path), path.stat().st_mtime_ns)
        for path in ROOT.rglob("*")
        if not skipped & set(path.parts) and path.is_file()
    }


def small_machine(memory: int, cores: int) -> Callable[[], None]:
    """Limits of the process and all that it starts."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])

    return limit


def test_offline_within_16_gb_and_two_threads(tmp_path, capsys):
    threads = {"OMP_NUM_THREADS": "2", **OFFLINE}
    with served(tmp_path, threads, limit=small_machine(16 * GB, 2)) as page:
        begun = page.peak_mb()
        said = demo(page, "ditas")
        peak = page.peak_mb()
        assert page.noted("socket") == []
    report(
        capsys,
        f"16 GB of address space, 2 threads: {begun:.0f} MB after a start of "
        f"{page.started_s:.1f} s, at most {peak:.0f} MB resident, 0 sockets",
        *said,
    )
    assert peak < 4096


def test_too_little_memory_is_noticed(tmp_path):
    """The limit is a limit: with 1 GB of address space the page does not start."""
    with (
        pytest.raises(AssertionError),
        served(tmp_path, OFFLINE, limit=small_machine(1 * GB, 2)),
    ):
        pass


def test_on_zerogpu_the_page_declares_short_runs(tmp_path, capsys):
    """Through the page: whoever asks is known where the run is started."""
    log = tmp_path / "declared.jsonl"
    environment = {
        "PYTHONPATH": os.pathsep.join([str(GUARDS), str(FAKES)]),
        "FAKE_SPACES_LOG": str(log),
        "FAKE_SPACES_MODE": "on",
        "OMP_NUM_THREADS": "1",
        **OFFLINE,
    }
    with served(tmp_path, environment) as page:
        said = demo(page)
        assert page.noted("socket") == []
    declared = log.read_text().splitlines()
    assert declared and all(10 <= json.loads(line)["seconds"] <= 15 for line in declared)
    assert any("sample_there" in line for line in declared)
    report(capsys, "ZeroGPU:", *declared, *said)
