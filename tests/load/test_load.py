"""Many visitors, cancels, closed tabs, deadlines, expiry: quick here, with all figures as slow.

The full figures are also a command: ``python -m ditas_core bench load``.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from writers import WRITERS, kill_all

from ditas_core.bench.load import begin, crowd, cycles, joins, kept, leaving, slowed, soak
from ditas_core.bench.pages import Served, Visitor, served, tiny_folder, until
from ditas_core.cli import main
from ditas_core.ui.app import ANSWERS_AT_ONCE
from ditas_core.ui.page.bar import BarInputs
from ditas_core.ui.serving.blocks import SESSIONS, SmallSession, forget_unread
from ditas_core.ui.serving.cleanup import clean_once, clean_regularly, sweep_files
from ditas_core.ui.serving.limits import Limits
from ditas_core.ui.visitors.cache import ALONE, size_of
from ditas_core.ui.visitors.session import Sessions

STOPPED_S = 20.0
"""Ends a test that hangs: left alone, a slowed job of 100 steps takes twice as long."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tiny_folder(tmp_path_factory.mktemp("load") / "tiny")) as page:
        yield page


@pytest.fixture()
def visitor(page: Served) -> Iterator[Visitor]:
    with closing(Visitor(page.url)) as visitor:
        yield visitor


