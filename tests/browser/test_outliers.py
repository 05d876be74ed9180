"""The outlier atlas in a browser: overview to layer to channel, by mouse and by keyboard."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ditas_core.specs import CalibrationSpec, SamplingSpec
from ditas_core.ui.views import atlas as show

from .conftest import PATIENCE_MS, SHORT, SIZES, overflow, playwright, rows, set_slider

expect = playwright.expect
expect.set_options(timeout=PATIENCE_MS)
LAYER, CHANNEL, OVERVIEW = "#atlas-layer-line", "#atlas-channel-line", "#atlas-line"

EXTENT = """plot => {
  const box = document.querySelector(`${plot} .main-svg`)?.getBoundingClientRect();
  return box && box.width > 250 && box.height > 200;
}"""


def opened(seen) -> playwright.Page:
    """The tab, drawn to its foot."""
    page = seen.open()
    seen.tab("Outliers")
    expect(page.locator(CHANNEL)).to_contain_text("channel")
    for plot in ("#atlas-overview", "#atlas-layer", "#atlas-range", "#atlas-histogram"):
        page.wait_for_function(EXTENT, arg=plot)
    return page


def choose(page: playwright.Page, group: str, name: str) -> None:
    page.locator(group).get_by_role("radio", name=name, exact=True).check()


def click_figure(page: playwright.Page, plot: str, x: float, y: float) -> None:
    """A click at this part of the plot's first panel."""
    panel = page.locator(f"{plot} .nsewdrag").first
    panel.scroll_into_view_if_needed()
    page.wait_for_function(
        "id => document.querySelector(`${id} .js-plotly-plot`)?._ev"
        "?.listeners('plotly_click').length > 0",
        arg=plot,
    )
    box = panel.bounding_box()
    assert box is not None
    at = box["x"] + x * box["width"], box["y"] + y * box["height"]
    page.mouse.move(at[0] - 4, at[1])
    page.mouse.move(*at)
    page.locator(f"{plot} .hoverlayer .hovertext").first.wait_for(state="attached")
    page.wait_for_timeout(200)  # a click is on what was hovered last, and hovering is throttled
    page.mouse.click(*at)


def titles(page: playwright.Page, plot: str) -> str:
    return " ".join(page.locator(f"{plot} .annotation-text").all_text_contents())


def panels(page: playwright.Page, plot: str, count: int) -> None:
    """The figure has so many heatmaps, all visible."""
    expect(page.locator(f"{plot} .heatmaplayer image")).to_have_count(count)


def test_from_the_overview_to_a_layer_to_a_channel(watched, bench):
    page = opened(watched)
    panels(page, "#atlas-overview", 2)
    names = list(bench.atlas(bench.default).groups)
    steps = bench.atlas(bench.default).timesteps
    click_figure(page, "#atlas-overview", (9 + 0.5) / len(names), 0.5 / len(steps))
    expect(page.locator(OVERVIEW)).to_contain_text(f"framed: {names[9]} at t = {steps[0]}")
    expect(page.locator(LAYER)).to_contain_text("block 2 · proj")
    expect(page.locator("#atlas-timestep input")).to_have_value(str(steps[0]))
    panels(page, "#atlas-layer", 2)
    group = bench.atlas(bench.default).groups[names[9]]
    loudest = int(group.act_absmax.argmax())
    expect(page.locator(CHANNEL)).to_contain_text(f"channel {loudest}:")
    click_figure(page, "#atlas-layer", 100.5 / 256, 0.5)
    expect(page.locator(CHANNEL)).to_contain_text("channel 100:")
    expect(page.locator(CHANNEL)).to_contain_text(f"n = {SHORT.tokens} stored values")
    expect(page.locator("#atlas-range .gtitle, #atlas-range .g-gtitle")).to_contain_text(
        ["Channel 100"]
    )
    assert "of 256 levels" in titles(page, "#atlas-histogram")
    assert "grid" in titles(page, "#atlas-range")


def test_everything_by_keyboard(watched, bench):
    page = opened(watched)
    names = [rank.layer for rank in bench.atlas(bench.default).ranking({})]
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
    press("Control+a")
    page.keyboard.type("5.fc2")
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


def test_the_table_is_searched_and_sorted(watched, bench):
    page = opened(watched)
    assert rows(page, "#ranking") == len(bench.atlas(bench.default).groups)
    first = page.locator("#ranking .body-cell").first
    page.locator("#ranking input").first.fill("fc2")
    expect(first).to_contain_text("fc2")
    assert rows(page, "#ranking") == 8
    ranks = [r for r in bench.atlas(bench.default).ranking({}) if r.layer.endswith("fc2")]
    expect(first).to_have_text(ranks[0].layer)
    header = page.locator("#ranking [role=columnheader]").nth(1)
    header.hover()
    header.get_by_role("button").click()
    page.get_by_role("menuitem", name="Sort ascending").click()
    expect(first).to_have_text(ranks[-1].layer)
    first.click()
    expect(page.locator(OVERVIEW)).to_contain_text(f"framed: {ranks[-1].layer}.")


