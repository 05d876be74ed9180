"""The project on the lowest versions that it promises to run on, and on the newest: ``make pins``.

    python tests/hosting/pins.py lowest newest

For each: a new virtual environment with the lower bounds of requirements.txt (or the newest
releases the package index has), the quick core tests, and one start of the page with a few
answers. The environment is removed afterwards. It takes up to 9 GB of disk and, on two cores, ten
minutes. PINS_TORCH chooses another torch, for example 2.13.0 where only that one has a CPU build.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ["pytest>=8", "hypothesis>=6.100"]
CORE = ["test_specs", "test_quantizer", "test_smoothing", "test_layers", "test_checkpoints",
        "test_sampling", "test_calibration", "test_original", "test_golden", "test_stills",
        "test_figures"]  # fmt: skip
PAGE = """
import sys, tempfile, pathlib
sys.path.insert(0, "tests")
from hosting.served import served
with tempfile.TemporaryDirectory() as folder:
    with served(pathlib.Path(folder), {"HF_HUB_OFFLINE": "1", "DITAS_NO_NETWORK": "1"}) as page:
        print(f"page: started in {page.started_s:.1f} s", flush=True)
        for endpoint in ("/describe", "/draw_overview", "/draw_outliers", "/draw_search",
                         "/draw_compare", "/draw_injector"):
            print("page:", endpoint, len(page.ask(endpoint)), "characters", flush=True)
        assert page.noted("socket") == []
"""


def wanted(kind: str) -> list[str]:
    """``name==bound`` of every line of requirements.txt, or the lines as they are."""
    found = []
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, bound = re.fullmatch(r"([A-Za-z0-9_.-]+)>=([0-9.]+).*", line.strip()).groups()
        torch = os.environ.get("PINS_TORCH") if name == "torch" else None
        lowest = f"{name}=={torch or bound}"
        found.append(lowest if torch or kind == "lowest" else line.strip())
    return found


def versions(python: Path) -> str:
    names = [re.split("[>=]", line)[0] for line in wanted("lowest")]
    code = f"from importlib.metadata import version as v\nprint(*(n + ' ' + v(n) for n in {names}))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout


def run(kind: str) -> int:
    """The number of steps that failed."""
    folder = Path(tempfile.mkdtemp(prefix=f"ditas-{kind}-"))
    python = folder / "bin" / "python"
    try:
        venv.create(folder, with_pip=True)
        upgrade = ["--upgrade"] if kind == "newest" else []
        install = [python, "-m", "pip", "install", "-qq", "--no-input", "--no-cache-dir",
                   "--disable-pip-version-check", "--no-compile",
                   *upgrade, *wanted(kind), *TOOLS]  # fmt: skip
        if subprocess.run(install).returncode:
            print(f"{kind}: these versions do not go together: {' '.join(wanted(kind))}")
            return 1
        print(f"{kind}: {versions(python).strip()}", flush=True)
        options = ["-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu"]
        tests = [python, "-m", "pytest", *options, *(f"tests/{name}.py" for name in CORE)]
        failed = subprocess.run(tests, cwd=ROOT).returncode
        page = subprocess.run([python, "-c", PAGE], cwd=ROOT).returncode
        print(f"{kind}: core tests {'failed' if failed else 'passed'}, "
              f"page {'failed' if page else 'started and answered'}", flush=True)  # fmt: skip
        return bool(failed) + bool(page)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    kinds = sys.argv[1:] or ["lowest", "newest"]
    if not set(kinds) <= {"lowest", "newest"}:
        sys.exit(f"pins: expected lowest or newest, got {' '.join(kinds)}")
    raise SystemExit(sum(run(kind) for kind in kinds))
