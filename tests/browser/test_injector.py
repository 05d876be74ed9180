"""The injector in a browser: drag, keyboard, the proof, one layer, the live job, Cancel."""

from __future__ import annotations

from ditas_core.bench.pages import until

from .conftest import choose, drawn, expect, set_slider

RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def opened(watched):
    """The tab with everything drawn."""
    page = watched.open()
    watched.tab("Injector")
    expect(page.locator("#rung-line")).to_contain_text("×60 is on view")
    drawn(page, "#strengths")
    drawn(page, "#injected-map")
    return page


def sources(page, row: int) -> list[str]:
    """The pictures of one row, for comparing."""
    images = page.locator("#rung .sheet-row").nth(row).locator("img")
    return images.evaluate_all("all => all.map(image => image.src)")


def test_dragging_breaks_plain_rounding_and_leaves_full_precision_alone(watched, backend):
    assert backend.ladder is not None, "expected a ladder among the shipped results"
    page = opened(watched)
    before = [sources(page, row) for row in range(4)]
    assert all(len(row) == len(backend.ladder.labels) for row in before)
    slider = page.locator("#strength input[type=range]")
    box = slider.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.3, y)
    page.mouse.down()
    for share in (0.5, 0.7, 0.9, 1.0):
        page.mouse.move(box["x"] + box["width"] * share, y)
    # still held down: the rung follows the drag, not the release
    expect(page.locator("#rung-line")).to_contain_text("×200 is on view")
    page.mouse.up()
    after = [sources(page, row) for row in range(4)]
    assert after[0] == before[0], "as trained stays"
    assert not set(after[2]) & set(before[2]), "every plainly rounded picture changes"
    expect(page.locator("#strengths")).to_contain_text("×200")
    expect(page.locator("#injected-map")).to_contain_text("injected ×200")
    loud = backend.ladder.nearest(200)
    power = f"10{str(int(f'{loud.same.pixels:.1e}'.split('e')[1]))[1:].translate(RAISED)}"
    expect(page.locator("#proof .stat").first).to_contain_text(power[2:])


def test_the_keyboard_does_it_all(watched, axe):
    page = opened(watched)
    slider = page.locator("#strength input[type=range]")
    slider.focus()
    page.keyboard.press("Home")
    expect(page.locator("#rung-line")).to_contain_text("×1 is on view")
    expect(page.locator("#injected-map")).to_contain_text("injected ×1:")
    page.keyboard.press("End")
    expect(page.locator("#rung-line")).to_contain_text("×200 is on view")
    set_slider(page, "#strength", 73)
    expect(page.locator("#rung-line")).to_contain_text("×73 is between")
    expect(page.locator("#rung-line")).to_contain_text("×60 is on view")
    title = page.locator("#injected-map .annotation-text").all_text_contents()
    choose(page, "#injected-layer", "1.fc1")
    page.wait_for_function(
        "old => [...document.querySelectorAll('#injected-map .annotation-text')]"
        ".map(e => e.textContent).join() !== old",
        arg=",".join(title),
    )
    page.locator("#inject input").focus()
    page.keyboard.press("Space")
    expect(page.locator("#notice")).to_contain_text("injected outliers ×73")
    page.keyboard.press("Space")
    expect(page.locator("#notice")).not_to_contain_text("function-preserving")
    assert axe(page) == []


def test_the_live_job_shows_the_proof_and_cancel_keeps_it(watched, backend, axe, shots):
    page = opened(watched)
    set_slider(page, "#strength", 40)
    page.get_by_text("Samples, steps and seed").click()
    set_slider(page, "#inject-samples", 1)
    set_slider(page, "#inject-steps", 4)
    page.locator("#inject-repair").get_by_role("radio", name="grid search").check()
    page.locator("#start-inject").click()
    expect(page.locator("#injected-live")).to_contain_text("amplified 1000 times")
    assert axe(page) == []
    expect(page.locator("#inject-status")).to_contain_text("; 1 sample")
    expect(page.locator("#inject-status")).to_contain_text("injected ×40 in 3 channels · W4A8")
    expect(page.locator("#injected-live .stat")).to_have_count(3)
    expect(page.locator("#injected-live img")).to_have_count(5)
    expect(page.locator("#strengths")).to_contain_text("yours: grid search, W4A8 integer")

    page.screenshot(path=shots / "injector-live.png", full_page=True)
    # cancelled in the middle: the full-precision pair that was done stays
    set_slider(page, "#inject-steps", 50)
    set_slider(page, "#inject-channels", 8)
    page.locator("#start-inject").click()
    expect(page.locator("#injected-live")).to_contain_text("in 8 channels")
    page.locator("#cancel-inject").click()
    until(lambda: not backend.queue.locked(), 60)
    expect(page.locator("#inject-status")).to_contain_text("Cancelled")
    expect(page.locator("#injected-live")).to_contain_text("in 8 channels")
    expect(page.locator("#injected-live img").first).to_be_visible()
    expect(page.locator("#start-inject")).to_be_enabled()
