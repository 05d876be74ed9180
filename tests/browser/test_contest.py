"""The contest in a browser: run live and cancelled, marks clicked, the table sorted, two drawn."""

from __future__ import annotations

import re
from typing import Any

from .conftest import drawn, expect, rows, set_slider

FRONT, TABLE, STATUS = "#contest-front", "#contest-table", "#contest-status"
GRAPH = f"document.querySelector('{FRONT} .js-plotly-plot')"
PLACE = (
    """label => {
  const graph = GRAPH, layout = graph._fullLayout, box = graph.getBoundingClientRect();
  for (const trace of graph.data) {
    const at = [...(trace.customdata ?? [])].indexOf(label);
    if (at < 0) continue;
    return [box.left + layout._size.l + layout.xaxis.d2p(trace.x[at]),
            box.top + layout._size.t + layout.yaxis.d2p(trace.y[at])];
  }
}"""
).replace("GRAPH", GRAPH)
"""Where on the screen a contender's mark is."""
LONG = 180_000


def run_here(watched: Any) -> Any:
    """A small contest of two methods, under way."""
    page = watched.open()
    page.locator("#bits").get_by_role("radio", name="W4A8").check()
    watched.tab("Contest")
    which = page.locator("#contest-which")
    for name in ("gptq", "search", "ditas"):
        which.get_by_role("checkbox", name=name, exact=True).uncheck()
    which.get_by_role("checkbox", name="clip", exact=True).check()
    set_slider(page, "#contest-samples", 2)
    set_slider(page, "#contest-steps", 4)
    page.locator("#start-contest").click()
    return page


def click_mark(page: Any, label: str) -> None:
    page.locator(FRONT).scroll_into_view_if_needed()
    page.wait_for_function(f"{GRAPH}?._ev?.listeners('plotly_click').length > 0")
    x, y = page.evaluate(PLACE, label)
    page.mouse.move(1, 1)
    page.mouse.move(x, y)
    page.wait_for_function(
        f"label => {GRAPH}._hoverdata?.some(one => one.customdata === label)", arg=label
    )
    page.mouse.click(x, y)
    expect(page.locator("#contest-second input")).to_have_value(label)


def texts(page: Any, column: int) -> list[str]:
    cells = page.locator(f"{TABLE} [data-testid^=cell-][data-testid$='-{column}']")
    return [text.strip() for text in cells.all_inner_texts()]


def test_a_live_run_is_cancelled_goes_on_and_is_looked_at(watched, backend, axe, shots):
    page = run_here(watched)
    said = page.locator("#contest-said")
    expect(said).to_contain_text(re.compile(r"\b1 contenders"), timeout=LONG)
    page.locator("#cancel-contest").click()
    expect(page.locator(STATUS)).to_contain_text("of 4 contenders are measured and stay")
    kept = rows(page, TABLE)
    assert 1 <= kept < 4
    expect(page.locator("#start-contest")).to_be_enabled()
    page.locator("#start-contest").click()
    expect(page.locator(STATUS)).to_contain_text("4 contenders are measured", timeout=LONG)
    expect(page.locator("#contest-source input")).to_have_value("Run here: W4A8 · at most 5 bits")
    expect(said).to_contain_text(re.compile(r"\b4 contenders, n = 2"))
    assert rows(page, TABLE) == 4
    drawn(page, FRONT)

    # a header sorts
    bits = sorted(texts(page, 1), key=float, reverse=True)
    assert len(bits) == 4
    header = page.locator(f"{TABLE} [role=columnheader]").nth(1)
    header.hover()
    header.get_by_role("button").click()
    page.get_by_role("menuitem", name="Sort descending").click()
    expect(page.locator(f"{TABLE} [data-testid=cell-0-1]")).to_have_text(bits[0])
    assert texts(page, 1) == bits

    # the newest two clicks are chosen, and tested against each other
    for label in ("plain", "clip"):
        click_mark(page, label)
    expect(page.locator("#contest-first input")).to_have_value("plain")
    expect(page.locator("#contest-tested")).to_contain_text("dB closer than")
    page.get_by_role("button", name="What each method").click()
    expect(page.locator("#contest-methods svg").first).to_be_visible()
    assert axe(page) == []
    page.screenshot(path=shots / "contest-live.png", full_page=True)

    # both are drawn, and stand in the studio, in the blind test and on the dial
    page.locator("#start-contest-draw").click()
    expect(page.locator("#contest-draw-status")).to_contain_text("stand in Compare", timeout=LONG)
    expect(page.locator("#contest-pictures img")).to_have_count(12)
    assert axe(page) == []
    page.locator("#contest-compare").click()
    expect(page.locator("#contact [data-variant='clip (contest)']")).to_have_count(4)
    expect(page.locator("#recipe input")).to_have_value("clip (contest)")
    watched.tab("Contest")
    page.locator("#contest-blind").click()
    expect(page.locator("#blind-variant")).to_contain_text("plain (contest)")
    watched.tab("Contest")
    page.locator("#contest-dial").click()
    expect(page.locator("#dial-range")).to_be_visible()


def test_what_cannot_be_run_is_said(watched, axe):
    page = run_here(watched)
    page.locator("#cancel-contest").click()
    expect(page.locator(STATUS)).to_contain_text("Cancelled", timeout=LONG)
    for name in ("plain", "clip"):
        page.locator("#contest-which").get_by_role("checkbox", name=name, exact=True).uncheck()
    page.locator("#start-contest").click()
    expect(page.locator(STATUS)).to_contain_text("Not run")
    assert axe(page) == []
