"""The injector: the proof, rungs and ladders, the live job."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ditas_core.comparison import Trajectory, preserved
from ditas_core.figures import injection_curves
from ditas_core.specs import BitWidths, CalibrationSpec, SamplingSpec
from ditas_core.ui.stored.ladder import Ladder, load_ladder, save_ladder
from ditas_core.ui.stored.results import DITAS, PLAIN, REFERENCE, SEARCHED
from ditas_core.ui.tabs.injector.draw import proof, rung_line, sheet, small
from ditas_core.ui.tabs.injector.job import PARTS, Live, Setting, Stage, inject_live, ladder
from ditas_core.ui.visitors.backend import Backend, Model

from .conftest import DEMO, bar, bench_of, closed_when, hooked

SHORT = CalibrationSpec(SamplingSpec(steps=6), samples=2)
QUICK = Setting(BitWidths(8, 8), "paper", sampling=SamplingSpec(steps=6))


@pytest.fixture(scope="module")
def backend(nothing_shipped) -> Backend:
    return bench_of(DEMO, SHORT)


@pytest.fixture(scope="module")
def made(backend, nothing_shipped) -> Ladder:
    """A short ladder, which is all that is shipped then."""
    *_, calibration = backend.calibrated(backend.default, SHORT)
    checkpoint = backend.checkpoint(backend.default)
    found = ladder(checkpoint, calibration, lambda _: None, QUICK, (1.0, 60.0), 2)
    save_ladder(found, nothing_shipped)
    return found


def settings(strength: object = 60, inject: object = False) -> list[object]:
    return bar(preset="W8A8", convention="paper", strength=strength, inject=inject)


def run_of(latent: float, pixel: float) -> Trajectory:
    latents = torch.zeros(2, 1, 4, 2, 2)
    latents[0, 0, 0, 0, 0], latents[1, 0, 1, 0, 0] = latent, 3.0
    images = torch.full((1, 3, 4, 4), 0.5)
    images[0, 0, 0, 0] += pixel
    return Trajectory(latents, (9, 0), images)


def test_preserved_measures_the_largest_difference_of_all_steps():
    found = preserved(run_of(0.0, 0.0), run_of(-0.25, 0.01))
    assert found.latents == pytest.approx(0.25) and found.latent_scale == pytest.approx(3.0)
    assert found.pixels == pytest.approx(0.01, abs=1e-6)
    assert (found.visible, found.of) == (1, 48)
    assert preserved(run_of(0.0, 0.0), run_of(0.0, 1e-5)).visible == 0
    longer = replace(run_of(0.0, 0.0), latents=torch.zeros(3, 1, 4, 2, 2))
    with pytest.raises(ValueError, match="equal shapes"):
        preserved(run_of(0.0, 0.0), longer)


def test_a_rung_keeps_full_precision_breaks_plain_rounding_and_ditas_repairs_it(made):
    calm, loud = made.rungs
    for rung in made.rungs:
        assert rung.same.pixels < 1e-4 and rung.same.latents < 1e-3
        assert np.abs(rung.images[REFERENCE].astype(int) - made.natural).max() <= 1
    assert np.mean(loud.sqnr[PLAIN]) < np.mean(calm.sqnr[PLAIN]) - 10
    assert np.mean(loud.sqnr[DITAS]) > np.mean(loud.sqnr[PLAIN]) + 8
    grey = loud.amplified
    assert grey is not None and np.abs(grey.astype(int) - 128).max() <= 255 * 1000 * 1e-4


def test_a_ladder_survives_its_files(backend, made, nothing_shipped):
    found = load_ladder(nothing_shipped, made.fingerprint)
    assert found.labels == made.labels and found.settings == made.settings
    assert np.array_equal(found.natural, made.natural)
    for old, new in zip(made.rungs, found.rungs, strict=True):
        assert (new.strength, new.same, new.sqnr) == (old.strength, old.same, old.sqnr)
        assert list(new.images) == [REFERENCE, PLAIN, DITAS]
        assert all(np.array_equal(new.images[name], old.images[name]) for name in new.images)
    assert backend.ladder is not None and backend.ladder.labels == made.labels
    assert sum(file.stat().st_size for file in nothing_shipped.iterdir()) < 500_000


def test_a_ladder_of_another_checkpoint_or_a_damaged_one_is_refused(
    made, nothing_shipped, tmp_path
):
    with pytest.raises(ValueError, match="made for checkpoint"):
        load_ladder(nothing_shipped, "0" * 64)
    with pytest.raises(ValueError, match="no ladder"):
        load_ladder(tmp_path, made.fingerprint)
    save_ladder(made, tmp_path)
    path = tmp_path / "ladder.json"
    document = json.loads(path.read_text())
    for damage in ({"rungs": [{}]}, {"images": {"natural": "none.png"}}, {"format": 99}):
        path.write_text(json.dumps(document | damage))
        with pytest.raises(ValueError, match=r"ladder: |strip: "):
            load_ladder(tmp_path, made.fingerprint)


def test_the_nearest_rung_is_that_of_the_smallest_ratio(made):
    assert made.nearest(7.0).strength == 1.0 and made.nearest(8.0).strength == 60.0
    assert rung_line(made, 60.0)[1] == "done"
    text, kind = rung_line(made, 73.0)
    assert kind == "busy" and "×73 is between" in text and "×60 is on view" in text
    assert rung_line(None, 3.0)[1] == "warn"


def test_the_views_say_the_numbers(made):
    rung = made.rungs[1]
    text = proof(rung.same, 60.0, made.labels)
    assert small(rung.same.pixels) in text and str(rung.same.visible) in text
    assert small(0.0) == "0" and small(1.94e-5).split() == ["1.9", "×", "10⁻⁵"]
    page = sheet(made.natural, rung, made.labels, "W8A8")
    assert page.count("<img") == 4 * len(made.labels)
    assert f"{made.labels[0]}, injected ×60" in page and " dB" in page
    assert sheet(made.natural, rung, made.labels, "W8A8", live=True).count("<img") == 10


def test_the_curve_has_every_recipe_the_strength_and_own_results():
    strengths = (1.0, 10.0, 100.0)
    series = {
        PLAIN: np.array([[30.0, 32.0], [20.0, 22.0], [5.0, 7.0]]),
        DITAS: np.array([[31.0, 33.0], [30.0, 32.0], [25.0, 27.0]]),
    }
    figure = injection_curves(strengths, series, 30.0, [("DiTAS, W4A8", 50.0, 12.0)])
    lines = {trace.name: trace for trace in figure.data}
    assert list(lines[PLAIN].y) == [31.0, 21.0, 6.0]
    assert max(lines[f"{PLAIN}, range"].y) == 32.0 and min(lines[f"{PLAIN}, range"].y) == 5.0
    assert list(lines["yours: DiTAS, W4A8"].x) == [50.0]
    assert figure.layout.shapes[0].x0 == 30.0
    assert figure.layout.annotations[0].text == "×30"
    assert figure.layout.annotations[0].x == pytest.approx(math.log10(30))
    dark = injection_curves(strengths, series, 30.0, dark=True)
    assert dark.layout.font.color != figure.layout.font.color


def test_the_live_job_shows_each_part_and_its_recipe_fits_the_whole_page(backend):
    model = Model(backend.default.key, 40.0)
    setting = replace(QUICK, repair=SEARCHED, bits=BitWidths(8, 6))
    events = list(inject_live(backend, model, SHORT, setting, 1))
    stages = [event for event in events if isinstance(event, Stage)]
    assert [s.part for s in stages] == sorted(s.part for s in stages)
    assert {s.part for s in stages} <= set(range(1, PARTS + 1)) and stages[-1].part == PARTS
    assert all(0 <= s.fraction <= 1 for s in stages)
    searching = [s.fraction for s in stages if s.part == 4]
    assert searching == sorted(searching) and searching[-1] == 1.0
    lives = [event.rung for event in events if isinstance(event, Live)]
    assert [list(rung.sqnr) for rung in lives] == [[], [PLAIN], [PLAIN, SEARCHED]]
    assert lives[0].same.pixels < 1e-4
    recipe = lives[-1].recipe
    assert recipe is not None and recipe.checkpoint == backend.checkpoint(model).fingerprint
    assert recipe.calibration == list(backend.calibrated(model, SHORT))[-1].sha256


def test_more_channels_are_another_model_and_stopping_leaves_nothing(backend):
    model = Model(backend.default.key, 40.0)
    events = inject_live(backend, model, SHORT, replace(QUICK, channels=8), 1)
    seen = closed_when(events, lambda event: isinstance(event, Live))
    assert seen[-1].rung.same.pixels < 1e-4
    assert not hooked(backend.checkpoint(backend.default).transformer)


def test_the_tab_draws_the_rung_of_the_strength(made, backend, client):
    layer = next(iter(backend.factors(backend.default)))
    line, proved, rows, curve, about, _, inside = client.predict(
        layer, *settings(), api_name="/draw_injector"
    )[:7]
    assert "×60 is on view" in line and small(made.rungs[1].same.latents) in proved
    assert rows.count("<img") == 4 * len(made.labels)
    assert "yours" not in json.dumps(curve) and "3 channels" in about
    assert len(json.dumps(inside)) < 300_000
    line = client.predict(layer, *settings(150), api_name="/draw_injector")[0]
    assert "×150 is between" in line


def test_the_job_answers_with_the_result_and_offers_its_recipe(made, client):
    found = client.predict(3, DITAS, 1, 4, 5, *settings(50, True), api_name="/inject_outliers")
    line, page, recipe = found[0], found[-3], found[-1]
    assert "injected ×50 in 3 channels" in line and f"{DITAS} " in line and "seed 5" in line
    assert page.count("<img") == 5 and "amplified 1000 times" in page
    assert recipe["value"] == "DiTAS W8A8 injected ×50"
    assert recipe["value"] in [name for name, _ in recipe["choices"]]