@pytest.fixture(scope="module")
def hurried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A page whose operator allows jobs of two seconds."""
    folder = tiny_folder(tmp_path_factory.mktemp("hurried") / "tiny")
    with served(folder, Limits(job_s=2.0)) as page:
        yield page


# the figures, small and whole


@pytest.mark.parametrize(("clients", "jobs"), [(3, 2), pytest.param(8, 10, marks=pytest.mark.slow)])
def test_clients_get_what_they_would_get_alone(page: Served, clients: int, jobs: int) -> None:
    found = crowd(page, clients, jobs)
    assert kept({"crowd": found}) == {"crowd": True}, found


@pytest.mark.slow
def test_start_and_cancel_leave_nothing(page: Served) -> None:
    found = cycles(page, 50)
    assert kept({"cycles": found}) == {"cycles": True}, found


def test_the_figures_are_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "load", "--only", "cycles", "--cycles", "4", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = report["parts"]["cycles"]
    assert set(report["kept"]) == {"cycles"} and found["cycles"] == 4
    assert found["hooks_left"] == 0 and found["weights_unchanged"] and found["growth_mb"] < 50


def test_a_closed_tab_ends_its_work(page: Served) -> None:
    assert set(leaving(page)["stopped_s"]) == {"stream", "heartbeat", "both"}


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_connection_that_dies_late_ends_nothing(
    page: Served, visitor: Visitor, newest_first: bool
) -> None:
    """The page has connected anew before the network tells that the first is dead."""
    passes: list[None] = []
    transformer = page.backend.checkpoint(page.backend.default).transformer
    with slowed(page), transformer.register_forward_hook(lambda *_: passes.append(None)):
        visitor.open()
        first = visitor.beats
        _, messages = begin(page, visitor, visitor.number("compare"), 21 + newest_first)
        visitor.open()
        second = visitor.beats
        assert first is not None and second is not None
        told = b""
        while b"data: ALIVE" not in told:
            told += second.recv(1000)
        one, other = (second, first) if newest_first else (first, second)
        one.close()
        so_far = len(passes)
        until(lambda: len(passes) > so_far + 3, STOPPED_S)  # the work goes on
        session = page.backend.sessions.of(visitor.session)
        assert page.backend.queue.locked() and not session.left
        other.close()
        until(lambda: not page.backend.queue.locked(), STOPPED_S)
        assert session.left
        messages.close()


def test_a_late_question_does_not_keep_the_work_of_a_closed_tab(
    page: Served, visitor: Visitor
) -> None:
    with slowed(page):
        _, messages = begin(page, visitor, visitor.number("compare"), 31)
        page.backend.sessions.leave(visitor.session)
        assert not page.backend.sessions.of(visitor.session).left, "who asks is here"
        until(lambda: not page.backend.queue.locked(), STOPPED_S)
        messages.close()


@pytest.mark.slow
def test_a_long_day(page: Served) -> None:
    found = soak(page, 200)
    assert kept({"soak": found}) == {"soak": True}, found


def test_a_rush(page: Served) -> None:
    found = joins(page, 100)
    assert found["accepted"] + found["turned_away"] == 100 and found["turned_away"] > 0, found
    assert found["told_busy"] > 0 and found["views"] > 0, found


@pytest.mark.parametrize("kills", [2, pytest.param(100, marks=pytest.mark.slow)])
def test_no_killed_writer_leaves_half_a_file_that_loads(kills: int) -> None:
    found = kill_all(kills)
    assert set(found) == set(WRITERS)
    assert not [one for one in found.values() if one["wrong"]], found
    assert sum(each["whole"] for each in found.values()) > 0


# the deadline


def two_recipes(page: Served) -> list[Any]:
    data = page.compare(steps=10)
    data[5] = ["plain rounding", "smoothing α = 0.5"]
    return data


def test_the_longest_job_ends_and_keeps_what_it_has(hurried: Served) -> None:
    """Again and again the same job, until what was kept is all that it needs."""
    slow = slowed(hurried, 0.08)
    with closing(Visitor(hurried.url)) as visitor:
        number = visitor.number("compare")
        data = hurried.compare(steps=10)
        data[5] = ["plain rounding", "smoothing α = 0.5"]
        lines = []
        for _ in range(12):
            found = visitor.ask(number, data)
            assert found["success"] and not hurried.backend.queue.locked()
            line, start, cancel = found["output"]["data"][:3]
            assert start["interactive"] and not cancel["interactive"]
            lines.append(line)
            if "done" in line:
                break
            slow.remove()  # the first is too long anywhere; a busy machine needs no more of it
    assert "Stopped after 2 s, the longest a job may take here" in lines[0]
    assert "done" in lines[-1] and len(lines) > 1
    checkpoint = hurried.backend.checkpoint(hurried.backend.default)
    assert not any(m._forward_pre_hooks for m in checkpoint.transformer.modules())


# the line


def test_who_finds_the_line_full_is_told_at_once(page: Served, visitor: Visitor) -> None:
    """The places stay taken meanwhile."""
    tickets = [page.backend.queue.join() for _ in range(page.backend.limits.places)]
    try:
        found = visitor.ask(visitor.number("compare"), page.compare())
        assert not found["success"] and found["output"]["error"].startswith("Busy: 8 jobs run")
    finally:
        for ticket in tickets:
            page.backend.queue.leave(ticket)


def test_somebody_who_waits_and_leaves_gives_up_the_place(page: Served, visitor: Visitor) -> None:
    held = page.backend.queue.join()
    assert visitor.join(visitor.number("compare"), page.compare()).status_code == 200
    until(lambda: len(page.backend.queue.tickets) == 2, STOPPED_S)
    page.backend.sessions.leave(visitor.session)
    until(lambda: len(page.backend.queue.tickets) == 1, STOPPED_S)
    page.backend.queue.leave(held)


def test_a_cancelled_job_leaves_its_place_to_the_next(page: Served, visitor: Visitor) -> None:
    found: list[Any] = []
    number = visitor.number("compare")
    with slowed(page), closing(Visitor(page.url)) as second:
        event, _ = begin(page, visitor, number, 5)
        waiting = threading.Thread(target=lambda: found.append(second.ask(number, page.compare())))
        waiting.start()
        until(lambda: len(page.backend.queue.tickets) == 2, STOPPED_S)
        visitor.cancel(number, event)
        waiting.join(30)
    assert found[0]["success"] and "done" in found[0]["output"]["data"][0]


# questions to the page


def test_all_tabs_share_the_places_for_questions(
    page: Served, visitor: Visitor, monkeypatch: Any
) -> None:
    """Twelve questions to three tabs; a job does not wait for them, and they get no more room."""
    names = ("describe", "draw_overview", "draw_outliers")
    asked = {f.api_name: (n, f) for n, f in page.demo.fns.items() if f.api_name in names}
    lock, now, most, go = threading.Lock(), 0, 0, threading.Event()

    def slow(*_: Any) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        go.wait(20)
        with lock:
            now -= 1
        raise gr.Error("enough")

    for _, listener in asked.values():
        monkeypatch.setattr(listener, "fn", slow)
    visitors = [Visitor(page.url) for _ in range(12)]
    for one, (number, listener) in zip(visitors, 4 * list(asked.values()), strict=True):
        values = [getattr(each, "value", None) for each in listener.inputs]
        assert one.join(number, values).status_code == 200
    until(lambda: now == ANSWERS_AT_ONCE, STOPPED_S)
    assert visitor.ask(visitor.number("compare"), page.compare())["success"]
    go.set()
    assert most == ANSWERS_AT_ONCE
    for one in visitors:
        assert [m for m in one.listen() if m["msg"] == "process_completed"]
        one.close()


def test_who_is_turned_away_is_told_in_words(
    page: Served, visitor: Visitor, monkeypatch: Any
) -> None:
    monkeypatch.setattr(page.demo._queue, "max_size", 0)
    answer = visitor.join(visitor.number("describe"), page.bar())
    assert answer.status_code == 503 and answer.json()["detail"].startswith("busy: too many")


# what is kept of visitors, and for how long


def test_a_hundred_visitors_who_left_are_forgotten() -> None:
    sessions = Sessions(expires_s=60, left_s=20)
    for number in range(100):
        sessions.of(f"v{number}").notes["x"] = number
    for number in range(99):
        sessions.leave(f"v{number}")
    sessions.leave("nobody")
    assert sessions.sweep() == 0 and len(sessions.sessions) == 100
    assert sessions.of("v6").notes == {"x": 6} and sessions.of("v6").left == 0, "back in time"
    for session in sessions.sessions.values():
        session.left -= 21 if session.left else 0
    assert sessions.of("v7").notes == {"x": 7}, "not swept yet"
    assert set(sessions.sessions) == {"v6", "v7", "v99"}


def test_a_desk_with_work_under_way_stays() -> None:
    sessions = Sessions(most=4)
    busy, rich = sessions.of("busy"), sessions.of("rich")
    with busy.working(), rich.working():
        sessions.leave("busy")
        busy.touched = rich.touched = busy.left = -1e9
        assert sessions.sweep() == 0
        for number in range(20):
            sessions.of(f"flood {number}")
        assert {"busy", "rich"} <= set(sessions.sessions) and len(sessions.sessions) == 4
    assert busy.touched > 0, "seen until its job ended"
    assert sessions.sweep() == 1 and "busy" not in sessions.sessions, "its tab was closed"
    sessions = Sessions(most=3)
    sessions.of("owner").result = "something"
    for number in range(20):
        sessions.of(f"flood {number}")
    assert "owner" in sessions.sessions and len(sessions.sessions) == 3, (
        "who has nothing makes room first"
    )
    with sessions.of("a").working(), sessions.of("b").working(), sessions.of("owner").working():
        assert sessions.of("c") is sessions.of("c") and len(sessions.sessions) == 4


def test_a_job_of_a_crowded_page_is_stopped_by_its_visitor(page: Served, visitor: Visitor) -> None:
    """205 others come while it runs; its heartbeat ends, its stream does not: it is told."""
    with slowed(page), closing(Visitor(page.url)) as other:
        visitor.open()
        _, messages = begin(page, visitor, visitor.number("compare"), 11)
        for each in range(205):
            page.backend.sessions.of(f"flood {each}")
        assert other.ask(other.number("describe"), page.bar())["success"]
        assert visitor.session in page.backend.sessions.sessions
        assert visitor.beats is not None
        visitor.beats.close()
        until(lambda: not page.backend.queue.locked(), STOPPED_S)
        last = [message for message in messages if message["msg"] == "process_completed"][-1]
    line, start, cancel = last["output"]["data"][:3]
    assert "connection to this page was lost" in line
    assert start["interactive"] and not cancel["interactive"]


@pytest.mark.parametrize("way", ["cancel", "tab"])
def test_a_forward_pass_is_not_waited_for(page: Served, visitor: Visitor, way: str) -> None:
    """A large model's may take longer than anybody waits: the work ends between two blocks."""
    begun: list[int] = []
    blocks = page.backend.checkpoint(page.backend.default).transformer.transformer_blocks

    def long(number: int) -> None:
        begun.append(number)
        time.sleep(0.5)  # stands for a large block's work

    slow = [
        block.register_forward_pre_hook(lambda *_, n=n: long(n)) for n, block in enumerate(blocks)
    ]
    start, cancel, end = listeners_of(page, "compare")
    visitor.open()
    event, _ = begin(page, visitor, start, 13)
    so_far = len(begun)
    until(lambda: begun[so_far:].count(0) == 2, STOPPED_S)  # in the first block of a pass
    if way == "cancel":
        assert "Stopping" in asked_directly(visitor, page, cancel, [])[0]
        until(lambda: not page.backend.queue.locked(), STOPPED_S)
        visitor.cancel(start, event)
        line = asked_directly(visitor, page, end, page.compare(seed=13, steps=100))[0]
        assert "Cancelled" in line
    else:
        assert visitor.beats is not None
        visitor.beats.close()
        until(lambda: not page.backend.queue.locked(), STOPPED_S)
    assert begun[-1] == 0, "the second block has not run any more"
    for each in slow:
        each.remove()


