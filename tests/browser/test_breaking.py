"""Where it breaks in a browser: parts of the model, the map, a budget, its result."""

from __future__ import annotations

from ditas_core.bench.pages import until
from ditas_core.ui.tabs.breaking.trials import notes_of

from .conftest import click_figure, drawn, expect, set_slider, toast

LONG_MS = 400_000
"""A job on a machine that has much else to do."""


def opened(watched):
    page = watched.open()
    watched.tab("Where it breaks")
    page.locator("#map-plot .js-plotly-plot").wait_for()
    set_slider(page, "#break-samples", 1)
    set_slider(page, "#break-steps", 4)
    return page


def desk_of(backend):
    """The visitor who came last."""
    return next(reversed(backend.sessions.sessions.values()))


def finished(page, name: str) -> None:
    expect(page.locator(f"#{name}-status .status")).to_have_class("status done", timeout=LONG_MS)
    expect(page.locator(f"#start-{name}")).to_be_enabled()


def forget_line(page, name: str) -> None:
    """So that the end of the job before is not taken for this one's."""
    page.locator(f"#{name}-status .status").evaluate("line => line.className = 'status'")


def start(page, name: str, label: str = "") -> None:
    if label:
        page.get_by_label(label, exact=True).check()
    forget_line(page, name)
    page.locator(f"#start-{name}").click()


def mapped(page) -> None:
    start(page, "sensitivity")
    finished(page, "sensitivity")
    expect(page.locator("#budget input[type=number]")).to_be_enabled()


def test_only_one_layer_and_from_a_step_on(watched, backend, axe):
    page = opened(watched)
    expect(page.locator("#break-layer input")).to_have_value("7.fc2")
    start(page, "partial")
    finished(page, "partial")
    pictures = page.locator(".break-pairs img")
    expect(pictures).to_have_count(2)
    words = pictures.evaluate_all("all => all.map(i => i.alt)")
    assert words[0].endswith("full precision") and words[1].endswith("only 7.fc2 quantized")
    drawn(page, "#break-plot")

    page.get_by_label("only from step k on", exact=True).check()
    expect(page.locator("#break-layer")).to_be_hidden()
    expect(page.locator("#break-first input[type=number]")).to_have_attribute("max", "4")
    set_slider(page, "#break-first", 3)
    start(page, "partial")
    expect(page.locator("#break-history tbody tr")).to_have_count(2)
    finished(page, "partial")
    found = notes_of(desk_of(backend)).trials
    assert [t.what for t in found] == ["from step 3 on", "only 7.fc2"]
    expect(page.locator("#break-history tbody th")).to_have_text([t.what for t in found])
    expect(page.locator("#break-plot .annotation-text")).to_have_text("quantized from step 3 on")
    row = page.locator("#break-history tbody tr").nth(1)
    expect(row).to_contain_text(f"{found[1].sqnr.mean:.1f} dB")
    assert axe(page) == []


def test_sweeps_stream_and_cancel_keeps_what_is_done(watched, backend, axe):
    page = opened(watched)
    start(page, "partial", "every layer in turn")
    bars = page.locator("#break-plot .barlayer .point path")
    page.wait_for_function(
        "() => document.querySelectorAll('#break-plot .barlayer .point').length > 2"
    )
    assert axe(page) == []
    page.locator("#cancel-partial").click()
    status = page.locator("#partial-status")
    expect(status).to_contain_text("Cancelled after")
    expect(page.locator("#start-partial")).to_be_enabled()
    known = int(status.inner_text().split("after ")[1].split(" of ")[0])
    assert 2 < known < 32
    page.wait_for_function(
        "n => document.querySelectorAll('#break-plot .barlayer .point').length == n", arg=known
    )
    until(lambda: not backend.queue.locked(), 60)
    assert len(notes_of(desk_of(backend)).layers.sqnr) <= known + 1

    bars.nth(1).click(force=True)
    expect(page.locator("#break-layer")).to_be_hidden()
    page.get_by_label("only this layer", exact=True).check()
    expect(page.locator("#break-layer input")).not_to_have_value("7.fc2")

    start(page, "partial", "from step k on, six values of k")
    finished(page, "partial")
    expect(page.locator(".break-strip img")).to_have_count(5)
    expect(page.locator("#break-plot .scatterlayer .points path")).to_have_count(4)


def test_the_map_becomes_a_recipe_under_a_budget_and_shows_its_result(watched, backend, axe):
    for key in [k for k in backend.cache.entries if k[0] == "sensitivity"]:
        del backend.cache.entries[key]  # another test may have mapped the same
    page = opened(watched)
    page.locator("#start-mixed").click()
    toast(page, "press “Map the layers” first")
    expect(page.locator("#mixed-status")).to_contain_text("Not run")
    assert page.locator("#map-plot .heatmaplayer image").count() == 1, "shipped widths at once"
    expect(page.locator("#budget input[type=number]")).to_be_disabled()
    mapped(page)
    drawn(page, "#map-plot")
    drawn(page, "#budget-plot")
    expect(page.locator("#budget input[type=number]")).to_have_value("4.95")
    expect(page.locator("#budget-line")).to_contain_text("for W4A8 everywhere")
    expect(page.locator("#budget-table tbody tr")).to_have_count(8)

    click_figure(page, "#map-plot", 0.99, 0.9)
    expect(page.locator("#map-cell")).to_contain_text("Rounding 7.fc2 alone")
    expect(page.locator("#map-cell td.picked").first).to_contain_text("%")

    set_slider(page, "#budget", 4.3)
    expect(page.locator("#budget-line")).to_contain_text("for W3A8 everywhere")
    page.locator("#keep-mixed").click()
    expect(page.locator("#kept")).to_contain_text("Kept as “mixed 4.")
    (name,) = desk_of(backend).recipes
    expect(page.locator("#recipe input")).to_have_value(name)
    expect(page.locator("#notice")).to_contain_text(name)
    recipe = desk_of(backend).recipes[name]
    assert len({layer.bits.weight for layer in recipe.layers.values()}) > 1

    start(page, "mixed")
    expect(page.locator("#cancel-mixed")).to_be_enabled()
    assert axe(page) == []
    finished(page, "mixed")
    expect(page.locator("#mixed-result img")).to_have_count(3)
    words = page.locator("#mixed-result img").evaluate_all("all => all.map(i => i.alt)")
    assert "full precision" in words[0] and "W3A8 everywhere" in words[1] and "mixed" in words[2]
    assert axe(page) == []


def test_the_main_path_by_keyboard_alone(watched, backend):
    page = opened(watched)
    page.locator("#break-what input").nth(1).press("Space")  # each is a stop of its own
    expect(page.get_by_label("all but this layer", exact=True)).to_be_checked()
    forget_line(page, "partial")
    page.locator("#start-partial").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#break-history tbody tr")).to_have_count(1)
    finished(page, "partial")
    forget_line(page, "sensitivity")
    page.locator("#start-sensitivity").focus()
    page.keyboard.press("Enter")
    finished(page, "sensitivity")
    slider = page.locator("#budget input[type=range]")
    expect(slider).to_be_enabled()
    before = page.locator("#budget-line").inner_text()
    slider.focus()
    for _ in range(12):
        page.keyboard.press("ArrowLeft")
    expect(page.locator("#budget-line")).not_to_have_text(before)
    expect(page.locator("#budget-line")).to_contain_text("for W3A8 everywhere")
    page.locator("#keep-mixed").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#kept")).to_contain_text("Kept as")
    layer = page.locator("#map-layer input")
    layer.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#map-cell")).not_to_contain_text("Rounding 0.qkv alone")
    assert desk_of(backend).recipes
