"""The dial: what is made, stored, told in words and drawn; its rules on numbers set by hand."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import gradio as gr
import httpx
import numpy as np
import pytest

from ditas_core.bench.pages import tiny_folder
from ditas_core.calibration import calibrate
from ditas_core.checkpoints import load_checkpoint
from ditas_core.search import plain_recipe
from ditas_core.specs import BitWidths, CalibrationSpec, SamplingSpec
from ditas_core.ui.page.bar import BarInputs, first_choice
from ditas_core.ui.page.tour import about, twin_in_bar
from ditas_core.ui.page.tour_steps import STEPS
from ditas_core.ui.stored import speeds
from ditas_core.ui.stored.catalogue import (
    PRECOMPUTED_VARIABLE,
    TWIN_STRENGTH,
    find_checkpoints,
)
from ditas_core.ui.stored.dial import (
    FULL,
    HOLDS_DB,
    Cell,
    Dial,
    bits_of,
    details,
    key_of,
    load_dial,
    save_dial,
    stop_of,
    verdict,
)
from ditas_core.ui.stored.dialling import DialSpec, choose_convention, make_dial
from ditas_core.ui.stored.precompute import main
from ditas_core.ui.stored.results import DITAS, PLAIN, REFERENCE
from ditas_core.ui.tabs.lab.layout import first_layer
from ditas_core.ui.tabs.overview.dial import dial_view, told
from ditas_core.ui.tabs.overview.draw import drawn_line, drawn_view
from ditas_core.ui.tabs.overview.job import Drawn, draw_here
from ditas_core.ui.tabs.overview.layout import DrawInputs
from ditas_core.ui.visitors.running import Progress
from ditas_core.ui.visitors.session import Session

from .conftest import bar, bench_of

SIDE = 8
SHORT = DialSpec(
    together=(8, 3), apart=(8, 2), samples=2, sampling=SamplingSpec(steps=2, guidance_scale=2.5),
    conventions=("integer", "paper"), trial=(8,), trial_samples=1,
)  # fmt: skip
FEW = CalibrationSpec(SamplingSpec(steps=2), samples=1, tokens=4)


def cell(bits: int, plain: float, ours: float, checkpoint) -> Cell:
    """With these means over two samples."""
    pixels = np.full((2, SIDE, SIDE, 3), bits, np.uint8)
    recipe = plain_recipe(checkpoint, bits_of((bits, bits)), "integer")
    return Cell(
        (bits, bits),
        {PLAIN: [plain - 1, plain + 1], DITAS: [ours - 1, ours + 1]},
        {PLAIN: float(bits), DITAS: bits + 0.5},
        recipe,
        {PLAIN: pixels, DITAS: pixels + 100},
    )


def dial_of(checkpoint, *values: tuple[int, float, float]) -> Dial:
    reference = np.full((2, SIDE, SIDE, 3), 200, np.uint8)
    cells = tuple(cell(*each, checkpoint) for each in values)
    layer = checkpoint.groups[0].name
    return Dial(checkpoint.fingerprint, "integer", ("cat", "dog"), reference, 32.0, layer, cells)


@pytest.fixture(scope="module")
def tiny_dial(tmp_path_factory):
    """A random model's, made and written as the command does."""
    folder = tmp_path_factory.mktemp("dial")
    checkpoint = load_checkpoint(str(tiny_folder(folder / "tiny")))
    calibration = calibrate(checkpoint, FEW)
    lines: list[str] = []
    dial = make_dial(checkpoint, calibration, "integer", lines.append, SHORT)
    (folder / "precomputed").mkdir()
    save_dial(dial, folder / "precomputed")
    return folder, checkpoint, calibration, dial, lines


