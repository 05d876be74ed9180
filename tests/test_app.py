"""The app behind its interface: endpoints, validation, cancelling, shipped results."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError

gr = pytest.importorskip("gradio")

from ditas_core.specs import BitWidths, CalibrationSpec, Recipe, SamplingSpec  # noqa: E402
from ditas_core.ui import build_app, launch_options  # noqa: E402
from ditas_core.ui.bench import Bench, Cache, Model, Session  # noqa: E402
from ditas_core.ui.catalogue import (  # noqa: E402
    CHECKPOINTS_VARIABLE,
    PRECOMPUTED_VARIABLE,
    Entry,
    find_checkpoints,
)
from ditas_core.ui.precompute import precompute, write  # noqa: E402
from ditas_core.ui.results import load_shipped  # noqa: E402
from ditas_core.ui.setup import read_choice  # noqa: E402
from ditas_core.ui.validate import flag, one_of, real, some_of, whole  # noqa: E402

DEMO = Path(__file__).resolve().parents[1] / "assets" / "fluent-emoji-dit"
GOOD = ("W4A4", 4, 8, "integer", False, 60)


def demo_entry() -> Entry:
    """The shipped checkpoint, or the one DITAS_TEST_CHECKPOINT names where it is absent."""
    path = DEMO if DEMO.is_dir() else Path(os.environ.get("DITAS_TEST_CHECKPOINT", ""))
    if not (path / "model_index.json").is_file():
        pytest.fail(f"expected the demo checkpoint in assets/{DEMO.name}, found none")
    return Entry(path.name, path.name, str(path), True)


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Iterator[Bench]:
    """A bench without shipped results: everything is computed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PRECOMPUTED_VARIABLE, str(tmp_path_factory.mktemp("none")))
        entry = demo_entry()
        yield Bench({entry.key: entry, "facebook/DiT-XL-2-256": Entry("x", "x", "x", False)})
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def client(bench) -> Iterator[Client]:
    demo = build_app(bench)
    _, url, _ = demo.launch(
        server_name="127.0.0.1",
        prevent_thread_lock=True,
        quiet=True,
        **launch_options(),
    )
    yield Client(url, verbose=False)
    demo.close()


@pytest.fixture(scope="module")
def setup(bench) -> tuple:
    return (bench.default.key, *GOOD)


