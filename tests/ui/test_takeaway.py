"""What visitors take along: tables, pictures, report and code hold exactly what is on view."""

from __future__ import annotations

import ast
import csv
import html
import io
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import gradio as gr
import pytest
import torch
from PIL import Image

from ditas_core.bench.pages import until
from ditas_core.checkpoints import CheckpointError, load_checkpoint
from ditas_core.evaluation import interval
from ditas_core.evaluation.outliers import Half, Measure
from ditas_core.search import plain_recipe
from ditas_core.specs import BitWidths, LayerRecipe, LowRankSpec, Recipe, SamplingSpec, SpecError
from ditas_core.ui import build_app
from ditas_core.ui.page.bar import BarInputs
from ditas_core.ui.stored.catalogue import Entry
from ditas_core.ui.stored.results import PLAIN, SEARCHED, SMOOTHED, Result
from ditas_core.ui.tabs.compare.job import CompareJob, run_comparison
from ditas_core.ui.tabs.search.job import job_of, run_search
from ditas_core.ui.tabs.takeaway.exports import (
    ExportInputs,
    Wanted,
    check_offered,
    export_zip,
)
from ditas_core.ui.tabs.takeaway.files import LARGE, SMALL, Files
from ditas_core.ui.tabs.takeaway.gather import Taken, gather, source_of
from ditas_core.ui.tabs.takeaway.report import report_html
from ditas_core.ui.tabs.takeaway.snippet import snippet
from ditas_core.ui.tabs.takeaway.store import Store, slug
from ditas_core.ui.tabs.takeaway.tables import curves_csv, layers_csv, metrics_csv
from ditas_core.ui.visitors.backend import Backend, Choice, Model
from ditas_core.ui.visitors.session import Session, Sessions

from .conftest import DEMO, HUB, ROOT, SHORT, bar, bench_of, listener, measured

MIXED = "my mixed one"
METRICS = {"latent_sqnr_db": "latent SQNR, dB", "psnr_db": "PSNR, dB", "ssim": "SSIM"}
HOSTILE = '"""\nimport os; os.system("touch pwned")\n#<script>alert(1)</script>'


@pytest.fixture(scope="module")
def backend() -> Backend:
    """Nothing shipped: everything on view is computed here."""
    found = measured(bench_of(DEMO, SHORT, HUB))
    found.shipped = None
    return found


def choice_of(backend: Backend, recipe: str = MIXED, strength: float = 1.0) -> Choice:
    return Choice(Model(backend.default.key, strength), BitWidths(4, 6), "integer", recipe)


def mixed(backend: Backend, choice: Choice, calibration: str) -> Recipe:
    """Different alphas, bits and branches, as a visitor may have edited them."""
    plain = plain_recipe(backend.checkpoint(choice.model), choice.bits, choice.convention)
    layers = {
        name: LayerRecipe(choice.bits, round(0.3 + 0.01 * i, 2))
        for i, name in enumerate(plain.layers)
    }
    layers["0.fc2"] = LayerRecipe(BitWidths(8, 8))
    layers["1.qkv"] = LayerRecipe(choice.bits, 0.55, LowRankSpec(rank=4, weighting="energy"))
    more = {"calibration": calibration, "objective": "influence"}
    return replace(plain, name="mixed", layers=layers, **more)


def compared(
    backend: Backend, session: Session, choice: Choice, recipes: tuple[str, ...]
) -> Result:
    """A short comparison, kept as the Compare tab keeps it."""
    sampling = SamplingSpec(steps=5, guidance_scale=2.0)
    names = tuple(backend.checkpoint(choice.model).class_names[:2])
    job = CompareJob(choice, recipes, names, 11, sampling, SHORT)
    *_, result = run_comparison(backend, session, job)
    assert isinstance(result, Result)
    session.result = f"test {choice.title}"
    backend.cache.put(("result", session.result), result)
    return result


@pytest.fixture(scope="module")
def session(backend: Backend) -> Session:
    found = Session("visitor")
    choice = choice_of(backend)
    calibration = backend.measured(choice.model, SHORT)
    assert calibration is not None
    found.keep(MIXED, mixed(backend, choice, calibration.sha256))
    compared(backend, found, choice, (PLAIN, SMOOTHED, MIXED))
    return found