def test_every_stop_is_drawn_and_comes_back_from_disk(tiny_dial):
    folder, checkpoint, _, dial, lines = tiny_dial
    back = load_dial(folder / "precomputed", checkpoint.fingerprint)
    assert [c.stop for c in back.together] == [(8, 8), (3, 3)]
    pairs = {(w, a) for w in (FULL, 8, 2) for a in (FULL, 8, 2)} - {(FULL, FULL)}
    assert {c.stop for c in back.apart} == pairs
    assert len(lines) == len(set(lines)) == 2 + len(pairs) - 1, "W8A8 is made once"
    for stop, was in dial.cells.items():
        now = back.cells[stop]
        assert now.sqnr == was.sqnr and now.megabytes == was.megabytes
        assert now.recipe == was.recipe
        for way, pixels in was.images.items():
            assert now.images[way].shape == pixels.shape
    assert back.megabytes == dial.megabytes and back.layer in {g.name for g in checkpoint.groups}
    assert back.cells[3, 3].megabytes[PLAIN] < back.cells[8, 8].megabytes[PLAIN] < back.megabytes
    assert back.cells[8, 8].closeness(PLAIN).mean > back.cells[3, 3].closeness(PLAIN).mean
    # activations are not stored
    assert back.cells[8, FULL].megabytes[PLAIN] == back.cells[8, 8].megabytes[PLAIN]
    with pytest.raises(ValueError, match="made for checkpoint"):
        load_dial(folder / "precomputed", "0" * 64)
    with pytest.raises(ValueError, match="no dial"):
        load_dial(folder, checkpoint.fingerprint)


def test_flat_pictures_survive_their_encoding(random_checkpoint, tmp_path):
    dial = dial_of(random_checkpoint, (8, 30, 40), (4, 5, 20))
    save_dial(dial, tmp_path)
    back = load_dial(tmp_path, dial.fingerprint)
    for at, bits in enumerate((8, 4)):
        assert abs(back.together[at].images[PLAIN].astype(int) - bits).max() <= 6
        assert abs(back.together[at].images[DITAS].astype(int) - bits - 100).max() <= 6
    (tmp_path / "dial-1.webp").unlink()
    with pytest.raises(ValueError, match="damaged"):
        load_dial(tmp_path, dial.fingerprint)
    (tmp_path / "dial.json").write_text("{}")
    with pytest.raises(ValueError, match="damaged"):
        load_dial(tmp_path, dial.fingerprint)


@pytest.mark.parametrize(
    ("values", "broken", "opens", "said"),
    [
        (((8, 40, 41), (4, 4, 20), (2, 1, 3)), (4, 2), 4, "DiTAS holds."),
        (((8, 40, 41), (4, 20, 29), (2, 1, 3)), (2, 2), 4, "both hold."),
        (((8, 40, 41), (4, 30, 30)), (None, None), 8, "at every stop"),
        (((8, 40, 35), (4, 30, 29)), (None, None), 4, "DiTAS gains nothing here."),
        (((8, 40, 4), (4, 4, 3)), (4, 8), 4, "both fall apart"),
        (((8, 30, 2), (4, 20, 3)), (None, 8), 4, "DiTAS does harm"),
    ],
)
def test_where_they_break_and_what_is_said(random_checkpoint, values, broken, opens, said):
    dial = dial_of(random_checkpoint, *values)
    found = [dial.breaks(way) for way in (PLAIN, DITAS)]
    assert tuple(None if c is None else c.stop[0] for c in found) == broken
    assert dial.telling.stop[0] == opens
    seen, text = verdict(dial, dial.telling.stop), details(dial, dial.telling.stop)
    assert said in f"{seen} {text}"
    mean = dial.telling.closeness(DITAS).mean
    assert f"DiTAS {mean:.1f} ± 12.7 dB" in text, "the interval of two values that differ by 2"
    assert f"{dial.telling.megabytes[DITAS]:.1f} MB instead of 32.0" in text
    assert "trained" in verdict(dial, (FULL, FULL))


