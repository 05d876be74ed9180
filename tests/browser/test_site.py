"""The site on the visitor's own device: draws what Python draws, asks nobody, needs no network."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch
from PIL import Image

from ditas_core.bench.site import DRAW, FULL, reference, same_file, served
from ditas_core.calibration import calibrate
from ditas_core.checkpoints import Checkpoint, own_cache
from ditas_core.evaluation import sqnr_db
from ditas_core.sampling import decode_latents
from ditas_core.site import RuntimeMissing, Settings, fetch_runtime, make_site
from ditas_core.specs import CalibrationSpec, SamplingSpec
from ditas_core.ui import build_app, launch_options
from ditas_core.ui.serving import device

from .conftest import ROOT, Watched, expect, overflow, playwright

OURS = "W4A8-ditas"
CLASS, SEED, STEPS, GUIDANCE = 1, 7, 20, 2.5  # those of the bench
DRAWN_MS = 180_000


@pytest.fixture(scope="session")
def site(demo_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's, with two widths and one strength of smoothing."""
    try:
        runtime = fetch_runtime(own_cache() / "web")
    except RuntimeMissing as error:
        pytest.skip(str(error))
    spec = CalibrationSpec(SamplingSpec(steps=6), samples=2, tokens=64)
    folder = tmp_path_factory.mktemp("sites") / "site"
    settings = Settings(("W4A8", "W8A8"), grid=(0.5,), opened=str(CLASS))
    calibration = calibrate(demo_checkpoint, spec)
    cache = own_cache() / "graphs"
    make_site(folder, demo_checkpoint, calibration, runtime, settings, cache, "<p>told</p>")
    return folder


@pytest.fixture(scope="module")
def url(site: Path) -> Iterator[str]:
    """In place of the app's: ``visit`` opens the site."""
    with served(site) as found:
        yield found


def ready(found: Watched, hash_: str = "") -> playwright.Page:
    found.page.goto(found.url + hash_)
    found.page.locator("html[data-ready=yes]").wait_for()
    return found.page


def draw(page: playwright.Page) -> None:
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.locator("#status")).to_have_class("status busy")
    expect(page.locator("#status")).to_have_class("status done", timeout=DRAWN_MS)


def tick(page: playwright.Page, name: str) -> None:
    page.locator(f"label[for={name}]").click()


def pixels(page: playwright.Page, at: int = 0) -> torch.Tensor:
    """A drawn picture, (H, W, 3) bytes."""
    values, side = page.evaluate(
        """at => {
          const canvas = document.querySelectorAll("#panes canvas")[at];
          const size = canvas.width;
          return [[...canvas.getContext("2d").getImageData(0, 0, size, size).data], size];
        }""",
        at,
    )
    return torch.tensor(values, dtype=torch.float32).reshape(side, side, 4)[..., :3]


def test_it_draws_asks_nobody_and_goes_on_with_the_network_off(
    visit: Callable[..., Watched], site: Path
) -> None:
    found = visit("phone")
    page = ready(found)
    draw(page)
    own = [each for each in found.requests if "/models/" in each]
    assert {each.rsplit("/", 1)[1].split(".")[0] for each in own} == {OURS, "decoder"}, (
        "full precision is fetched only when it is asked for"
    )
    expect(page.locator("#offline")).to_contain_text("network off")
    tick(page, "method-full")
    draw(page)
    assert any(f"/models/{FULL}." in each for each in found.requests)
    captions = page.locator("#panes figcaption")
    expect(captions).to_have_count(2)
    expect(captions.nth(0)).to_contain_text("dB from full precision")
    expect(captions.nth(1)).to_contain_text("ms per step")
    assert float(pixels(page, 0).std()) > 20
    assert 0 < float((pixels(page, 0) - pixels(page, 1)).abs().mean()) < 30
    words = page.locator("#maps figcaption span")
    expect(words).to_have_count(2)
    expect(words.first).to_contain_text("× the median")
    expect(page.locator("#earlier img")).to_have_count(3)
    before = pixels(page, 0)
    found.page.context.set_offline(True)
    page.reload()
    page.locator("html[data-ready=yes]").wait_for()
    expect(page.locator("#method-full")).to_be_checked()
    draw(page)
    assert torch.equal(pixels(page, 0), before)
    found.page.context.set_offline(False)


