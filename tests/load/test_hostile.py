"""Whatever is sent to whichever endpoint: a short answer, soon, and nobody else notices."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gradio as gr
import pytest

from ditas_core.bench.pages import Served, Visitor, served, tiny_folder
from ditas_core.ui.page.bar import BarInputs
from ditas_core.ui.serving.limits import Limits

SECRET = "hf_secret_that_nobody_may_read"
SCRIPT = "<script>alert('mark')</script>"
MARK = "<script>alert("
LONG = "HOSTILE-" * 100_000
NESTED: Any = "deep"
for _ in range(300):
    NESTED = [NESTED]
HOSTILE: dict[str, Any] = {
    "NaN": float("nan"),
    "infinity": float("inf"),
    "minus infinity": float("-inf"),
    "infinity as text": "Infinity",
    "true": True,
    "1e9": 1e9,
    "a huge integer": 10**400,
    "minus one": -1,
    "null": None,
    "nothing": "",
    "800 kB": LONG,
    "deeply nested": NESTED,
    "an empty list": [],
    "half a character": "\ud800",
    "a wide list": list(range(5000)),
    "an update": {"__type__": "update", "value": SCRIPT, "choices": [[SCRIPT, SCRIPT]]},
    "a file": {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
    "an address": {
        "path": "/etc/passwd", "url": "http://127.0.0.1:9/x", "orig_name": SCRIPT,
        "meta": {"_type": "gradio.FileData"},
    },
    "HTML": SCRIPT,
    "a path": "../../../../../../etc/passwd",
    "control characters": "a\x00b\r\nSet-Cookie: x=1\u202e",
}  # fmt: skip
WRONG_ARITY: dict[str, Any] = {
    "no values": [],
    "too many": [None] * 60,
    "a text": "values",
    "an object": {"0": 1},
    "null": None,
    "a number": 7,
}
LONGEST_ERROR = 420
ANSWER_CPU_S = 5.0
"""Of the whole process; most answers take a hundredth of it."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tiny_folder(tmp_path_factory.mktemp("hostile") / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", SECRET)
        with served(folder, Limits(job_s=0.3)) as page:
            for _ in page.backend.calibrated(page.backend.default, page.backend.spec):
                pass
            yield page


@pytest.fixture()
def attacker(page: Served) -> Iterator[Visitor]:
    with closing(Visitor(page.url)) as visitor:
        yield visitor


def endpoints(page: Served) -> list[Any]:
    """Every listener that runs something on the server, public and private."""
    return [fn for fn in page.demo.fns.values() if fn.fn is not None]


def usual(page: Served, fn: Any) -> list[Any]:
    """What the page would send: the value each component opens with."""
    props = {each["id"]: each["props"] for each in page.demo.config["components"]}
    bar = dict(zip(SETUP, page.bar(), strict=True))
    found = []
    for block in fn.inputs:
        value = bar.get(str(block.elem_id), props.get(block._id, {}).get("value"))
        found.append("0.qkv" if str(block.label).lower() == "layer" and not value else value)
    return found


SETUP = (
    "checkpoint", "bits", "weight-bits", "activation-bits", "convention", "recipe", "inject",
    "strength", "dark", "backend",
)  # fmt: skip


def check(text: str, page: Served, what: str) -> None:
    """Nothing in an answer that was not meant to be told."""
    for never in ("Traceback", 'File "', "site-packages", "ditas_core/", SECRET, "root:x:", MARK):
        assert never not in text, f"{what}: {never!r} in {text[:300]}"
    assert "HOSTILE-" * 12 not in text, f"{what}: repeats what was sent"
    assert str(page.backend.entries[page.checkpoint].source) not in text, f"{what}: a path"


def send(visitor: Visitor, page: Served, number: Any, data: Any, what: str, **more: Any) -> bool:
    """Ask, check the answer; whether it was refused."""
    began = time.process_time()
    found = visitor.ask(number, data, **more)
    seconds = time.process_time() - began
    assert seconds < ANSWER_CPU_S or found.get("success"), f"{what}: {seconds:.1f} s"
    if found["msg"] == "refused":
        assert 400 <= found["status"] < 500, f"{what}: {found}"
        assert len(found["text"]) < 200
        check(found["text"], page, what)
        return True
    if not found["success"]:
        error = found["output"]["error"]
        assert isinstance(error, str) and 0 < len(error) < LONGEST_ERROR, f"{what}: {found}"
    check(json.dumps(found, ensure_ascii=False), page, what)
    return not found["success"]


def attack(page: Served, attacker: Visitor, every_input: bool) -> dict[str, int]:
    """All values against all endpoints: one input at a time, or all of them."""
    asked: dict[str, int] = {"sent": 0, "refused": 0}
    for order, fn in enumerate(endpoints(page)):
        good = usual(page, fn)
        name = f"{fn._id} {fn.api_name}"
        for place, (title, value) in enumerate(HOSTILE.items()):
            if not every_input and fn.api_visibility == "private" and (order + place) % 2:
                continue  # the slow test sends all of them
            spots = range(len(good)) if every_input else [(order + place) % max(1, len(good))]
            for spot in spots if good else []:
                label = fn.inputs[spot].label
                what = f"{name}: {title} as {label}"
                data = [*good[:spot], value, *good[spot + 1 :]]
                asked["sent"] += 1
                asked["refused"] += send(attacker, page, fn._id, data, what)
            if fn.collects_event_data:
                asked["sent"] += 1
                more = {"event_data": value, "trigger_id": 10**6}
                send(attacker, page, fn._id, good, f"{name}: {title} as event", **more)
        for title, data in WRONG_ARITY.items():
            if fn.inputs or title != "no values":
                assert send(attacker, page, fn._id, data, f"{name}: {title}"), f"{name}: {title}"
    return asked