def asked_directly(visitor: Visitor, page: Served, number: int, data: Any) -> list[Any]:
    """What a listener without a queue answers."""
    body = {"fn_index": number, "data": data, "session_hash": visitor.session}
    found = visitor.http.post("/gradio_api/run/predict", json=body)
    assert found.status_code == 200, found.text
    answer: list[Any] = found.json()["data"]
    return answer


def listeners_of(page: Served, name: str) -> tuple[int, int, int]:
    """Numbers of a job's start, of its Cancel and of what follows its end."""
    start = next(n for n, fn in page.demo.fns.items() if fn.api_name == name)
    button = page.demo.fns[start].outputs[2]._id
    others = page.demo.fns.items()
    cancel = next(n for n, fn in others if (button, "click") in fn.targets and fn.fn)
    end = next(n for n, fn in others if fn.trigger_after == start and fn.trigger_only_on_failure)
    return start, cancel, end


@pytest.mark.parametrize("first", ["cancel", "end"])
def test_whichever_answer_to_cancel_comes_first(page: Served, visitor: Visitor, first: str) -> None:
    start, cancel, end = listeners_of(page, "compare")
    data = page.compare(seed=12, steps=100)
    with slowed(page):
        event, _ = begin(page, visitor, start, 12)
        if first == "cancel":
            assert "Stopping" in asked_directly(visitor, page, cancel, [])[0]
        visitor.cancel(start, event)
        line, begun, ended = asked_directly(visitor, page, end, data)[:3]
        assert "Cancelled" in line and begun["interactive"] and not ended["interactive"]
        if first == "end":  # too late: nothing changes
            assert "Stopping" not in json.dumps(asked_directly(visitor, page, cancel, []))
            assert visitor.ask(start, page.compare(seed=12))["success"]
            asked_directly(visitor, page, cancel, [])
            assert "Cancelled" not in json.dumps(asked_directly(visitor, page, end, data))
        # the next ones do not run, which is another thing
        for wrong in ([*data[:3], -1, *data[4:]], [*data[:2], -1, *data[3:]]):
            assert not visitor.ask(start, wrong)["success"]
            assert "Not run" in asked_directly(visitor, page, end, data)[0]


