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

from ditas_core.bench.pages import until
from ditas_core.specs import Recipe
from ditas_core.ui.stored.catalogue import showcase

from .conftest import choose, expect, toast

READY = re.compile("Ready")


def ready(page) -> None:
    """The tab has been drawn: its files can be had."""
    expect(page.locator("#take-recipe")).to_be_enabled()
    expect(page.locator("#take-map-view img")).to_be_visible()


def made(page) -> None:
    """Its report too."""
    page.locator("#start-takeaway").click()
    expect(page.locator("#takeaway-status")).to_have_text(READY)


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


def test_every_file_arrives_and_is_what_it_says(watched, backend, folder, axe):
    page = watched.open("?tab=takeaway&bits=W4A4&layer=3.fc2")
    ready(page)
    recipe = Recipe.from_json(saved(page, "recipe", folder).read_text("utf-8"))
    assert recipe == backend.shipped.presets["W4A4"].recipe
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
    made(page)
    assert axe(page) == []
    report = saved(page, "report", folder)
    assert "3.fc2" in report.read_text("utf-8")
    with zipfile.ZipFile(saved(page, "zip", folder)) as bundle:
        assert len(bundle.namelist()) == 8 and bundle.testzip() is None
    page.get_by_role("radio", name="W8A8").check()
    expect(page.locator("#take-report")).to_be_disabled()
    expect(page.locator("#snippet")).to_contain_text("W8A8")


def test_a_folder_for_other_libraries(watched, folder, axe):
    """Refused with the words to choose, then made, then there: stock diffusers loads it."""
    page = watched.open("?tab=takeaway&bits=W4A8")
    ready(page)
    expect(page.locator("#take-export")).to_be_disabled()
    page.get_by_role("radio", name="Quantized, for sdnq").check()
    page.locator("#start-export").click()
    toast(page, "leave out 'divisor'")
    page.get_by_role("checkbox", name="Inputs that a layer divides itself").check()
    page.locator("#start-export").click()
    expect(page.locator("#export-status")).to_have_text(READY, timeout=300_000)
    expect(page.locator("#take-export")).to_be_enabled()
    assert axe(page) == []
    with zipfile.ZipFile(saved(page, "export", folder)) as bundle:
        assert bundle.testzip() is None
        bundle.extractall(folder)
    (made,) = (path for path in folder.glob("*-sdnq") if path.is_dir())
    about = json.loads((made / "export.json").read_text("utf-8"))
    assert list(about["left_out"]) == ["divisor"] and about["as_exported_db"]["mean"] > 5
    assert "sdnq" in (made / "README.md").read_text("utf-8")
    page.get_by_role("radio", name="Smoothed, for diffusers").check()
    expect(page.locator("#take-export")).to_be_disabled()


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_the_report_opens_without_server_or_network(
    visit, axe, folder, shots, size, scheme, demo_checkpoint
):
    seen = visit(size, scheme, offline=True)
    page, seen.url = seen.page, next(folder.glob("*-report.html")).as_uri()
    page.goto(seen.url)
    plots = page.locator("[data-plot]")
    assert plots.count() == 4
    for index in range(4):
        plots.nth(index).locator(".main-svg").first.wait_for()
        box = plots.nth(index).bounding_box()
        assert box["height"] > 250 and box["width"] > 300
    assert page.locator(".heatmaplayer image").count() == 4, "two maps, before and after each"
    shown = page.evaluate("[...document.images].map(i => [i.naturalWidth, i.alt])")
    opened = showcase(demo_checkpoint.class_names, 1)[0]
    assert len(shown) == 1 and shown[0][0] > 1000 and opened in shown[0][1]
    page.screenshot(path=shots / f"report-{size}-{scheme}.png", full_page=True)
    assert axe(page) == []


def test_the_report_prints_whole(visit, folder):
    """On paper the figures are as wide as the page, in dark ink."""
    seen = visit("desktop", "dark")
    page, seen.url = seen.page, next(folder.glob("*-report.html")).as_uri()
    page.goto(seen.url)
    page.locator("[data-plot] .main-svg").first.wait_for()
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function(
        "[...document.querySelectorAll('[data-plot] .main-svg')]"
        ".every(svg => svg.getBoundingClientRect().width <= 700)"
    )
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(32, 36, 44)"
    assert len(page.pdf(format="A4")) > 100_000
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")


