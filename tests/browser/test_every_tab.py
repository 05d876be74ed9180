"""All tabs in one visit, in every size and scheme; reduced motion, 200 % zoom, keyboard only."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest

from ditas_core.contest import Contest
from ditas_core.ui.stored.catalogue import contests_folder
from ditas_core.ui.stored.contests import load_contests
from ditas_core.ui.stored.results import load_shipped
from ditas_core.ui.tabs import TABS

from .conftest import ROOT, SIZES, drawn, expect, overflow, toast

STORED = ROOT / "assets" / "precomputed"
FINGERPRINT = json.loads((STORED / "results.json").read_text())["fingerprint"]
SHIPPED = load_shipped(STORED, FINGERPRINT)
CONTESTS: tuple[Contest, ...] = ()
with suppress(ValueError):  # none yet
    CONTESTS = load_contests(contests_folder(STORED), FINGERPRINT)
FILLED = {
    "outliers": ("#atlas-channel-line", "stored values"),
    "lab": ("#lab-verdict", "optimum is"),
    "search": ("#edit-outcome", "whole recipe: mean error of 32 layers"),
    "compare": ("#compare-table", "n = 8"),
    "blind": ("#blind-source", f"{SHIPPED.telling} · {SHIPPED.convention} · shipped"),
    "injector": ("#rung-line", "×60 is on view"),
    "contest": ("#contest-said", "is closest" if CONTESTS else "No contest is shipped"),
}
"""Tab -> a text that says that it has been drawn."""
PICTURES = {
    "overview": ("#worst img",),
    "compare": ("#contact img", "#compare-slider img"),
    "blind": ("#blind-pictures img",),
    "injector": ("#rung img",),
    "takeaway": ("#take-map-view img",),
}
PLOTS = {
    "outliers": ("#atlas-overview", "#atlas-layer", "#atlas-range", "#atlas-histogram"),
    "lab": ("#lab-bars", "#lab-curve", "#lab-shapes"),
    "search": ("#search-plot", "#edit-plot", "#recipe-errors"),
    "compare": ("#divergence", "#metric-bars"),
    "breaking": ("#map-plot",),
    "injector": ("#strengths", "#injected-map"),
    "contest": ("#contest-front",),
}
QUICK = [("phone", "dark"), ("desktop", "light")]
ALL = [
    pytest.param(size, scheme, marks=[] if (size, scheme) in QUICK else pytest.mark.journey)
    for size in SIZES
    for scheme in ("light", "dark")
]


def filled(page, key: str, least: int = 150) -> None:
    """The tab shows all that it opens with."""
    if key in FILLED:
        place, text = FILLED[key]
        expect(page.locator(place)).to_contain_text(text)
    for plot in PLOTS.get(key, ()):
        drawn(page, plot, least)
    for pictures in PICTURES.get(key, ()):
        page.locator(pictures).first.scroll_into_view_if_needed()  # some load lazily
        page.wait_for_function(
            "all => [...document.querySelectorAll(all)].some(i => i.naturalWidth > 0)",
            arg=pictures,
        )


@pytest.mark.parametrize(("size", "scheme"), ALL)
def test_every_tab_fits_and_passes_axe(visit, axe, shots, size, scheme):
    seen = visit(size, scheme)
    page = seen.open()
    found = []
    for tab in TABS:
        seen.tab(tab.title)
        filled(page, tab.key)
        page.evaluate("window.scrollTo(0, 0)")
        found += [f"{tab.key}: {line}" for line in axe(page)]
        if overflow(page) > 0:
            found.append(f"{tab.key}: {overflow(page)} px wider than the window")
        for plot in PLOTS.get(tab.key, ()):
            ink = page.evaluate(
                f"document.querySelector('{plot} .js-plotly-plot').layout.font.color"
            )
            if ink != ("#D7DCE5" if scheme == "dark" else "#3B414D"):
                found.append(f"{tab.key}: {plot} is drawn in {ink}")
        page.screenshot(path=shots / f"{tab.key}-{size}-{scheme}.png", full_page=True)
    assert found == []


def test_an_error_is_said_and_passes_axe(watched, axe, backend):
    """A full line: the job is refused with a message, and the page goes on."""
    page = watched.open()
    tickets = [backend.queue.join() for _ in range(backend.queue.places)]
    try:
        watched.tab("Outliers")
        page.locator("#start-measure").click()
        toast(page, "Busy")
        assert axe(page) == []
    finally:
        for ticket in tickets:
            backend.queue.leave(ticket)
    expect(page.locator("#measure-status")).to_contain_text("Not run")
    expect(page.locator("#start-measure")).to_be_enabled()


def test_a_figure_that_is_not_drawn_passes_axe(watched, axe):
    """Gradio names its box, which stands there until the figure comes."""
    page = watched.open()
    page.route("**/queue/join*", lambda _: None)  # it never comes
    page.get_by_role("tab", name="Alpha lab", exact=True).click()
    expect(page.locator("[aria-label='Empty value']").first).to_be_visible()
    assert axe(page) == []
    page.unroute_all(behavior="ignoreErrors")


def test_twice_as_large_still_fits(visit):
    """200 % zoom of a 1280 px window leaves 640 px."""
    seen = visit("desktop", "light", device_scale_factor=2)
    seen.page.set_viewport_size({"width": 640, "height": 450})
    seen.open()
    for tab in TABS:
        seen.tab(tab.title)
        filled(seen.page, tab.key)
        assert overflow(seen.page) <= 0, tab.key


def test_motion_can_be_reduced(visit):
    seen = visit("desktop", "light", reduced_motion="reduce")
    page = seen.open()
    moving = page.evaluate(
        "() => [...document.querySelectorAll('*')].filter(e => "
        "getComputedStyle(e).animationName !== 'none').length"
    )
    assert moving == 0


def focus_by_tab(page, wanted: str, most: int = 120) -> None:
    """Press Tab until an element that matches has the focus."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate(f"document.activeElement?.matches({wanted!r}) ?? false"):
            return
    raise AssertionError(f"expected to reach {wanted} with the Tab key")


def test_every_tab_opens_by_keyboard(watched):
    page = watched.open()
    focus_by_tab(page, "[role=tab]")
    for tab in TABS[1:]:
        focus_by_tab(page, f"[role=tab][data-tab-id={tab.key}]", most=4)
        page.keyboard.press("Enter")
        expect(page.get_by_role("tab", name=tab.title, exact=True)).to_have_attribute(
            "aria-selected", "true"
        )
