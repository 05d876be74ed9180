"""Exported ONNX folders, and the packages they need."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(("onnx", "onnxruntime", "onnxscript")))
from conftest import build_random_checkpoint
import ditas_core.onnx_runtime as room
for work in (room.check_installed, lambda: room.traced(build_random_checkpoint())):
    try:
        work()
    except ModuleNotFoundError as error:
        print(error)
"""
IMPORTS = """
import sys
import ditas_core.api, ditas_core.cli.commands, ditas_core.onnx_runtime
assert not {"onnx", "onnxruntime", "onnxscript"} & set(sys.modules)
"""


@pytest.fixture
def path_of_tests(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    here = Path(__file__).resolve().parent
    monkeypatch.setenv("PYTHONPATH", f"{here}:{here.parent}")
    yield


def test_the_packages_are_loaded_when_needed_and_missed_by_name(path_of_tests: None) -> None:
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("pip install 'ditas_core[onnx]'" in line for line in lines), lines
