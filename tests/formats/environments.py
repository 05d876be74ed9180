"""Virtual environments with stock diffusers, one library more at most, and nothing of ours.

They lie in ``.venv-formats``, some 1 GB each, and are made anew when their versions change.
"""

from __future__ import annotations

import os
import subprocess
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".venv-formats"
BASE = ("torch", "diffusers", "accelerate")


def pinned(*names: str) -> list[str]:
    """``name==version`` of these packages, as the project tests with them."""
    files = (ROOT / "constraints.txt", Path(__file__).with_name("requirements.txt"))
    lines = [line for file in files for line in file.read_text().splitlines()]
    return [line for name in names for line in lines if line.startswith(f"{name}==")]


def environment(*libraries: str) -> Path:
    """The Python of a clean environment with these libraries beside stock diffusers."""
    wanted = pinned(*BASE, *libraries)
    assert len(wanted) == len(BASE) + len(libraries), f"expected a version of each, got {wanted}"
    folder = HOME / "-".join(("diffusers", *libraries))
    python, made = folder / "bin" / "python", folder / ".made-of"
    if not made.is_file() or made.read_text().split() != wanted:
        venv.create(folder, with_pip=True, clear=True)
        install = ["install", "-qq", "--no-input", "--disable-pip-version-check", *wanted]
        subprocess.run([python, "-m", "pip", *install], check=True)
        made.write_text("\n".join(wanted))
    return python


def run(python: Path, script: Path, *words: object) -> str:
    """What a script prints there: outside the project, without a network, and without a way in."""
    inside = {"PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"}
    settings = {key: value for key, value in os.environ.items() if key in inside}
    settings |= {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [python, "-I", script, *map(str, words)],
        cwd="/",
        env=settings,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