def state_of(page: Served, session: str) -> str:
    session = page.backend.sessions.of(session)
    recipes = {name: recipe.to_json() for name, recipe in session.recipes.items()}
    return json.dumps([recipes, session.result, sorted(session.notes), repr(session.spec)])


def test_every_endpoint_against_hostile_values(
    page: Served, attacker: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    victim = Visitor(page.url)
    compare, describe = victim.number("compare"), victim.number("describe")
    assert victim.ask(compare, page.compare())["success"]
    session = page.backend.sessions.of(victim.session)
    choice = BarInputs(*page.bar()).read(page.backend)
    session.keep("the victim's own", next(iter(page.backend.recipes(session, choice).values())))
    told = victim.ask(describe, page.bar())["output"]
    before = state_of(page, victim.session)
    asked = attack(page, attacker, every_input=False)
    assert len(endpoints(page)) > 40 and asked["sent"] > 15 * 40
    assert asked["refused"] > asked["sent"] / 2
    assert state_of(page, victim.session) == before
    assert victim.ask(describe, page.bar())["output"]["data"] == told["data"]
    assert not page.backend.queue.locked()
    check_log(caplog)
    victim.close()


def check_log(caplog: pytest.LogCaptureFixture) -> None:
    failed = [record for record in caplog.records if record.exc_info]
    assert not failed, "something that was sent reached code that did not expect it"


@pytest.mark.slow
def test_every_input_of_every_endpoint_against_hostile_values(
    page: Served, attacker: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    assert attack(page, attacker, every_input=True)["sent"] > 5000
    check_log(caplog)


def test_listeners_that_do_not_exist(page: Served, attacker: Visitor) -> None:
    for number in (-1, 10**9, "compare", [1], None, 1.5, True, {"a": 1}):
        send(attacker, page, number, page.compare(), f"listener {number}")


def test_sessions_that_no_page_has(page: Served, attacker: Visitor) -> None:
    for session in ("", "a" * 65, "../x", "<b>", 7, ["a"], {"a": 1}, "a b", "é"):
        body = json.dumps({"fn_index": 0, "data": [], "session_hash": session})
        for route in ("queue/join", "call/describe", "run/describe", "cancel"):
            found = attacker.http.post(f"/gradio_api/{route}", content=body)
            assert found.status_code in (400, 404, 422), (route, session)
            check(found.text, page, route)
        assert str(session) not in page.backend.sessions.sessions


def test_bodies_that_are_no_question(page: Served, attacker: Visitor) -> None:
    bodies = [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"data": 1}',
              b'{"data": [' + b"[" * 50_000 + b"]" * 50_000 + b"]}", b"1" * 100_000]  # fmt: skip
    for body in bodies:
        for route in ("queue/join", "call/describe", "call/v2/describe", "run/describe", "cancel"):
            began = time.process_time()
            found = attacker.http.post(f"/gradio_api/{route}", content=body)
            assert 400 <= found.status_code < 500, (route, body[:20])
            assert len(found.text) < 200 and time.process_time() - began < ANSWER_CPU_S
            check(found.text, page, route)


def test_what_a_job_may_ask_for_is_capped_on_the_server(page: Served, attacker: Visitor) -> None:
    """Steps, samples, seeds, tokens, strengths: beyond either end of every number of every job."""
    jobs = [fn for fn in endpoints(page) if fn.concurrency_id == "jobs"]
    assert len(jobs) >= 8
    checked = 0
    for fn in jobs:
        good = usual(page, fn)
        for spot, block in enumerate(fn.inputs):
            if not isinstance(block, gr.Slider | gr.Number):
                continue
            bounds = (block.minimum, block.maximum)  # some numbers have theirs in the job
            beyond = [1e10, -1e10]
            if bounds != (None, None):
                beyond += [block.maximum + 1, block.minimum - 1]
            if "α" not in str(block.label):  # read only where it is drawn by hand
                beyond.append(float("nan"))
            for value in beyond:
                changed = {spot: value}
                if str(block.elem_id) == "strength":
                    changed[spot_of(fn, "inject")] = True
                data = [changed.get(i, old) for i, old in enumerate(good)]
                what = f"{fn.api_name}: {block.label} = {value}"
                assert send(attacker, page, fn._id, data, what), what
                checked += 1
    assert checked > 100


def spot_of(fn: Any, name: str) -> int:
    return next(i for i, block in enumerate(fn.inputs) if block.elem_id == name)


def test_direct_calls_do_not_get_round_the_queue(page: Served, attacker: Visitor) -> None:
    number = attacker.number("compare")
    body = json.dumps({"data": page.compare(), "fn_index": number})
    for route in ("run/compare", "api/compare"):
        found = attacker.http.post(f"/gradio_api/{route}", content=body)
        assert found.status_code == 404, found.text[:200]
    assert not page.backend.queue.locked()
