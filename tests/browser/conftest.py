"""One server and one browser for all tests of the page; pages that notice what goes wrong."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")

from ditas_core.bench.machine import DEMO  # noqa: E402
from ditas_core.specs import CalibrationSpec, SamplingSpec  # noqa: E402
from ditas_core.ui import build_app, launch_options  # noqa: E402
from ditas_core.ui.stored.catalogue import Entry  # noqa: E402
from ditas_core.ui.visitors.backend import Backend  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
PHONE, TABLET, DESKTOP = (390, 844), (768, 1024), (1280, 900)
SIZES = {"phone": PHONE, "tablet": TABLET, "desktop": DESKTOP}
SHORT = CalibrationSpec(SamplingSpec(steps=8), samples=2)
PATIENCE_MS = 60_000
QUICK = {"test_promises"}
"""In ``make test``."""
THOROUGH = {"test_overview", "test_dial", "test_tour", "test_every_tab"}
"""In ``make thorough``; the other files drive one tab through all it can do: ``make browser``."""
expect = playwright.expect
expect.set_options(timeout=PATIENCE_MS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(item.path).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.browser)
            if Path(item.path).stem not in THOROUGH | QUICK:
                item.add_marker(pytest.mark.journey)
            elif Path(item.path).stem in THOROUGH and not item.get_closest_marker("journey"):
                item.add_marker(pytest.mark.thorough)
            if not shutil.which(CHROMIUM):
                item.add_marker(pytest.mark.skip(reason="chromium is not installed"))


@dataclass
class Watched:
    """A page with everything that should not happen on it."""

    page: playwright.Page
    url: str
    size: str = "desktop"
    scheme: str = "light"
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, query: str = "", settings: bool = True) -> playwright.Page:
        """Go to the page and wait until it can be used; unfold the settings, or leave them."""
        self.page.goto(self.url + query)
        self.page.get_by_role("tab").first.wait_for()
        if settings:
            self.page.locator("#settings > button").click()
            self.page.locator("#bits").wait_for()
        return self.page

    def tab(self, name: str) -> None:
        """Open a tab by its title, also where the tab bar folds it into its menu."""
        open_tab(self.page, name)

    def check(self) -> None:
        """Nothing may have gone wrong: console, other hosts, sideways scrolling."""
        outside = [r for r in self.requests if not r.startswith((self.url, "data:", "blob:"))]
        assert outside == [], f"expected no request to other hosts, got {outside[:3]}"
        assert self.errors == []
        assert overflow(self.page) <= 0


def open_tab(page: playwright.Page, name: str) -> None:
    found = page.get_by_role("tab", name=name, exact=True).locator("visible=true")
    if found.count() == 0:
        page.locator("#tabs .overflow-menu > button").first.click()
        found = page.locator("#tabs .overflow-dropdown").get_by_text(name, exact=True)
    found.first.click()


def overflow(page: playwright.Page) -> int:
    """Pixels by which the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def drawn(page: playwright.Page, plot: str, least: int = 200) -> None:
    """The gr.Plot has been drawn with an extent; a drawing may be on its way to replace it."""
    page.wait_for_function(
        """([plot, least]) => {
          const found = document.querySelector(`${plot} .js-plotly-plot`);
          if (!found || !found.querySelector(".main-svg")) return false;
          const box = found.getBoundingClientRect();
          return box.height > least && box.width > 250;
        }""",
        arg=[plot, least],
    )


def set_slider(page: playwright.Page, name: str, value: float) -> None:
    """Type a value into a slider's number field."""
    box = page.locator(f"{name} input[type=number]")
    box.wait_for()
    page.wait_for_timeout(300)  # a freshly opened accordion still sets its values: not to be seen
    box.fill(str(value))
    box.press("Tab")
    expect(box).to_have_value(str(value))


def choose(page: playwright.Page, dropdown: str, name: str) -> None:
    """In a dropdown, which filters what is typed."""
    box = page.locator(f"{dropdown} input")
    box.click()
    box.fill(name)
    page.get_by_role("option", name=name).first.wait_for()
    box.press("Enter")


def toast(page: playwright.Page, text: str) -> None:
    """A message is on view."""
    expect(page.locator("[data-testid=toast-body]").last).to_contain_text(text)


