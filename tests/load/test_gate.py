"""What the server answers at all: routes, files, request sizes, markup from a checkpoint."""

from __future__ import annotations

import asyncio
import html
import re
import runpy
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
import httpx
import pytest

from ditas_core.bench.machine import DEMO
from ditas_core.bench.pages import Served, Visitor, raw, served, tiny_folder
from ditas_core.checkpoints import Machine, loading_need
from ditas_core.ui.serving.gate import Gate, is_open
from ditas_core.ui.serving.limits import LEAST_CACHE_MB, Limits, read_limits
from ditas_core.ui.visitors import backend as bench_module

ALERT = "<script>alert('class')</script>"
QUOTES = '"\' onload="alert(1)" x=\''
NAMES = (ALERT, QUOTES, "<img src=x onerror=alert(2)>", "a & b", "owl")
KIB = 1024
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tiny_folder(tmp_path_factory.mktemp("gate") / "tiny", NAMES)) as page:
        for _ in page.backend.calibrated(page.backend.default, page.backend.spec):
            pass
        yield page


@pytest.fixture()
def http(page: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=page.url, timeout=20) as client:
        yield client


CLOSED = [
    "POST /gradio_api/upload",
    "GET /gradio_api/upload_progress?upload_id=x",
    "POST /gradio_api/component_server/",
    "POST /gradio_api/stream/x",
    "GET /gradio_api/deep_link?session_hash=x",
    "GET /gradio_api/token",
    "GET /gradio_api/vibe-code",
    "GET /gradio_api/mcp/sse",
    "GET /gradio_api/file/etc/passwd",
    "POST /login",
    "GET /monitoring/summary",
    "GET /docs",
    "GET /openapi.json",
    "PUT /config",
    "DELETE /",
    "OPTIONS /config",
    "TRACE /",
]


@pytest.mark.parametrize("request_line", CLOSED)
def test_what_the_page_does_not_need_is_closed(http: httpx.Client, request_line: str) -> None:
    found = http.request(*request_line.split())
    assert found.status_code == 404 and found.json() == {"detail": "not found"}


def test_every_route_of_gradios_is_either_needed_or_closed(page: Served) -> None:
    """A new version's new routes are closed until somebody has looked at them."""
    needed = re.compile(
        r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json"
        r"|/(assets|static|svelte)/\{path:path\}"
        r"|/gradio_api/(info/?|openapi\.json|app_id/?|theme\.css|startup-events|user|login_check"
        r"|queue/(join|data|status)|heartbeat/\{session_hash\}|cancel|reset/?"
        r"|call/.*|run/.*|api/.*|file=\{path_or_url:path\})"
        r"|/dial/(\{twin\}/)?\{name\}"
    )
    for route in page.demo.app.routes:
        path = getattr(route, "path", "")
        for method in getattr(route, "methods", None) or ():
            concrete = re.sub(r"\{[^}]*\}", "x", path)
            assert not is_open(method, concrete) or needed.fullmatch(path), (method, path)


FILES = [
    "/etc/passwd", "../../../../etc/passwd", "/proc/self/environ", "C:/windows/win.ini",
    "//etc/passwd", "/tmp/../etc/passwd", "\\etc\\passwd", "~/.bashrc", "/dev/zero", ".", "",
    "ditas_core/ui/app.py", "app.py", ".git/config", "/etc/passwd\0.png",
]  # fmt: skip


@pytest.mark.parametrize("path", [*FILES, "SOURCE"], ids=repr)
@pytest.mark.parametrize("route", ["gradio_api/file=", "assets/", "static/", "svelte/"])
def test_no_file_but_the_pages_own(page: Served, http: httpx.Client, route: str, path: str) -> None:
    if path == "SOURCE":
        path = f"{page.backend.entries[page.checkpoint].source}/model_index.json"
    for text in (quote(path, safe="/"), quote(path, safe=""), quote(quote(path, safe=""))):
        found = http.get(f"/{route}{text}")
        assert 400 <= found.status_code < 500, found.text[:200]
        assert len(found.text) < 100 and "root:" not in found.text