def test_the_limit_is_a_tenth_of_the_power(random_checkpoint):
    assert cell(4, HOLDS_DB, HOLDS_DB - 0.01, random_checkpoint).holds(PLAIN)
    assert not cell(4, HOLDS_DB, HOLDS_DB - 0.01, random_checkpoint).holds(DITAS)


@pytest.mark.parametrize("bits", [BitWidths(4, 8), BitWidths(16, 2), BitWidths(3, 16)])
def test_bits_and_stops_are_the_same(bits):
    assert bits_of(stop_of(bits)) == bits
    assert key_of(stop_of(bits)) == str(bits).replace("16", "32")


def test_the_convention_is_the_one_that_shows_most(random_checkpoint, tmp_path, monkeypatch):
    from ditas_core.ui.stored import dialling

    found = {
        ("integer", 8): (40.0, 60.0), ("integer", 4): (12.0, 15.0),
        ("paper", 8): (30.0, 31.0), ("paper", 4): (4.0, 11.0),
    }  # fmt: skip

    def drawn(self, stop, convention, grid):
        return cell(stop[0], *found[convention, stop[0]], random_checkpoint)

    monkeypatch.setattr(dialling.Turner, "cell", drawn)
    spec = replace(SHORT, trial=(8, 4))
    calibration = calibrate(
        random_checkpoint, CalibrationSpec(SamplingSpec(steps=1), samples=1, tokens=2)
    )
    name, tried = choose_convention(random_checkpoint, calibration, spec, lambda _: None)
    assert name == "paper", "plain rounding has broken there, and DiTAS holds"
    assert tried["integer"]["W4A4"] == {PLAIN: 12.0, DITAS: 15.0}
    found["paper", 4] = (11.0, 12.0)
    assert choose_convention(random_checkpoint, calibration, spec, lambda _: None)[0] == "integer"


def test_the_page_is_told_everything(random_checkpoint):
    dial = dial_of(random_checkpoint, (8, 40, 41), (4, 4, 20))
    data = told(dial)
    assert data["together"] == ["W32A32", "W8A8", "W4A4"] and data["first"] == "W4A4"
    assert [data["stops"][key]["column"] for key in data["together"]] == [0, 1, 2]
    notes = data["stops"]["W4A4"]["notes"]
    assert [note["state"] for note in notes] == ["holds", "broken", "holds"]
    assert data["more"] == [] and "dial-apart" not in dial_view([dial])
    assert json.dumps(data["labels"]) in json.dumps(data)


def test_a_label_is_text(random_checkpoint):
    dial = replace(dial_of(random_checkpoint, (8, 40, 41)), labels=("<b>'\"", "dog"))
    assert "<b>'" not in dial_view([dial]).replace("<b>32", "").replace("<b>8", "")


@pytest.fixture(scope="module")
def drawing(tiny_dial):
    """A bench about the random model, with its dial."""
    folder, _, _, dial, _ = tiny_dial
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PRECOMPUTED_VARIABLE, str(folder / "precomputed"))
        backend = bench_of(folder / "tiny", FEW)
        assert backend.dial is not None
    return backend, dial


def test_a_class_is_drawn_here_as_it_was_stored(drawing):
    backend, dial = drawing
    job = DrawInputs("W8A8", dial.labels[0], SHORT.seed).read(backend)
    events = list(draw_here(backend, job))
    views = [event for event in events if isinstance(event, Drawn)]
    assert [list(view.images) for view in views] == [
        [REFERENCE], [REFERENCE, DITAS], [REFERENCE, DITAS, PLAIN],
    ]  # fmt: skip
    assert any(isinstance(event, Progress) and "once for all" in event.text for event in events)
    last = views[-1]
    assert last.sqnr[PLAIN] == pytest.approx(dial.cells[8, 8].sqnr[PLAIN][0], abs=3)
    assert drawn_view(last).count("<img") == 3 and drawn_view(None).count("<img") == 0
    assert job.name in drawn_line(last) and "Timed here" in drawn_line(last)
    again = list(draw_here(backend, job))
    assert not any(isinstance(e, Progress) and "once for all" in e.text for e in again)
    np.testing.assert_array_equal(again[-1].images[DITAS], last.images[DITAS])


