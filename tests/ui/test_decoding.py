"""The viewer's steps are decoded one visitor at a time, and not for whoever has gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from ditas_core.specs import BitWidths, SamplingSpec
from ditas_core.ui import build_app
from ditas_core.ui.serving.limits import Limits
from ditas_core.ui.stored.results import PLAIN, Result
from ditas_core.ui.tabs.compare.job import CompareJob, run_comparison
from ditas_core.ui.visitors.backend import Choice
from ditas_core.ui.visitors.session import Session

from .conftest import SHORT, bar, bench_of, listener


class Viewers:
    """Several visitors who look at one comparison each."""

    def __init__(self, folder: Path) -> None:
        self.backend = bench_of(folder, limits=Limits(places=2))
        self.frames = listener(build_app(self.backend), "on_frames")
        choice = Choice(self.backend.default, BitWidths(4, 8), "integer", PLAIN)
        job = CompareJob(choice, (PLAIN,), ("cat",), 0, SamplingSpec(steps=4), SHORT)
        *_, found = run_comparison(self.backend, Session(""), job)
        assert isinstance(found, Result)
        self.result = found
        self.bar = bar(self.backend.default.key, recipe=PLAIN, convention="integer")
        self.vae = self.backend.checkpoint(self.backend.default).vae

    def come(self, name: str) -> tuple[Session, Iterator[Any]]:
        """A new visitor, who asks for the steps."""
        session = self.backend.sessions.of(name)
        session.result = name
        self.backend.cache.put(("result", name), self.result)
        told = gr.EventData(None, {"key": "any"})
        return session, self.frames.fn(told, gr.Request(session_hash=name), *self.bar)

    def strips(self, name: str) -> int:
        return sum(key[:2] == ("strip", name) for key in self.backend.cache.entries)


@pytest.fixture(scope="module")
def viewers(tiny: Path) -> Viewers:
    return Viewers(tiny)


def test_one_after_the_other_and_each_in_pieces(viewers: Viewers) -> None:
    _, first = viewers.come("first")
    _, second = viewers.come("second")
    assert next(first) == gr.skip() and viewers.strips("first") == 1
    for _ in range(2):
        assert next(second) == gr.skip() and viewers.strips("second") == 0, "somebody decodes"
    *_, shown = first
    assert not shown["pending"] and len(shown["frames"]) == 4
    *_, shown = second
    assert not shown["pending"] and not viewers.backend.queue.locked()
    (again,) = viewers.come("first")[1]
    assert again["frames"] == shown["frames"], "at once, without the line"
    assert viewers.frames.concurrency_limit == 2


def test_behind_the_jobs_and_without_a_message_where_the_line_is_full(viewers: Viewers) -> None:
    tickets = [viewers.backend.queue.join() for _ in range(2)]
    session, waiting = viewers.come("waiting")
    assert next(waiting) == gr.skip() and len(viewers.backend.queue.tickets) == 2
    viewers.backend.queue.leave(tickets[0])
    assert next(waiting) == gr.skip() and len(viewers.backend.queue.tickets) == 2
    assert viewers.strips("waiting") == 0
    viewers.backend.sessions.leave("waiting")
    assert list(waiting) == [] and len(viewers.backend.queue.tickets) == 1
    assert not session.jobs
    viewers.backend.queue.leave(tickets[1])


@pytest.mark.parametrize("way", ["left", "another sample", "closed"])
def test_a_visitor_who_goes_is_not_decoded_for(viewers: Viewers, way: str) -> None:
    """In the middle of a strip; a page that closes the answer, after it."""
    name = way.replace(" ", "")
    session, events = viewers.come(name)
    assert next(events) == gr.skip() and viewers.strips(name) == 1
    if way == "closed":
        events.close()  # type: ignore[attr-defined]
    else:

        def go(*_: Any) -> None:
            if way == "left":
                viewers.backend.sessions.leave(name)
            else:
                session.notes["compare"].sample = 3

        handle = viewers.vae.decoder.mid_block.register_forward_pre_hook(go)
        assert list(events) == []
        handle.remove()
    assert viewers.strips(name) == 1, "the second strip was not finished"
    assert not viewers.backend.queue.locked() and not session.jobs
    assert not viewers.vae.decoder.up_blocks[0]._forward_pre_hooks
    assert not viewers.backend.cache.building, "nobody waits for it"
