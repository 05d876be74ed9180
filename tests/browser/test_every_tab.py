"""All tabs in one visit, on a phone and on a desk; reduced motion, 200 % zoom, keyboard only."""

from __future__ import annotations

import pytest

from ditas_core.ui.tabs import TABS

from .conftest import overflow, playwright

SETTLE_MS = 1500


# the tabs' own tests look at all six; here they are one page, and one visit to all
@pytest.mark.parametrize(("size", "scheme"), [("phone", "dark"), ("desktop", "light")])
def test_every_tab_fits_and_passes_axe(visit, axe, shots, size, scheme):
    seen = visit(size, scheme)
    seen.open()
    found = []
    for tab in TABS:
        seen.tab(tab.title)
        seen.page.wait_for_timeout(SETTLE_MS)
        found += [f"{tab.key}: {line}" for line in axe(seen.page)]
        if overflow(seen.page) > 0:
            found.append(f"{tab.key}: {overflow(seen.page)} px wider than the window")
        seen.page.screenshot(path=shots / f"tab-{tab.key}-{size}-{scheme}.png", full_page=True)
    assert found == []


def test_an_error_is_said_and_passes_axe(watched, axe, bench):
    """A full line: the job is refused with a message, and the page goes on."""
    page = watched.open()
    tickets = [bench.line.join() for _ in range(bench.line.places)]
    try:
        page.get_by_role("tab", name="Outliers", exact=True).click()
        page.locator("#start-measure").click()
        toast = page.locator("[data-testid=toast-body]").first
        playwright.expect(toast).to_contain_text("Busy")
        assert axe(page) == []
    finally:
        for ticket in tickets:
            bench.line.leave(ticket)
    playwright.expect(page.locator("#measure-status")).to_contain_text("Not run")
    playwright.expect(page.locator("#start-measure")).to_be_enabled()


def test_twice_as_large_still_fits(visit):
    """200 % zoom of a 1280 px window leaves 640 px."""
    seen = visit("desktop", "light", device_scale_factor=2)
    seen.page.set_viewport_size({"width": 640, "height": 450})
    seen.open()
    for tab in TABS:
        seen.tab(tab.title)
        seen.page.wait_for_timeout(600)
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
        playwright.expect(page.get_by_role("tab", name=tab.title, exact=True)).to_have_attribute(
            "aria-selected", "true", timeout=10_000
        )
