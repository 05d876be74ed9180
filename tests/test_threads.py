"""Threads that wait give the core to others, whatever a person starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ditas_core.threads import CHOSEN_BY_USER, share_cores

ROOT = Path(__file__).resolve().parents[1]
WHEN_TORCH_IS_LOADED = """
import os, runpy, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("at torch:", os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_WAIT_POLICY"))
            sys.stdout.flush()
            os._exit(0)
sys.meta_path.insert(0, Watch())
"""
STARTS = {
    "page": "runpy.run_path('app.py', run_name='__main__')",
    "command": "sys.argv = ['ditas', 'info', 'assets/NAME']\n"
    "runpy.run_module('ditas_core', run_name='__main__')",
    "script": "sys.argv = ['ditas', 'bench', 'busy', '--help']\n"
    "from ditas_core.cli import main; main()",
    "precompute": "runpy.run_module('ditas_core.ui.stored.precompute', run_name='__main__')",
    "training": "runpy.run_module('training', run_name='__main__')",
    "tests": "import tests.conftest",
}


def told(start: str, **given: str) -> str:
    """What the environment says at the moment that torch is first imported."""
    left = {k: v for k, v in os.environ.items() if k not in CHOSEN_BY_USER}
    done = subprocess.run(
        [sys.executable, "-c", WHEN_TORCH_IS_LOADED + start],
        cwd=ROOT,
        env={**left, **given},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout.strip() or done.stderr


@pytest.mark.parametrize("start", STARTS)
def test_is_set_before_torch_is_loaded(start: str) -> None:
    assert told(STARTS[start]) == "at torch: 1000 None"


def test_a_library_changes_nothing() -> None:
    everything = "import ditas_core, ditas_core.threads, ditas_core.calibration"
    assert told(everything) == "at torch: None None"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"GOMP_SPINCOUNT": "77"}, "at torch: 77 None"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "at torch: None ACTIVE"),
    ],
)
def test_the_users_own_choice_stays(given: dict[str, str], expected: str) -> None:
    assert told(STARTS["command"], **given) == expected
    environment = dict(given)
    assert not share_cores(environment)
    assert environment == given
