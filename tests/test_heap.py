"""Freed memory is kept for the next tensor, whatever a person starts."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from ditas_core.heap import CHOSEN_BY_USER, keep_freed_memory

ROOT = Path(__file__).resolve().parents[1]
GLIBC = platform.libc_ver()[0] == "glibc"
HELD = """
import os, torch
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
torch.ones(2**20)
before = resident()
tensors = [torch.ones(2**20) for _ in range(25)]
del tensors
print(resident() - before)
"""


def held(start: str, **given: str) -> float:
    """MB that a process still has of 25 tensors of 4 MB after they are gone."""
    left = {k: v for k, v in os.environ.items() if k not in CHOSEN_BY_USER}
    done = subprocess.run(
        [sys.executable, "-c", start + HELD],
        cwd=ROOT, env={**left, **given}, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return float(done.stdout)


COMMAND = """
import contextlib, io
from ditas_core.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(["--help"])
"""


@pytest.mark.skipif(not GLIBC, reason="another C library")
@pytest.mark.parametrize("start", ["import ditas_core.ui\n", "import training\n", COMMAND])
def test_freed_memory_is_kept(start: str) -> None:
    assert held(start) > 60


@pytest.mark.skipif(not GLIBC, reason="another C library")
def test_a_library_and_who_has_chosen_change_nothing() -> None:
    assert held("import ditas_core, ditas_core.calibration\n") < 30
    assert held("import training\n", MALLOC_TRIM_THRESHOLD_="131072") < 30


def test_what_the_user_chose_stays() -> None:
    for name in CHOSEN_BY_USER:
        assert not keep_freed_memory({name: "1"})
