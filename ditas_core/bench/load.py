"""Many visitors and a long day, on a page about a model of two blocks with random weights.

    python -m ditas_core bench load
    python -m ditas_core bench load --only cycles --cycles 50

Serves the page on loopback and speaks to it over plain HTTP. Each part has its figure:

    crowd    8 clients x 10 jobs give what the same jobs give one after another, and nobody
             gets a word of somebody else's
    cycles   50 starts and cancels: no hook is left, the weights are what they were, memory
             grows by less than 50 MB, the work ends within 5 s
    leaving  tabs closed in the middle of a job, in three ways: the work ends within 5 s
    soak     200 jobs, a new visitor every fourth: memory grows by less than 0.5 MB a job
    joins    100 jobs asked for within a second: the page answers in less than 1 s meanwhile,
             whoever is refused is told so at once
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ditas_core.checkpoints import fingerprint
from ditas_core.cli.parsing import number
from ditas_core.ui.serving.limits import Limits

from .machine import describe
from .pages import Served, Visitor, raw, rss_mb, served, tiny_folder, until

PARTS = ("crowd", "cycles", "leaving", "soak", "joins")
STOPPED_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=PARTS, help="one part; default: all")
    parser.add_argument("--clients", type=number(int, 1, 32), default=8)
    parser.add_argument("--jobs", type=number(int, 1, 100), default=10, help="per client")
    parser.add_argument("--cycles", type=number(int, 1, 1000), default=50)
    parser.add_argument("--soak", type=number(int, 20, 10_000), default=200, help="jobs")
    parser.add_argument("--joins", type=number(int, 1, 1000), default=100)


TIMED = re.compile(r"<td>[0-9.]+</td></tr>|[0-9.]+ ms a step")
"""Where Compare tells how long its runs took: a table's last column, and the bar's line."""


def answer_of(message: dict[str, Any]) -> str:
    """What a job gave, without the name of its own result and without seconds."""
    assert message.get("success"), str(message)[:400]
    data = message["output"]["data"]
    if isinstance(data[4], dict):
        data[4].pop("key", None)
    return TIMED.sub("", json.dumps(data, sort_keys=True))


def inputs_of(page: Served, client: int, job: int) -> list[Any]:
    """Every client's jobs are its own; the seed is shown and shows whose it is."""
    names = list(page.backend.checkpoint(page.backend.default).class_names)
    found = page.compare(seed=100_000 + 1000 * client + job, steps=4 + job % 3)
    found[0] = [names[client % len(names)]]
    return found


def crowd(page: Served, clients: int, jobs: int) -> dict[str, Any]:
    """All at once against one after another."""
    ask = Visitor(page.url).number("compare")
    together: dict[tuple[int, int], str] = {}
    failures: list[str] = []

    def work(client: int) -> None:
        try:
            with closing(Visitor(page.url)) as visitor:
                for job in range(jobs):
                    found = answer_of(visitor.ask(ask, inputs_of(page, client, job)))
                    together[client, job] = found
        except BaseException as error:
            failures.append(f"client {client}: {error!r}"[:300])

    began = time.monotonic()
    in_threads([partial(work, client) for client in range(clients)])
    seconds = time.monotonic() - began
    page.backend.cache.entries.clear()
    differing, leaks = [], []
    for (client, job), found in sorted(together.items()):
        with closing(Visitor(page.url)) as visitor:
            alone = answer_of(visitor.ask(ask, inputs_of(page, client, job)))
        if alone != found:
            differing.append(f"{client}/{job}")
        others = {f"seed {100_000 + 1000 * c + j}" for c, j in together if (c, j) != (client, job)}
        leaks += [f"{client}/{job}: {other}" for other in others if other in found]
    return {
        "jobs": len(together),
        "asked": clients * jobs,
        "differing": differing,
        "leaks": leaks,
        "failures": failures,
        "seconds": round(seconds, 1),
    }


