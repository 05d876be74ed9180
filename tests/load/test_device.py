"""The site for the visitor's own device, served beside the page: made once, and nothing but it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ditas_core.bench.pages import served, tiny_folder
from ditas_core.site import VERSION, runtime
from ditas_core.ui.serving import device as module
from ditas_core.ui.serving.device import Device, place_of

PATIENCE_S = 600


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What lies where a site was made beforehand."""
    site = tmp_path_factory.mktemp("made") / "site"
    (site / "models").mkdir(parents=True)
    for name, content in {
        "manifest.json": "{}", "index.html": "<title>site</title>", "engine.js": "1;",
        "models/W4A8-ditas.0123456789.onnx.gz": "\x1f\x8b",
    }.items():  # fmt: skip
        (site / name).write_text(content, encoding="utf-8")
    (site.parent / "secret.txt").write_text("not in the site")
    (site / "link.txt").symlink_to(site.parent / "absent.txt")
    return site


@pytest.fixture(scope="module")
def http(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(module.VARIABLE, str(folder))
        tiny = tiny_folder(tmp_path_factory.mktemp("device") / "tiny")
        with served(tiny) as page, httpx.Client(base_url=page.url, timeout=20) as client:
            yield client


def test_a_site_made_beforehand_is_served_with_its_headers(http: httpx.Client) -> None:
    assert http.get("/device").headers["location"] == "device/"
    page = http.get("/device/")
    assert page.status_code == 200 and page.text == "<title>site</title>"
    for header, value in module.HEADERS.items():
        assert page.headers[header] == value
    assert page.headers["cache-control"] == "no-cache"
    script = http.get("/device/engine.js")
    assert script.headers["content-type"].startswith("text/javascript")
    model = http.get("/device/models/W4A8-ditas.0123456789.onnx.gz")
    assert "immutable" in model.headers["cache-control"]
    assert model.headers["content-type"] == "application/octet-stream"
    assert "content-encoding" not in model.headers
    again = http.get("/device/engine.js", headers={"if-none-match": script.headers["etag"]})
    assert again.status_code == 304 and again.content == b""


@pytest.mark.parametrize(
    "path",
    ["../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt", "%2fetc/passwd", "models", "models/",
     "link.txt", "absent.js", "//engine.js", "engine.js/", "%00", "index.html%00"],
)  # fmt: skip
def test_nothing_but_the_site_is_served(http: httpx.Client, path: str) -> None:
    found = http.get(f"/device/{path}")
    assert found.status_code == 404 and "secret" not in found.text


def test_only_reading_is_answered(http: httpx.Client) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert http.request(method, "/device/engine.js").status_code == 404
    assert http.head("/device/engine.js").content == b""


@pytest.fixture()
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, for this process and those that it starts."""
    from huggingface_hub import constants

    monkeypatch.delenv(module.VARIABLE, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def ended(worker: threading.Thread | None) -> None:
    """Wait for the work to end."""
    assert worker is not None
    worker.join(PATIENCE_S)
    assert not worker.is_alive()


def test_the_first_visitor_has_it_made_and_all_others_wait_for_the_same(
    home: Path, tmp_path: Path
) -> None:
    """In a process of its own, with the runtime's files in place of a network."""
    kept = home / "ditas" / "web" / f"{runtime.PACKAGE}-{VERSION}"
    kept.mkdir(parents=True)
    for name in runtime.FILES:
        (kept / name).write_text(name)
    tiny = tiny_folder(tmp_path / "tiny")
    devices = [Device(source=tiny) for _ in range(2)]  # as two processes of one server
    assert not any(device.ready() for device in devices for _ in range(3))
    workers = [device.worker for device in devices]
    assert "It is being made" in bytes(devices[0].waiting("index.html").body).decode()
    assert not devices[0].ready() and devices[0].worker is workers[0]
    for worker in workers:
        ended(worker)
    assert [device.failed_at for device in devices] == [0.0, 0.0]
    assert all(device.ready() for device in devices)
    assert sum(device.process is not None for device in devices) == 1
    assert {path.name for path in (home / "ditas" / "sites").iterdir()} == {
        place_of(tiny).name, f"{place_of(tiny).name}.lock",
    }  # fmt: skip
    models = {name for name in devices[0].files if name.startswith("models/")}
    assert len(models) == 1 + 2 * 3 + 1


def test_a_site_that_cannot_be_made_says_so_and_is_not_tried_at_every_visit(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    logger = logging.Logger("device")  # whatever other tests have made of the process's own
    logger.addFilter(lambda record: bool(said.append(record.getMessage())))
    monkeypatch.setattr(logging.root.manager, "disable", logging.NOTSET)  # a command does that
    monkeypatch.setattr(module, "logger", logger)
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9")
    device = Device(source=tiny_folder(tmp_path / "tiny"))
    assert not device.ready()
    ended(device.worker)
    first = device.worker
    assert "from the npm registry" in said[0]
    page = bytes(device.waiting("index.html").body).decode()
    assert "cannot be made on this server" in page and "registry" not in page
    assert not device.ready() and device.worker is first
    device.failed_at -= 2 * module.AGAIN_S
    assert not device.ready() and device.worker is not first
    ended(device.worker)
    assert [path.suffix for path in (home / "ditas" / "sites").iterdir()] == [".lock"]