def wait_until(condition, seconds: float) -> float:
    """Seconds until the condition held; fails after ``seconds``."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"expected within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - began


def test_a_tiny_search_fills_the_page(client, bench, setup):
    fingerprint = bench.checkpoint(bench.default).fingerprint
    job = client.submit("search", 4, 1, *setup, api_name="/search")
    last = job.result(timeout=120)
    line, table, plot, download = last[:4]
    layers = len(bench.checkpoint(bench.default).groups)
    assert "Done" in line and f"of {layers} layers" in line
    assert len(table["data"]) == layers
    gains = [row[2] for row in table["data"]]
    assert gains == sorted(gains, reverse=True) and gains[-1] >= 0
    assert len(json.loads(plot["plot"])["data"]) == layers
    recipe = Recipe.from_json(Path(download["value"] if isinstance(download, dict) else download)
                              .read_text(encoding="utf-8"))  # fmt: skip
    assert recipe.checkpoint == fingerprint and len(recipe.layers) == layers
    assert len(job.outputs()) > 3, "expected the search to stream"
    from ditas_core.checkpoints import fingerprint as hash_of

    assert hash_of(bench.checkpoint(bench.default).transformer) == fingerprint


def test_heatmaps_come_from_the_measured_run(client, bench, setup):
    assert bench.atlas(bench.default) is not None
    plots = client.predict("0.qkv", *setup, api_name="/outlier_overview")
    overview = json.loads(plots[0]["plot"])
    assert [trace["type"] for trace in overview["data"]] == ["heatmap", "heatmap"]
    plot, line = client.predict("0.fc1", False, 0.75, *setup, api_name="/outlier_map")
    assert "α = 0.75 (by hand)" in line and "heatmap" in plot["plot"]


def test_injected_outliers_are_labelled(client, setup):
    injected = (*setup[:-2], True, 100)
    _, line = client.predict("0.qkv", False, 0.5, *injected, api_name="/outlier_map")
    assert "injected outliers (function-preserving)" in line
    assert "injected" in client.predict(*injected, api_name="/describe")


@pytest.mark.parametrize("inject", [False, True])
def test_comparison(client, bench, setup, inject):
    name = bench.checkpoint(bench.default).class_names[0]
    settings = (*setup[:-2], inject, 50)
    client.predict("search", 4, 1, *settings, api_name="/search")
    result = client.predict([name], 2, 3, 4, 2.5, 4, *settings, api_name="/compare")
    line = result[0]
    assert "seed 3" in line and ("injected" in line) == inject
    slider, gallery, table = result[2], result[5], result[6]
    assert len(slider) == 2 and len(gallery) == 6
    assert [row[0] for row in table["data"]] == ["latent SQNR, dB", "PSNR, dB", "SSIM", "samples"]
    if inject:
        plain, recipe = (float(cell.split(" ")[0]) for cell in table["data"][0][1:])
        assert recipe > plain


HOSTILE_SETUPS = [
    ("../../etc/passwd", *GOOD),
    ("/etc", *GOOD),
    (None, *GOOD),
    ("DEMO", "W99A1", 4, 8, "integer", False, 60),
    ("DEMO", "custom", 9, 8, "integer", False, 60),
    ("DEMO", "custom", 2.5, 8, "integer", False, 60),
    ("DEMO", "custom", True, 8, "integer", False, 60),
    ("DEMO", "custom", 4, 1e9, "integer", False, 60),
    ("DEMO", "W4A8", 4, 8, "<script>alert(1)</script>", False, 60),
    ("DEMO", "W4A8", 4, 8, "integer", True, 1e9),
    ("DEMO", "W4A8", 4, 8, "integer", True, None),
    ("DEMO", "W4A8", 4, 8, "integer", "yes", 60),
]


@pytest.mark.parametrize("values", HOSTILE_SETUPS, ids=repr)
def test_hostile_settings_get_a_controlled_error(client, bench, values):
    values = tuple(bench.default.key if v == "DEMO" else v for v in values)
    for api_name, arguments in (("/describe", ()), ("/search", ("plain", 4, 1))):
        with pytest.raises(AppError) as caught:
            client.predict(*arguments, *values, api_name=api_name)
        assert "Traceback" not in str(caught.value)
    assert not bench.job.locked()


@pytest.mark.parametrize(
    "arguments",
    [
        (["no such class"], 1, 0, 4, 2.5, 4),
        ([], 1, 0, 4, 2.5, 4),
        ("DEMO", 9, 0, 4, 2.5, 4),
        ("DEMO", 1, -1, 4, 2.5, 4),
        ("DEMO", 1, 0, 100000, 2.5, 4),
        ("DEMO", 1, 0, 4, -3, 4),
        ("DEMO", 1, 0, 4, True, 4),
        ("DEMO", 1, 2**40, 4, 2.5, 4),
    ],
    ids=repr,
)
def test_hostile_comparisons_get_a_controlled_error(client, bench, setup, arguments):
    classes = [bench.checkpoint(bench.default).class_names[0]]
    arguments = tuple(classes if a == "DEMO" else a for a in arguments)
    with pytest.raises(AppError):
        client.predict(*arguments, *setup, api_name="/compare")
    assert not bench.job.locked()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, None, "4", [4], 1e9, 2.5])
def test_numbers_are_checked_here(value):
    with pytest.raises(gr.Error, match="expected a"):
        whole(value, "x", 1, 8)
    if value != 2.5:
        with pytest.raises(gr.Error, match="expected a"):
            real(value, "x", 1, 8)


def test_choices_are_checked_here():
    for bad in (None, 3, "c" * 1_000_000, ["a"]):
        with pytest.raises(gr.Error) as caught:
            one_of(bad, "x", ["a", "b"])
        assert len(str(caught.value)) < 200
    for bad in (None, "a", [], ["a"] * 9, ["c"]):
        with pytest.raises(gr.Error):
            some_of(bad, "x", ["a", "b"], 8)
    with pytest.raises(gr.Error):
        flag(1, "x")
    with pytest.raises(gr.Error) as caught:
        one_of("<img src=x onerror=alert(1)>", "x", ["a"])
    assert "<img" not in str(caught.value)


def test_cancel_frees_the_slot_and_leaves_no_hook(client, bench, setup):
    transformer = bench.checkpoint(bench.default).transformer
    for steps in (100, 99):
        job = client.submit("ditas", steps, 16, *setup, api_name="/search")
        wait_until(lambda job=job: bench.job.locked() and len(job.outputs()) > 1, 30)
        job.cancel()
        wait_until(lambda: not bench.job.locked(), 4)
        with suppress(Exception):
            job.result(timeout=1)
    assert not any(module._forward_pre_hooks for module in transformer.modules())


def test_the_queue_is_bounded_and_computes_one_job_at_a_time(bench):
    demo = build_app(bench)
    assert demo._queue.max_size == 16
    limits = [(f.concurrency_id, f.concurrency_limit) for f in demo.fns.values()]
    assert limits.count(("compute", 1)) == 3


def test_hub_checkpoint_offline_is_a_clear_error(client, bench, setup, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    bench.entries["facebook/DiT-XL-2-256"] = Entry(
        "facebook/DiT-XL-2-256", "x", "facebook/DiT-XL-2-256", False
    )
    from ditas_core.checkpoints import CheckpointError

    with pytest.raises(CheckpointError, match="local diffusers folder"):
        bench.checkpoint(Model("facebook/DiT-XL-2-256"))


def test_catalogue_lists_only_what_the_operator_offers(tmp_path, monkeypatch):
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    (tmp_path / "good" / "model_index.json").write_text("{}")
    monkeypatch.setenv(CHECKPOINTS_VARIABLE, os.pathsep.join([str(tmp_path / "good"), "", "/no"]))
    entries = find_checkpoints(tmp_path / "no-assets")
    assert list(entries) == ["good", "facebook/DiT-XL-2-256", "facebook/DiT-XL-2-512"]
    assert [e.local for e in entries.values()] == [True, False, False]


def test_cache_is_bounded():
    cache = Cache(limit=3 << 20)
    for i in range(10):
        cache.put(i, object())
    assert list(cache.entries) == [7, 8, 9]
    cache.get(7)
    cache.put("big", torch.zeros(1 << 20))
    assert cache.get("big") is not None and len(cache.entries) == 1


def test_shipped_results_round_trip_and_are_checked(random_checkpoint, tmp_path):
    spec = SamplingSpec(steps=2, guidance_scale=2.5)
    checkpoint = replace(random_checkpoint, name="random")
    shipped = precompute(
        checkpoint, lambda _: None, CalibrationSpec(spec, samples=1, tokens=4), spec, 2, ("W4A8",)
    )
    write(shipped, tmp_path / "out")
    write(shipped, tmp_path / "out")
    back = load_shipped(tmp_path / "out", checkpoint.fingerprint)
    assert back.presets["W4A8"].recipe == shipped.presets["W4A8"].recipe
    assert back.presets["W4A8"].layers == shipped.presets["W4A8"].layers
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ValueError, match="made for checkpoint"):
        load_shipped(tmp_path / "out", "0" * 64)
    (tmp_path / "out" / "results.json").write_text("{}")
    with pytest.raises(ValueError, match="damaged"):
        load_shipped(tmp_path / "out", checkpoint.fingerprint)
    with pytest.raises(ValueError, match="none found"):
        load_shipped(tmp_path / "nowhere", checkpoint.fingerprint)


def test_missing_results_are_said_in_one_line(bench):
    assert bench.shipped is None and bench.notice.startswith("Shipped results are not shown")
    choice = read_choice(bench, (bench.default.key, *GOOD))
    assert choice.bits == BitWidths(4, 4)
    assert bench.session_recipe(Session(), choice.model, choice.bits, choice.convention) is None