@pytest.fixture(scope="module")
def taken(backend: Backend, session: Session) -> Taken:
    return gather(backend, session, choice_of(backend), "0.fc2", "ratio", "both")


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def output(code: str, folder: Path) -> str:
    """Runs a program in the project's folder; what it prints."""
    program = folder / "program.py"
    program.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def run(code: str, folder: Path) -> dict[str, dict[str, str]]:
    """The metrics that a program prints, by recipe."""
    printed = {}
    for line in output(code, folder).splitlines():
        name, values = line.rsplit(": ", 1)
        printed[name] = dict(part.rsplit(" ", 1) for part in values.split(", ") if "=" not in part)
    return printed


def expected(result: Result) -> dict[str, dict[str, str]]:
    return {
        name: {key: f"{interval(torch.tensor(each[m])).mean:.3f}" for key, m in METRICS.items()}
        for name, each in result.metrics.items()
    }


def test_the_program_prints_the_metrics_on_view(taken, tmp_path):
    """Plain, uniform and mixed recipes: the same digits in another process."""
    assert run(snippet(taken), tmp_path) == expected(taken.result)
    assert snippet(taken).count('objective="influence",') == 1, "of the mixed one"


def test_the_program_repeats_injected_outliers(backend, tmp_path):
    found = Session("injecting")
    choice = choice_of(backend, SMOOTHED, 40.0)
    result = compared(backend, found, choice, (PLAIN, SMOOTHED))
    values = run(snippet(gather(backend, found, choice)), tmp_path)
    assert values == expected(result)
    assert float(values[SMOOTHED]["latent_sqnr_db"]) > float(values[PLAIN]["latent_sqnr_db"])


def test_the_program_searches_what_is_not_found_yet(backend, tmp_path):
    code = snippet(gather(backend, Session("new"), choice_of(backend, SEARCHED)))
    assert "SearchSpec(" in code and '"search")' in code and "compare(" not in code
    printed = output(code, tmp_path)
    assert printed.startswith(f"{SEARCHED}: W4A6 · search · integer · ") and "rank 0" in printed


def test_the_program_uses_the_public_library_only(taken):
    for node in ast.walk(ast.parse(snippet(taken))):
        if isinstance(node, ast.ImportFrom):
            assert node.module.startswith("ditas_core.") and ".ui" not in node.module
            public = import_module(node.module).__all__
            assert {alias.name for alias in node.names} <= set(public), node.module


def test_no_path_of_this_machine_goes_out(backend, taken, tmp_path):
    for content in (snippet(taken), report_html(taken, None, ""), layers_csv(taken)):
        assert str(ROOT) not in content and "/tmp/" not in content
    page = bench_of(Path(shutil.copytree(DEMO, tmp_path / "copied")), SHORT, HUB)
    page.entries["mine"] = Entry("mine", "mine", str(DEMO), True)
    choice = choice_of(backend)
    copied, mine, hub = (
        source_of(page, replace(choice, model=Model(key))) for key in ("copied", "mine", HUB)
    )
    assert copied.place == "copied" and "machine" in copied.note
    assert mine.place == f"assets/{DEMO.name}"
    assert hub.place == HUB and hub.fingerprint == ""


def test_hostile_names_stay_names(backend, session):
    """In code they are texts, in HTML they are escaped, in tables they are no formulas."""
    own = Session("hostile")
    recipe = replace(session.recipes[MIXED], name=HOSTILE[:60])
    own.keep(HOSTILE, recipe)
    own.keep("=cmd|' /C calc'!A0", recipe)
    choice = choice_of(backend, HOSTILE)
    result = compared(backend, own, choice, (PLAIN, HOSTILE, "=cmd|' /C calc'!A0"))
    found = gather(backend, own, choice)
    assert found.result is result
    nodes = list(ast.walk(ast.parse(snippet(found))))
    assert "os.system" not in {ast.unparse(n.func) for n in nodes if isinstance(n, ast.Call)}
    assert "import os" not in {ast.unparse(n) for n in nodes if isinstance(n, ast.Import)}
    report = report_html(found, None, '"><script>alert(2)</script>')
    assert "<script>alert" not in report and "&lt;script&gt;alert(1)" in report
    assert {row["variant"][:2] for row in rows(metrics_csv(found))} == {"pl", '""', "'="}
    assert re.fullmatch(r"[A-Za-z0-9.-]+", Files(Store(Path("/tmp")), found).names["recipe"])