def test_at_full_precision_nothing_is_rounded(drawing):
    backend, dial = drawing
    job = DrawInputs("W32A32", dial.labels[1], 0).read(backend)
    *_, last = draw_here(backend, job)
    assert list(last.images) == [REFERENCE] and not last.sqnr


@pytest.mark.parametrize(
    "wrong", [("W9A9", "cat", 0), ("W8A8", "<b>", 0), ("W8A8", "cat", -1), (None, "cat", 0),
              ("W8A8", "cat", True)],
)  # fmt: skip
def test_what_is_asked_for_is_checked(drawing, wrong):
    with pytest.raises(gr.Error, match="expected"):
        DrawInputs(*wrong).read(drawing[0])


def test_the_bar_has_the_recipe_of_every_stop(drawing):
    backend, dial = drawing
    free = {"preset": "custom", "weight": 2, "activation": 2, "convention": "integer"}
    choice = BarInputs(*bar("tiny", **free)).read(backend)
    assert backend.recipes(Session("nobody"), choice)[DITAS] == dial.cells[2, 2].recipe
    paper = replace(choice, convention="paper")
    assert DITAS not in backend.recipe_names(Session("nobody"), paper)


def test_only_sheets_are_served(url, backend):
    assert backend.dial is not None
    page = url.rstrip("/")
    found = httpx.get(f"{page}/dial/dial-0.webp")
    assert found.status_code == 200 and found.headers["content-type"] == "image/webp"
    for name in ("results.json", "dial.json", "..%2fresults.json", "dial-999.webp", "dial-0.png",
                 "injected/dial.json", "injected/dial-999.webp", "other/dial-0.webp",
                 "..%2fprecomputed/dial-0.webp"):  # fmt: skip
        assert httpx.get(f"{page}/dial/{name}").status_code == 404, name


def test_what_is_shipped_fits_itself(backend):
    """Whatever model the results were made of."""
    dial = backend.dial
    assert dial is not None and backend.shipped is not None
    assert dial.convention == backend.shipped.convention == first_choice(backend).convention
    assert dial.layer in backend.group_names(backend.default)
    names = backend.checkpoint(backend.default).class_names
    assert set(dial.labels) <= set(names)
    sizes = [cell.megabytes[PLAIN] for cell in dial.together]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] < dial.megabytes
    folder = Path(os.environ.get(PRECOMPUTED_VARIABLE) or "assets/precomputed")
    total = sum(path.stat().st_size for path in folder.glob("dial*"))
    assert total < 5_000_000


def test_the_command_makes_the_dial_and_keeps_the_rest(tiny_dial, tmp_path, monkeypatch):
    folder, checkpoint, calibration, _, _ = tiny_dial
    calibration.save(tmp_path / "calibration.safetensors")
    target = tmp_path / "out"
    target.mkdir()
    kept = {"convention": "paper", "fingerprint": checkpoint.fingerprint}
    (target / "results.json").write_text(json.dumps(kept))
    (target / "dial-7.webp").write_bytes(b"of an older one")
    monkeypatch.setattr("ditas_core.ui.stored.precompute.DialSpec", lambda samples: SHORT)
    words_of_it = [str(folder / "tiny"), "--only", "dial", "--out", str(target),
                   "--calibration", str(tmp_path / "calibration.safetensors")]  # fmt: skip
    assert main(words_of_it) == 0
    made = json.loads((target / "dial.json").read_text())
    assert made["convention"] == "paper" and (target / "results.json").is_file()
    assert not (target / "dial-7.webp").exists()
    (target / "results.json").write_text(json.dumps(kept | {"fingerprint": "0" * 64}))
    (target / "dial.json").unlink()
    assert main(words_of_it) == 0
    chosen = json.loads((target / "dial.json").read_text())
    assert set(chosen["settings"]["tried"]) == set(SHORT.conventions), "those are of another model"
    assert main(words_of_it) == 0
    again = json.loads((target / "dial.json").read_text())
    assert again["settings"] == chosen["settings"], "what the convention was chosen by is kept"


