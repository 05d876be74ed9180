"""The outlier atlas in a browser: overview to layer to channel, by mouse and by keyboard."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ditas_core.specs import CalibrationSpec, SamplingSpec
from ditas_core.ui.tabs.outliers import draw as show

from .conftest import (
    SHORT,
    click_figure,
    drawn,
    expect,
    overflow,
    playwright,
    rows,
    set_slider,
    still,
    toast,
)

LAYER, CHANNEL, OVERVIEW = "#atlas-layer-line", "#atlas-channel-line", "#atlas-line"


def opened(seen) -> playwright.Page:
    """The tab, drawn to its foot."""
    page = seen.open()
    seen.tab("Outliers")
    expect(page.locator(CHANNEL)).to_contain_text("channel")
    for plot in ("#atlas-overview", "#atlas-layer", "#atlas-range", "#atlas-histogram"):
        drawn(page, plot)
    return page


def choose(page: playwright.Page, group: str, name: str) -> None:
    page.locator(group).get_by_role("radio", name=name, exact=True).check()


def titles(page: playwright.Page, plot: str) -> str:
    return " ".join(page.locator(f"{plot} .annotation-text").all_text_contents())


def panels(page: playwright.Page, plot: str, count: int) -> None:
    """The figure has so many heatmaps, all visible."""
    expect(page.locator(f"{plot} .heatmaplayer image")).to_have_count(count)


def test_from_the_overview_to_a_layer_to_a_channel(watched, backend):
    page = opened(watched)
    panels(page, "#atlas-overview", 2)
    names = list(backend.atlas(backend.default).groups)
    steps = backend.atlas(backend.default).timesteps
    click_figure(page, "#atlas-overview", (9 + 0.5) / len(names), 0.5 / len(steps))
    expect(page.locator(OVERVIEW)).to_contain_text(f"framed: {names[9]} at t = {steps[0]}")
    expect(page.locator(LAYER)).to_contain_text("block 2 · proj")
    expect(page.locator("#atlas-timestep input")).to_have_value(str(steps[0]))
    panels(page, "#atlas-layer", 2)
    group = backend.atlas(backend.default).groups[names[9]]
    loudest = int(group.act_absmax.argmax())
    expect(page.locator(CHANNEL)).to_contain_text(f"channel {loudest}:")
    click_figure(page, "#atlas-layer", 100.5 / 256, 0.5)
    expect(page.locator(CHANNEL)).to_contain_text("channel 100:")
    expect(page.locator(CHANNEL)).to_contain_text(f"n = {SHORT.tokens} stored values")
    assert "of 256 levels" in titles(page, "#atlas-histogram")
    assert "grid" in titles(page, "#atlas-range")


def test_everything_by_keyboard(watched, backend):
    page = opened(watched)
    names = [rank.layer for rank in backend.atlas(backend.default).ranking({})]
    press = page.keyboard.press
    page.locator("#ranking input").first.focus()
    press("Tab")
    expect(page.locator("#ranking .body-cell:focus")).to_have_text(names[0])
    for name in names[1:4]:
        press("ArrowDown")
        expect(page.locator("#ranking .body-cell:focus")).to_have_text(name)
    press("Enter")
    expect(page.locator(OVERVIEW)).to_contain_text(f"framed: {names[3]}")
    expect(page.locator("#atlas-layer-name input")).to_have_value(names[3])

    page.locator("#atlas-layer-name input").focus()
    for _ in range(20):  # the rest of the answer may come late and set the box anew
        press("Control+a")
        page.keyboard.type("5.fc2")
        still(page)
        if page.get_by_role("option").count() == 1:
            break
        page.wait_for_timeout(200)
    expect(page.get_by_role("option")).to_have_count(1)
    press("Enter")
    expect(page.locator(LAYER)).to_contain_text("block 5 · fc2")

    page.locator("#atlas-view input").nth(1).press("Space")  # each is a stop of its own
    expect(page.locator(LAYER)).to_contain_text("third panel")
    panels(page, "#atlas-layer", 3)

    page.locator("#atlas-channel input").fill("321")
    press("Enter")
    expect(page.locator(CHANNEL)).to_contain_text("channel 321:")
    page.locator("#atlas-follow input").focus()
    press("Space")
    expect(page.locator(LAYER)).to_contain_text("(by hand)")
    press("Space")
    expect(page.locator(LAYER)).to_contain_text("(DiTAS)")
    set_slider(page, "#atlas-alpha", 0.85)
    for line in (LAYER, CHANNEL):
        expect(page.locator(line)).to_contain_text("α = 0.85 (by hand)")
    expect(page.locator("#atlas-follow input")).not_to_be_checked()


def test_a_wrong_channel_is_explained(watched):
    page = opened(watched)
    page.locator("#atlas-channel input").fill("99999")
    page.keyboard.press("Enter")
    toast(page, "expected a number from 0 to 255")


def test_the_table_is_searched_and_sorted(watched, backend):
    page = opened(watched)
    assert rows(page, "#ranking") == len(backend.atlas(backend.default).groups)
    first = page.locator("#ranking .body-cell").first
    page.locator("#ranking input").first.fill("fc2")
    expect(first).to_contain_text("fc2")
    assert rows(page, "#ranking") == 8
    ranks = [r for r in backend.atlas(backend.default).ranking({}) if r.layer.endswith("fc2")]
    expect(first).to_have_text(ranks[0].layer)
    header = page.locator("#ranking [role=columnheader]").nth(1)
    header.hover()
    header.get_by_role("button").click()
    page.get_by_role("menuitem", name="Sort ascending").click()
    expect(first).to_have_text(ranks[-1].layer)
    first.click()
    expect(page.locator(OVERVIEW)).to_contain_text(f"framed: {ranks[-1].layer}.")


VIEWS = {
    show.CHANGE: (LAYER, "third panel"),
    show.SURFACE: ("#atlas-before .g-gtitle", "Before smoothing"),
    show.FACTORS: ("#atlas-layer .annotation-text", "One factor (bold) for all 8 steps"),
    show.WEIGHTS: (LAYER, "have to carry"),
    show.MAPS: (LAYER, "block"),
}


@pytest.mark.parametrize(("size", "scheme"), [("phone", "dark"), ("desktop", "light")])
def test_every_view_of_a_layer(visit, axe, shots, size, scheme):
    seen = visit(size, scheme)
    page = opened(seen)
    for name, (place, text) in VIEWS.items():
        choose(page, "#atlas-view", name)
        expect(page.locator(place).filter(has_text=text).first).to_be_visible()
        surface = name == show.SURFACE
        expect(page.locator("#atlas-layer")).to_be_visible(visible=not surface)
        expect(page.locator("#atlas-before")).to_be_visible(visible=surface)
        for plot in ("#atlas-before", "#atlas-after") if surface else ("#atlas-layer",):
            page.locator(f"{plot} .js-plotly-plot").wait_for()
        assert overflow(page) <= 0, name
        page.screenshot(path=shots / f"outliers-{name.split()[0].lower()}-{size}-{scheme}.png")
    page.locator("#atlas-order input").check()
    expect(page.locator("#atlas-layer .xtitle, #atlas-layer .x2title").last).to_contain_text(
        "loudest first"
    )
    choose(page, "#atlas-half", "unconditional")
    for line in (OVERVIEW, LAYER):
        expect(page.locator(line)).to_contain_text("· unconditional half only")
    choose(page, "#atlas-measure", list(show.MEASURES)[-1])
    choose(page, "#atlas-panels", show.PANELS[1])
    panels(page, "#atlas-overview", 3)
    assert axe(page) == []


@pytest.fixture()
def forgotten(backend) -> Iterator[None]:
    """As before the first run, which is a long one; afterwards the short run is there again."""
    key = ("calibration", backend.default, SHORT)
    kept = backend.cache.get(key)
    with backend.cache.lock:
        del backend.cache.entries[key]
    backend.spec = CalibrationSpec(SamplingSpec(steps=200), samples=16)
    yield
    backend.spec = SHORT
    backend.cache.put(key, kept)


def test_measuring_shows_its_steps_and_can_be_cancelled(watched, backend, axe, forgotten):
    page = watched.open()
    watched.tab("Outliers")
    expect(page.locator(CHANNEL)).to_contain_text(show.NO_VALUES)
    line = page.locator("#measure-status")
    page.locator("#start-measure").click()
    expect(line).to_contain_text("of 200, 16 samples")
    expect(line).to_contain_text("elapsed")
    assert axe(page) == [], "while it runs"
    page.locator("#cancel-measure").click()
    expect(line).to_contain_text("Cancelled")
    assert backend.measured(backend.default, backend.spec) is None
    backend.spec = SHORT
    page.locator("#start-measure").click()
    expect(line).to_contain_text("Measured: 8 steps of 2 samples")
    expect(page.locator(CHANNEL)).to_contain_text("stored values")
    expect(page.locator("#atlas-histogram .barlayer .point")).not_to_have_count(0)


def test_figures_outlive_a_change_of_the_address(watched, backend):
    """Clips and gradients must not be referred to by the whole address: it changes."""
    page = opened(watched)
    before = page.url
    page.locator("#ranking .body-cell").first.click()
    page.wait_for_function("old => location.href !== old", arg=before)
    links = page.evaluate(
        "[...document.querySelectorAll('#atlas-overview [clip-path]')]"
        ".map(e => e.getAttribute('clip-path'))"
    )
    assert links and all("#" in link and "http" not in link for link in links)
