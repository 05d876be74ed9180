"""The page's four promises in one walk: pick, heatmaps, search with progress, side by side."""

from __future__ import annotations

from ditas_core.ui.stored.results import BUILT_IN

from .conftest import DEMO, expect, rows, set_slider

LAYERS, BITS = 32, "W4A6"


def test_pick_look_search_and_compare(watched, backend, axe):
    page = watched.open()

    # pick a checkpoint and bit-widths: what is shown follows
    expect(page.locator("#checkpoint input")).to_have_value(DEMO.name)
    page.get_by_role("radio", name=BITS).check()
    expect(page.locator("#notice")).to_contain_text(BITS)

    # every layer's outliers over time, then one layer's channels, before smoothing and after it
    watched.tab("Outliers")
    expect(page.locator("#atlas-overview .heatmaplayer image")).to_have_count(2)
    page.locator("#ranking [data-testid=cell-2-0]").click()
    name = page.locator("#ranking [data-testid=cell-2-0]").inner_text().strip()
    title = next(g.title for g in backend.checkpoint(backend.default).groups if g.name == name)
    expect(page.locator("#atlas-layer-line")).to_contain_text(title)
    expect(page.locator("#atlas-layer .heatmaplayer image")).to_have_count(2)

    # the grid search: layers arrive one by one until every one has its strength
    watched.tab("Search")
    expect(page.locator("#search-status")).to_contain_text("Shipped search")
    page.get_by_role("radio", name="grid", exact=False).first.check()
    page.locator("#start-search").click()
    expect(page.locator("#search-status")).to_contain_text("to go")
    page.wait_for_function(
        "() => /^[1-9][0-9]? of 32/.test(document.querySelector('#search-totals').innerText)"
    )
    expect(page.locator("#search-status")).to_contain_text("Done in", timeout=180_000)
    assert rows(page, "#search-table") == LAYERS
    expect(page.locator("#search-plot .heatmaplayer image")).to_have_count(1)

    # the same noise through full precision and the quantized model, side by side
    watched.tab("Compare")
    expect(page.locator("#compare-status")).to_contain_text(BITS)
    for recipe in BUILT_IN[1:]:
        page.locator("#compare-recipes").get_by_role("checkbox", name=recipe, exact=True).uncheck()
    set_slider(page, "#compare-samples", 1)
    set_slider(page, "#compare-steps", 8)
    page.locator("#start-compare").click()
    expect(page.locator("#compare-table")).to_contain_text("n = 1", timeout=120_000)
    expect(page.locator("#compare-slider img")).to_have_count(2)
    page.locator('#studio .studio[data-frames="8"]').wait_for()
    assert axe(page) == []
