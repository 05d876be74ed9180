"""The alpha lab in a browser: one slider moves everything, quickly; switches; the recipe."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ditas_core.specs import CalibrationSpec, SamplingSpec
from ditas_core.ui import build_app, launch_options
from ditas_core.ui.visitors.backend import Backend

from .conftest import choose, click_figure, expect, open_tab, set_slider, toast

FIGURES = ("#lab-bars", "#lab-curve", "#lab-shapes")
TAB = "Alpha lab"
WATCH = """() => {
  window.moved = new Set();
  for (const id of ["lab-bars", "lab-curve", "lab-shapes"])
    document.querySelector(`#${id} .js-plotly-plot`)
      .on("plotly_afterplot", () => window.moved.add(id));
}"""


def trace(page: Any, plot: str, at: int) -> dict[str, Any]:
    """One trace of a figure as the browser has it."""
    return page.evaluate(
        "([plot, at]) => JSON.parse(JSON.stringify("
        "document.querySelector(`${plot} .js-plotly-plot`).data.at(at)))",
        [plot, at],
    )


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


def test_moving_alpha_redraws_everything(watched):
    page = watched.open()
    open_lab(page)
    before = [trace(page, "#lab-shapes", 0), trace(page, "#lab-shapes", 3)]
    bars = trace(page, "#lab-bars", 0)
    slider = page.locator("#alpha input[type=range]")
    slider.focus()
    page.evaluate(WATCH)
    for _ in range(12):
        page.evaluate("window.moved.clear()")
        slider.press("ArrowRight")
        page.wait_for_function("window.moved.size === 3")
    expect(page.locator("#lab-verdict")).to_contain_text("α = 0.62")
    expect(page.locator("#lab-shapes .g-gtitle")).to_contain_text("0.62")
    for old, at in zip(before, (0, 3), strict=True):
        assert trace(page, "#lab-shapes", at)["y"] != old["y"]
    assert trace(page, "#lab-bars", 0)["x"] != bars["x"]
    assert trace(page, "#lab-bars", 0)["base"] == bars["base"]
    assert trace(page, "#lab-curve", -1)["x"] == [0.62]
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
    choose(page, "#lab-weight-bits", "3")
    expect(shapes.nth(1)).to_contain_text("8 levels")
    choose(page, "#lab-activation-bits", "16")
    expect(shapes.nth(0)).to_contain_text("left alone")
    assert trace(page, "#lab-bars", 0)["y"] == ["weights", "output"]
    choose(page, "#lab-activation-bits", "4")
    expect(shapes.nth(0)).to_contain_text("16 levels")
    for change in (
        lambda: choose(page, "#lab-convention", "paper"),
        lambda: page.locator("#lab-branch input").press("Space"),
        lambda: choose(page, "#lab-layer", "1.fc1"),
    ):
        searched(page)
        said = verdict.text_content()
        change()
        expect(verdict).not_to_have_text(said)
    expect(page.locator("#bits input:checked")).to_have_value("W4A8")
    expect(page.locator("#convention input")).to_have_value("integer")

    page.locator("#lab-identity input").press("Space")
    expect(verdict.locator("b").first).to_have_text("No smoothing")
    set_slider(page, "#alpha", 0.3)
    expect(verdict.locator("b").first).to_have_text("α = 0.30")
    expect(page.locator("#lab-identity input")).not_to_be_checked()


def test_a_click_on_the_curve_moves_the_hand(watched):
    page = watched.open()
    open_lab(page)
    x, y = (trace(page, "#lab-curve", 0)[axis][16] for axis in "xy")
    page.evaluate("document.querySelector('#lab-curve').scrollIntoView({block: 'end'})")
    where = page.locator("#lab-curve .js-plotly-plot").evaluate(
        """(plot, [x, y]) => {
          const {xaxis, yaxis} = plot._fullLayout;
          return [xaxis.d2p(x) / xaxis._length, yaxis.d2p(y) / yaxis._length];
        }""",
        [x, y],
    )
    click_figure(page, "#lab-curve", *where)
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
    toast(page, "expected the recipe's integer, got paper")
    assert axe(page) == []


def test_the_bar_is_followed_while_the_tab_is_open(watched):
    page = watched.open()
    open_lab(page)
    page.get_by_role("radio", name="W4A4").check()
    expect(page.locator("#lab-activation-bits input")).to_have_value("4")
    expect(page.locator("#lab-shapes .annotation-text").first).to_contain_text("16 levels")
    searched(page)


@pytest.mark.parametrize("size", ["phone", "desktop"])
def test_the_slider_stays_on_view(visit, size):
    page = visit(size).open()
    open_lab(page)
    page.evaluate("document.querySelector('#lab-shapes').scrollIntoView({block: 'end'})")
    assert page.locator("#lab-hand").bounding_box()["y"] >= 0


def test_before_the_measurement_it_says_so_and_opens_by_itself(chromium, backend, axe):
    """Somebody else's run: a page of its own, with nothing in memory."""
    cold = Backend(backend.entries, CalibrationSpec(SamplingSpec(steps=4), samples=1))
    demo = build_app(cold)
    _, url, _ = demo.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options()
    )
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    try:
        page.goto(url)
        page.get_by_role("tab").first.wait_for()
        with cold.queue.join():
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
