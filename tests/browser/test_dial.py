"""The dial: the first thing that is seen, turned by mouse, touch and keys, shared and gone on from.

What is expected is read from what is shipped; nothing here knows the model.
"""

from __future__ import annotations

import pytest

from ditas_core.ui.stored.dial import FULL, details, key_of, verdict

from .conftest import SIZES, drawn, expect, overflow

RANGE = "#dial-range"


def opened(seen, query: str = ""):
    page = seen.open(query, settings=False)
    page.locator("#dial[data-drawn]").wait_for()
    return page


def at(page, stop: str, label: str) -> None:
    """The pictures and the words of this stop are on view."""
    expect(page.locator("#dial")).to_have_attribute("data-drawn", f"{stop} {label}")


def pixels(page) -> list[str]:
    """What is painted: full precision, plain rounding, DiTAS."""
    return page.locator("#dial canvas").evaluate_all("all => all.map(c => c.toDataURL())")


@pytest.fixture(scope="module")
def dial(backend):
    assert backend.dial is not None
    return backend.dial


@pytest.fixture(scope="module")
def keys(dial):
    """The stops of the slider, in its order."""
    return [key_of((FULL, FULL)), *(key_of(cell.stop) for cell in dial.together)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_come_first(visit, axe, shots, size, scheme):
    seen = visit(size, scheme)
    page = opened(seen)
    for name in ("#dial .dial-pictures", RANGE, "#dial-words b"):
        box = page.locator(name).bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= SIZES[size][1], name
    sides = page.locator("#dial canvas").evaluate_all("all => all.map(c => c.clientWidth)")
    assert min(sides) >= (160 if size == "desktop" else 100)
    assert axe(page) == [] and overflow(page) <= 0
    page.screenshot(path=shots / f"first-{size}-{scheme}.png")


def test_it_opens_where_most_is_to_be_seen(watched, dial):
    page = opened(watched)
    at(page, key_of(dial.telling.stop), dial.labels[0])
    expect(page.locator("#dial-words b")).to_have_text(verdict(dial, dial.telling.stop))
    expect(page.locator("#dial-words span")).to_have_text(details(dial, dial.telling.stop))
    assert page.locator("#dial-words").get_attribute("aria-live") == "polite"


def test_keys_turn_it_without_asking_the_server(watched, dial, keys):
    page = opened(watched)
    page.locator(".dial-emoji button").nth(1).click()
    at(page, key_of(dial.telling.stop), dial.labels[1])
    page.wait_for_timeout(1500)  # all sheets are there, and what the choice told the server is over
    page.locator(RANGE).focus()
    asked = len([r for r in watched.requests if "/dial/" in r])
    page.keyboard.press("Home")
    at(page, keys[0], dial.labels[1])
    first = pixels(page)
    assert first[0] == first[1] == first[2], "nothing is rounded at 32 bits"
    seen = [first]
    for key in keys[1:]:
        page.keyboard.press("ArrowRight")
        # in the same task: no waiting here
        drawn_at = page.locator("#dial").get_attribute("data-drawn")
        assert drawn_at == f"{key} {dial.labels[1]}"
        seen.append(pixels(page))
        text = page.locator(RANGE).get_attribute("aria-valuetext")
        assert text.startswith(key[1:].split("A")[0] + " bits")
    assert len({one[0] for one in seen}) == 1, "full precision stays"
    assert len({one[1] for one in seen}) > 2 and len({one[2] for one in seen}) > 2
    assert len([r for r in watched.requests if "/dial/" in r]) == asked


def test_the_mouse_turns_it(watched, dial, keys):
    page = opened(watched)
    box = page.locator(RANGE).bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 1, middle, steps=6)
    at(page, keys[-1], dial.labels[0])
    page.mouse.move(box["x"] + 1, middle, steps=6)
    page.mouse.up()
    at(page, keys[0], dial.labels[0])
    # over the pictures: to the left for fewer bits
    box = page.locator("#dial .dial-pictures").bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 155, box["y"] + 60, steps=3)
    page.mouse.up()
    at(page, keys[1], dial.labels[0])


def test_a_finger_turns_it(visit, dial, keys):
    seen = visit("phone", "light", has_touch=True, is_mobile=True)
    page = opened(seen)
    start = keys.index(key_of(dial.telling.stop))
    box = page.locator("#dial .dial-pictures").bounding_box()
    touch = page.context.new_cdp_session(page)
    x, y = box["x"] + 250, box["y"] + 60
    point = lambda dx: [{"x": x + dx, "y": y}]  # noqa: E731
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": point(0)})
    for dx in (10, 25, 45):
        touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": point(dx)})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    at(page, keys[start - 1], dial.labels[0])
    box = page.locator(RANGE).bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2)
    at(page, keys[-1], dial.labels[0])
    assert overflow(page) <= 0


