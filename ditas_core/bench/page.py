"""How quickly the page answers, in a real browser over loopback.

    python -m ditas_core bench page

Starts the page on the demo checkpoint and measures, each several times in new
browser windows:

    useful view   from the request to the dial's pictures and the worst layer, drawn
    dial stop     from the key to the dial's pictures at the next stop, painted
    open outliers from the tab's click to its drawn map, two seconds after the first view
    drill-down    from the choice of a layer to its drawn heatmap
    alpha move    from the slider's change to the redrawn figures and verdict of the lab
    payload       the largest answer to a drill-down: a layer's figures, not compressed
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ditas_core.cli.parsing import number

from .machine import describe

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
TARGETS = {
    "useful view": 3000.0,
    "dial stop": 150.0,
    "open outliers": 1000.0,
    "drill-down": 1000.0,
    "alpha move": 300.0,
    "payload, bytes": 300_000.0,
}
FIRST_DRAWING = """
() => document.querySelector('#dial[data-drawn]') !== null
  && [...document.querySelectorAll('#worst img')]
  .filter(picture => picture.complete && picture.naturalWidth > 0).length >= 2
"""
DIAL = """
() => {
  const home = document.querySelector('#dial');
  window.ditasPainted = null;
  document.addEventListener('keydown', event => { window.ditasPressed = event.timeStamp; }, true);
  new MutationObserver(() => requestAnimationFrame(() => setTimeout(() => {
    window.ditasPainted = performance.now() - window.ditasPressed;
  }))).observe(home, {attributeFilter: ['data-drawn']});
}
"""
READING_MS = 2000.0
CHANGED = """
([selector, old]) => {
  const found = document.querySelector(selector);
  return found !== null && found.innerText !== old;
}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=number(int, 1, 100), default=5, help="new windows")
    parser.add_argument("--moves", type=number(int, 1, 200), default=12, help="per window")


def milliseconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


class Probe:
    """Writes down, inside the browser, when a figure and a text last changed."""

    SCRIPT = """
    (selectors) => {
      window.ditasSeen = performance.now();
      const watch = new MutationObserver(() => { window.ditasSeen = performance.now(); });
      for (const selector of selectors)
        for (const found of document.querySelectorAll(selector))
          watch.observe(found, {subtree: true, childList: true, characterData: true,
                                attributeFilter: ["d", "href", "transform"]});
    }
    """

    def __init__(self, page: Any, selectors: list[str]) -> None:
        self.page = page
        page.evaluate(self.SCRIPT, selectors)

    def settled(self, quiet_ms: float = 350.0) -> float:
        """When the last change happened, once nothing has changed for a while."""
        script = f"() => performance.now() - window.ditasSeen > {quiet_ms}"
        self.page.wait_for_function(script, timeout=30_000)
        return float(self.page.evaluate("window.ditasSeen"))

    def now(self) -> float:
        return float(self.page.evaluate("performance.now()"))


class Answers:
    """The streams of answers that are still open."""

    def __init__(self, page: Any) -> None:
        self.page, self.open = page, 0
        page.on("request", lambda request: self.count(request, 1))
        for ended in ("requestfinished", "requestfailed"):
            page.on(ended, lambda request: self.count(request, -1))

    def count(self, request: Any, more: int) -> None:
        self.open += more if "/queue/data" in request.url else 0

    def wait(self) -> None:
        """Until all have come, so that none counts for what is asked for next."""
        for _ in range(600):
            self.page.wait_for_timeout(100)
            if self.open == 0:
                return
        raise TimeoutError(f"expected all answers within a minute, {self.open} did not come")


def first_view(page: Any, url: str) -> float:
    def work() -> None:
        page.goto(url, wait_until="commit")
        page.locator("#dial").wait_for()
        page.wait_for_function(FIRST_DRAWING)

    return milliseconds(work)


def dial(page: Any, times: dict[str, list[float]], moves: int) -> None:
    """From one end to the other and back; a stop is painted once the frame after it is done."""
    page.evaluate(DIAL)
    slider = page.locator("#dial-range")
    slider.focus()
    page.keyboard.press("Home")
    stops = int(slider.get_attribute("max"))
    for index in range(moves):
        page.wait_for_timeout(60)
        page.evaluate("window.ditasPainted = null")
        page.keyboard.press("ArrowRight" if index % (2 * stops) < stops else "ArrowLeft")
        page.wait_for_function("window.ditasPainted !== null")
        times["dial stop"].append(float(page.evaluate("window.ditasPainted")))


