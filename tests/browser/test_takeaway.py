"""Take away and the address: every file arrives and is right; reloading gives the same view."""

from __future__ import annotations

import csv
import json
import re
import zipfile
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from PIL import Image

from ditas_core.specs import Recipe

from .conftest import SIZES, open_tab, overflow, playwright

expect = playwright.expect
expect.set_options(timeout=30_000)
READY = re.compile("Ready")


def ready(page) -> None:
    """The tab has been drawn: its files can be had."""
    expect(page.locator("#take-recipe")).to_be_enabled()
    expect(page.locator("#take-map-view img")).to_be_visible()


def saved(page, name: str, folder: Path) -> Path:
    with page.expect_download() as arriving:
        page.locator(f"#take-{name}").click()
    path = folder / arriving.value.suggested_filename
    arriving.value.save_as(path)
    return path


def query(page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def address_has(page, **wanted: str) -> None:
    """The address follows within a moment."""
    for name, value in wanted.items():
        page.wait_for_function(
            "([n, v]) => (new URLSearchParams(location.search)).get(n) === v", arg=[name, value]
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("downloads")


def test_every_file_arrives_and_is_what_it_says(watched, bench, folder):
    page = watched.open("?tab=takeaway&bits=W4A4&layer=3.fc2")
    ready(page)
    shipped = bench.shipped.presets["W4A4"]
    recipe = Recipe.from_json(saved(page, "recipe", folder).read_text("utf-8"))
    assert recipe == shipped.recipe
    for name, first, count in (
        ("layers", "layer", 32), ("curves", "layer", None), ("metrics", "variant", 4 * 8),
    ):  # fmt: skip
        with saved(page, name, folder).open(encoding="utf-8") as file:
            table = list(csv.DictReader(file))
        assert next(iter(table[0])) == first and (count is None or len(table) == count)
    for name in ("sheet", "map"):
        path = saved(page, name, folder)
        assert path.suffix == ".png" and (name == "sheet" or "3.fc2" in path.name)
        with Image.open(path) as image:
            image.verify()
    program = saved(page, "snippet", folder).read_text("utf-8")
    compile(program, "program", "exec")
    expect(page.locator("#snippet")).to_contain_text("load_checkpoint")
    assert "Layer 3.fc2" not in program and "seed=7" in program

    expect(page.locator("#take-report")).to_be_disabled()
    page.locator("#start-takeaway").click()
    expect(page.locator("#takeaway-status")).to_have_text(READY)
    report = saved(page, "report", folder)
    assert "3.fc2" in report.read_text("utf-8")
    with zipfile.ZipFile(saved(page, "zip", folder)) as bundle:
        assert len(bundle.namelist()) == 8 and bundle.testzip() is None
    page.get_by_role("radio", name="W8A8").check()
    expect(page.locator("#take-report")).to_be_disabled()
    expect(page.locator("#snippet")).to_contain_text("W8A8")


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_the_report_opens_without_server_or_network(chromium, axe, folder, shots, size, scheme):
    path = next(folder.glob("*-report.html"))
    width, height = SIZES[size]
    context = chromium.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    errors, requests = [], []
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    plots = page.locator("[data-plot]")
    assert plots.count() == 4
    for index in range(4):
        plots.nth(index).locator(".main-svg").first.wait_for()
        box = plots.nth(index).bounding_box()
        assert box["height"] > 250 and box["width"] > 300
    assert page.locator(".heatmaplayer image").count() == 4, "two maps, before and after each"
    shown = page.evaluate("[...document.images].map(i => [i.naturalWidth, i.alt])")
    assert len(shown) == 1 and shown[0][0] > 1000 and "cat-face" in shown[0][1]
    assert [r for r in requests if r.startswith("http")] == [] and errors == []
    assert overflow(page) <= 0
    page.screenshot(path=shots / f"report-{size}-{scheme}.png", full_page=True)
    assert axe(page) == [] and errors == []
    context.close()


def test_the_report_prints_whole(chromium, folder):
    """On paper the figures are as wide as the page, in dark ink."""
    path = next(folder.glob("*-report.html"))
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, color_scheme="dark")
    page = context.new_page()
    page.goto(path.as_uri())
    page.locator("[data-plot] .main-svg").first.wait_for()
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function(
        "[...document.querySelectorAll('[data-plot] .main-svg')]"
        ".every(svg => svg.getBoundingClientRect().width <= 700)"
    )
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(32, 36, 44)"
    assert len(page.pdf(format="A4")) > 100_000
    context.close()


def test_the_address_follows_and_a_reload_gives_the_same_view(watched):
    page = watched.open()
    page.wait_for_function("window.ditasRestored === true")
    page.wait_for_timeout(400)
    assert "?" not in page.url, "nothing is changed yet"
    page.get_by_role("radio", name="W4A4").check()
    address_has(page, bits="W4A4")
    open_tab(page, "Outliers")
    address_has(page, tab="outliers")
    layer = page.locator("#atlas-layer-name input")
    layer.fill("2.fc1")
    page.get_by_role("option", name="2.fc1").click()
    address_has(page, layer="2.fc1")
    page.get_by_role("radio", name="custom").check()
    box = page.locator("#weight-bits input[type=number]")
    box.fill("3")
    box.press("Tab")
    address_has(page, bits="W3A8")
    page.locator("#atlas-layer .js-plotly-plot .main-svg").first.wait_for()
    page.wait_for_timeout(1500)
    before, errors = page.url, len(watched.errors)
    page.reload()
    unloaded = watched.errors[errors:]  # what the old page said of its streams as it went
    assert all("abort" in text.lower() or "Connection errored" in text for text in unloaded)
    del watched.errors[errors:]
    page.wait_for_function("window.ditasRestored === true")
    expect(page.get_by_role("tab", name="Outliers")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#atlas-layer-name input")).to_have_value("2.fc1")
    expect(page.get_by_role("radio", name="custom")).to_be_checked()
    expect(page.locator("#weight-bits input[type=number]")).to_have_value("3")
    expect(page.locator("#notice")).to_contain_text("W3A8")
    page.locator("#atlas-layer .js-plotly-plot .main-svg").first.wait_for()
    page.wait_for_timeout(1200)
    assert parse_qs(urlsplit(page.url).query) == parse_qs(urlsplit(before).query)

    open_tab(page, "Take away")
    address_has(page, tab="takeaway")
    expect(page.locator("#link textarea, #link input")).to_have_value(page.url)


def test_the_first_tab_is_drawn_for_its_address_too(watched):
    page = watched.open("?bits=W8A8&convention=paper&inject=40")
    expect(page.locator("#notice")).to_contain_text("×40")
    expect(page.get_by_role("radio", name="W8A8")).to_be_checked()
    expect(page.locator("#convention input")).to_have_value("paper")
    expect(page.get_by_role("tab", name="Overview")).to_have_attribute("aria-selected", "true")
    assert query(page) == {"bits": "W8A8", "convention": "paper", "inject": "40"}


def test_a_dark_page_restores_as_well(visit):
    page = visit("desktop", "dark").open("?bits=W4A6&tab=takeaway")
    ready(page)
    expect(page.locator("#notice")).to_contain_text("W4A6")
    expect(page.locator("#take-about")).to_contain_text("W4A6")


@pytest.mark.parametrize(
    "text",
    [
        "bits=../../etc/passwd&tab=../../etc/passwd&layer=../../etc/passwd",
        "recipe=" + quote("<script>window.pwned = 1</script>") + "&convention="
        + quote('"><img src=x onerror="window.pwned = 1">'),
        "inject=NaN&alpha=NaN&seed=NaN&steps=1e9&guidance=-1&channel=" + quote("<b>"),
        "x" * 10_000 + "=1",
        quote("<svg onload=alert(1)>") + "=1&checkpoint=/etc/passwd",
    ],
    ids=["paths", "markup", "numbers", "long", "names"],
)  # fmt: skip
def test_hostile_addresses_do_no_harm(watched, text):
    page = watched.open(f"?{text}&seed=9")
    page.wait_for_function("window.ditasRestored === true")
    expect(page.locator("[data-testid=toast-body]").first).to_contain_text("left out")
    expect(page.locator("#notice")).to_contain_text("W4A8")
    assert page.evaluate("window.pwned") is None
    open_tab(page, "Compare")
    expect(page.locator("#compare-seed input")).to_have_value("9")
    address_has(page, tab="compare", seed="9")
    assert set(query(page)) <= {"tab", "seed"}, "what was wrong has gone"


def test_it_works_inside_a_frame(watched):
    """As on a hub that shows the page inside its own."""
    page = watched.page
    page.route("**/frame.html", lambda route: route.fulfill(
        content_type="text/html",
        body=f'<iframe src="{watched.url}?bits=W4A4" width="1200" height="800"></iframe>',
    ))  # fmt: skip
    page.goto(watched.url + "frame.html")
    frame = page.frame_locator("iframe")
    expect(frame.locator("#notice")).to_contain_text("W4A4")
    frame.get_by_role("radio", name="W8A8").check()
    expect(frame.locator("#notice")).to_contain_text("W8A8")
    inner = page.frames[1]
    inner.wait_for_function("location.search === '?bits=W8A8'")


def test_keyboard_only(watched):
    page = watched.open("?tab=takeaway")
    ready(page)
    page.locator("#start-takeaway").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#takeaway-status")).to_have_text(READY)
    page.locator("#take-report").focus()
    with page.expect_download() as arriving:
        page.keyboard.press("Enter")
    assert arriving.value.suggested_filename.endswith("-report.html")
    code = page.locator("#snippet .cm-scroller")
    expect(code).to_have_attribute("tabindex", "0")
    code.focus()
    page.keyboard.press("PageDown")
    page.wait_for_function("document.querySelector('#snippet .cm-scroller').scrollTop > 50")
    page.keyboard.press("Tab")
    assert not page.evaluate("!!document.activeElement.closest('#snippet .cm-scroller')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_it_fits_and_passes_axe(visit, axe, shots, bench, size, scheme):
    """Idle, waiting in the line, refused, and done."""
    seen = visit(size, scheme)
    page = seen.open("?tab=takeaway&bits=W4A4")
    ready(page)
    expect(page.locator("#snippet .cm-scroller")).to_have_attribute("tabindex", "0")
    found = [f"idle: {line}" for line in axe(page)]
    page.screenshot(path=shots / f"takeaway-{size}-{scheme}.png", full_page=True)
    if size == "desktop":
        held = [bench.line.join()]
        try:
            page.locator("#start-takeaway").click()
            expect(page.locator("#takeaway-status")).to_contain_text("number 2 in the line")
            found += [f"waiting: {line}" for line in axe(page)]
            page.locator("#cancel-takeaway").click()
            expect(page.locator("#takeaway-status")).to_contain_text("Cancelled")
            for _ in range(50):  # the place of the cancelled job is free at once
                if len(bench.line.tickets) == 1:
                    break
                page.wait_for_timeout(100)
            assert len(bench.line.tickets) == 1, "a cancelled job leaves the line"
            while len(bench.line.tickets) < bench.line.places:
                held.append(bench.line.join())
            page.locator("#start-takeaway").click()
            expect(page.locator("[data-testid=toast-body]").first).to_contain_text("Busy")
            found += [f"refused: {line}" for line in axe(page)]
        finally:
            for ticket in held:
                bench.line.leave(ticket)
    page.locator("#start-takeaway").click()
    expect(page.locator("#takeaway-status")).to_have_text(READY)
    found += [f"done: {line}" for line in axe(page)]
    assert overflow(page) <= 0
    assert found == []


def test_the_summary_is_about_the_last_comparison(watched, bench):
    """A visitor's own comparison takes the shipped one's place."""
    page = watched.open("?tab=takeaway")
    ready(page)
    expect(page.locator("#take-about")).to_contain_text("shipped")
    expect(page.locator("#take-sheet-view img")).to_have_attribute("alt", re.compile("cat-face"))
    with page.expect_download() as arriving:
        page.locator("#take-recipe").click()
    document = json.loads(Path(arriving.value.path()).read_text("utf-8"))
    assert document["convention"] == "integer" and len(document["layers"]) == 32