def test_weights_and_activations_apart(watched, dial):
    page = opened(watched)
    page.locator("#dial-apart summary").click()
    weights, activations = dial.sizes
    page.locator("#dial-weights").focus()
    page.keyboard.press("End")
    page.locator("#dial-activations").focus()
    page.keyboard.press("Home")
    stop = (weights[-1], activations[0])
    at(page, key_of(stop), dial.labels[0])
    expect(page.locator("#dial-words b")).to_have_text(verdict(dial, stop))


def test_the_address_opens_on_the_same_sight(watched, visit, dial, keys):
    page = opened(watched)
    page.locator(RANGE).focus()
    page.keyboard.press("End")
    page.locator(".dial-emoji button").last.click()
    at(page, keys[-1], dial.labels[-1])
    page.wait_for_function(
        "keys => keys.every(key => location.search.includes(key))",
        arg=[f"dial={keys[-1]}", f"emoji={dial.labels[-1]}"],
    )
    query = page.evaluate("location.search")
    again = visit()
    other = opened(again, query)
    at(other, keys[-1], dial.labels[-1])
    assert other.locator(RANGE).input_value() == str(len(keys) - 1)
    assert pixels(other) == pixels(page)


def test_see_why_opens_the_layer_that_breaks_first(watched, dial):
    page = opened(watched)
    page.locator("#door-why").click()
    drawn(page, "#atlas-layer", 150)
    expect(page.locator("#atlas-layer-name input")).to_have_value(dial.layer)
    expect(page.locator("#settings > button")).to_contain_text(key_of(dial.telling.stop))
    expect(page.locator("#settings > button")).to_contain_text(dial.convention)


def test_take_it_is_about_the_dials_recipe(watched, dial):
    page = opened(watched)
    page.locator("#door-take").click()
    expect(page.get_by_role("tab", name="Take away", exact=True)).to_have_attribute(
        "aria-selected", "true"
    )
    expect(page.locator("#settings > button")).to_contain_text(key_of(dial.telling.stop))


def test_a_random_emoji_is_drawn_here(watched, axe):
    page = opened(watched)
    page.locator("#door-try").click()
    expect(page.locator("#own-emoji input")).to_be_focused()
    page.locator("#random-emoji").click()
    expect(page.locator("#draw-status")).to_contain_text("Timed here", timeout=120_000)
    expect(page.locator("#drawn img")).to_have_count(3)
    name = page.locator("#own-emoji input").input_value()
    expect(page.locator("#draw-status")).to_contain_text(name)
    assert axe(page) == []


def test_the_twin_stands_beside_it(watched, visit, backend, axe):
    if len(backend.dials) < 2:
        pytest.skip("no twin's dial is shipped: make results")
    dial, twin = backend.dials.values()
    page = opened(watched)
    page.get_by_role("button", name=f"Outliers ×{twin.strength:g}").click()
    stop = twin.telling.stop
    at(page, key_of(stop), f"{dial.labels[0]} injected")
    expect(page.locator("#dial-words b")).to_have_text(verdict(twin, stop))
    expect(page.locator("#dial-words span")).to_contain_text("Injected outliers")
    page.locator(RANGE).focus()
    page.keyboard.press("Home")
    page.get_by_role("button", name=f"Outliers ×{twin.strength:g}").click()
    at(page, key_of((FULL, FULL)), f"{dial.labels[0]} injected")  # it is on view: nothing to turn
    heights = page.locator(".dial-models button").evaluate_all(
        "all => all.map(b => b.clientHeight)"
    )
    assert heights[0] == heights[1]
    page.get_by_role("button", name="Outliers as trained").click()
    page.get_by_role("button", name=f"Outliers ×{twin.strength:g}").click()
    at(page, key_of(stop), f"{dial.labels[0]} injected")
    assert axe(page) == []
    page.wait_for_function("() => location.search.includes('twin=injected')")
    query = page.evaluate("location.search")
    page.locator("#door-why").click()
    drawn(page, "#atlas-layer", 150)
    expect(page.locator("#settings > button")).to_contain_text("injected outliers")
    other = opened(visit(), query)
    at(other, key_of(stop), f"{dial.labels[0]} injected")
