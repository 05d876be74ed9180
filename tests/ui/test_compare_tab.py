"""Compare without a browser: the job, what it keeps, the viewer's strips, its events."""

from __future__ import annotations

import json
import math
import re
from contextlib import closing
from dataclasses import replace

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from ditas_core.comparison import run_trajectory
from ditas_core.conversion import quantize_transformer
from ditas_core.figures import split_strip, to_uint8
from ditas_core.sampling import decode_latents
from ditas_core.specs import BitWidths, Recipe, SamplingSpec
from ditas_core.ui.stored.precompute import FRAMES
from ditas_core.ui.stored.results import (
    BUILT_IN,
    PLAIN,
    REFERENCE,
    SEARCHED,
    SMOOTHED,
    SQNR,
    Result,
    kept_frames,
)
from ditas_core.ui.tabs.compare import studio
from ditas_core.ui.tabs.compare.draw import OnView, draw, look_at, shown, strip, viewer
from ditas_core.ui.tabs.compare.job import CompareJob, run_comparison
from ditas_core.ui.visitors.backend import Backend, Choice, Model
from ditas_core.ui.visitors.running import Progress
from ditas_core.ui.visitors.session import Session

from .conftest import CONVENTION, SHORT, bar, listener, pictures

SAMPLING = SamplingSpec(steps=4, guidance_scale=2.5)
W4A4 = bar(preset="W4A4")


def job_for(backend: Backend, bits: str, recipes: tuple[str, ...], seed: int = 3) -> CompareJob:
    choice = Choice(backend.default, BitWidths.parse(bits), CONVENTION)
    names = backend.checkpoint(backend.default).class_names
    return CompareJob(choice, recipes, (names[1], names[3]), seed, SAMPLING, SHORT)


def run(backend: Backend, session: Session, job: CompareJob) -> tuple[list[str], list[Result]]:
    """The texts of its progress, and the results as they came."""
    events = list(run_comparison(backend, session, job))
    texts = [event.text for event in events if isinstance(event, Progress)]
    return texts, [event for event in events if isinstance(event, Result)]


@pytest.fixture(scope="module")
def made(backend) -> Result:
    """Plain rounding and one fixed alpha, two samples, four steps."""
    return run(backend, Session("maker"), job_for(backend, "W4A4", (PLAIN, SMOOTHED)))[1][-1]


def test_every_recipe_starts_from_the_same_noise_and_reproduces(backend, made):
    """What the library computes without the page, from the recipe that the result holds."""
    checkpoint = backend.checkpoint(backend.default)
    labels = torch.tensor([checkpoint.class_index(name) for name in made.labels])
    reference = run_trajectory(checkpoint, checkpoint.transformer, labels, SAMPLING, 3)
    assert np.array_equal(made.images[REFERENCE], to_uint8(reference.images))
    recipe = Recipe.from_json(made.recipes[SMOOTHED])
    *_, calibration = backend.calibrated(backend.default, SHORT)
    assert recipe.calibration == calibration.sha256
    quantized = quantize_transformer(checkpoint, recipe, calibration)
    again = run_trajectory(checkpoint, quantized, labels, SAMPLING, 3)
    assert np.array_equal(made.images[SMOOTHED], to_uint8(again.images))
    assert torch.equal(made.latents[SMOOTHED], again.latents.half())
    assert made.frames == (0, 1, 2, 3) and made.variants == [PLAIN, SMOOTHED]
    assert made.settings["seed"] == 3 and made.settings["bits"] == "W4A4"


def test_partial_results_come_recipe_by_recipe_and_are_not_sampled_twice(backend, session):
    job = job_for(backend, "W4A8", (PLAIN, SMOOTHED), seed=11)
    with closing(run_comparison(backend, session, job)) as events:
        first = next(event for event in events if isinstance(event, Result))
    assert first.variants == [PLAIN] and set(first.images) == {REFERENCE, PLAIN}
    texts, results = run(backend, session, job)
    sampled = {text.partition(":")[0] for text in texts if "denoising step" in text}
    assert sampled == {SMOOTHED}, "expected the cancelled job to go on where it was"
    assert [result.variants for result in results] == [[PLAIN], [PLAIN, SMOOTHED]]
    assert np.array_equal(results[-1].images[PLAIN], first.images[PLAIN])
    # B is the recipe that was asked for as soon as the growing result has it
    assert look_at(session, OnView("k-1", first), SMOOTHED).variant == PLAIN
    assert look_at(session, OnView("k-2", results[-1]), SMOOTHED).variant == SMOOTHED