def test_measures_halves_and_the_difference(watched, bench):
    page = opened(watched)
    atlas = bench.atlas(bench.default)
    first = page.locator("#ranking .body-cell").first
    for word, key in show.MEASURES.items():
        choose(page, "#atlas-measure", word)
        rank = atlas.ranking({}, key)[0]
        expect(page.locator(OVERVIEW)).to_contain_text(f"{rank.layer} is strongest")
        expect(first).to_have_text(rank.layer)
    expect(page.locator("#atlas-overview .cbtitle").first).to_contain_text("largest |X|")
    for half in ("conditional", "unconditional"):
        choose(page, "#atlas-half", half)
        expect(page.locator(OVERVIEW)).to_contain_text(f"· {half} half only")
        expect(page.locator(LAYER)).to_contain_text(f"· {half} half only")
    choose(page, "#atlas-panels", show.PANELS[1])
    panels(page, "#atlas-overview", 3)
    assert "what smoothing changed" in titles(page, "#atlas-overview")


def test_every_view_of_a_layer(watched):
    page = opened(watched)
    choose(page, "#atlas-view", show.SURFACE)
    page.locator("#atlas-after .js-plotly-plot").wait_for()
    expect(page.locator("#atlas-before .gtitle, #atlas-before .g-gtitle")).to_contain_text(
        ["Before smoothing"]
    )
    assert not page.locator("#atlas-layer").is_visible()
    choose(page, "#atlas-view", show.FACTORS)
    expect(page.locator(LAYER)).to_contain_text("Furthest apart: channel")
    page.wait_for_function(EXTENT, arg="#atlas-layer")
    assert "One factor (bold) for all 8 steps" in titles(page, "#atlas-layer")
    assert not page.locator("#atlas-before").is_visible()
    choose(page, "#atlas-view", show.WEIGHTS)
    expect(page.locator(LAYER)).to_contain_text("have to carry")
    expect(page.locator("#atlas-layer .ytitle, #atlas-layer .y2title")).to_contain_text(
        ["largest |X|", "largest |W|"]
    )
    choose(page, "#atlas-view", show.MAPS)
    panels(page, "#atlas-layer", 2)
    page.locator("#atlas-order input").check()
    expect(page.locator("#atlas-layer .xtitle, #atlas-layer .x2title").last).to_contain_text(
        "loudest first"
    )


def test_alpha_follows_the_recipe_until_it_is_set_by_hand(watched):
    page = opened(watched)
    expect(page.locator(LAYER)).to_contain_text("(DiTAS)")
    set_slider(page, "#atlas-alpha", 0.85)
    expect(page.locator(LAYER)).to_contain_text("α = 0.85 (by hand)")
    expect(page.locator(CHANNEL)).to_contain_text("α = 0.85 (by hand)")
    expect(page.locator("#atlas-follow input")).not_to_be_checked()
    page.locator("#atlas-follow input").check()
    expect(page.locator(LAYER)).to_contain_text("(DiTAS)")


@pytest.fixture()
def forgotten(bench) -> Iterator[None]:
    """As before the first run, which is a long one; afterwards the short run is there again."""
    key = ("calibration", bench.default, SHORT)
    kept = bench.cache.get(key)
    with bench.cache.lock:
        del bench.cache.entries[key]
    bench.spec = CalibrationSpec(SamplingSpec(steps=200), samples=16)
    yield
    bench.spec = SHORT
    bench.cache.put(key, kept)


def test_measuring_shows_its_steps_and_can_be_cancelled(watched, bench, axe, forgotten):
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
    assert bench.measured(bench.default, bench.spec) is None
    bench.spec = SHORT
    page.locator("#start-measure").click()
    expect(line).to_contain_text("Measured: 8 steps of 2 samples")
    expect(page.locator(CHANNEL)).to_contain_text("stored values")
    expect(page.locator("#atlas-histogram .barlayer .point")).not_to_have_count(0)


def test_a_wrong_channel_is_explained(watched, axe):
    page = opened(watched)
    page.locator("#atlas-channel input").fill("99999")
    page.keyboard.press("Enter")
    toast = page.locator("[data-testid=toast-body]").first
    expect(toast).to_contain_text("expected a number from 0 to 255")
    assert axe(page) == []


def test_figures_outlive_a_change_of_the_address(watched, bench):
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_three_widths_in_light_and_dark(visit, axe, shots, size, scheme):
    seen = visit(size, scheme)
    page = opened(seen)
    panels(page, "#atlas-overview", 2)
    panels(page, "#atlas-layer", 2)
    page.wait_for_timeout(700)
    assert axe(page) == []
    page.screenshot(path=shots / f"outliers-{size}-{scheme}.png", full_page=True)
    if (size, scheme) not in {("phone", "dark"), ("desktop", "light")}:
        return
    for name in (show.CHANGE, show.SURFACE, show.FACTORS, show.WEIGHTS):
        choose(page, "#atlas-view", name)
        expect(page.locator(LAYER)).to_contain_text(show.EXPLAINED[name][:24])
        page.wait_for_timeout(400)
        assert overflow(page) <= 0, name
        file = f"outliers-{name.split()[0].lower()}-{size}-{scheme}.png"
        page.locator("#atlas-view").scroll_into_view_if_needed()
        page.screenshot(path=shots / file)
    assert axe(page) == []