def test_latents_are_those_of_python(
    visit: Callable[..., Watched], site: Path, demo_checkpoint: Checkpoint
) -> None:
    """Full precision to a thousandth. Of W4A8 the same file on two runtimes parts where a value
    lies within its last bit of the middle between two codes: by much less than rounding costs."""
    page = ready(visit())
    found = page.evaluate(DRAW, [[FULL, OURS], CLASS, SEED, STEPS, GUIDANCE])
    full = reference(demo_checkpoint, demo_checkpoint.transformer)
    ours = reference(demo_checkpoint, same_file(site, OURS, demo_checkpoint))
    browser = {
        key: torch.tensor(each["latents"]).reshape(full.shape) for key, each in found.items()
    }
    assert float((browser[FULL] - full).abs().max()) <= 1e-3
    apart, rounding = sqnr_db(ours, browser[OURS]), sqnr_db(full, ours)
    assert float(apart) > float(rounding) + 6
    assert float(sqnr_db(full, browser[OURS])) == pytest.approx(float(rounding), abs=3)


def test_the_picture_is_that_of_python(
    visit: Callable[..., Watched], demo_checkpoint: Checkpoint
) -> None:
    page = ready(visit())
    tick(page, f"method-{FULL}")
    tick(page, "method-ditas")
    draw(page)
    latents = reference(demo_checkpoint, demo_checkpoint.transformer)
    expected = decode_latents(demo_checkpoint.vae, latents)[0].permute(1, 2, 0) * 255
    assert float((pixels(page) - expected).abs().max()) < 12, "the decoder is in 8 bits"
    assert float((pixels(page) - expected).abs().mean()) < 0.7


def test_an_address_brings_back_what_it_was_made_of(
    visit: Callable[..., Watched], demo_checkpoint: Checkpoint
) -> None:
    name = demo_checkpoint.class_names[-1]
    page = ready(visit(), f"#class={quote(name)}&seed=11&bits=W8A8&with=plain&steps=10&guidance=4")
    expect(page.locator("#bits-W8A8")).to_be_checked()
    expect(page.locator("#method-plain")).to_be_checked()
    expect(page.locator("#method-ditas")).not_to_be_checked()
    assert page.locator("#class option:checked").inner_text() == name.replace("-", " ")
    assert page.locator("#seed").input_value() == "11"
    draw(page)
    expect(page.locator("#said")).to_contain_text("heart, seed 11")
    hostile = "#class=%3Cimg src=x onerror=alert(1)%3E&seed=-1&bits=W9&with=x&steps=99&guidance=x"
    page = ready(visit(), hostile)
    assert page.locator("#seed").input_value() == "7"
    expect(page.locator("#bits-W4A8")).to_be_checked()
    expect(page.locator("#method-ditas")).to_be_checked()


def test_it_can_be_stopped_and_draws_again(visit: Callable[..., Watched]) -> None:
    page = ready(visit(), "#steps=50")
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.locator("#panes figcaption")).to_contain_text("step 2 of 50", timeout=DRAWN_MS)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#said")).to_have_text("Stopped.")
    page.locator("summary").click()
    page.locator("#steps").select_option("10")
    draw(page)
    expect(page.locator("#panes figcaption")).to_contain_text("ms per step")


def test_a_picture_is_saved(
    visit: Callable[..., Watched], tmp_path: Path, demo_checkpoint: Checkpoint
) -> None:
    page = ready(visit(), "#steps=10&with=ditas,plain")
    draw(page)
    with page.expect_download() as told:
        page.get_by_role("button", name="Save picture").click()
    told.value.save_as(tmp_path / "saved.png")
    name = demo_checkpoint.class_names[CLASS].replace(" ", "-")
    assert told.value.suggested_filename == f"{name}-7-W4A8-ditas-W4A8-plain.png"
    with Image.open(tmp_path / "saved.png") as image:
        assert image.size == (1024, 512)