def test_the_layer_table_is_the_atlas(backend, taken):
    for measure in Measure:
        found = replace(taken, measure=str(measure), half=str(Half.CONDITIONAL))
        table = rows(layers_csv(found))
        ranking = taken.atlas.ranking(taken.alphas, measure, Half.CONDITIONAL)
        assert [row["layer"] for row in table] == [rank.layer for rank in ranking]
        for row, rank in zip(table, ranking, strict=True):
            assert math.isclose(float(row["strength_before"]), rank.strength, rel_tol=1e-5)
            assert math.isclose(float(row["strength_after"]), rank.smoothed, rel_tol=1e-5)
            assert (row["measure"], row["half"]) == (measure, Half.CONDITIONAL)
    by_name = {row["layer"]: row for row in rows(layers_csv(taken))}
    assert by_name["0.fc2"]["alpha"] == "identity" and by_name["0.fc2"]["weight_bits"] == "8"
    assert by_name["1.qkv"]["rank"] == "4" and by_name["1.qkv"]["alpha"] == "0.55"


def test_the_metrics_table_has_every_sample(taken):
    table = rows(metrics_csv(taken))
    assert len(table) == 3 * 2
    assert [row["seed"] for row in table[:2]] == ["11", "12"]
    for row in table:
        values = taken.result.metrics[row["variant"]]
        at = int(row["sample"]) - 1
        assert row["class"] == taken.result.labels[at]
        for metric in METRICS.values():
            assert math.isclose(float(row[metric]), values[metric][at], rel_tol=1e-5)


def test_the_curves_are_the_search(backend):
    own = Session("searching")
    choice = choice_of(backend, "mine")
    job = job_of(choice, "search", SHORT)
    *_, recipe = run_search(backend, own, job)
    own.keep("mine", recipe)
    found = gather(backend, own, choice)
    assert len(found.curves) == len(recipe.layers)
    table = rows(curves_csv(found))
    chosen = {row["layer"]: row["alpha"] for row in table if row["chosen"] == "1"}
    assert chosen == {
        name: "identity" if layer.alpha is None else f"{layer.alpha:.6g}"
        for name, layer in recipe.layers.items()
    }
    first = found.curves[0]
    losses = [row for row in table if row["layer"] == first.group and row["fit"] == "quick"]
    assert len(losses) == 1 + len(first.grid)
    assert math.isclose(
        float(losses[1]["loss_over_energy"]), first.losses[0] / first.energy, rel_tol=1e-5
    )
    edited = recipe.with_layer("0.qkv", LayerRecipe(choice.bits, 0.123))
    own.keep("mine", edited)
    assert curves_csv(gather(backend, own, choice)) == "", "not this recipe's search any more"


def test_nothing_measured_gives_little_and_says_so(backend):
    found = gather(backend, Session("new"), replace(choice_of(backend), model=Model(HUB)))
    assert (layers_csv(found), curves_csv(found), metrics_csv(found)) == ("", "", "")
    report = report_html(found, None)
    assert "Not measured." in report and "No comparison was made" in report
    assert f'load_checkpoint("{HUB}")' in snippet(found)


def test_unknown_layers_and_measures_become_the_usual_ones(backend, session):
    for layer, measure, half in (
        (None, None, None), (["0.fc2"], "nan", 3), ("../../etc/passwd", float("nan"), {}),
    ):  # fmt: skip
        found = gather(backend, session, choice_of(backend), layer, measure, half)
        assert (found.measure, found.half) == ("ratio", "both")
        assert found.layer == found.atlas.ranking(found.alphas)[0].layer


def test_the_report_needs_nothing_from_outside(taken):
    report = report_html(taken, b"png", "http://127.0.0.1/?bits=W4A6")
    head, script = report.split("<script>", 1)
    assert "src=" not in re.sub(r'src="data:[^"]+"', "", head)
    assert not re.search(r'href="(?!data:)', head) and "@import" not in head and "url(" not in head
    assert "default-src 'none'" in head
    figures = re.findall(r'<script type="application/json" id="(\w+)">(.*?)</script>', report)
    assert [name for name, _ in figures] == ["metrics", "overview", "layer"]
    for _, data in figures:
        assert json.loads(data)["data"]
    for said in (
        DEMO.name,
        taken.source.fingerprint,
        "licence",
        html.escape(snippet(taken)),
        "Versions",
        "torch ",
        "n = 2",
    ):
        assert said in report
    assert len(report) < 8_000_000 and script


