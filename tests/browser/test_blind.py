"""The blind test in a browser: guess, be told, score; by keyboard; nothing leaks."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from ditas_core.ui.tabs.blind import layout as blind
from ditas_core.ui.tabs.blind.rules import LEFT, RIGHT

from .conftest import expect


def truth(backend) -> str:
    """The side that is quantized for the visitor who came last."""
    found = next(reversed(backend.sessions.sessions.values())).notes[blind.NOTE]
    return found.pair.truth


def sources(page) -> list[str]:
    return page.locator("#blind-pictures img").evaluate_all("all => all.map(i => i.src)")


def opened(watched):
    page = watched.open()
    page.locator("#bits").get_by_role("radio", name="W4A4").check()
    watched.tab("Blind test")
    expect(page.locator("#blind-source")).to_contain_text("W4A4")
    expect(page.locator("#blind-pictures img")).to_have_count(2)
    return page


def test_guess_be_told_and_score(watched, backend, axe):
    page = opened(watched)
    before = sources(page)
    page.locator("#blind-variant").get_by_role("radio", name="plain rounding").check()
    page.wait_for_function(
        "old => document.querySelector('#blind-pictures img').src !== old", arg=before[0]
    )
    pictures = page.locator("#blind-pictures")
    html = pictures.inner_html()
    for word in ("full precision", "plain", "quantized", "reference"):
        assert word not in html, "nothing may tell the sides apart before the guess"
    expect(page.locator("#blind-next")).to_be_disabled()

    side = truth(backend)
    page.locator(f"#blind-{side}").click()
    said = page.locator("#blind-feedback")
    expect(said).to_contain_text(f"Right. The {side} picture was quantized: plain rounding")
    captions = ["plain rounding, quantized", "full precision"]
    expect(pictures.locator("figcaption")).to_have_text(
        captions if side == LEFT else captions[::-1]
    )
    shipped = backend.shipped.presets["W4A4"].result
    shown = [base64.b64decode(source.split(",")[1]) for source in sources(page)]
    pixels = np.asarray(Image.open(io.BytesIO(shown[side == RIGHT])))
    assert any(np.array_equal(pixels, known) for known in shipped.images["plain rounding"])
    expect(page.locator("#blind-left")).to_be_disabled()
    assert axe(page) == []

    page.locator("#blind-next").click()
    expect(said).to_contain_text("Which one is quantized?")
    page.locator(f"#blind-{RIGHT if truth(backend) == LEFT else LEFT}").click()
    expect(said).to_contain_text("Wrong.")
    page.locator("#blind-next").click()
    expect(said).to_contain_text("Which one is quantized?")
    page.locator("#blind-unsure").click()
    expect(said).to_contain_text("Not told.")
    expect(page.locator("#blind-score")).to_contain_text("1 of 2")
    page.locator("#blind-variant").get_by_role("radio", name="DiTAS").check()
    expect(said).to_contain_text("Which one is quantized?")
    page.locator("#blind-left").click()
    expect(page.locator("#blind-score tbody tr")).to_have_count(2)
    assert axe(page) == []
    page.locator("#blind-new").click()
    expect(page.locator("#blind-score")).to_contain_text("Your score for every recipe")
    expect(said).to_contain_text("Which one is quantized?")


def test_the_keyboard_alone_is_enough(watched, backend):
    page = opened(watched)
    right = int(truth(backend) == LEFT)
    page.locator("#blind-left").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#blind-feedback")).to_contain_text(f"{right} of 1 right")
    expect(page.locator("#blind-next")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#blind-feedback")).to_contain_text("Which one is quantized?")
    expect(page.locator("#blind-left")).to_be_focused()
    right += truth(backend) == RIGHT
    page.keyboard.press("Tab")
    expect(page.locator("#blind-right")).to_be_focused()
    page.keyboard.press("Space")
    expect(page.locator("#blind-feedback")).to_contain_text(f"{right} of 2 right")


def test_going_away_and_coming_back_keeps_the_pair(watched):
    page = opened(watched)
    first = sources(page)
    watched.tab("About")
    with page.expect_event("requestfinished", lambda request: "/queue/data" in request.url):
        watched.tab("Blind test")  # which asks the server for the pictures again
    expect(page.locator("#blind-source")).to_contain_text("W4A4")
    assert sources(page) == first
    page.locator("#bits").get_by_role("radio", name="W8A8").check()
    expect(page.locator("#blind-source")).to_contain_text("W8A8")
    assert sources(page) != first