def test_the_address_follows_and_a_reload_gives_the_same_view(watched):
    page = watched.open()
    page.wait_for_function("window.ditasRestored === true")
    page.get_by_role("radio", name="W4A4").check()
    address_has(page, bits="W4A4")
    assert query(page) == {"bits": "W4A4"}, "nothing else is changed yet"
    watched.tab("Outliers")
    address_has(page, tab="outliers")
    choose(page, "#atlas-layer-name", "2.fc1")
    address_has(page, layer="2.fc1")
    page.get_by_role("radio", name="custom").check()
    choose(page, "#weight-bits", "3")
    address_has(page, bits="W3A8")
    expect(page.locator("#atlas-layer-line")).to_contain_text("block 2 · fc1")
    expect(page.locator("#notice")).to_contain_text("W3A8")
    before, errors = query(page), len(watched.errors)
    page.reload()
    unloaded = watched.errors[errors:]  # what the old page said of its streams as it went
    assert all("abort" in text.lower() or "Connection errored" in text for text in unloaded)
    del watched.errors[errors:]
    page.wait_for_function("window.ditasRestored === true")
    page.locator("#settings > button").click()
    expect(page.get_by_role("tab", name="Outliers")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#atlas-layer-name input")).to_have_value("2.fc1")
    expect(page.get_by_role("radio", name="custom")).to_be_checked()
    expect(page.locator("#weight-bits input")).to_have_value("3")
    expect(page.locator("#notice")).to_contain_text("W3A8")
    expect(page.locator("#atlas-layer-line")).to_contain_text("block 2 · fc1")
    assert query(page) == before

    watched.tab("Take away")
    address_has(page, tab="takeaway")
    assert query(page) == {**before, "tab": "takeaway"}
    expect(page.locator("#link textarea, #link input")).to_have_value(page.url)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_first_tab_is_drawn_for_its_address_too(visit, scheme):
    page = visit("desktop", scheme).open("?bits=W8A8&convention=paper&inject=40")
    expect(page.locator("#notice")).to_contain_text("×40")
    expect(page.get_by_role("radio", name="W8A8")).to_be_checked()
    expect(page.locator("#convention input")).to_have_value("paper")
    expect(page.get_by_role("tab", name="Overview")).to_have_attribute("aria-selected", "true")
    assert query(page) == {"bits": "W8A8", "convention": "paper", "inject": "40"}


@pytest.mark.parametrize(
    "text",
    [
        "bits=../../etc/passwd&tab=../../etc/passwd&layer=../../etc/passwd",
        "recipe=" + quote("<script>window.pwned = 1</script>") + "&convention="
        + quote('"><img src=x onerror="window.pwned = 1">'),
        "inject=NaN&alpha=NaN&steps=1e9&guidance=-1&channel=" + quote("<b>") + "x" * 10_000 + "=1",
    ],
    ids=["paths", "markup", "numbers"],
)  # fmt: skip
def test_hostile_addresses_do_no_harm(watched, text):
    page = watched.open(f"?{text}&seed=9")
    page.wait_for_function("window.ditasRestored === true")
    toast(page, "left out")
    expect(page.locator("#notice")).to_contain_text("W4A8")
    assert page.evaluate("window.pwned") is None
    watched.tab("Compare")
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
    frame.locator("#settings > button").click()
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


def test_waiting_is_said_and_can_be_cancelled(watched, axe, backend):
    page = watched.open("?tab=takeaway")
    ready(page)
    with backend.queue.join():
        page.locator("#start-takeaway").click()
        expect(page.locator("#takeaway-status")).to_contain_text("number 2 in the line")
        assert axe(page) == []
        page.locator("#cancel-takeaway").click()
        expect(page.locator("#takeaway-status")).to_contain_text("Cancelled")
        until(lambda: len(backend.queue.tickets) == 1, 60)  # the place is free at once