def test_every_file_is_made_once_and_whole(taken, tmp_path):
    files = Files(Store(tmp_path), taken)
    assert all(files.path(name) is None for name in (*SMALL, *LARGE))
    events = list(files.make_large("http://x/"))
    fractions = [fraction for _, fraction in events]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    there = {name for name in (*SMALL, *LARGE) if files.path(name) is not None}
    assert there == {*SMALL, *LARGE} - {"curves"}, "there was no search"
    assert Recipe.from_json(files.path("recipe").read_text("utf-8")) == taken.recipe
    compile(files.path("snippet").read_text("utf-8"), "snippet", "exec")
    for name in ("sheet", "map"):
        with Image.open(files.path(name)) as image:
            assert image.format == "PNG" and min(image.size) > 400
    with zipfile.ZipFile(files.path("zip")) as bundle:
        assert bundle.testzip() is None
        assert set(bundle.namelist()) == {files.names[n] for n in there - {"zip"}}
    assert not list(files.folder.glob("*.part"))
    stamp = files.path("sheet").stat().st_mtime_ns
    again = Files(files.store, taken)
    again.make_small()
    assert again.path("sheet").stat().st_mtime_ns == stamp and again.path("report") is not None


def test_stopping_leaves_no_half_file(taken, tmp_path):
    files = Files(Store(tmp_path), taken)
    events = files.make_large("")
    next(events)
    next(events)
    events.close()
    assert files.path("sheet") is not None and files.path("report") is None
    assert not list(files.folder.glob("*.part"))


def test_the_store_is_bounded_and_goes_with_its_owner(tmp_path):
    store = Store(tmp_path, most=3000)
    folders = []
    for index in range(6):
        folders.append(store.place(str(index)))
        os.utime(folders[-1], (index, index))
        store.write(folders[-1] / "a.csv", "x" * 1000)
        os.utime(folders[-1], (index, index))
    kept = [each for each in folders if each.is_dir()]
    assert kept == folders[-3:]
    large = store.place("large")
    store.write(large / "b", b"y" * 5000)
    assert large.is_dir(), "what was just written stays"
    place = store.folder
    del store
    assert not place.exists()


def test_the_next_process_removes_what_a_killed_one_left(tmp_path):
    """The system takes the lock of a process that has ended; closing the file does the same."""
    killed, running = Store(tmp_path), Store(tmp_path)
    for store in (killed, running):
        store.write(store.place("one") / "a.csv", "x")
    names = ("ditas-takeaway-new", "ditas-takeaway-old", "mine")
    making, old, other = (tmp_path / name for name in names)
    for each in (making, old, other):
        each.mkdir()
    os.utime(old, (1, 1))
    killed.owner.close()
    store = Store(tmp_path)
    assert not killed.folder.exists() and not old.exists()
    assert (running.place("one") / "a.csv").is_file(), "its owner is there"
    assert making.is_dir() and other.is_dir() and store.folder.is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_page_that_is_told_to_end_leaves_no_files(tmp_path, number):
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        port = link.getsockname()[1]
    given = {"GRADIO_TEMP_DIR": str(tmp_path), "GRADIO_SERVER_PORT": str(port)}
    page = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env={**os.environ, **given})
    until(lambda: page.poll() is not None or is_served(port), 120)
    (folder,) = tmp_path.glob("ditas-takeaway-*")
    page.send_signal(number)
    killed = number == signal.SIGKILL
    assert page.wait(30) == (-number if killed else 0)
    assert folder.exists() is killed
    Store(tmp_path)
    assert not folder.exists()


def is_served(port: int) -> bool:
    with socket.socket() as link:
        return link.connect_ex(("127.0.0.1", port)) == 0


def test_files_are_gone_with_the_desk_of_their_visitor(tmp_path):
    sessions = Sessions(left_s=0.0)
    store = Store(tmp_path)
    sessions.watchers.append(store.keep_only)
    for name in ("gone", "here"):
        sessions.of(name)
    paths = {}
    for name in ("gone", "here", ""):
        paths[name] = store.place("the same content", name, owner=name) / "a.csv"
        store.write(paths[name], "x")
    assert all(path.is_file() for path in paths.values())
    sessions.leave("gone")
    time.sleep(0.01)
    assert sessions.sweep() == 1
    assert not paths["gone"].parent.exists() and paths["here"].is_file() and paths[""].is_file()


