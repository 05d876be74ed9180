"""The first screen: there at once, explained on hover, and about what the bar says."""

from __future__ import annotations

from .conftest import choose, expect


def test_a_useful_view(watched, demo_checkpoint):
    page = watched.open(settings=False)
    page.locator("#dial[data-drawn]").wait_for()
    page.locator("#worst img").nth(1).wait_for()
    assert "licence" in page.locator("#card").inner_text()
    assert "memory" in page.locator("#cost").inner_text()
    assert not page.locator("#bits").is_visible(), "settings fold away"
    widths = page.locator("#worst img").evaluate_all("all => all.map(i => i.naturalWidth)")
    assert widths == 2 * [4 * demo_checkpoint.image_size]


def test_the_folded_settings_say_what_they_are(watched):
    page = watched.open()
    page.get_by_role("radio", name="W4A4").check()
    expect(page.locator("#notice")).to_contain_text("W4A4")
    page.locator("#settings > button").click()
    expect(page.locator("#settings > button")).to_contain_text("W4A4")


def test_free_bits_say_what_to_do_next(watched):
    page = watched.open()
    page.get_by_role("radio", name="custom").check()
    choose(page, "#weight-bits", "3")
    expect(page.locator("#notice")).to_contain_text("Open Search")
    choose(page, "#weight-bits", "NVFP4")
    choose(page, "#activation-bits", "MXFP8 E4M3")
    expect(page.locator("#notice")).to_contain_text("W:nvfp4 A:mxfp8")


def test_words_are_explained_on_hover_and_focus(watched):
    page = watched.open()
    word = page.locator("#hero .term").first
    tip = word.locator("[role=tooltip]")
    assert not tip.is_visible()
    word.hover()
    expect(tip).to_be_visible()
    page.mouse.move(5, 500)
    expect(tip).to_be_hidden()
    word.focus()
    expect(tip).to_be_visible()
    assert word.get_attribute("aria-describedby") == tip.get_attribute("id")


def test_a_second_visitor_is_told_the_place_in_the_line(visit, backend):
    held = backend.queue.join()
    try:
        page = visit().open()
        page.get_by_role("tab", name="Outliers", exact=True).click()
        page.locator("#start-measure").click()
        expect(page.locator("#measure-status")).to_contain_text("number 2 in the line")
        # the page answers meanwhile
        page.get_by_role("radio", name="W4A4").check()
        expect(page.locator("#notice")).to_contain_text("W4A4")
    finally:
        backend.queue.leave(held)
    expect(page.locator("#measure-status .done")).to_be_visible()
