"""The comparison studio in Chromium: the shipped ablation, the viewer, a run of one's own."""

from __future__ import annotations

import re
from typing import Any

from ditas_core.bench.pages import until
from ditas_core.ui.stored.results import BUILT_IN, PLAIN, SMOOTHED

from .conftest import expect, set_slider, still

PICTURES = """() => [...document.querySelectorAll('#studio canvas')].map((canvas) => {
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const tiles = Array(16 * 16).fill(0), counts = Array(16 * 16).fill(0);
  let off = 0;
  for (let i = 0; i < data.length; i += 4) {
    const [x, y] = [(i / 4) % canvas.width, Math.floor(i / 4 / canvas.width)];
    const tile = 16 * Math.floor((16 * y) / canvas.height) + Math.floor((16 * x) / canvas.width);
    for (let c = 0; c < 3; c++) {
      tiles[tile] += data[i + c] / 3;
      off += Math.abs(data[i + c] - 128);
    }
    counts[tile] += 1;
  }
  return { tiles: tiles.map((sum, i) => sum / counts[i]), off: off / data.length * 4 / 3 };
})"""
"""Of the left, the right and the difference: means of 16 x 16 tiles, and the mean distance from
grey. Not single pixels: reading a canvas makes Chromium scale it by another way."""


def alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """The same picture: no tile differs by more than a fifth of a grey level."""
    return max(abs(a - b) for a, b in zip(one["tiles"], other["tiles"], strict=True)) < 0.2


def studio(page: Any, frames: int = 11) -> None:
    """The viewer, once all steps of the sample on view are decoded."""
    page.locator(f'#studio .studio[data-frames="{frames}"]').wait_for()
    still(page)


def pictures(page: Any) -> list[dict[str, Any]]:
    still(page)
    return page.evaluate(PICTURES)


def opened(seen: Any) -> Any:
    page = seen.open()
    seen.tab("Compare")
    studio(page)
    return page


def test_the_studio_by_keyboard_alone(watched):
    page = opened(watched)
    expect(page.get_by_role("button", name="A full precision")).to_have_attribute(
        "aria-pressed", "true"
    )
    page.locator("#studio [data-zoom=fit]").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className").startswith("panes")
    left, right, apart = pictures(page)
    assert not alike(left, right) and apart["off"] > 0.5

    page.keyboard.press("Space")
    assert all(map(alike, pictures(page), (right, left, apart)))
    expect(page.locator("#studio [data-left=b]")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("a")
    assert alike(pictures(page)[0], left)
    page.keyboard.press("b")
    assert alike(pictures(page)[0], right)
    page.keyboard.press("a")

    for _ in range(6):
        page.keyboard.press("+")
    expect(page.locator("#studio .zoomed")).to_have_text("3.8×")
    near = pictures(page)
    assert not any(map(alike, near, (left, right, apart)))
    page.keyboard.press("ArrowRight")
    moved = pictures(page)
    assert not any(map(alike, near, moved))
    page.keyboard.press("0")
    assert alike(pictures(page)[0], left)

    page.keyboard.press("Tab")  # Play
    expect(page.get_by_role("button", name="Play the steps")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Denoising step")).to_be_focused()
    expect(page.locator("#studio .at")).to_contain_text("step 50 of 50, t = 0")
    page.keyboard.press("Home")
    expect(page.locator("#studio .at")).to_contain_text("step 1 of 50, t = 980")
    noise = pictures(page)
    assert not alike(noise[0], left) and not alike(noise[1], right)
    assert noise[2]["off"] < apart["off"], "expected the runs to part only later"
    page.keyboard.press("End")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Gain of the difference")).to_be_focused()
    page.keyboard.press("End")
    expect(page.locator("#studio .times")).to_have_text("×16")
    assert pictures(page)[2]["off"] > 1.5 * apart["off"]


def test_samples_and_recipes_are_chosen_on_the_sheet(watched):
    page = opened(watched)
    cell = page.locator(f'#contact button[data-sample="4"][data-variant="{SMOOTHED}"]')
    expect(cell.locator("img")).to_have_attribute("alt", re.compile(f".+, {SMOOTHED}"))
    cell.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#studio .title")).to_contain_text("5 · ")
    expect(page.locator("#studio .which")).to_have_value(SMOOTHED)
    expect(cell).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#compare-slider")).to_contain_text(SMOOTHED)
    studio(page)
    page.locator("#studio .which").select_option(PLAIN)
    expect(page.locator("#compare-slider")).to_contain_text(PLAIN)
    expect(page.locator("#studio figcaption").nth(1)).to_contain_text(PLAIN)
    # the bar names another recipe, other bits: B and the result follow
    page.get_by_role("radio", name="W4A4").check()
    expect(page.locator("#compare-status")).to_contain_text("W4A4")
    expect(page.locator("#studio .title")).to_contain_text("1 · ")


def test_wheel_drag_and_play(watched):
    page = opened(watched)
    canvas = page.locator("#studio canvas").first
    canvas.hover()
    page.mouse.wheel(0, 120)  # not chosen yet: the page scrolls
    page.wait_for_function("scrollY > 0")
    expect(page.locator("#studio .zoomed")).to_have_text("1.0×")
    canvas.click(position={"x": 60, "y": 60})
    for _ in range(4):
        page.mouse.wheel(0, -120)
    expect(page.locator("#studio .zoomed")).to_have_text("2.4×")
    box = canvas.bounding_box()
    assert box is not None
    before = pictures(page)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.6, steps=4)
    page.mouse.up()
    assert not any(map(alike, before, pictures(page)))
    page.get_by_role("button", name="Fit").click()
    page.get_by_role("button", name="Play the steps").click()
    expect(page.locator("#studio .at")).to_contain_text("step 1 of 50")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    expect(page.locator("#studio .at")).to_contain_text("step 50 of 50")
    expect(page.get_by_role("button", name="Play the steps")).to_be_visible()


def test_a_comparison_of_ones_own_cancelled_and_continued(watched, axe, backend, shots):
    page = opened(watched)
    page.get_by_role("radio", name="W4A6").check()
    expect(page.locator("#compare-status")).to_contain_text("W4A6")
    for name in BUILT_IN[2:]:
        page.locator("#compare-recipes").get_by_role("checkbox", name=name).uncheck()
    set_slider(page, "#compare-samples", 2)
    set_slider(page, "#compare-steps", 16)
    page.locator("#start-compare").click()
    expect(page.locator("#compare-status")).to_contain_text("denoising step")
    assert axe(page) == []
    # the first recipe is on view while the second is still being sampled
    expect(page.locator("#contact img")).to_have_count(2 * 2)
    page.locator("#cancel-compare").click()
    expect(page.locator("#compare-status")).to_contain_text("1 of 2 recipes")
    expect(page.locator("#contact img")).to_have_count(2 * 2)
    until(lambda: not backend.queue.locked(), 60)  # the step that was under way ends first
    page.locator("#start-compare").click()
    expect(page.locator("#contact img")).to_have_count(2 * 3)
    expect(page.locator("#compare-status .done, #compare-status.done")).to_be_visible()
    expect(page.locator("#compare-status")).to_contain_text("2 samples · seed 7 · steps 16")
    studio(page, 16)
    expect(page.locator("#studio .at")).to_contain_text("step 16 of 16")
    page.screenshot(path=shots / "compare-own.png", full_page=True)
