"""The whole journey in a real browser: look, search, cancel, search, compare."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")

from ditas_core.ui import build_app, launch_options  # noqa: E402
from ditas_core.ui.bench import Bench  # noqa: E402
from ditas_core.ui.catalogue import Entry  # noqa: E402

DEMO = Path(__file__).resolve().parents[1] / "assets" / "fluent-emoji-dit"
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not shutil.which(CHROMIUM), reason="chromium is not installed"),
]


@dataclass
class Watched:
    """A page with everything that should not happen on it."""

    page: playwright.Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    path = DEMO if DEMO.is_dir() else Path(os.environ.get("DITAS_TEST_CHECKPOINT", ""))
    if not (path / "model_index.json").is_file():
        pytest.fail(f"expected the demo checkpoint in assets/{DEMO.name}, found none")
    threads = torch.get_num_threads()
    torch.set_num_threads(min(2, threads))
    yield Bench({path.name: Entry(path.name, path.name, str(path), True)})
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def url(bench) -> Iterator[str]:
    demo = build_app(bench)
    _, local, _ = demo.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options()
    )
    yield local
    demo.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture()
def watched(chromium, url) -> Iterator[Watched]:
    """A desktop page; at the end nothing may have gone wrong on it."""
    context = chromium.new_context(viewport=DESKTOP, color_scheme="light")
    found = Watched(context.new_page())
    found.page.set_default_timeout(60_000)
    found.page.on("console", lambda m: found.errors.append(m.text) if m.type == "error" else None)
    found.page.on("pageerror", lambda error: found.errors.append(str(error)))
    found.page.on("request", lambda request: found.requests.append(request.url))
    yield found
    context.close()
    outside = [r for r in found.requests if not r.startswith((url, "data:", "blob:"))]
    assert outside == [], f"expected no request to other hosts, got {outside[:3]}"
    assert found.errors == []


@pytest.fixture(scope="module")
def shots(tmp_path_factory) -> Path:
    folder = Path(os.environ.get("DITAS_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def drawn(page: playwright.Page, plot: str) -> None:
    """The plot has a heatmap or lines with an extent."""
    page.locator(f"{plot} .js-plotly-plot .main-svg").first.wait_for()
    box = page.locator(f"{plot} .js-plotly-plot").first.bounding_box()
    assert box is not None and box["height"] > 200 and box["width"] > 250


def set_slider(page: playwright.Page, name: str, value: int) -> None:
    box = page.locator(f"{name} input[type=number]")
    box.wait_for()
    page.wait_for_timeout(300)  # a freshly opened accordion still sets its values
    box.fill(str(value))
    box.press("Tab")
    playwright.expect(box).to_have_value(str(value))


def rows(page: playwright.Page, table: str) -> int:
    """Rows of a (virtualised) table."""
    count = page.locator(f"{table} [role=grid]").get_attribute("aria-rowcount")
    return int(count or 1) - 1


def wait_for_rows(page: playwright.Page, table: str, least: int, seconds: float) -> int:
    began = time.monotonic()
    while (count := rows(page, table)) < least:
        assert time.monotonic() - began < seconds, f"expected {least} rows, got {count}"
        page.wait_for_timeout(50)
    return count


def test_the_whole_journey(watched, url, bench, shots):
    page = watched.page
    page.goto(url)

    # 1. it opens with something to look at
    if bench.shipped is None:
        page.locator("#measure").click()
        page.locator("#measure-status .done").wait_for(timeout=240_000)
    for plot in ("#overview", "#channels"):
        drawn(page, plot)
        page.locator(f"{plot} .heatmaplayer image").nth(1).wait_for()
        assert page.locator(f"{plot} .heatmaplayer image").count() == 2
    page.screenshot(path=shots / "1-outliers.png", full_page=True)

    # 2. another layer, alpha by hand
    page.locator("#ranking [data-testid=cell-1-0]").click()
    before = page.locator("#layer-line").inner_text()
    page.locator("#alpha input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "before => document.querySelector('#layer-line').innerText !== before", arg=before
    )
    playwright.expect(page.locator("#layer-line")).to_contain_text("by hand")

    # 3. W4A4, a search that streams, cancelled within two seconds
    page.get_by_role("radio", name="W4A4").check()
    page.get_by_role("tab", name="Search").click()
    page.get_by_text("Calibration run").click()
    set_slider(page, "#cal-steps", 6)
    set_slider(page, "#cal-samples", 2)
    layers = len(bench.checkpoint(bench.default).groups)
    page.locator("#start-search").click()
    playwright.expect(page.locator("#search-status")).to_contain_text("2 of 2", timeout=120_000)
    wait_for_rows(page, "#search-table", 2, 60)
    playwright.expect(page.locator("#search-status")).to_contain_text("to go")
    page.screenshot(path=shots / "2-search-running.png", full_page=True)
    page.locator("#cancel-search").click()
    began = time.monotonic()
    while bench.job.locked():
        assert time.monotonic() - began < 2, "expected the search to stop within 2 s"
        page.wait_for_timeout(20)
    playwright.expect(page.locator("#search-status")).to_contain_text("Cancelled")
    kept = rows(page, "#search-table")
    assert 1 < kept < layers + 2
    page.wait_for_timeout(700)
    assert rows(page, "#search-table") == kept, "expected no row after Cancel"

    # 4. to the end
    page.get_by_role("radio", name=re.compile("^grid search")).check()
    page.locator("#start-search").click()
    playwright.expect(page.locator("#search-status")).to_contain_text("Done in", timeout=120_000)
    drawn(page, "#curves")
    assert page.locator("#curves .scatterlayer .trace").count() >= layers
    with page.expect_download() as download:
        page.locator("#download-recipe").click()
    assert '"convention": "integer"' in Path(download.value.path()).read_text()
    page.screenshot(path=shots / "3-search-done.png", full_page=True)

    # 5. the same noise through both models
    page.get_by_role("tab", name="Compare").click()
    set_slider(page, "#count", 2)
    set_slider(page, "#steps", 6)
    page.locator("#generate").click()
    playwright.expect(page.locator("#compare-status")).to_contain_text("seed 0", timeout=180_000)
    playwright.expect(page.locator("#slider img")).to_have_count(2)
    playwright.expect(page.locator("#gallery img")).to_have_count(6)
    playwright.expect(page.locator("#metrics")).to_contain_text("latent SQNR")
    playwright.expect(page.locator("#metrics")).to_contain_text("SSIM")
    drawn(page, "#divergence")

    # 6. A/B by keyboard
    image = page.locator("#ab-view img")
    source = image.get_attribute("src")
    page.locator("#ab input[type=radio]").nth(1).focus()
    page.keyboard.press("Space")
    page.wait_for_function(
        "old => document.querySelector('#ab-view img').getAttribute('src') !== old", arg=source
    )
    page.screenshot(path=shots / "4-compare.png", full_page=True)


def test_phone_has_no_sideways_scroll(chromium, url, shots):
    page = chromium.new_page(viewport=PHONE, color_scheme="light")
    page.goto(url)
    drawn(page, "#overview")
    for name in ("Outliers", "Search", "Compare"):
        page.get_by_role("tab", name=name).click()
        page.wait_for_timeout(800)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        page.screenshot(path=shots / f"phone-{name.lower()}.png", full_page=True)
    page.close()


def test_shipped_heatmaps_come_quickly(chromium, url, bench):
    assert bench.shipped is not None, bench.notice
    page = chromium.new_page(viewport=DESKTOP)
    began = time.monotonic()
    page.goto(url)
    page.locator("#overview .heatmaplayer image").nth(1).wait_for()
    assert time.monotonic() - began < 15
    page.close()