def in_threads(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def hooks_of(module: torch.nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in module.modules())


def begin(page: Served, visitor: Visitor, ask: int, seed: int) -> tuple[str, Any]:
    """A job that runs; returns its event and the open stream's messages."""
    joined = visitor.join(ask, page.compare(seed=seed, steps=100))
    assert joined.status_code == 200, joined.text
    messages = visitor.listen()
    for message in messages:
        if message["msg"] == "process_generating" and page.backend.queue.locked():
            break
    return str(joined.json()["event_id"]), messages


def slowed(page: Served, seconds: float = 0.2) -> Any:
    """Forward passes of the model that take longer: a job that is there to be stopped."""

    def pause(*_: Any) -> None:
        time.sleep(seconds)

    transformer = page.backend.checkpoint(page.backend.default).transformer
    return transformer.register_forward_pre_hook(pause)


def cycles(page: Served, count: int) -> dict[str, Any]:
    """Start, wait until it runs, cancel; again and again."""
    checkpoint = page.backend.checkpoint(page.backend.default)
    before, hooks = fingerprint(checkpoint.transformer), hooks_of(checkpoint.transformer)
    visitor = Visitor(page.url)
    ask = visitor.number("compare")
    ends: list[float] = []
    memory = rss_mb()
    for cycle in range(count):
        slow = slowed(page)
        event, messages = begin(page, visitor, ask, cycle)
        began = time.monotonic()
        visitor.cancel(ask, event)
        until(lambda: not page.backend.queue.locked(), 20)
        ends.append(time.monotonic() - began)
        list(messages)
        slow.remove()
        if cycle == min(4, count // 2):
            memory = rss_mb()  # what the first jobs load stays
    visitor.close()
    return {
        "cycles": count,
        "slowest_stop_s": round(max(ends), 2),
        "hooks_left": hooks_of(checkpoint.transformer) - hooks,
        "weights_unchanged": fingerprint(checkpoint.transformer) == before,
        "growth_mb": round(rss_mb() - memory, 1),
    }


def leaving(page: Served) -> dict[str, Any]:
    """A tab is closed: only its stream, only its heartbeat, or both at once."""
    ask = Visitor(page.url).number("compare")
    seconds: dict[str, float] = {}
    for way in ("stream", "heartbeat", "both"):
        slow = slowed(page)
        visitor = Visitor(page.url)
        visitor.open()
        joined = visitor.join(ask, page.compare(seed=len(seconds), steps=100))
        assert joined.status_code == 200, joined.text
        address = f"GET /gradio_api/queue/data?session_hash={visitor.session} HTTP/1.1"
        stream = raw(page.url, address)
        until(page.backend.queue.locked, 20)
        assert stream.recv(200), "the stream answers"
        assert visitor.beats is not None
        if way in ("stream", "both"):
            stream.close()
        if way in ("heartbeat", "both"):
            visitor.beats.close()
        seconds[way] = round(until(lambda: not page.backend.queue.locked(), 30), 2)
        stream.close()
        visitor.close()
        slow.remove()
    return {"stopped_s": seconds}


def soak(page: Served, count: int) -> dict[str, Any]:
    """Growth is the slope over the second half, where everything that is kept has filled up."""
    ask = Visitor(page.url).number("compare")
    visitor, memory = Visitor(page.url), []
    for job in range(count):
        if job % 4 == 0:
            visitor.close()
            visitor = Visitor(page.url)
        answer_of(visitor.ask(ask, page.compare(seed=job)))
        memory.append(rss_mb())
    visitor.close()
    half = memory[count // 2 :]
    slope = statistics.linear_regression(range(len(half)), half).slope
    return {
        "jobs": count,
        "mb_per_job": round(slope, 4),
        "whole_growth_mb": round(memory[-1] - memory[0], 1),
        "desks": len(page.backend.sessions.sessions),
    }


def joins(page: Served, count: int) -> dict[str, Any]:
    """Everybody at once; meanwhile somebody looks at the page."""
    ask = Visitor(page.url).number("compare")
    slow = slowed(page)
    visitors = [Visitor(page.url) for _ in range(count)]
    requests = []
    for seed, visitor in enumerate(visitors):
        body = {"fn_index": ask, "session_hash": visitor.session}
        body["data"] = page.compare(seed=seed, steps=20)
        requests.append(json.dumps(body).encode())
    views: list[float] = []
    done = threading.Event()

    def watch() -> None:
        with closing(Visitor(page.url)) as watcher:
            while not done.is_set():
                for address in ("/config", "/"):
                    began = time.monotonic()
                    assert watcher.http.get(address).status_code == 200
                    views.append(time.monotonic() - began)
                time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    links = [
        raw(page.url, "POST /gradio_api/queue/join HTTP/1.1", body,
            [f"Content-Length: {len(body)}", "Content-Type: application/json",
             "Connection: close"])
        for body in requests
    ]  # fmt: skip
    sent = time.monotonic() - began
    answers = [status_of(link) for link in links]
    answered = time.monotonic() - began
    time.sleep(2)
    done.set()
    watcher.join()
    slow.remove()
    told = 0
    for visitor, status in zip(visitors, answers, strict=True):
        if status == 200:
            last = [m for m in visitor.listen() if m["msg"] == "process_completed"][-1]
            told += not last["success"] and "Busy" in str(last["output"].get("error"))
        visitor.close()
    until(lambda: not page.backend.queue.locked(), 60)
    return {
        "joins": count,
        "sent_s": round(sent, 2),
        "answered_s": round(answered, 2),
        "accepted": answers.count(200),
        "turned_away": answers.count(503),
        "told_busy": told,
        "slowest_view_s": round(max(views), 2),
        "median_view_s": round(statistics.median(views), 2),
        "views": len(views),
    }


def status_of(link: Any) -> int:
    """Of the answer on a connection, which is closed then."""
    with link:
        return int(link.makefile("rb").readline().split()[1])


def run(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    measures: dict[str, Callable[[Served], dict[str, Any]]] = {
        "crowd": lambda page: crowd(page, options.clients, options.jobs),
        "cycles": lambda page: cycles(page, options.cycles),
        "leaving": leaving,
        "soak": lambda page: soak(page, options.soak),
        "joins": lambda page: joins(page, options.joins),
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        served(tiny_folder(Path(folder) / "tiny"), Limits(job_s=600)) as page,
    ):
        for part in PARTS if options.only is None else (options.only,):
            found[part] = measures[part](page)
    return {"machine": describe(), "parts": found, "kept": kept(found)}


def kept(found: dict[str, Any]) -> dict[str, bool]:
    """Whether each part's figure is met."""
    held: dict[str, bool] = {}
    if one := found.get("crowd"):
        held["crowd"] = one["jobs"] == one["asked"] and not (
            one["differing"] or one["leaks"] or one["failures"]
        )
    if one := found.get("cycles"):
        held["cycles"] = (
            one["hooks_left"] == 0
            and one["weights_unchanged"]
            and one["growth_mb"] < 50
            and one["slowest_stop_s"] < STOPPED_S
        )
    if one := found.get("leaving"):
        held["leaving"] = max(one["stopped_s"].values()) < STOPPED_S
    if one := found.get("soak"):
        held["soak"] = one["mb_per_job"] < 0.5
    if one := found.get("joins"):
        held["joins"] = (
            one["slowest_view_s"] < 1
            and one["sent_s"] < 1
            and one["accepted"] + one["turned_away"] == one["joins"]
        )
    return held


def lines(report: dict[str, Any]) -> list[str]:
    """One line per part."""
    machine = report["machine"]
    out = [f"{machine['cpu']}, {machine['cores']} cores, load {machine['load'][0]}"]
    for name, figures in report["parts"].items():
        verdict = "met" if report["kept"][name] else "MISSED"
        out.append(f"{name:8s} {verdict}: {json.dumps(figures)}")
    return out