def test_the_lab_begins_with_the_layer_that_breaks_first(backend):
    natural = backend.default
    assert backend.dial is not None
    assert first_layer(backend, natural) == backend.dial.layer
    injected = replace(natural, strength=60.0)
    atlas = backend.atlas(injected)
    assert atlas is not None
    strength = {name: group.strength for name, group in atlas.groups.items()}
    chosen = first_layer(backend, injected)
    assert chosen is not None and strength[chosen] == max(strength.values())


def test_how_fast_its_stops_run_is_timed_and_told(tiny_dial, tmp_path):
    folder, checkpoint, _, dial, _ = tiny_dial
    target = shutil.copytree(folder / "precomputed", tmp_path / "precomputed")
    assert "times as fast" not in details(dial, (8, 8)), "nothing was timed"
    assert speeds.main([str(folder / "tiny"), "--out", str(target)]) == 0
    found = load_dial(target, checkpoint.fingerprint)
    timed = {"W8A8", "W3A3", "W8A2", "W2A8", "W2A2"}
    assert set(found.speeds.times) == timed, "where weights and activations are both rounded"
    assert all(times > 0 for times in found.speeds.times.values())
    for stop in found.stops[1:]:
        told_of_it = f"{found.speeds.times.get(key_of(stop), 0):.1f} times as fast in integers ("
        assert (told_of_it in details(found, stop)) == (key_of(stop) in timed)
    other = speeds.Speeds("0" * 64, "a machine", {"W8A8": 9.0})
    (target / speeds.DOCUMENT).write_text(json.dumps(asdict(other)))
    assert load_dial(target, checkpoint.fingerprint).speeds.times == {}, "of another checkpoint"
    (target / speeds.DOCUMENT).write_text('{"fast": 1}')
    with pytest.raises(ValueError, match="speeds: damaged"):
        load_dial(target, checkpoint.fingerprint)


def test_speeds_are_of_the_dial_that_is_there(tiny_dial, tmp_path, capsys):
    folder, *_ = tiny_dial
    assert speeds.main([str(folder / "tiny"), "--out", str(tmp_path)]) == 2
    (tmp_path / "dial.json").write_text('{"fingerprint": "another"}')
    assert speeds.main([str(folder / "tiny"), "--out", str(tmp_path)]) == 2
    assert "expected that of tiny, got another's" in capsys.readouterr().err


@pytest.fixture(scope="module")
def twins(tiny_dial, tmp_path_factory):
    """A bench about the random model, with its dial and that of its twin, made by the command."""
    folder, _, _, dial, _ = tiny_dial
    home = tmp_path_factory.mktemp("twins")
    shutil.copytree(folder / "precomputed", home / "precomputed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ditas_core.ui.stored.precompute.DialSpec", lambda samples: SHORT)
        patch.setattr(
            "ditas_core.ui.stored.precompute.measured", lambda made, *_: calibrate(made, FEW)
        )
        words_of_it = [str(folder / "tiny"), "--only", "dial", "--inject", f"{TWIN_STRENGTH:g}",
                       "--out", str(home / "precomputed-injected")]  # fmt: skip
        patch.setenv(PRECOMPUTED_VARIABLE, str(home / "precomputed"))
        assert main(words_of_it) == 0
        backend = bench_of(folder / "tiny", FEW)
        assert len(backend.dials) == 2
    return backend, dial


