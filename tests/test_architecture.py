"""The rooms of the package, what lies beside it, and what may import what."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

from rooms import APART, DESIGN, LEVELS, PACKAGE, ROOT, table

MAY_PRINT = {"cli", "training"}
MAX_LINES = 400

MODULES = sorted(path for top in (PACKAGE.name, *APART) for path in (ROOT / top).rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def every_module(check: Callable[[Path], None]) -> Callable[[], None]:
    """One test of all modules; what fails is told by the module's name."""

    def test() -> None:
        wrong = []
        for path in MODULES:
            try:
                check(path)
            except AssertionError as error:
                wrong.append(f"{name(path)}: {error}")
        assert not wrong, "\n".join(wrong)

    test.__name__, test.__doc__ = check.__name__, check.__doc__
    return test


def room_of(path: Path) -> str:
    """The room a module lies in; "" for the package's own top level."""
    top, *parts = path.relative_to(ROOT).parts
    if top in APART:
        return top
    return parts[0] if len(parts) > 1 else ""


def imports(path: Path) -> Iterator[str]:
    """Absolute names of everything a module imports, wherever in it."""
    package = path.parent.relative_to(ROOT).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    names = (dotted.split(".") for dotted in imports(path))
    found = {n[1] for n in names if n[0] == "ditas_core" and len(n) > 1}
    return {room for room in found if (PACKAGE / room).is_dir()} - {room_of(path)}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call with its dotted name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_every_room_has_a_level() -> None:
    rooms = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert rooms <= set(LEVELS)
    top = {"__init__.py", "__main__.py", "events.py", "heap.py", "threads.py", "writing.py"}
    assert {p.name for p in PACKAGE.glob("*.py")} <= top
    assert all((PACKAGE / room / "__init__.py").is_file() for room in rooms)


@every_module
def test_dependencies_point_down_and_siblings_stay_apart(path: Path) -> None:
    room = room_of(path)
    imported = rooms_imported(path)
    if room in APART:
        assert not imported & {"cli", "ui"}
        return
    assert not {dotted.split(".")[0] for dotted in imports(path)} & {*APART}, (
        "that is not installed"
    )
    if room:
        wrong = {other for other in imported if LEVELS[other] >= LEVELS[room]}
        assert not wrong, f"{room} is on level {LEVELS[room]}"
    elif path.name == "__init__.py":
        assert imported <= {"api"}, "only for those who read types; tests/test_api.py imports it"
    else:
        assert imported <= {"cli"}


@every_module
def test_rooms_are_entered_by_their_face(path: Path) -> None:
    """What others need of a room of the library, its ``__init__`` names, or that of a room within
    it. The command line and the page, whose modules are loaded late, have no such face."""
    for dotted in imports(path):
        package, *origin = dotted.split(".")[:-1] or [""]
        room = origin[0] if package == "ditas_core" and origin else ""
        if room != room_of(path) and LEVELS.get(room, 9) <= LEVELS["api"]:
            assert PACKAGE.joinpath(*origin).is_dir(), dotted


@every_module
def test_gradio_and_plotly_stay_in_their_rooms(path: Path) -> None:
    packages = {dotted.split(".")[0] for dotted in imports(path)}
    room = room_of(path)
    assert room == "ui" or "gradio" not in packages
    assert room in {"figures", "ui", "bench"} or "plotly" not in packages


def test_the_launcher_is_short_and_only_launches() -> None:
    app = ROOT / "app.py"
    assert len(app.read_text(encoding="utf-8").splitlines()) <= 60
    names = [n.split(".") for n in imports(app) if n.startswith("ditas_core")]
    assert {n[1] for n in names if len(n) > 1} <= {"ui"}


@every_module
def test_library_code_never_prints(path: Path) -> None:
    """Commands may: the command line, and modules that run as ``python -m``."""
    if room_of(path) not in MAY_PRINT and '__name__ == "__main__"' not in path.read_text("utf-8"):
        assert not [call.lineno for function, call in calls(path) if function == "print"]


@every_module
def test_nothing_unsafe_is_loaded_or_run(path: Path) -> None:
    forbidden = {"eval", "exec", "gr.load", "pickle.load", "pickle.loads", "os.system"}
    for function, call in calls(path):
        keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
        assert function not in forbidden, call.lineno
        assert keywords.get("trust_remote_code") != "True", call.lineno
        assert keywords.get("allow_pickle") != "True", call.lineno
        assert keywords.get("shell") != "True", call.lineno
        if (function in {"torch.load", "load"} and "map_location" in keywords) or (
            function == "torch.load"
        ):
            assert keywords.get("weights_only") == "True", call.lineno


@every_module
def test_only_the_quantizer_rounds_tensors(path: Path) -> None:
    """Where models and their inputs are worked on; measuring and showing may round its own."""
    if LEVELS.get(room_of(path), 9) > 5 or room_of(path) in {"quantizer", "evaluation"}:
        return
    rounding = ("torch.round", ".round", "torch.fake_quantize")
    assert not [call.lineno for function, call in calls(path) if function.endswith(rounding)]


@every_module
def test_only_models_know_families(path: Path) -> None:
    """Beside what is of DiT alone: the original layout, training, benchmarks."""
    if room_of(path) in {"models", "training", "bench"} or path.name.startswith("original"):
        return
    text = path.read_text(encoding="utf-8")
    words = ("DiTTransformer2DModel", "PixArtTransformer2DModel", "attn1.to", "attn2", ".to_v")
    found = [word for word in (*words, "norm_type", "num_embeds_ada_norm") if word in text]
    assert not found, "see models/family.py"


@every_module
def test_modules_stay_readable(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(ast.parse(text)), "a module says what it is for"


def test_the_map_of_rooms_is_what_the_command_makes() -> None:
    assert table() in DESIGN.read_text(encoding="utf-8"), "python tests/rooms.py --write"
