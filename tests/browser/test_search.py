"""Search in a browser: stream, cancel, go on; change a layer by hand; keep and compare recipes."""

from __future__ import annotations

import json

from ditas_core.bench.pages import until

from .conftest import choose, click_figure, drawn, expect, rows, toast

LAYERS = 32
READY = "whole recipe: mean error of 32 layers"


def opened(watched):
    """The tab with everything drawn and predicted."""
    page = watched.open()
    watched.tab("Search")
    expect(page.locator("#search-status")).to_contain_text("Shipped search")
    drawn(page, "#search-plot")
    drawn(page, "#edit-plot")
    expect(page.locator("#edit-outcome")).to_contain_text(READY)
    return page


def in_bar(page, name: str) -> None:
    expect(page.locator("#recipe input")).to_have_value(name)
    expect(page.locator("#notice")).to_contain_text(name)


def test_a_search_streams_keeps_what_is_done_and_goes_on(watched, backend, axe, shots):
    page = opened(watched)
    assert rows(page, "#search-table") == LAYERS
    page.locator("#start-search").click()
    line = page.locator("#search-status")
    expect(line).to_contain_text("elapsed")
    # the table and the running total grow
    page.wait_for_function(
        "() => /^[3-9] of 32/.test(document.querySelector('#search-totals').innerText)"
    )
    expect(line).to_contain_text("to go")
    few = rows(page, "#search-table")
    assert 3 <= few < LAYERS
    expect(page.locator("#search-totals")).to_contain_text("gain against no smoothing")
    expect(page.locator("#search-plot")).to_contain_text("of 32 layers, smoothing helps")
    # nothing is blocked meanwhile: another view of the same search
    page.get_by_role("radio", name="curves").check()
    expect(page.locator("#search-plot")).to_contain_text("no smoothing")
    page.locator("#cancel-search").click()
    expect(line).to_contain_text("layers are kept, and Start goes on there")
    until(lambda: not backend.queue.locked(), 60)
    kept = int(line.inner_text().split("Cancelled: ")[1].split(" of ")[0])
    assert few <= kept < LAYERS and rows(page, "#search-table") == kept
    expect(page.locator("#recipes-table")).to_contain_text("my partial search")
    expect(page.locator("#start-search")).to_be_enabled()
    expect(page.locator("#cancel-search")).to_be_disabled()

    # it goes on, and starts over only when asked to
    page.get_by_role("radio", name="map of all layers").check()
    expect(line).to_contain_text(f"{kept} of {LAYERS} layers are kept")
    page.locator("#start-search").click()
    expect(line).to_contain_text("elapsed")
    assert axe(page) == []
    expect(line).to_contain_text("Done in", timeout=120_000)
    assert rows(page, "#search-table") == LAYERS
    in_bar(page, "my W4A8 ditas search")
    expect(page.locator("#start-search")).to_be_enabled()
    page.screenshot(path=shots / "search-done.png", full_page=True)
    page.get_by_role("checkbox", name="Start over").check()
    page.locator("#start-search").click()
    page.wait_for_function(
        "() => /^[1-9] of 32/.test(document.querySelector('#search-totals').innerText)"
    )
    page.locator("#cancel-search").click()
    expect(line).to_contain_text("Cancelled: ")
    until(lambda: not backend.queue.locked(), 60)