def test_the_server_fetches_nothing_for_a_visitor(http: httpx.Client) -> None:
    """By no route and in no input is an address fetched: a listener here counts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        target = f"http://127.0.0.1:{listener.getsockname()[1]}/secret"
        wanted = [target, f" {target}", target.replace("http", "https"), quote(target, safe=""),
                  f"//{target[7:]}", target.replace("http://", "http:/")]  # fmt: skip
        for route in ("proxy=", "file=", "file/", "proxy/"):
            for address in wanted:
                assert http.get(f"/gradio_api/{route}{address}").status_code in (400, 403, 404)
        with closing(Visitor(str(http.base_url).rstrip("/"))) as visitor:
            number = visitor.number("compare")
            data: Any = [{"path": target, "url": target, "meta": {"_type": "gradio.FileData"}}] * 15
            assert not visitor.ask(number, data)["success"]
        with pytest.raises(TimeoutError):
            listener.accept()


STRANGE = [
    ("GET", "queue/data?session_hash=nobody", None),
    ("GET", "queue/data?session_hash=", None),
    ("GET", "queue/data", None),
    ("GET", "call/nothing/of-that-name", None),
    ("POST", "call/v2/describe", {"data": [1], "fn_index": 1, "session_hash": "zz"}),
    ("POST", "run/describe", {"data": [1]}),
    ("POST", "cancel", {"session_hash": "x"}),
    ("POST", "cancel", {"session_hash": "x", "fn_index": 3, "event_id": "of another"}),
    ("GET", f"file={'c' * 1000}", None),
    ("GET", f"../assets/{'a' * 1900}", None),
    ("GET", f"../static/{'a/' * 90}{'b' * 300}", None),
]


def test_what_nobody_has_asked_for_leaves_no_traceback(
    http: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    for method, path, body in STRANGE:
        found = http.request(method, f"/gradio_api/{path}".replace("/gradio_api/..", ""), json=body)
        assert found.status_code < 500 and len(found.text) < 400, path
        assert "Traceback" not in found.text
    assert not [each for each in caplog.records if each.exc_info or "Traceback" in each.message]


def answer(link: socket.socket) -> tuple[int, bytes]:
    with link:
        found = link.makefile("rb").read()
    return int(found.split()[1]), found


@pytest.mark.parametrize("route", ["queue/join", "call/compare", "run/compare", "cancel"])
def test_large_requests_are_refused(page: Served, route: str) -> None:
    large = 1100 * KIB
    request = f"POST /gradio_api/{route} HTTP/1.1"
    body = b'{"data": ["' + b"x" * large + b'"]}'
    status, found = answer(raw(page.url, request, body, [f"Content-Length: {len(body)}"]))
    assert status == 413 and b"at most 1024 KiB" in found
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    chunked = piece * 17 + b"0\r\n\r\n"
    status, found = answer(raw(page.url, request, chunked, ["Transfer-Encoding: chunked"]))
    assert status == 413 and b"at most 1024 KiB" in found
    status, _ = answer(
        raw(page.url, request, b"{}", ["Content-Length: 99999999999999999999", "Connection: close"])
    )
    assert 400 <= status < 500


def test_a_request_that_fits_is_read_whole() -> None:
    """Against the gate alone: every size up to the limit arrives, chunked or not."""
    got: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        got.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    gate = Gate(app, Limits(body_bytes=16 * KIB))
    for size, status in ((20, 200), (16 * KIB, 200), (16 * KIB + 1, 413), (10**6, 413)):
        body = b'{"data":["' + b"x" * (size - 13) + b'"]}'
        parts = [body[i : i + 5000] for i in range(0, len(body), 5000)]
        for headers in ([(b"content-length", str(size).encode())], []):
            got.clear()
            assert through(gate, parts, headers)[0]["status"] == status
            assert got == ([body] if status == 200 else [])


def test_a_failure_inside_is_told_in_one_sentence() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise OSError("in a secret place")

    start, rest = through(Gate(broken), [b"{}"])
    assert start["status"] == 500 and b"secret" not in rest["body"]


def through(gate: Gate, parts: list[bytes], headers: Any = ()) -> list[Any]:
    """What is answered to one POST that arrives in parts."""
    messages = [{"type": "http.request", "body": p, "more_body": True} for p in parts]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[Any] = []
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/queue/join",
             "headers": headers, "query_string": b""}  # fmt: skip

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    with ThreadPoolExecutor(1) as pool:  # a browser's event loop may run in this thread
        pool.submit(asyncio.run, gate(scope, receive, send)).result()
    return sent


def test_the_page_itself_is_open(page: Served, http: httpx.Client) -> None:
    for address in ("/", "/config", "/theme.css", "/favicon.ico", "/gradio_api/info",
                    "/robots.txt", "/manifest.json", "/gradio_api/startup-events"):  # fmt: skip
        assert http.get(address).status_code == 200, address
    script = re.search(r'(?:src|href)="\.?(/assets/[^"]+)"', http.get("/").text)
    assert script is not None and http.get(script[1]).status_code == 200
    assert http.head("/").status_code == 200


@pytest.mark.parametrize("query", ["", "/", "?page=", "?all_endpoints=True", "?serialize=False"])
def test_no_visitor_decides_what_others_read(http: httpx.Client, query: str) -> None:
    """The first to ask comes by an address of its own making."""
    headers = {"X-Forwarded-Host": "evil.example", "X-Gradio-Server": "http://evil.example"}
    for told in (headers, {}):
        found = http.get(f"/gradio_api/info{query}", headers=told)
        assert found.status_code == 200
        assert "evil" not in found.text and "/call/v2/" not in found.text
        endpoints = found.json()["named_endpoints"]
        assert endpoints["/describe"]["parameters"][0]["label"] == "Checkpoint"


def test_nobody_stops_anybody_elses_job(page: Served) -> None:
    """Cancelling needs the session and the job's id, which only its owner has."""
    with closing(Visitor(page.url)) as owner, closing(Visitor(page.url)) as other:
        number = owner.number("compare")
        assert owner.join(number, page.compare(steps=60)).status_code == 200
        for event in ("", "x", "0" * 32):
            body = {"fn_index": number, "event_id": event, "session_hash": other.session}
            other.http.post("/gradio_api/cancel", json=body)
            other.http.post("/gradio_api/reset", json={"event_id": event})
        last = [m for m in owner.listen() if m["msg"] == "process_completed"][-1]
        assert last["success"] and len(last["output"]["data"]) > 3


