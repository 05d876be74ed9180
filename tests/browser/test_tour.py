"""The guided tour: every step is done on the live controls, and said to be done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ditas_core.ui.page.tour_steps import STEPS

from .conftest import expect


def test_the_tour_from_beginning_to_end(watched, axe, shots):
    page = watched.open()
    page.locator("#tour-begin").click()
    expect(page.locator("#tour-text")).to_contain_text(STEPS[0].title)
    assert page.locator("#tour-text .katex").count() > 0, "expected rendered formulae"
    assert axe(page) == []
    for number, step in enumerate(STEPS):
        expect(page.locator("#tour-text")).to_contain_text(
            f"{number + 1} of {len(STEPS)} · {step.title}"
        )
        expect(page.locator("#tour-state")).to_contain_text("Your turn")
        expect(page.locator(f"#tab-{step.tab}")).to_be_visible()
        DOING[step.action](page)
        expect(page.locator("#tour-state")).to_contain_text("Done.", timeout=120_000)
        if number == 2:
            page.screenshot(path=shots / "tour.png")
        page.locator("#tour-next").click()
    expect(page.locator("#tour-begin")).to_be_visible()
    expect(page.locator("#tour")).to_have_count(0)


def turn_the_dial(page) -> None:
    page.locator("#dial-range").focus()
    page.keyboard.press("ArrowLeft")


def choose_layer(page) -> None:
    page.locator("#ranking [data-testid=cell-2-0]").click()


def choose_channel(page) -> None:
    page.locator("#atlas-channel input").click()
    page.get_by_role("option").nth(2).click()


def move(name: str) -> Callable[[Any], None]:
    def work(page) -> None:
        page.locator(f"{name} input[type=range]").focus()
        page.keyboard.press("ArrowRight")

    return work


def search(page) -> None:
    page.get_by_role("radio", name="plain rounding", exact=False).first.check()
    page.locator("#start-search").click()


def step_through(page) -> None:
    slider = page.locator("#studio-step")
    expect(slider).to_be_enabled()  # the steps of the sample are decoded
    slider.focus()
    page.keyboard.press("ArrowLeft")


def guess(page) -> None:
    page.get_by_role("button", name="Left is quantized").click()


DOING = {
    "dial": turn_the_dial,
    "layer": choose_layer,
    "channel": choose_channel,
    "alpha": move("#alpha"),
    "search": search,
    "step": step_through,
    "inject": move("#strength"),
    "blind": guess,
}


def test_it_can_be_left_and_gone_back_in(watched):
    page = watched.open()
    page.locator("#tour-begin").click()
    page.locator("#tour-next").click()
    expect(page.locator("#tour-text")).to_contain_text("2 of 8")
    page.locator("#tour-back").click()
    expect(page.locator("#tour-text")).to_contain_text("1 of 8")
    expect(page.locator("#tour-back")).to_be_disabled()
    page.get_by_role("tab", name="About", exact=True).click()
    page.locator("#tour-there").click()
    expect(page.get_by_role("tab", name="Overview", exact=True)).to_have_attribute(
        "aria-selected", "true"
    )
    page.locator("#tour-end").click()
    expect(page.locator("#tour-begin")).to_be_visible()