def test_a_layer_is_changed_by_keyboard_and_kept(watched, axe, backend):
    page = opened(watched)
    outcome = page.locator("#edit-outcome")
    group = "3.fc2"
    choose(page, "#edit-layer", group)
    title = next(g.title for g in backend.checkpoint(backend.default).groups if g.name == group)
    expect(outcome).to_contain_text(f"{title}: error of its output, nothing changed yet")
    page.locator("#edit-alpha input[type=range]").focus()
    page.keyboard.press("End")
    expect(outcome).to_contain_text(f"{title}: error of its output, was")
    expect(page.locator("#edit-plot")).to_contain_text("your change: W4A8, α = 1.00")
    expect(page.locator("#edit-identity input")).not_to_be_checked()
    assert "(+" in outcome.inner_text() and "dB" in outcome.inner_text()
    worse = outcome.inner_text()
    page.locator("#edit-identity input").focus()
    page.keyboard.press("Space")
    expect(outcome).not_to_have_text(worse)
    page.locator("#edit-weight input").focus()
    page.locator("#edit-weight input").fill("2")
    page.keyboard.press("Enter")
    expect(page.locator("#edit-plot")).to_contain_text("your change: W2A8, s = 1")
    expect(outcome).to_contain_text("bits per weight on disk, was")

    # a name that cannot be is refused, and nothing is lost
    name = page.locator("#edit-name input, #edit-name textarea")
    name.fill("DiTAS")
    page.locator("#edit-keep").focus()
    page.keyboard.press("Enter")
    toast(page, "name: expected one of your own")
    assert axe(page) == []
    expect(page.locator("#edit-plot")).to_contain_text("your change: W2A8, s = 1")
    name.fill("by hand")
    page.locator("#edit-keep").focus()
    page.keyboard.press("Enter")
    in_bar(page, "by hand")
    expect(page.locator("#recipes-table")).to_contain_text("by hand")
    expect(outcome).to_contain_text("“by hand”, predicted on 2 images × 8 steps")
    expect(page.locator("#one-recipe input")).to_have_value("by hand")
    assert axe(page) == []


def test_tables_and_figures_open_a_layer(watched):
    page = opened(watched)
    page.locator("#search-table [data-testid=cell-2-0]").click()
    clicked = page.locator("#search-table [data-testid=cell-2-0]").inner_text().strip()
    expect(page.locator("#edit-layer input")).to_have_value(clicked)
    # a cell of the map: that layer, at that alpha
    click_figure(page, "#search-plot", 0.5, 0.1)
    expect(page.locator("#edit-layer input")).not_to_have_value(clicked)
    expect(page.locator("#edit-outcome")).to_contain_text("error of its output, was")
    expect(page.locator("#edit-plot")).to_contain_text("your change: W4A8, α = 0.9")


def test_recipes_are_compared_renamed_downloaded_loaded_and_deleted(watched, backend, tmp_path):
    page = opened(watched)
    choose(page, "#edit-weight", "3")
    expect(page.locator("#edit-plot")).to_contain_text("W3A8")
    page.locator("#edit-name input, #edit-name textarea").fill("three bits")
    page.locator("#edit-keep").click()
    in_bar(page, "three bits")
    box = page.locator("#compare-recipes")
    box.get_by_role("checkbox", name="three bits").check()
    box.get_by_role("checkbox", name="grid search").check()
    for plot in ("#recipe-alphas", "#recipe-errors"):
        expect(page.locator(plot)).to_contain_text("three bits")
        expect(page.locator(plot)).to_contain_text("grid search")
        drawn(page, plot)
    assert rows(page, "#recipe-layers") == LAYERS

    page.locator("#new-name input, #new-name textarea").fill("renamed")
    page.locator("#rename-recipe").click()
    in_bar(page, "renamed")
    expect(page.locator("#recipes-table")).not_to_contain_text("three bits")
    with page.expect_download() as started:
        page.locator("#download-recipe").click()
    file = tmp_path / "recipe.json"
    started.value.save_as(file)
    document = json.loads(file.read_text("utf-8"))
    assert started.value.suggested_filename.startswith("renamed-")
    assert 3 in {layer["bits"]["weight"] for layer in document["layers"].values()}

    page.locator("#delete-recipe").click()
    in_bar(page, "DiTAS")
    expect(page.locator("#recipes-table")).not_to_contain_text("renamed")
    expect(page.locator("#delete-recipe")).to_be_disabled()
    page.locator("#load-recipe").get_by_text("Load a recipe").click()
    text = page.locator("#recipe-json textarea")
    text.fill("{}")
    page.locator("#load-json").click()
    toast(page, "expected a recipe of format")
    text.fill(file.read_text("utf-8"))
    page.locator("#load-json").click()
    in_bar(page, "my loaded recipe")
    expect(page.locator("#recipes-table")).to_contain_text("W3A8 / W4A8")
