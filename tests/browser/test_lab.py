"""The alpha lab in a browser: one slider moves everything, quickly; switches; the recipe."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

from ditas_core.specs import CalibrationSpec, SamplingSpec
from ditas_core.ui import build_app, launch_options
from ditas_core.ui.bench import Bench

from .conftest import PATIENCE_MS, SIZES, open_tab, overflow, playwright, set_slider

expect = playwright.expect
expect.set_options(timeout=PATIENCE_MS)
FIGURES = ("#lab-bars", "#lab-curve", "#lab-shapes")
TAB = "Alpha lab"
MOVE_MS = 300
WATCH = """() => {
  window.moves = [];
  const range = document.querySelector("#alpha input[type=range]");
  range.addEventListener("keydown", () => window.moves.push(["key", performance.now()]), true);
  for (const id of ["lab-bars", "lab-curve", "lab-shapes"])
    document.querySelector(`#${id} .js-plotly-plot`)
      .on("plotly_afterplot", () => window.moves.push([id, performance.now()]));
}"""


def trace(page: Any, plot: str, at: int) -> dict[str, Any]:
    """One trace of a figure as the browser has it."""
    return page.evaluate(
        "([plot, at]) => JSON.parse(JSON.stringify("
        "document.querySelector(`${plot} .js-plotly-plot`).data.at(at)))",
        [plot, at],
    )


def title(page: Any, plot: str) -> str:
    return page.locator(f"{plot} .g-gtitle").text_content()


def open_lab(page: Any) -> None:
    """The lab with its figures and its curve."""
    open_tab(page, TAB)
    all_drawn(page)
    searched(page)


def all_drawn(page: Any) -> None:
    """All figures have an extent, also where the page draws them a second time in dark."""
    page.wait_for_function(
        "ids => ids.every(id => document.querySelector(`${id} .main-svg`)"
        "?.getBoundingClientRect().height > 150)",
        arg=list(FIGURES),
    )


def searched(page: Any) -> None:
    expect(page.locator("#lab-verdict")).to_contain_text("optimum is")
    expect(page.locator("#lab-curve .g-gtitle")).to_contain_text(re.compile("Best at|unsmoothed"))


def choose(page: Any, field: str, option: str) -> None:
    """In a dropdown, by keyboard."""
    box = page.locator(f"{field} input")
    box.click()
    box.fill(option)
    page.locator("[role=option]").filter(has_text=option).first.wait_for()
    box.press("Enter")
    box.press("Tab")


def test_moving_alpha_redraws_everything_in_time(watched):
    page = watched.open()
    open_lab(page)
    before = [trace(page, "#lab-shapes", 0), trace(page, "#lab-shapes", 3)]
    bars = trace(page, "#lab-bars", 0)
    slider = page.locator("#alpha input[type=range]")
    slider.focus()
    page.evaluate(WATCH)
    took = []
    for _ in range(12):
        page.evaluate("window.moves = []")
        slider.press("ArrowRight")
        page.wait_for_function("new Set(window.moves.map(m => m[0])).size === 4")
        moves = page.evaluate("window.moves")
        took.append(max(at for _, at in moves) - moves[0][1])
    crowd = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    print(f"alpha move: {min(took):.0f} ms at best, {crowd:.1f} jobs per core")
    assert min(took) < MOVE_MS * crowd  # of several, and of our share of the machine
    expect(page.locator("#lab-verdict")).to_contain_text("α = 0.62")
    assert "0.62" in title(page, "#lab-shapes")
    for old, at in zip(before, (0, 3), strict=True):
        assert trace(page, "#lab-shapes", at)["y"] != old["y"]
    assert trace(page, "#lab-bars", 0)["x"] != bars["x"]
    assert trace(page, "#lab-bars", 0)["base"] == bars["base"]
    held = trace(page, "#lab-curve", -1)
    assert held["x"] == [0.62] and "in hand" in held["name"]
    all_drawn(page)


def test_the_optimum_is_marked_and_one_key_away(watched):
    page = watched.open()
    open_lab(page)
    star = trace(page, "#lab-curve", 1)
    assert star["marker"]["symbol"] == "star"
    page.locator("#lab-optimum").focus()
    page.keyboard.press("Enter")
    best = f"{star['x'][0]:.2f}"
    expect(page.locator("#lab-verdict b").first).to_have_text(f"α = {best}")
    expect(page.locator("#alpha input[type=number]")).to_have_value(best.rstrip("0"))
    page.wait_for_function(
        f"document.querySelector('#lab-curve .js-plotly-plot').data.at(-1).x[0] === {star['x'][0]}"
    )
    assert trace(page, "#lab-curve", -1)["y"] == pytest.approx(star["y"], abs=0.02)


def test_bits_granularity_and_branch_switch_in_place_and_the_bar_stays(watched):
    page = watched.open()
    open_lab(page)
    verdict = page.locator("#lab-verdict")
    shapes = page.locator("#lab-shapes .annotation-text")
    said = verdict.text_content()
    choose(page, "#lab-weight-bits", "3")
    expect(shapes.nth(1)).to_contain_text("8 levels")
    searched(page)
    assert verdict.text_content() != said
    choose(page, "#lab-activation-bits", "16")
    expect(shapes.nth(0)).to_contain_text("left alone")
    assert trace(page, "#lab-bars", 0)["y"] == ["weights", "output"]
    choose(page, "#lab-activation-bits", "4")
    expect(shapes.nth(0)).to_contain_text("16 levels")
    searched(page)
    said = verdict.text_content()
    choose(page, "#lab-convention", "paper")
    expect(verdict).not_to_have_text(said)
    searched(page)
    said = verdict.text_content()
    page.locator("#lab-branch input").press("Space")
    expect(verdict).not_to_have_text(said)
    said = verdict.text_content()
    choose(page, "#lab-layer", "1.fc1")
    expect(verdict).not_to_have_text(said)
    searched(page)
    expect(page.locator("#bits input:checked")).to_have_value("W4A8")
    expect(page.locator("#convention input")).to_have_value("integer")


def test_no_smoothing_is_a_place_of_its_own(watched):
    page = watched.open()
    open_lab(page)
    page.locator("#lab-identity input").press("Space")
    expect(page.locator("#lab-verdict b").first).to_have_text("No smoothing")
    expect(page.locator("#lab-shapes .g-gtitle")).to_contain_text("without smoothing")
    expect(page.locator("#lab-curve .annotation-text").first).to_contain_text("in hand")
    set_slider(page, "#alpha", 0.3)
    expect(page.locator("#lab-verdict b").first).to_have_text("α = 0.30")
    expect(page.locator("#lab-identity input")).not_to_be_checked()
    assert trace(page, "#lab-curve", -1)["x"] == [0.3]


def test_a_click_on_the_curve_moves_the_hand(watched):
    page = watched.open()
    open_lab(page)
    page.wait_for_timeout(700)  # clicks are listened to from the next look on
    point = page.locator("#lab-curve .scatterlayer .trace").first.locator(".point").nth(16)
    page.evaluate("document.querySelector('#lab-curve').scrollIntoView({block: 'end'})")
    box = point.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#alpha input[type=number]")).to_have_value("0.8")
    expect(page.locator("#lab-verdict b").first).to_have_text("α = 0.80")


def test_the_alpha_goes_into_a_recipe_and_what_does_not_fit_is_refused(watched, axe):
    page = watched.open()
    open_lab(page)
    set_slider(page, "#alpha", 0.35)
    expect(page.locator("#lab-verdict b").first).to_have_text("α = 0.35")
    page.locator("#lab-use").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#lab-told")).to_contain_text("α = 0.35")
    expect(page.locator("#recipe input")).to_have_value("my recipe")
    expect(page.locator("#notice")).to_contain_text("my recipe")
    choose(page, "#lab-convention", "paper")
    searched(page)
    page.locator("#lab-use").click()
    toast = page.locator(".toast-body")
    expect(toast).to_contain_text("expected the recipe's integer, got paper")
    assert axe(page) == []


def test_the_bar_is_followed_while_the_tab_is_open(watched):
    page = watched.open()
    open_lab(page)
    page.get_by_role("radio", name="W4A4").check()
    expect(page.locator("#lab-activation-bits input")).to_have_value("4")
    expect(page.locator("#lab-shapes .annotation-text").first).to_contain_text("16 levels")
    searched(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_it_looks_right_everywhere(visit, axe, shots, size, scheme):
    seen = visit(size, scheme)
    page = seen.open()
    open_lab(page)
    set_slider(page, "#alpha", 0.62)
    expect(page.locator("#lab-verdict b").first).to_have_text("α = 0.62")
    all_drawn(page)
    assert overflow(page) <= 0
    if size != "tablet":
        assert axe(page) == []
    page.mouse.move(1, 1)
    page.screenshot(path=shots / f"lab-{size}-{scheme}.png", full_page=True)
    page.locator("#lab-curve").scroll_into_view_if_needed()
    page.evaluate("document.querySelector('#lab-shapes').scrollIntoView({block: 'end'})")
    assert page.locator("#lab-hand").bounding_box()["y"] >= 0  # the slider stays on view
    page.screenshot(path=shots / f"lab-{size}-{scheme}-scrolled.png")


def test_before_the_measurement_it_says_so_and_opens_by_itself(chromium, bench, axe):
    """Somebody else's run: a page of its own, with nothing in memory."""
    cold = Bench(bench.entries, CalibrationSpec(SamplingSpec(steps=4), samples=1))
    demo = build_app(cold)
    _, url, _ = demo.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options()
    )
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    try:
        page.goto(url)
        page.get_by_role("tab").first.wait_for()
        with cold.line.join():
            open_tab(page, TAB)
            expect(page.locator("#lab-status")).to_contain_text("opens by itself")
            expect(page.locator("#lab-verdict")).to_contain_text("Not measured yet")
            page.locator("#start-lab").click()
            expect(page.locator("#lab-status")).to_contain_text("number 2 in the line")
            assert axe(page) == []
        searched(page)  # its own turn has come
        expect(page.locator("#start-lab")).to_be_hidden()
    finally:
        page.close()
        demo.close()