def test_the_files_of_the_page_belong_to_its_visitors(backend, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    draw = listener(build_app(backend), "draw_takeaway")
    values = [getattr(each, "value", None) for each in draw.inputs]
    draw.fn(gr.Request(session_hash="visitor"), *values)
    assert list(tmp_path.rglob("*-layers.csv"))
    backend.sessions.clear("visitor")
    backend.sessions.sweep()
    assert not list(tmp_path.rglob("*-layers.csv")), "the page's store was told"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("some-model-W4A8", "some-model-W4A8"),
        ("../../etc/passwd", "etc-passwd"),
        ("a/b\\c:d*e?f<g>h|i", "a-b-c-d-e-f-g-h-i"),
        ("smoothing α = 0.5", "smoothing-alpha-0.5"),
        ("....", "ditas"),
        ("\x00\n", "ditas"),
        ("x" * 500, "x" * 80),
    ],
)
def test_file_names_are_safe(text, name):
    assert slug(text) == name


def test_the_report_comes_through_the_interface_too(client):
    view = ["", "0.fc2", "loudest ÷ median", "both", *bar(preset="W4A6", recipe=PLAIN)]
    answer = client.predict(*view, api_name="/takeaway")[-2:]
    report, bundle = (Path(each["value"] if isinstance(each, dict) else each) for each in answer)
    assert report.read_text("utf-8").startswith("<!DOCTYPE html>")
    assert zipfile.is_zipfile(bundle)


# folders that other libraries load


def zipped(backend: Backend, session: Session, store: Store, wanted: Wanted) -> Path:
    *_, found = export_zip(backend, session, store, wanted)
    assert isinstance(found, Path)
    return found


def test_an_export_is_a_stock_folder_in_a_zip(
    backend: Backend, session: Session, tmp_path: Path
) -> None:
    """Made once; of a recipe that nobody has, of a format that cannot hold it, nothing."""
    store = Store(tmp_path)
    choice = choice_of(backend, SMOOTHED)
    path = zipped(backend, session, store, Wanted(choice, "smoothed", ()))
    with zipfile.ZipFile(path) as bundle:
        assert bundle.testzip() is None
        names = {name.split("/", 1)[1] for name in bundle.namelist()}
        assert {"model_index.json", "README.md", "LICENSE"} - names <= {"LICENSE"}
        bundle.extractall(tmp_path)
    loaded = load_checkpoint(tmp_path / path.stem)
    assert loaded.class_names == backend.checkpoint(choice.model).class_names
    (again,) = export_zip(backend, session, store, Wanted(choice, "smoothed", ()))
    assert again == path, "it is there already"
    with pytest.raises(SpecError, match="of 8 or 16"):  # W4A6
        list(export_zip(backend, session, store, Wanted(choice, "torchao", ("divisor",))))
    with pytest.raises(SpecError, match="expected a recipe to export"):
        list(export_zip(backend, session, store, Wanted(choice_of(backend, "?"), "sdnq", ())))
    assert not list(Path(store.folder).glob("*/*torchao*"))


def test_a_cancelled_export_leaves_nothing(
    backend: Backend, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    store = Store(tmp_path / "store")
    choice = replace(choice_of(backend, SMOOTHED), bits=BitWidths(8, 8))
    events = export_zip(backend, session, store, Wanted(choice, "torchao", ()))
    said = next(event for event in events if event.part == (2, 2))
    assert said.text == "searching" and any((tmp_path / "temporary").iterdir())
    events.close()
    assert not any((tmp_path / "temporary").iterdir())
    assert not list(Path(store.folder).glob("*/*.zip"))


def test_a_public_page_gives_away_what_it_ships(backend: Backend, tmp_path: Path) -> None:
    choice = choice_of(backend)
    mine = bench_of(DEMO, SHORT, HUB, limits=replace(backend.limits, public=True))
    check_offered(mine, choice)
    entry = mine.entries[choice.model.key]
    mine.entries[choice.model.key] = replace(entry, source=str(tmp_path))
    with pytest.raises(CheckpointError, match="came with this page"):
        check_offered(mine, choice)
    mine.limits = replace(mine.limits, public=False)
    check_offered(mine, choice)


def test_what_is_asked_for_is_checked(backend: Backend) -> None:
    fields = BarInputs(*bar())
    for form, words in (("onnx", []), ("sdnq", ["fc2"]), ("sdnq", "branch,"), (3, [])):
        with pytest.raises(SpecError, match="expected"):
            ExportInputs(form, words, fields).read(backend)
    assert ExportInputs("sdnq", ["divisor"], fields).read(backend).leave_out == ("divisor",)