def test_housekeeping_goes_on_by_itself_and_ends_with_the_page(page: Served) -> None:
    page.backend.sessions.of("gone for long").touched = -1e9
    thread = clean_regularly(page.backend, page.demo, every_s=0.05)
    until(lambda: "gone for long" not in page.backend.sessions.sessions, STOPPED_S)
    assert thread.daemon


def test_who_is_still_known_may_use_own_recipes_whatever_gradio_has_forgotten(
    page: Served, visitor: Visitor
) -> None:
    """Gradio's sessions make room by last use, sessions with something on them do not."""
    describe, compare = visitor.number("describe"), visitor.number("compare")
    ask = page.compare()
    ask[5] = ["mine"]
    assert "expected one of" in visitor.ask(compare, ask)["output"]["error"], "not yet"
    session = page.backend.sessions.of(visitor.session)
    choice = BarInputs(*page.bar()).read(page.backend)
    session.keep("mine", page.backend.recipes(session, choice)["smoothing α = 0.5"])
    assert visitor.ask(describe, page.bar(recipe="mine"))["success"]
    assert visitor.ask(compare, ask)["success"]
    page.demo.state_holder.session_data.clear()
    assert visitor.ask(compare, ask)["success"]
    session.recipes.clear()
    assert "recipe yet" in str(visitor.ask(describe, page.bar(recipe="mine"))["output"])