def outliers(
    page: Any, answers: Answers, times: dict[str, list[float]], layers: list[str], moves: int
) -> None:
    def opened() -> None:
        page.get_by_role("tab", name="Outliers", exact=True).click()
        page.locator("#atlas-layer .heatmaplayer image").first.wait_for()

    page.wait_for_timeout(READING_MS)
    times["open outliers"].append(milliseconds(opened))
    page.wait_for_timeout(800)
    answers.wait()
    known = len(payload(page, 0))
    for layer in layers[:moves]:
        before = page.locator("#atlas-layer-line").inner_text()
        page.locator("#atlas-layer-name input").click()
        page.locator("#atlas-layer-name input").fill(layer)
        option = page.get_by_role("option", name=layer, exact=True)
        option.wait_for()
        probe = Probe(page, ["#atlas-layer", "#atlas-layer-line"])
        began = probe.now()
        option.click()
        page.wait_for_function(CHANGED, arg=["#atlas-layer-line", before])
        times["drill-down"].append(probe.settled() - began)
    answers.wait()
    times["payload, bytes"].append(max(payload(page, known), default=0.0))


def alpha(page: Any, times: dict[str, list[float]], moves: int) -> None:
    from ditas_core.ui.tabs.lab.draw import BARS, CURVE, SHAPES

    page.get_by_role("tab", name="Alpha lab", exact=True).click()
    slider = page.locator("#alpha input[type=range]")
    slider.wait_for()
    page.locator(f"#{SHAPES} .js-plotly-plot").wait_for()
    page.wait_for_timeout(2500)
    slider.focus()
    for index in range(moves):
        before = page.locator("#lab-verdict").inner_text()
        probe = Probe(page, ["#lab-verdict", f"#{BARS}", f"#{CURVE}", f"#{SHAPES}"])
        began = probe.now()
        page.keyboard.press("ArrowRight" if index % 4 < 2 else "ArrowLeft")
        page.wait_for_function(CHANGED, arg=["#lab-verdict", before])
        times["alpha move"].append(probe.settled() - began)


def payload(page: Any, first: int) -> list[float]:
    """Bytes, not compressed, of every stream of answers from number ``first`` on."""
    sizes: list[float] = page.evaluate(
        "() => performance.getEntriesByType('resource')"
        ".filter(e => e.name.includes('/queue/data')).map(e => e.decodedBodySize)"
    )
    return sizes[first:]


@contextmanager
def browsed() -> Iterator[tuple[Any, str, Any]]:
    """A bench with all that is shipped, the address of its page, and a browser."""
    from playwright.sync_api import sync_playwright

    from ditas_core.ui import Backend, build_app, launch_options

    backend = Backend()
    demo = build_app(backend)
    backend.warm().join()
    _, url, _ = demo.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options()
    )
    try:
        with sync_playwright() as engine:
            browser = engine.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            yield backend, url, browser
            browser.close()
    finally:
        demo.close()


def run(options: argparse.Namespace) -> dict[str, Any]:
    times: dict[str, list[float]] = {name: [] for name in TARGETS}
    with browsed() as (backend, url, browser):
        atlas = backend.atlas(backend.default)
        assert atlas is not None
        layers = [row.layer for row in atlas.ranking({})]
        for _ in range(options.runs):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(60_000)
            answers = Answers(page)
            times["useful view"].append(first_view(page, url))
            dial(page, times, options.moves)
            outliers(page, answers, times, layers, options.moves)
            alpha(page, times, options.moves)
            page.close()
    return {"machine": describe(), "runs": options.runs, "values": times, "targets": TARGETS}


def lines(report: dict[str, Any]) -> list[str]:
    """One line per figure: median, largest, target."""
    machine = report["machine"]
    out = [f"{machine['cpu']}, {machine['cores']} cores, load {machine['load'][0]}"]
    for name, values in report["values"].items():
        target = report["targets"][name]
        middle, most = statistics.median(values), max(values)
        unit = "" if name.endswith("bytes") else " ms"
        kept = "met" if middle <= target else "MISSED"
        out.append(
            f"{name:16s} median {middle:9,.0f}{unit}, largest {most:9,.0f}{unit}, "
            f"n = {len(values):3d}, target {target:9,.0f}{unit}: {kept}"
        )
    return out