def test_a_recipe_that_does_not_exist_yet_is_searched_and_stays_on_the_desk(backend, session):
    job = job_for(backend, "W3A8", (PLAIN, SEARCHED))
    assert SEARCHED not in backend.recipes(session, job.choice)
    texts, results = run(backend, session, job)
    assert any(text.startswith(f"searching {SEARCHED}") for text in texts)
    found = Recipe.from_json(results[-1].recipes[SEARCHED])
    assert {str(layer.bits) for layer in found.layers.values()} == {"W3A8"}
    assert any(layer.alpha is not None for layer in found.layers.values())
    assert found in session.recipes.values()
    layers = len(backend.checkpoint(backend.default).groups)
    assert [len(kept) for kept in session.searches.values()] == [layers]


def test_the_visitors_result_is_shown_only_at_its_own_settings(backend, session, made):
    backend.cache.put(("result", "mine"), made)
    session.result = "mine"
    own = Choice(backend.default, BitWidths.parse("W4A4"), CONVENTION)
    found = shown(backend, session, own)
    assert found is not None and found.result is made
    assert backend.shipped is not None
    shipped = shown(backend, session, replace(own, bits=BitWidths.parse("W4A8")))
    assert shipped is not None and shipped.result is backend.shipped.presets["W4A8"].result
    assert shown(backend, session, replace(own, bits=BitWidths(2, 5))) is None
    assert draw(backend, session, replace(own, bits=BitWidths(2, 5)))[1] is None
    assert shown(backend, session, replace(own, model=Model(backend.default.key, 50))) is None


def test_the_viewer_gets_the_last_step_at_once_and_all_when_they_are_decoded(
    backend, session, made
):
    backend.cache.put(("result", "decoded"), made)
    session.result = "decoded"
    choice = Choice(backend.default, BitWidths.parse("W4A4"), CONVENTION, PLAIN)
    view = shown(backend, session, choice)
    assert view is not None
    look_at(session, view, choice.recipe).sample = 1
    value = viewer(backend, session, view, choice)
    assert value["pending"] and value["frames"] == [3] and value["b"] == PLAIN
    assert [one["name"] for one in value["variants"]] == [REFERENCE, PLAIN, SMOOTHED]
    for name in made.images:
        strip(backend, view, backend.default, name, 1)
    value = viewer(backend, session, view, choice)
    assert not value["pending"] and value["frames"] == [0, 1, 2, 3]
    vae = backend.checkpoint(backend.default).vae
    for one in value["variants"]:
        frames = split_strip(Image.fromarray(pictures(one["strip"])[0]), 4)
        assert np.array_equal(frames[-1], made.images[one["name"]][1])
        alone = to_uint8(decode_latents(vae, made.latents[one["name"]][[1], 1].float()))[0]
        assert abs(frames[1].astype(int) - alone).max() <= 1
    assert len(value["variants"][1]["divergence"]) == 4
    other = viewer(backend, session, view, replace(choice, recipe=SMOOTHED))
    assert other["b"] == SMOOTHED, "expected B to follow the bar"
    json.dumps(value, allow_nan=False)


def test_long_runs_show_at_most_25_steps_and_end_with_the_picture(backend):
    assert backend.shipped is not None
    result = backend.shipped.presets["W4A8"].result
    assert len(studio.shown_frames(result)) == len(result.frames) == FRAMES
    long = replace(result, frames=tuple(range(100)), timesteps=tuple(range(100)))
    places = studio.shown_frames(long)
    assert len(places) == studio.MOST_FRAMES and places[-1] == 99 and places[0] == 0
    large = {name: np.zeros((1, 512, 512, 3), np.uint8) for name in result.images}
    assert len(studio.shown_frames(replace(long, images=large))) < 8
    assert kept_frames(4, studio.MOST_FRAMES) == (0, 1, 2, 3)


