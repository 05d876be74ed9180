"""The blind test in a browser: guess, be told, score; by keyboard; nothing leaks."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from ditas_core.ui.guessing import LEFT, RIGHT
from ditas_core.ui.tabs import blind

from .conftest import SIZES, overflow

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect


def truth(bench) -> str:
    """The side that is quantized for the visitor who came last."""
    found = next(reversed(bench.desks.desks.values())).notes[blind.NOTE]
    return found.pair.truth


def other(side: str) -> str:
    return RIGHT if side == LEFT else LEFT


def sources(page) -> list[str]:
    return page.locator("#blind-pictures img").evaluate_all("all => all.map(i => i.src)")


def opened(watched, bits: str = "W4A4", recipe: str = "plain rounding"):
    page = watched.open()
    page.locator("#bits").get_by_role("radio", name=bits).check()
    watched.tab("Blind test")
    expect(page.locator("#blind-source")).to_contain_text(bits)
    images = page.locator("#blind-pictures img")
    expect(images).to_have_count(2)
    if recipe != "DiTAS":
        first = images.first.get_attribute("src")
        page.locator("#blind-variant").get_by_role("radio", name=recipe).check()
        page.wait_for_function(
            "old => document.querySelector('#blind-pictures img').src !== old", arg=first
        )
    return page


def test_guess_be_told_and_score(watched, bench, axe):
    page = opened(watched)
    pictures = page.locator("#blind-pictures")
    assert pictures.locator("img").evaluate_all("all => all.map(i => i.alt)") == [
        "left picture",
        "right picture",
    ]
    html = pictures.inner_html()
    for word in ("full precision", "plain", "quantized", "reference"):
        assert word not in html, "nothing may tell the sides apart before the guess"
    expect(page.locator("#blind-next")).to_be_disabled()

    side = truth(bench)
    page.locator(f"#blind-{side}").click()
    said = page.locator("#blind-feedback")
    expect(said).to_contain_text(f"Right. The {side} picture was quantized: plain rounding")
    expect(said).to_contain_text("dB")
    expect(said).to_contain_text("1 of 1 right; pure guessing does at least as well in 50 %")
    captions = ["plain rounding, quantized", "full precision"]
    expect(pictures.locator("figcaption")).to_have_text(
        captions if side == LEFT else captions[::-1]
    )
    shipped = bench.shipped.presets["W4A4"].result
    shown = [base64.b64decode(source.split(",")[1]) for source in sources(page)]
    pixels = [np.asarray(Image.open(io.BytesIO(png))) for png in shown]
    assert any(
        np.array_equal(pixels[side == RIGHT], known) for known in shipped.images["plain rounding"]
    )
    expect(page.locator("#blind-left")).to_be_disabled()
    page.wait_for_timeout(400)  # colours of the buttons fade
    assert axe(page) == []

    page.locator("#blind-next").click()
    expect(said).to_contain_text("Which one is quantized?")
    side = truth(bench)
    page.locator(f"#blind-{other(side)}").click()
    expect(said).to_contain_text(f"Wrong. The {side} picture was quantized")
    expect(said).to_contain_text("1 of 2 right; pure guessing does at least as well in 75 %")
    page.locator("#blind-next").click()
    expect(said).to_contain_text("Which one is quantized?")
    side = truth(bench)
    page.locator("#blind-unsure").click()
    expect(said).to_contain_text(f"Not told. The {side} picture was quantized")
    expect(page.locator("#blind-score")).to_contain_text("1 of 2")

    page.locator("#blind-variant").get_by_role("radio", name="DiTAS").check()
    expect(said).to_contain_text("Which one is quantized?")
    page.locator("#blind-left").click()
    expect(page.locator("#blind-score tbody tr")).to_have_count(2)
    expect(page.locator("#blind-score")).to_contain_text("Hardest to tell")
    page.wait_for_timeout(400)
    assert axe(page) == []

    page.locator("#blind-new").click()
    expect(page.locator("#blind-score")).to_contain_text("Your score for every recipe")
    expect(said).to_contain_text("Which one is quantized?")


def test_the_keyboard_alone_is_enough(watched, bench):
    page = opened(watched, recipe="DiTAS")
    right = int(truth(bench) == LEFT)
    page.locator("#blind-left").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#blind-feedback")).to_contain_text(f"{right} of 1 right")
    expect(page.locator("#blind-next")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#blind-feedback")).to_contain_text("Which one is quantized?")
    expect(page.locator("#blind-left")).to_be_focused()
    right += truth(bench) == RIGHT
    page.keyboard.press("Tab")
    expect(page.locator("#blind-right")).to_be_focused()
    page.keyboard.press("Space")
    expect(page.locator("#blind-feedback")).to_contain_text(f"{right} of 2 right")


def test_going_away_and_coming_back_keeps_the_pair(watched):
    page = opened(watched, recipe="DiTAS")
    first = sources(page)
    watched.tab("About")
    watched.tab("Blind test")
    page.wait_for_timeout(1000)
    assert sources(page) == first
    page.locator("#bits").get_by_role("radio", name="W8A8").check()
    expect(page.locator("#blind-source")).to_contain_text("W8A8")
    assert sources(page) != first


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_it_fits_and_is_accessible(visit, axe, shots, size, scheme):
    watched = visit(size, scheme)
    page = opened(watched, recipe="DiTAS")
    assert axe(page) == []
    page.locator("#blind-left").click()
    expect(page.locator("#blind-feedback")).to_contain_text("of 1 right")
    page.wait_for_timeout(400)
    page.screenshot(path=shots / f"blind-{size}-{scheme}.png", full_page=True)
    assert overflow(page) <= 0
    assert axe(page) == []