def test_the_twin_is_the_same_model_with_louder_channels(twins):
    backend, natural = twins
    model, twin = list(backend.dials.items())[1]
    assert model == replace(backend.default, strength=TWIN_STRENGTH) and twin.like(natural)
    assert twin.fingerprint == natural.fingerprint, "the checkpoint that it is made of"
    assert twin.convention == natural.convention and not twin.settings["tried"], "none is tried"
    # the same function: the same pictures in full precision, but for their encoding
    stored = backend.dials[backend.default].reference
    assert abs(twin.reference.astype(int) - stored).mean() < 2
    assert twin.cells[3, 3].closeness(PLAIN).mean < natural.cells[3, 3].closeness(PLAIN).mean
    assert twin.strength == TWIN_STRENGTH and natural.strength == 1
    for stop in twin.stops:
        assert details(twin, stop).startswith("Injected outliers ×32 (function-preserving): ")
    assert told(twin)["sheets"][0].startswith("dial/injected/dial-0.webp?")
    view = dial_view(list(backend.dials.values()))
    assert view.count("<button") == len(natural.labels) + 2 and "Outliers ×32" in view


def test_its_stops_are_drawn_here_and_stand_in_the_bar(twins):
    backend, _ = twins
    model, twin = list(backend.dials.items())[1]
    job = DrawInputs("W8A8", twin.labels[0], SHORT.seed, "injected").read(backend)
    assert job.model == model
    *_, last = draw_here(backend, job)
    assert last.sqnr[DITAS] == pytest.approx(twin.cells[8, 8].sqnr[DITAS][0], abs=3)
    assert "injected outliers ×32" in drawn_line(last), "it stays on view when the dial is turned"
    assets = Path(backend.entries[backend.default.key].source).parent
    backend.entries = find_checkpoints(assets, named=[])
    natural, key = list(backend.entries)[:2]
    assert "injected outliers ×32" in key and backend.model_of(key) == model
    values = bar(key, preset="custom", weight=2, activation=2, convention="integer")
    choice = BarInputs(*values).read(backend)
    assert choice.model == model
    assert backend.recipes(Session("nobody"), choice)[DITAS] == twin.cells[2, 2].recipe
    assert twin.cells[2, 2].recipe.checkpoint == backend.fingerprint(model)
    assert backend.key_of(model) == key and backend.key_of(backend.default) == natural
    with pytest.raises(gr.Error, match="model of the dial"):
        DrawInputs("W8A8", twin.labels[0], 0, "another").read(backend)


def test_the_tour_turns_the_bar_to_the_twin_and_back(twins):
    backend, _ = twins
    model = list(backend.dials)[1]
    backend.entries = find_checkpoints(
        Path(backend.entries[backend.default.key].source).parent, named=[]
    )
    session, key = Session("nobody"), backend.key_of(model)
    natural = backend.default.key
    there = about(backend, session, BarInputs(*bar(natural)), True)
    assert there[0] == key and "injected outliers ×32" in there[3]["label"]
    back = about(backend, session, BarInputs(*bar(key)), False)
    assert back[0] == natural and "injected" not in back[3]["label"]
    for values, twin in (
        (bar(natural), False),
        (bar(key), True),
        (bar(natural, inject=True), True),
    ):
        assert about(backend, session, BarInputs(*values), twin) == (gr.skip(),) * 4
    own = BarInputs(*bar(natural, inject=True, strength=TWIN_STRENGTH))
    assert own.read(backend).model == model
    assert about(backend, session, own, False) == (gr.skip(),) * 4, (
        "the injection stays switched on"
    )
    for values, there_is in (
        (bar(natural), True),
        (bar(key), True),
        (bar(natural, inject=True, strength=TWIN_STRENGTH), True),
        (bar(natural, inject=True), False),
    ):
        assert twin_in_bar(backend, BarInputs(*values), True) == there_is
        assert not twin_in_bar(backend, BarInputs(*values), False)
    assert {step.tab for step in STEPS if step.twin} == {"outliers", "lab", "search"}
