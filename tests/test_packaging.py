"""What ``pip install .`` installs: the wheel, its requirements, what is said of a missing one."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from test_architecture import MODULES, imports, room_of

ROOT = Path(__file__).resolve().parents[1]
BUILD = "import sys, setuptools.build_meta as b; print(b.build_wheel(sys.argv[1]), file=sys.stderr)"
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "requirements.txt", "requirements-dev.txt")
# None in sys.modules: importing it raises ModuleNotFoundError, as where it is not installed
WITHOUT_EXTRAS = """
import sys
extras = ("gradio", "plotly", "playwright", "pytest", "efficientnet_lite_pytorch")
sys.modules.update(dict.fromkeys(extras))
from ditas_core.cli import main
from ditas_core.checkpoints import shipped_folders
assert main(["info", str(shipped_folders()[0])]) == 0
assert [main(["bench", name]) for name in ("tokens", "load", "page")] == [2, 2, 2]
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """Built as pip builds it, from a copy of the files under version control."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("ditas_core", "training"):  # the latter must not come along
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    built = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(built)], cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(built.glob("ditas_core-*.whl"))) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def required(metadata: Message, extra: str = "") -> dict[str, str]:
    """Package name -> versions, of what an installation with this extra asks for."""
    found = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    return {
        r.name: str(r.specifier)
        for r in found
        if r.marker is None or r.marker.evaluate({"extra": extra})
    }


def listed(path: str) -> list[str]:
    lines = (line.strip() for line in (ROOT / path).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def test_every_module_and_file_of_the_package_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    wanted = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "ditas_core").rglob("*")
        if path.is_file()
        and (path.suffix in {".py", ".txt", ".typed"} or path.parent.name in {"static", "graphs"})
    }
    assert "ditas_core/ui/page/static/page.js" in wanted
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == wanted


def test_the_command_is_installed(wheel: zipfile.ZipFile) -> None:
    name = next(n for n in wheel.namelist() if n.endswith(".dist-info/entry_points.txt"))
    assert "ditas = ditas_core.cli:main" in wheel.read(name).decode()


def test_the_library_alone_asks_for_nothing_of_the_app(metadata: Message) -> None:
    alone = required(metadata)
    assert {"torch", "diffusers", "safetensors", "tqdm"} <= set(alone)
    assert not set(alone) & {"gradio", "plotly", "pytest", "efficientnet-lite-pytorch"}
    assert {"gradio", "plotly"} <= set(required(metadata, "app"))
    assert {"pytest", "onnx", "efficientnet-lite-pytorch"} <= set(required(metadata, "dev"))
    assert {"onnx", "onnxruntime", "onnxscript"} <= set(required(metadata, "onnx"))
    assert "efficientnet-lite-pytorch" in required(metadata, "fidelity")


def test_the_library_imports_only_what_it_asks_for(metadata: Message) -> None:
    """Every third-party import outside the rooms that extras are for is a dependency."""
    modules = {"PIL": "pillow"}
    alone = {name.lower().replace("-", "_") for name in required(metadata)}
    found = {
        dotted.partition(".")[0]
        for path in MODULES
        if room_of(path) not in {"ui", "figures", "bench", "training", "onnx_runtime", "fidelity"}
        for dotted in imports(path)
    }
    third = {modules.get(name, name) for name in found - set(sys.stdlib_module_names)}
    assert {"torch", "diffusers", "pillow"} <= third
    assert third - {"ditas_core"} <= alone


def test_a_space_and_the_library_ask_for_the_same_versions(metadata: Message) -> None:
    """requirements.txt stands alone where only that file is installed from."""
    lines = {Requirement(line).name: str(Requirement(line).specifier) for line in
             listed("requirements.txt")}  # fmt: skip
    alone = required(metadata)
    assert {name: lines.get(name) for name in alone} == alone
    assert required(metadata, "app") == lines


def test_every_requirement_is_pinned() -> None:
    pinned = {Requirement(line).name.lower() for line in listed("constraints.txt")}
    for file in (
        "requirements.txt",
        "requirements-dev.txt",
        "ditas_core/onnx_runtime/requirements.txt",
        "ditas_core/fidelity/requirements.txt",
    ):
        names = {Requirement(line).name.lower() for line in listed(file)}
        assert names - {"setuptools"} <= pinned, file


def test_without_the_extras_verbs_run_or_say_which_one_they_miss() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "blocks" in done.stdout  # of info
    missed = [("plotly", "app"), ("gradio", "app"), ("playwright", "dev")]
    for line, (package, extra) in zip(done.stderr.splitlines(), missed, strict=True):
        assert f"expected the package {package}" in line
        assert f"pip install 'ditas_core[{extra}]'" in line
