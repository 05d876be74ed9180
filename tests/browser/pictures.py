"""The animation of the page in the README and the pictures of the docs: ``make pictures``.

One walk through the page as a visitor sees it, every frame a screenshot of the running page; the
whole page where a picture of the docs is due; and the phone's site, which lies in ``site``.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import expect

from ditas_core.bench.page import browsed
from ditas_core.bench.site import served

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "assets" / "screenshots" / "tour.webp"
PHONE, GAP = (390, 844), 20
SIZE = (960, 660)
MOST_BYTES = 2_000_000
LONG, SHORT = 2200, 450
"""Milliseconds of a frame to read and of one of a movement."""


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def at_top(page: Any, name: str, least: int = 1) -> None:
    """The pictures or heatmaps ``name`` are there, and the first stands near the window's top."""
    page.wait_for_function(
        "([name, least]) => [...document.querySelectorAll(name)]"
        ".filter(found => found.getBoundingClientRect().height > 20).length >= least",
        arg=[name, least],
    )
    page.evaluate(
        "name => window.scrollBy(0, [...document.querySelectorAll(name)]"
        ".find(found => found.getBoundingClientRect().height > 20)"
        ".getBoundingClientRect().top - 170)",
        name,
    )
    page.wait_for_function("[...document.images].every(image => image.complete)")


def still(page: Any, name: str) -> None:
    """The whole page, as wide as the animation, in 256 colours."""
    shot = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    height = round(shot.height * SIZE[0] / shot.width)
    small = shot.resize((SIZE[0], height), Image.Resampling.LANCZOS)
    small.quantize(256).save(OUT.with_name(f"{name}.png"), optimize=True)


def device(browser: Any, site: Path) -> None:
    """The site on a phone: opened, drawing, drawn."""
    shots = []
    with served(site) as url:
        page = browser.new_page(viewport={"width": PHONE[0], "height": PHONE[1]})
        page.goto(url)
        page.locator("html[data-ready=yes]").wait_for()
        page.locator("#draw").click()
        for state in ("busy", "done"):
            page.locator(f"#status.{state}").wait_for(timeout=180_000)
            shots.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
            if state == "busy":
                page.wait_for_timeout(LONG)
                shots.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
        page.close()
    width = len(shots) * PHONE[0] + (len(shots) - 1) * GAP
    sheet = Image.new("RGB", (width, PHONE[1]), "white")
    for at, shot in enumerate(shots):
        sheet.paste(shot, (at * (PHONE[0] + GAP), 0))
    sheet.save(OUT.with_name("device.webp"), quality=88, method=6)


def walk(page: Any) -> Iterator[int]:
    """Brings the page to each frame; yields how long it stands."""
    page.locator("#dial[data-drawn]").wait_for()
    page.locator("#dial-range").focus()
    page.keyboard.press("Home")
    yield LONG
    for _ in range(int(page.locator("#dial-range").get_attribute("max"))):
        page.keyboard.press("ArrowRight")
        yield 2 * SHORT
    yield LONG
    tab(page, "Outliers")
    at_top(page, "#atlas-overview .heatmaplayer image", 2)
    yield LONG
    page.locator("#ranking [data-testid=cell-0-0]").click()
    at_top(page, "#atlas-layer .heatmaplayer image", 2)
    still(page, "outliers")
    yield LONG
    tab(page, "Alpha lab")
    page.locator("#lab-shapes .main-svg").first.wait_for()
    at_top(page, "#alpha")
    page.locator("#alpha input[type=range]").focus()
    for _ in range(8):
        before = page.locator("#lab-verdict").inner_text()
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        expect(page.locator("#lab-verdict")).not_to_have_text(before)
        yield SHORT
    still(page, "lab")
    yield LONG
    tab(page, "Search")
    page.get_by_role("radio", name="grid", exact=False).first.check()
    page.locator("#start-search").click()
    at_top(page, "#search-status")
    for done in range(2, 32, 5):
        page.wait_for_function(
            "done => parseInt(document.querySelector('#search-totals').innerText) >= done",
            arg=done,
        )
        yield SHORT
    expect(page.locator("#search-status")).to_contain_text("Done in")
    at_top(page, "#search-plot .heatmaplayer image")
    yield LONG
    tab(page, "Compare")
    page.locator("#contact img").first.wait_for()
    at_top(page, "#studio .studio")
    page.locator("#studio input.step:enabled").focus()
    page.keyboard.press("Home")
    for _ in range(7):
        for _ in range(7):
            page.keyboard.press("ArrowRight")
        yield SHORT
    page.keyboard.press("End")
    yield LONG
    at_top(page, "#contact img")
    still(page, "compare")
    yield LONG
    tab(page, "Contest")
    page.locator("#contest-front .main-svg").first.wait_for()
    if page.locator("#contest-source input").input_value():  # one is shipped
        still(page, "contest")
    tab(page, "Where it breaks")
    at_top(page, "#map-plot .js-plotly-plot")
    still(page, "breaking")
    yield LONG


def main() -> int:
    frames: list[Image.Image] = []
    stands: list[int] = []
    with browsed() as (_, url, browser):
        page = browser.new_page(viewport={"width": 1280, "height": 880})
        page.set_default_timeout(180_000)
        expect.set_options(timeout=180_000)
        page.goto(url)
        for milliseconds in walk(page):
            shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            frames.append(shot.resize(SIZE, Image.Resampling.LANCZOS))
            stands.append(milliseconds)
        device(browser, ROOT / "site")
    for quality in (80, 65, 50):
        held = io.BytesIO()
        frames[0].save(
            held, "WEBP", save_all=True, append_images=frames[1:], duration=stands, loop=0,
            quality=quality, method=6, minimize_size=True,
        )  # fmt: skip
        if held.tell() < MOST_BYTES:
            OUT.write_bytes(held.getvalue())
            sys.stdout.write(f"{OUT.name}: {len(frames)} frames, {held.tell() / 1e6:.2f} MB\n")
            return 0
    raise SystemExit(f"expected at most {MOST_BYTES} bytes, got {held.tell()} at quality {quality}")


if __name__ == "__main__":
    raise SystemExit(main())