def still(page: playwright.Page) -> None:
    """Nothing fades or moves any more, and what was to be drawn is drawn."""
    page.wait_for_function(
        "document.getAnimations().every(a => a.playState !== 'running' "
        "|| a.effect.getComputedTiming().iterations === Infinity)"
    )
    page.evaluate(
        "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))"
    )


def click_figure(page: playwright.Page, plot: str, x: float, y: float) -> None:
    """A click at this part of the plot's first panel, on what is hovered there."""
    panel = page.locator(f"{plot} .nsewdrag").first
    panel.scroll_into_view_if_needed()
    graph = f"document.querySelector('{plot} .js-plotly-plot')"
    page.wait_for_function(f"{graph}?._ev?.listeners('plotly_click').length > 0")
    box = panel.bounding_box()
    assert box is not None
    at = box["x"] + x * box["width"], box["y"] + y * box["height"]
    page.mouse.move(1, 1)
    page.mouse.move(*at)
    page.wait_for_function(f"{graph}._hoverdata?.length > 0")
    page.mouse.click(*at)


def rows(page: playwright.Page, table: str) -> int:
    """Rows of a (virtualised) table."""
    count = page.locator(f"{table} [role=grid]").get_attribute("aria-rowcount")
    return int(count or 1) - 1


@pytest.fixture(scope="session")
def backend() -> Iterator[Backend]:
    """The demo checkpoint with its shipped results and a short calibration run."""
    path = DEMO if DEMO.is_dir() else Path(os.environ.get("DITAS_TEST_CHECKPOINT", ""))
    if not (path / "model_index.json").is_file():
        pytest.fail(f"expected the demo checkpoint in assets/{DEMO.name}, found none")
    threads = torch.get_num_threads()
    torch.set_num_threads(min(2, threads))
    found = Backend({path.name: Entry(path.name, path.name, str(path), True)}, SHORT)
    assert found.shipped is not None, found.notice
    for _ in found.calibrated(found.default, SHORT):
        pass
    yield found
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def url(backend: Backend) -> Iterator[str]:
    demo = build_app(backend)
    _, local, _ = demo.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options()
    )
    yield local
    demo.close()


@pytest.fixture(scope="session")
def chromium() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture()
def visit(chromium, url) -> Iterator[Callable[..., Watched]]:
    """``visit(size, scheme)`` -> a watched page; at the end nothing may have gone wrong on any."""
    opened: list[tuple[playwright.BrowserContext, Watched]] = []

    def new(size: str = "desktop", scheme: str = "light", **more: object) -> Watched:
        width, height = SIZES[size]
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, **more
        )
        found = Watched(context.new_page(), url, size, scheme)
        page = found.page
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda m: found.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: found.errors.append(str(error)))
        page.on("request", lambda request: found.requests.append(request.url))
        opened.append((context, found))
        return found

    yield new
    for context, found in opened:
        found.check()
        context.close()


@pytest.fixture()
def watched(visit) -> Watched:
    """A desktop page in light colours."""
    return visit()


@pytest.fixture(scope="session")
def shots(tmp_path_factory) -> Path:
    """Where screenshots go: DITAS_SCREENSHOTS, or a temporary folder."""
    folder = Path(os.environ.get("DITAS_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def axe_script() -> str:
    """axe-core as ``make axe`` installs it, or from the folder DITAS_AXE."""
    for place in (Path(os.environ.get("DITAS_AXE", "")), ROOT / "tests" / "node_modules"):
        script = place / "axe-core" / "axe.min.js"
        if script.is_file():
            return script.read_text(encoding="utf-8")
    pytest.fail("expected axe-core: run `make axe`")


@pytest.fixture()
def axe(axe_script) -> Callable[[playwright.Page], list[str]]:
    """``axe(page)`` -> violations of WCAG 2.2 A and AA, one line each."""

    def look(page: playwright.Page) -> list[str]:
        still(page)
        if not page.evaluate("typeof window.axe === 'object'"):
            page.evaluate(axe_script)
        tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
        found = page.evaluate(
            "tags => axe.run(document, {runOnly: {type: 'tag', values: tags}})", tags
        )
        return [
            f"{v['id']} ({v['impact']}): {len(v['nodes'])} × "
            + re.sub(r"\s+", " ", v["nodes"][0]["html"])[:200]
            + " · "
            + " ".join(v["nodes"][0]["target"][:1])[:120]
            for v in found["violations"]
        ]

    return look