def test_by_keyboard_alone(visit: Callable[..., Watched], demo_checkpoint: Checkpoint) -> None:
    page = ready(visit("phone"), "#steps=10")
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        if reached[-1] == "bits-W4A8":
            page.keyboard.press("ArrowLeft")
            expect(page.locator("#bits-W8A8")).to_be_checked()
        if reached[-1] == "method-plain":
            page.keyboard.press("Space")
            expect(page.locator("#method-plain")).to_be_checked()
        if reached[-1] == "draw":
            break
    assert reached == [
        "class", "seed", "dice", "bits-W4A8", "method-ditas", "method-plain", "method-full",
        "SUMMARY", "draw",
    ]  # fmt: skip
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_class("status done", timeout=DRAWN_MS)
    expect(page.get_by_role("status")).to_contain_text("Drawn in")
    name = demo_checkpoint.class_names[CLASS].replace("-", " ")
    drawn = page.get_by_role("img", name=f"{name}, drawn with W8A8 · plain rounding")
    expect(drawn).to_be_visible()


@pytest.mark.parametrize("size", ["phone", "desktop"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_anyone_can_read_it(
    visit: Callable[..., Watched], axe: Any, shots: Path, size: str, scheme: str
) -> None:
    found = visit(size, scheme, bypass_csp=True)  # the checks are a script from elsewhere
    page = ready(found, "#steps=10&with=ditas,full")
    page.locator("summary").click()
    assert axe(page) == []
    page.locator("summary").click()
    draw(page)
    assert axe(page) == [] and overflow(page) <= 0
    page.screenshot(path=shots / f"site-{size}-{scheme}.png", full_page=True)
    small = page.evaluate(
        """wanted => [...document.querySelectorAll(wanted)]
          .filter(each => each.offsetHeight && each.offsetHeight < 44).map(each => each.id)""",
        "button, select, input[type=number], .choices label, .segments label",
    )
    assert small == [], "a finger needs 44 px"


def test_a_browser_that_cannot_says_so(visit: Callable[..., Watched]) -> None:
    found = visit("phone")
    found.page.add_init_script("delete window.WebAssembly")
    found.page.goto(found.url)
    expect(found.page.get_by_role("alert")).to_contain_text("it lacks WebAssembly")
    expect(found.page.locator("#form")).to_be_hidden()


def test_a_model_that_cannot_be_had_is_a_line_and_not_the_end(
    visit: Callable[..., Watched], site: Path
) -> None:
    found = visit()
    page = ready(found, "#steps=10&with=plain")
    page.route("**/models/W4A8-plain*", lambda route: route.fulfill(status=503))
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.locator("#said")).to_contain_text("expected a file, got 503")
    page.unroute("**/models/W4A8-plain*")
    draw(page)
    found.errors = [each for each in found.errors if "503" not in each]


def test_the_page_leads_to_it(
    chromium: Any, backend: Any, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the app's own gate, with the headers that allow several threads."""
    monkeypatch.setenv(device.VARIABLE, str(site))
    demo = build_app(backend)
    _, local, _ = demo.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options()
    )
    context = chromium.new_context()
    page = context.new_page()
    page.goto(local)
    with context.expect_page() as opened:
        page.get_by_role("link", name="Draw on your device").click()
    found = Watched(opened.value, local)
    found.page.on("request", lambda request: found.requests.append(request.url))
    found.page.locator("html[data-ready=yes]").wait_for()
    assert found.page.url.startswith(f"{local}device/")
    assert found.page.evaluate("self.crossOriginIsolated")
    draw(found.page)
    found.check()
    manifest = json.loads((site / "manifest.json").read_text(encoding="utf-8"))
    expect(found.page.locator("#facts")).to_contain_text(manifest["name"])
    context.close()
    demo.close()


def test_the_bench_reports_sizes_times_and_distances(site: Path) -> None:
    words = ["bench", "site", "--site", str(site), "--draws", "1", "--json"]
    run = subprocess.run(
        [sys.executable, "-m", "ditas_core", *words], capture_output=True, text=True, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout.splitlines()[-1])
    values, targets = report["values"], report["targets"]
    assert set(values) == set(targets)
    for name in ("download_mb", "code_mb", "full_latents"):
        assert 0 < values[name] <= targets[name], name
    assert len(report["seconds"]) == len(report["processor_seconds"]) == 2
    assert report["sizes"]["decoder_psnr"] > 45
    near, rounding = (
        report["apart_db"][f"{one} and {other}"]
        for one, other in (("browser", "Python, the same file"), ("Python", "full precision"))
    )
    assert near > rounding + 6