def test_every_picture_of_the_sheet_has_its_text_and_names_are_escaped(made):
    sheet = studio.contact_sheet(made, 1)
    assert re.findall(r'alt="([^"]*)"', sheet) == [
        f"{label}, {name}" for label in made.labels for name in (REFERENCE, PLAIN, SMOOTHED)
    ]
    assert sheet.count('aria-pressed="true"') == 3
    evil = '<img src=x onerror=alert(1)>"'
    renamed = {evil if n == PLAIN else n: v for n, v in made.images.items()}
    metrics = {evil: made.metrics[PLAIN], SMOOTHED: made.metrics[SMOOTHED]}
    hostile = replace(made, images=renamed, metrics=metrics, labels=(evil, "b"))
    for text in (studio.contact_sheet(hostile, 0), studio.metrics_table(hostile)):
        assert "<img src=x" not in text and "&lt;img src=x" in text


def test_intervals_are_students_and_one_sample_has_none(made):
    values = made.metrics[PLAIN]["PSNR, dB"]
    mean, low, high = studio.estimates(made)["PSNR, dB"][PLAIN]
    half = 12.7062 * np.std(values, ddof=1) / math.sqrt(2)
    assert mean == pytest.approx(np.mean(values)) and high - mean == pytest.approx(half)
    assert mean - low == pytest.approx(half)
    table = studio.metrics_table(made)
    assert "n = 2" in table and f"{mean:.1f} ±\u00a0{half:.1f}" in table
    metrics = {n: {m: v[:1] for m, v in rows.items()} for n, rows in made.metrics.items()}
    single = replace(made, labels=made.labels[:1], metrics=metrics)
    assert "±" not in studio.metrics_table(single).partition("<thead>")[2]
    mean, low, high = studio.estimates(single)["SSIM"][PLAIN]
    assert low == mean == high


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ((2.0, 2.2, 2.4), "2.2 ± 0.5 dB closer"),
        ((-2.0, -2.2, -2.4), "2.2 ± 0.5 dB <b>further away</b>"),
        ((2.0, float("nan"), 0.5), "not a number"),
        ((2.0, -2.2, 0.5), "<b>no closer</b> beyond chance (+0.1 ± 5.3 dB)"),
    ],
)
def test_where_a_recipe_gains_nothing_the_page_says_so(made, differences, said):
    base = [10.0, 20.0, 30.0]
    ours = [low + more for low, more in zip(base, differences, strict=True)]
    rows = {PLAIN: {SQNR: base}, "<b>": {SQNR: ours}}
    text = studio.gains_line(replace(made, labels=("a", "b", "c"), metrics=rows))
    assert f"&lt;b&gt;: {said}." in text
    assert text in studio.metrics_table(replace(made, metrics=rows, images=dict.fromkeys(rows)))
    assert studio.gains_line(replace(made, metrics={PLAIN: rows[PLAIN]})) == ""
    assert studio.gains_line(replace(made, metrics={SMOOTHED: rows[PLAIN]})) == ""


def test_hostile_events_of_the_viewer_get_a_controlled_error(demo):
    request = gr.Request(session_hash="hostile")
    for data in (None, "x" * 100_000, {}, {"sample": 0, "variant": "../../etc/passwd"}):
        for name in ("on_pick", "on_ab"):
            with pytest.raises(gr.Error) as caught:
                listener(demo, name).fn(gr.EventData(None, data), request, *W4A4)
            assert len(str(caught.value)) < 400
    for sample in (True, math.nan, 99):
        with pytest.raises(gr.Error):
            data = {"sample": sample, "variant": PLAIN}
            listener(demo, "on_pick").fn(gr.EventData(None, data), request, *W4A4)


def test_picking_a_picture_chooses_sample_and_recipe(demo):
    request = gr.Request(session_hash="picker")
    told = gr.EventData(None, {"sample": 5, "variant": SMOOTHED})
    value, slider = listener(demo, "on_pick").fn(told, request, *W4A4)
    assert value["sample"].startswith("6 · ") and value["b"] == SMOOTHED and value["pending"]
    assert SMOOTHED in slider["label"]
    *_, full = listener(demo, "on_frames").fn(gr.EventData(None, {}), request, *W4A4)
    assert len(full["frames"]) == FRAMES and not full["pending"]
    told = gr.EventData(None, {"variant": PLAIN, "left": "a"})
    assert PLAIN in listener(demo, "on_ab").fn(told, request, *W4A4)["label"]
    assert set(BUILT_IN) == {one["name"] for one in full["variants"]} - {REFERENCE}
