"""Compare without a browser: the job, what it keeps, the viewer's strips, hostile values."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

gr = pytest.importorskip("gradio")

from gradio_client import Client  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402

from ditas_core.comparison import run_trajectory  # noqa: E402
from ditas_core.conversion import quantize_transformer  # noqa: E402
from ditas_core.figures import split_strip, to_uint8  # noqa: E402
from ditas_core.sampling import decode_latents  # noqa: E402
from ditas_core.specs import BitWidths, CalibrationSpec, Recipe, SamplingSpec  # noqa: E402
from ditas_core.ui import build_app, launch_options  # noqa: E402
from ditas_core.ui.bench import Bench, Choice, Model  # noqa: E402
from ditas_core.ui.catalogue import Entry  # noqa: E402
from ditas_core.ui.desk import Desk  # noqa: E402
from ditas_core.ui.jobs.comparing import CompareJob, run_comparison  # noqa: E402
from ditas_core.ui.parts.running import Progress  # noqa: E402
from ditas_core.ui.results import (  # noqa: E402
    BUILT_IN,
    DITAS,
    PLAIN,
    REFERENCE,
    SEARCHED,
    SMOOTHED,
    Result,
    kept_frames,
)
from ditas_core.ui.views.compared import OnView, draw, look_at, shown, strip, viewer  # noqa: E402
from ditas_core.ui.views.studio import (  # noqa: E402
    MOST_FRAMES,
    contact_sheet,
    estimates,
    headline,
    metrics_table,
    shown_frames,
)

DEMO = Path(__file__).resolve().parents[2] / "assets" / "fluent-emoji-dit"
SHORT = CalibrationSpec(SamplingSpec(steps=4), samples=1)
SAMPLING = SamplingSpec(steps=4, guidance_scale=2.5)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    path = DEMO if DEMO.is_dir() else Path(os.environ.get("DITAS_TEST_CHECKPOINT", ""))
    if not (path / "model_index.json").is_file():
        pytest.fail(f"expected the demo checkpoint in assets/{DEMO.name}, found none")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench({path.name: Entry(path.name, path.name, str(path), True)}, SHORT)
    torch.set_num_threads(threads)


@pytest.fixture()
def desk() -> Desk:
    return Desk("somebody")


def job_for(bench: Bench, bits: str, recipes: tuple[str, ...], seed: int = 3) -> CompareJob:
    choice = Choice(bench.default, BitWidths.parse(bits), "integer")
    names = bench.checkpoint(bench.default).class_names
    return CompareJob(choice, recipes, (names[1], names[3]), seed, SAMPLING, SHORT)


def run(bench: Bench, desk: Desk, job: CompareJob) -> tuple[list[str], list[Result]]:
    """The texts of its progress, and the results as they came."""
    events = list(run_comparison(bench, desk, job))
    texts = [event.text for event in events if isinstance(event, Progress)]
    return texts, [event for event in events if isinstance(event, Result)]


def pixels_of(uri: str) -> np.ndarray:
    raw = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))


@pytest.fixture(scope="module")
def made(bench) -> Result:
    """Plain rounding and one fixed alpha, two samples, four steps."""
    return run(bench, Desk("maker"), job_for(bench, "W4A4", (PLAIN, SMOOTHED)))[1][-1]


def test_every_recipe_starts_from_the_same_noise_and_reproduces(bench, made):
    """What the library computes without the page, from the recipe that the result holds."""
    checkpoint = bench.checkpoint(bench.default)
    labels = torch.tensor([checkpoint.class_index(name) for name in made.labels])
    reference = run_trajectory(checkpoint, checkpoint.transformer, labels, SAMPLING, 3)
    assert np.array_equal(made.images[REFERENCE], to_uint8(reference.images))
    recipe = Recipe.from_json(made.recipes[SMOOTHED])
    *_, calibration = bench.calibrated(bench.default, SHORT)
    assert recipe.calibration == calibration.sha256
    quantized = quantize_transformer(checkpoint, recipe, calibration)
    again = run_trajectory(checkpoint, quantized, labels, SAMPLING, 3)
    assert np.array_equal(made.images[SMOOTHED], to_uint8(again.images))
    assert torch.equal(made.latents[SMOOTHED], again.latents.half())
    assert made.frames == (0, 1, 2, 3) and made.variants == [PLAIN, SMOOTHED]
    assert made.settings["seed"] == 3 and made.settings["bits"] == "W4A4"


def test_partial_results_come_recipe_by_recipe_and_are_not_sampled_twice(bench, desk):
    job = job_for(bench, "W4A8", (PLAIN, SMOOTHED), seed=11)
    with closing(run_comparison(bench, desk, job)) as events:
        first = next(event for event in events if isinstance(event, Result))
    assert first.variants == [PLAIN] and set(first.images) == {REFERENCE, PLAIN}
    texts, results = run(bench, desk, job)
    sampled = {text.partition(":")[0] for text in texts if "denoising step" in text}
    assert sampled == {SMOOTHED}, "expected the cancelled job to go on where it was"
    assert [result.variants for result in results] == [[PLAIN], [PLAIN, SMOOTHED]]
    assert np.array_equal(results[-1].images[PLAIN], first.images[PLAIN])
    # B is the recipe that was asked for as soon as the growing result has it
    assert look_at(desk, OnView("k-1", first), SMOOTHED).variant == PLAIN
    assert look_at(desk, OnView("k-2", results[-1]), SMOOTHED).variant == SMOOTHED


def test_a_recipe_that_does_not_exist_yet_is_searched_and_stays_on_the_desk(bench, desk):
    job = job_for(bench, "W3A8", (PLAIN, SEARCHED))
    assert SEARCHED not in bench.recipes(desk, job.choice)
    texts, results = run(bench, desk, job)
    assert any(text.startswith(f"searching {SEARCHED}") for text in texts)
    found = Recipe.from_json(results[-1].recipes[SEARCHED])
    assert {str(layer.bits) for layer in found.layers.values()} == {"W3A8"}
    assert any(layer.alpha is not None for layer in found.layers.values())
    assert found in desk.recipes.values()
    layers = len(bench.checkpoint(bench.default).groups)
    assert [len(kept) for kept in desk.searches.values()] == [layers]


def test_injected_outliers_leave_full_precision_and_hurt_plain_rounding(bench, desk, made):
    job = job_for(bench, "W4A4", (PLAIN,))
    model = Model(bench.default.key, 60)
    result = run(bench, desk, replace(job, choice=replace(job.choice, model=model)))[1][-1]
    distance = result.images[REFERENCE].astype(int) - made.images[REFERENCE]
    assert abs(distance).max() <= 1
    metric = "latent SQNR, dB"
    assert max(result.metrics[PLAIN][metric]) < min(made.metrics[PLAIN][metric])
    assert "injected outliers ×60" in headline(result)


def test_the_visitors_result_is_shown_only_at_its_own_settings(bench, desk, made):
    bench.cache.put(("result", "mine"), made)
    desk.result = "mine"
    own = Choice(bench.default, BitWidths.parse("W4A4"), "integer")
    found = shown(bench, desk, own)
    assert found is not None and found.result is made
    assert bench.shipped is not None
    shipped = shown(bench, desk, replace(own, bits=BitWidths.parse("W4A8")))
    assert shipped is not None and shipped.result is bench.shipped.presets["W4A8"].result
    assert shown(bench, desk, replace(own, bits=BitWidths(2, 5))) is None
    assert draw(bench, desk, replace(own, bits=BitWidths(2, 5)))[1] is None
    assert shown(bench, desk, replace(own, model=Model(bench.default.key, 50))) is None


def test_the_viewer_gets_the_last_step_at_once_and_all_when_they_are_decoded(bench, desk, made):
    bench.cache.put(("result", "decoded"), made)
    desk.result = "decoded"
    choice = Choice(bench.default, BitWidths.parse("W4A4"), "integer", PLAIN)
    view = shown(bench, desk, choice)
    assert view is not None
    look_at(desk, view, choice.recipe).sample = 1
    value = viewer(bench, desk, view, choice)
    assert value["pending"] and value["frames"] == [3] and value["b"] == PLAIN
    assert [one["name"] for one in value["variants"]] == [REFERENCE, PLAIN, SMOOTHED]
    for name in made.images:
        strip(bench, view, bench.default, name, 1)
    value = viewer(bench, desk, view, choice)
    assert not value["pending"] and value["frames"] == [0, 1, 2, 3]
    vae = bench.checkpoint(bench.default).vae
    for one in value["variants"]:
        frames = split_strip(Image.fromarray(pixels_of(one["strip"])), 4)
        assert np.array_equal(frames[-1], made.images[one["name"]][1])
        alone = to_uint8(decode_latents(vae, made.latents[one["name"]][[1], 1].float()))[0]
        assert abs(frames[1].astype(int) - alone).max() <= 1
    assert len(value["variants"][1]["divergence"]) == 4
    other = viewer(bench, desk, view, replace(choice, recipe=SMOOTHED))
    assert other["b"] == SMOOTHED, "expected B to follow the bar"
    json.dumps(value, allow_nan=False)


def test_long_runs_show_at_most_25_steps_and_end_with_the_picture(bench):
    assert bench.shipped is not None
    result = bench.shipped.presets["W4A8"].result
    assert len(shown_frames(result)) == len(result.frames) == 11
    long = replace(result, frames=tuple(range(100)), timesteps=tuple(range(100)))
    places = shown_frames(long)
    assert len(places) == MOST_FRAMES and places[-1] == 99 and places[0] == 0
    large = {name: np.zeros((1, 512, 512, 3), np.uint8) for name in result.images}
    assert len(shown_frames(replace(long, images=large))) < 8
    assert kept_frames(4, MOST_FRAMES) == (0, 1, 2, 3)


def test_choosing_a_sample_and_drawing_the_tab_cost_little(bench, desk):
    choice = Choice(bench.default, BitWidths.parse("W4A8"), "integer")
    draw(bench, desk, choice)
    view = shown(bench, desk, choice)
    assert view is not None
    for sample in range(4):
        look_at(desk, view, choice.recipe).sample = sample
        began = time.thread_time()
        viewer(bench, desk, view, choice)
        assert time.thread_time() - began < 0.5
    began = time.thread_time()
    draw(bench, desk, choice)
    assert time.thread_time() - began < 1


def test_every_picture_of_the_sheet_has_its_text_and_names_are_escaped(made):
    sheet = contact_sheet(made, 1)
    assert re.findall(r'alt="([^"]*)"', sheet) == [
        f"{label}, {name}" for label in made.labels for name in (REFERENCE, PLAIN, SMOOTHED)
    ]
    assert sheet.count('aria-pressed="true"') == 3
    evil = '<img src=x onerror=alert(1)>"'
    renamed = {evil if n == PLAIN else n: v for n, v in made.images.items()}
    metrics = {evil: made.metrics[PLAIN], SMOOTHED: made.metrics[SMOOTHED]}
    hostile = replace(made, images=renamed, metrics=metrics, labels=(evil, "b"))
    for text in (contact_sheet(hostile, 0), metrics_table(hostile)):
        assert "<img src=x" not in text and "&lt;img src=x" in text


def test_intervals_are_students_and_one_sample_has_none(made):
    values = made.metrics[PLAIN]["PSNR, dB"]
    mean, low, high = estimates(made)["PSNR, dB"][PLAIN]
    half = 12.7062 * np.std(values, ddof=1) / math.sqrt(2)
    assert mean == pytest.approx(np.mean(values)) and high - mean == pytest.approx(half)
    assert mean - low == pytest.approx(half)
    table = metrics_table(made)
    assert "n = 2" in table and f"{mean:.1f} ±\u00a0{half:.1f}" in table
    metrics = {n: {m: v[:1] for m, v in rows.items()} for n, rows in made.metrics.items()}
    single = replace(made, labels=made.labels[:1], metrics=metrics)
    assert "±" not in metrics_table(single).partition("<thead>")[2]
    mean, low, high = estimates(single)["SSIM"][PLAIN]
    assert low == mean == high


# ---- the page's endpoints ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(bench) -> Iterator[tuple[Any, Client]]:
    demo = build_app(bench)
    _, url, _ = demo.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options()
    )
    yield demo, Client(url, verbose=False)
    demo.close()


def bar(bench: Bench) -> tuple[Any, ...]:
    return (bench.default.key, "W4A4", 4, 8, "integer", DITAS, False, 60, False)


def test_compare_as_an_endpoint(page, bench):
    _, client = page
    name = bench.checkpoint(bench.default).class_names[0]
    settings = ([name], 2, 5, 4, 2.5, [SMOOTHED, PLAIN])
    line, sheet, studio, slider, curve, bars, table = client.predict(
        *settings, *bar(bench), api_name="/compare"
    )
    assert "seed 5" in line and "2 samples" in line and "done" in line
    assert sheet.count("<img") == 6
    assert [one["name"] for one in studio["variants"]] == [REFERENCE, PLAIN, SMOOTHED]
    assert len(slider["value"] if isinstance(slider, dict) else slider) == 2
    assert len(json.loads(curve["plot"])["data"]) == 2 and "SSIM" in bars["plot"]
    assert "n = 2" in table


@pytest.mark.parametrize(
    "arguments",
    [
        (["no such class"], 1, 0, 4, 2.5, [PLAIN]),
        ([], 1, 0, 4, 2.5, [PLAIN]),
        ("DEMO", 9, 0, 4, 2.5, [PLAIN]),
        ("DEMO", 1.5, 0, 4, 2.5, [PLAIN]),
        ("DEMO", 1, -1, 4, 2.5, [PLAIN]),
        ("DEMO", 1, 2**40, 4, 2.5, [PLAIN]),
        ("DEMO", 1, 0, 100000, 2.5, [PLAIN]),
        ("DEMO", 1, 0, None, 2.5, [PLAIN]),
        ("DEMO", 1, 0, 4, -3, [PLAIN]),
        ("DEMO", 1, 0, 4, True, [PLAIN]),
        ("DEMO", 1, 0, 4, 2.5, []),
        ("DEMO", 1, 0, 4, 2.5, ["<script>alert(1)</script>"]),
        ("DEMO", 1, 0, 4, 2.5, [PLAIN] * 6),
        ("DEMO", 1, 0, 4, 2.5, None),
    ],
    ids=repr,
)
def test_hostile_comparisons_get_a_controlled_error(page, bench, arguments):
    classes = [bench.checkpoint(bench.default).class_names[0]]
    arguments = tuple(classes if value == "DEMO" else value for value in arguments)
    with pytest.raises(AppError) as caught:
        page[1].predict(*arguments, *bar(bench), api_name="/compare")
    assert "Traceback" not in str(caught.value)
    assert not bench.line.locked()


@pytest.mark.parametrize(
    "data",
    [
        None,
        "x" * 100_000,
        [],
        {},
        {"sample": True, "variant": PLAIN},
        {"sample": math.nan, "variant": PLAIN},
        {"sample": 99, "variant": PLAIN},
        {"sample": 0, "variant": "../../etc/passwd"},
        {"sample": 0, "variant": None},
    ],
    ids=lambda data: repr(data)[:40],
)
def test_hostile_events_of_the_viewer_get_a_controlled_error(page, bench, data):
    demo, _ = page
    listeners = {f.fn.__name__: f.fn for f in demo.fns.values() if f.fn is not None}
    request = gr.Request(session_hash="hostile")
    for name in ("on_pick", "on_ab"):
        if name == "on_ab" and isinstance(data, dict) and data.get("variant") == PLAIN:
            continue  # all that it reads
        with pytest.raises(gr.Error) as caught:
            listeners[name](gr.EventData(None, data), request, *bar(bench))
        assert len(str(caught.value)) < 400


def test_picking_a_picture_chooses_sample_and_recipe(page, bench):
    demo, _ = page
    listeners = {f.fn.__name__: f.fn for f in demo.fns.values() if f.fn is not None}
    request = gr.Request(session_hash="picker")
    told = gr.EventData(None, {"sample": 5, "variant": SMOOTHED})
    value, slider = listeners["on_pick"](told, request, *bar(bench))
    assert value["sample"].startswith("6 · ") and value["b"] == SMOOTHED and value["pending"]
    assert SMOOTHED in slider["label"]
    *_, full = listeners["on_frames"](gr.EventData(None, {}), request, *bar(bench))
    assert len(full["frames"]) == 11 and not full["pending"]
    told = gr.EventData(None, {"variant": PLAIN, "left": "a"})
    assert PLAIN in listeners["on_ab"](told, request, *bar(bench))["label"]
    assert set(BUILT_IN) == {one["name"] for one in full["variants"]} - {REFERENCE}