def test_class_names_cannot_inject_markup(page: Served) -> None:
    """Every drawing of every tab, and a comparison of these classes: no tag of theirs survives."""
    kinds = {b._id: b for b in page.demo.blocks.values() if isinstance(b, gr.HTML | gr.Markdown)}
    props = {each["id"]: each["props"] for each in page.demo.config["components"]}
    seen = 0
    with closing(Visitor(page.url)) as visitor:
        compare = page.compare()
        compare[0], compare[1] = list(NAMES), 5
        asked = [(visitor.number("compare"), compare)]
        for fn in page.demo.fns.values():
            if str(fn.api_name).startswith("draw_"):
                values = [props.get(b._id, {}).get("value") for b in fn.inputs]
                asked.append((fn._id, [*values[: -len(page.bar())], *page.bar()]))
        for number, data in asked:
            found = visitor.ask(number, data)
            assert found["success"], (page.demo.fns[number].api_name, found)
            outputs = page.demo.fns[number].outputs
            for block, value in zip(outputs, found["output"]["data"], strict=True):
                if block._id in kinds and isinstance(value, str):
                    seen += html.escape(ALERT)[:10] in value
                    assert "<script>alert" not in value and "<img src=x" not in value
                    assert QUOTES not in value and 'onload="alert' not in value
    assert seen > 0, "the names are shown somewhere"


def test_scripts_of_the_page_build_no_markup_from_text() -> None:
    for path in (ROOT / "ditas_core" / "ui" / "static").glob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)


def test_limits_are_read_and_checked() -> None:
    assert read_limits({}).job_s == 3600 and read_limits({"SPACE_ID": "a/b"}).job_s == 300
    found = read_limits({"DITAS_JOB_SECONDS": "0", "DITAS_PLACES": "3", "DITAS_BODY_KB": "64"})
    assert (found.job_s, found.places, found.body_bytes) == (0, 3, 64 * KIB)
    for text in ("x", "nan", "inf", "-1"):
        with pytest.raises(ValueError, match="DITAS_JOB_SECONDS"):
            read_limits({"DITAS_JOB_SECONDS": text})
    least = read_limits({"DITAS_CACHE_MB": str(LEAST_CACHE_MB)}).cache_bytes
    assert loading_need(str(DEMO)).float32 <= least, "the demo starts"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("DITAS_PLACES", "abc", "DITAS_PLACES: expected a number of at least 1, got 'abc'"),
        ("DITAS_CACHE_MB", "64", "DITAS_CACHE_MB: expected a number of at least 320, got '64'"),
        ("DITAS_CACHE_MB", "320", "of memory"),
    ],
)
def test_what_the_operator_has_to_mend_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, text: str,
    said: str,
) -> None:  # fmt: skip
    """The last one is on a machine that has too little memory for any checkpoint."""
    monkeypatch.setenv(name, text)
    monkeypatch.setattr(sys, "argv", ["app.py"])
    monkeypatch.setattr(bench_module, "this_machine", lambda _: Machine(2**27, None, None))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "app.py"), run_name="__main__")
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.startswith("app.py: ") and told.count("\n") == 1
    assert said in told


def test_hostile_links_change_nothing(http: httpx.Client) -> None:
    for query in ("deep_link=../../etc", f"checkpoint={quote(ALERT)}", "session_hash=<b>",
                  "x=" + "y" * 20_000):  # fmt: skip
        found = http.get(f"/?{query}")
        assert found.status_code in (200, 400) and "root:x:" not in found.text
        assert ALERT not in found.text


def test_json_config_names_no_path(page: Served, http: httpx.Client) -> None:
    assert str(page.backend.entries[page.checkpoint].source) not in http.get("/config").text