def test_sessions_are_small_and_bounded(page: Served, visitor: Visitor) -> None:
    assert page.demo.app.state_holder.capacity == SESSIONS
    number = visitor.number("describe")
    for index in range(SESSIONS + 20):
        visitor.session = f"visitor{index}"
        assert visitor.ask(number, page.bar())["success"]
    sessions = page.demo.app.state_holder.session_data
    assert len(sessions) <= SESSIONS and len(page.backend.sessions.sessions) <= SESSIONS
    assert all(isinstance(each, SmallSession) for each in sessions.values())
    assert not any(each.config_values for each in sessions.values())
    assert len(page.demo._queue.event_analytics) <= 100


def test_answers_that_nobody_fetches_are_dropped(page: Served) -> None:
    queue = page.demo._queue
    queue.pending_event_ids_session["nobody"] = {"an event"}
    forget_unread(page.demo)
    assert "nobody" not in queue.pending_event_ids_session
    for number in range(queue.pending_messages_per_session.max_size + 50):
        queue.pending_messages_per_session[f"unread {number}"] = None
    assert len(queue.pending_messages_per_session) <= 512
    queue.pending_messages_per_session.clear()


# memory and disk


def test_what_is_cached_is_counted_in_bytes() -> None:
    @dataclass(frozen=True)
    class Run:
        latents: torch.Tensor
        name: str = "x" * 10
        more: dict[str, Any] = field(default_factory=dict)

    tensor = torch.zeros(1000)
    assert size_of(tensor) == 4000
    assert 4000 <= size_of(Run(tensor)) < 4600
    nested = Run(tensor, more={"images": [np.zeros((10, 10)), (tensor, tensor)]})
    assert 12_800 <= size_of(nested) < 14_000
    assert size_of(torch.nn.Linear(10, 10)) == 440
    assert size_of(object()) == ALONE and size_of("text" * 100) == 400


def test_files_beyond_the_limit_go_oldest_first_but_fresh_ones_stay(tmp_path: Path) -> None:
    files = []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        path.write_bytes(b"x" * 1000)
        age = 1000 * (6 - number) if number < 5 else 0
        os.utime(path, (time.time() - age, time.time() - age))
        files.append(str(path))
    assert sweep_files([*files, str(tmp_path / "missing")], most=10_000) == 0
    assert sweep_files(files, most=4000) == 2
    assert sorted(each.name for each in tmp_path.iterdir()) == [f"{i}.png" for i in range(2, 6)]
    assert sweep_files(files, most=0) == 3, "the youngest is about to be fetched"


def test_the_page_sweeps_what_gradio_wrote_for_it(page: Served, tmp_path: Path) -> None:
    old = tmp_path / "old.png"
    old.write_bytes(b"x" * 5000)
    os.utime(old, (1, 1))
    page.demo.temp_file_sets[0].add(str(old))
    clean_once(page.backend, page.demo)
    assert old.exists(), "within the limit"
    small = Limits(disk_bytes=1000)
    limits, page.backend.limits = page.backend.limits, small
    clean_once(page.backend, page.demo)
    page.backend.limits = limits
    assert not old.exists()
