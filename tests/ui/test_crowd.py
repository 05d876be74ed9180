"""What one visitor's questions may take from all the others: memory, threads, places."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import threading
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ditas_core.specs import BitWidths, SpecError
from ditas_core.ui.page.bar import recipe_names, setup_notice
from ditas_core.ui.serving import heap
from ditas_core.ui.serving.heap import trimmer
from ditas_core.ui.stored.results import BUILT_IN, PLAIN, REFERENCE, Result
from ditas_core.ui.tabs.blind.draw import pair_view
from ditas_core.ui.tabs.blind.rules import LEFT, SQNR, BlindTest, Tally
from ditas_core.ui.tabs.breaking.job import LayerSweep, notes_of
from ditas_core.ui.tabs.overview.costs import shape_at_hand
from ditas_core.ui.tabs.overview.draw import card
from ditas_core.ui.visitors.backend import Backend, Choice, Model
from ditas_core.ui.visitors.cache import Cache
from ditas_core.ui.visitors.queue import OneByOne, QueueFull
from ditas_core.ui.visitors.session import Session, Sessions

from .conftest import Watched, at_once, bench_of, measured, watch

W4A8 = BitWidths(4, 8)
Notes = type(notes_of(Session("")))


@pytest.fixture
def backend(tiny: Path) -> Backend:
    return measured(bench_of(tiny))


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return watch(monkeypatch, "ui.visitors.backend.inject_outliers", 0.02)


def injected(strength: float) -> Choice:
    return Choice(Model("tiny", strength), W4A8, "integer", PLAIN)


def test_copies_are_made_one_at_a_time_whatever_asks_for_them(backend, copies):
    def draw(number: int) -> None:
        choice = injected(2.0 + number // 3)
        (backend.atlas, backend.checkpoint, lambda _: card(backend, choice))[number % 3](
            choice.model
        )

    at_once(draw, range(18))
    assert copies.most == 1 and len(copies.asked) == 6, "each strength once"


def test_what_the_bar_says_needs_no_copy(backend, copies):
    session, choice = Session("x"), injected(60)
    session.result = "something"
    assert recipe_names(backend, session, choice) == list(BUILT_IN)
    assert "3 channels" in setup_notice(backend, session, choice)
    assert "no DiTAS recipe yet" in setup_notice(
        backend, session, replace(choice, recipe=BUILT_IN[-1])
    )
    assert backend.group_names(choice.model) and shape_at_hand(backend, choice) is not None
    assert not copies.asked
    plain = backend.recipes(session, choice)[PLAIN]
    assert plain.checkpoint == backend.checkpoint(choice.model).fingerprint
    session.keep("mine", replace(plain, name="mine"))
    session.keep("not mine", replace(plain, checkpoint="0" * 64))
    assert list(backend.recipes(session, choice)) == backend.recipe_names(session, choice)
    assert backend.recipe_names(session, choice)[2:] == ["mine"] and len(copies.asked) == 1


def test_nobody_waits_long_for_a_checkpoint():
    loading, held, ended = OneByOne(patience_s=0.1), threading.Event(), threading.Event()

    def hold() -> None:
        with loading, loading:  # who holds it may take it again
            held.set()
            ended.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    with pytest.raises(QueueFull, match="another checkpoint is being read"), loading:
        raise AssertionError("it is held")
    ended.set()
    thread.join(10)
    with loading:
        pass


def compared(number: int) -> Result:
    """Two pictures of half a megabyte each."""
    images = {name: np.full((1, 512, 340, 3), number, np.uint8) for name in (REFERENCE, PLAIN)}
    return Result(f"result {number}", ("cat",), (0,), images, {PLAIN: {SQNR: [10.0]}}, {})


SHOWN = compared(0)
TOLD = {("x", PLAIN): Tally(1, 1)}


def test_a_blind_test_keeps_no_pictures_and_says_so_when_they_are_gone():
    cache, sessions = Cache(3 << 20), Sessions()
    held = []
    for number in range(6):
        found = cache.put(number, compared(number))
        held.append(weakref.ref(found))
        session = sessions.of(f"v{number}")
        test = session.notes["blind"] = BlindTest(str(number), found, PLAIN, random.Random(0))
        test.answer(LEFT)
        del found
    gc.collect()
    assert sum(each() is not None for each in held) == len(cache.entries) < 6
    test = sessions.of("v0").notes["blind"]
    with pytest.raises(SpecError, match="press “New test”"):
        pair_view(test)
    score = dict(test.tallies)
    again = compared(0)
    test.show("0", again, PLAIN)
    assert "img" in pair_view(test) and test.tallies == score, "made once more under its key"
    test.pair.guess = ""
    del again
    gc.collect()
    with pytest.raises(SpecError, match="press “New test”"):
        test.answer(LEFT)
    assert test.tallies == score and not test.pair.guess, "not counted"


def test_what_desks_keep_is_bounded_in_bytes():
    sessions = Sessions(most_bytes=3 << 20)
    for number in range(6):
        session = sessions.of(f"v{number}")
        with session.working():
            session.notes["injector"] = [np.zeros(1 << 20, np.uint8)]
        session.result = "something"
    sessions.of("v5")
    kept = [key for key, session in sessions.sessions.items() if "injector" in session.notes]
    assert kept == ["v4", "v5"] and len(sessions.sessions) == 6 and sessions.sessions["v0"].result
    with sessions.of("v4").working():
        for number in range(3):
            session = sessions.of(f"more {number}")
            with session.working():
                session.notes["injector"] = np.zeros(1 << 20, np.uint8)
        assert "injector" in sessions.of("v4").notes, "work under way"


@pytest.mark.parametrize(
    ("name", "note", "empty"),
    [
        ("blind", BlindTest("x", SHOWN, PLAIN, random.Random(0)), True),
        ("blind", BlindTest("x", SHOWN, PLAIN, random.Random(0), tallies=TOLD), False),
        ("breaking", Notes(), True),
        ("breaking", Notes(layers=LayerSweep("m", "s", ("a",), {"a": 1.0})), False),
        ("injector", [], True),
        ("injector", ["a live result"], False),
        ("asked", {"describe": 1}, True),
    ],
)
def test_who_has_something_to_lose_does_not_make_room_first(name, note, empty):
    sessions = Sessions(most=3)
    sessions.of("owner").notes[name] = note
    assert sessions.of("owner").empty == empty
    for number in range(3):
        sessions.of(f"v{number}")
    assert ("owner" in sessions.sessions) != empty


FREED = """
import os, runpy, sys
def pages(): return int(open("/proc/self/statm").read().split()[1])
pieces = [bytes([1]) * 65_000 for _ in range(1000)]
last = bytes([1]) * 65_000  # above them all: the heap does not shrink by itself
pieces.clear()
before = pages()
runpy.run_path(sys.argv[1])["give_back"]()
print((before - pages()) * os.sysconf("SC_PAGE_SIZE") / 2**20)
"""


@pytest.mark.skipif(trimmer() is None, reason="no glibc")
def test_freed_memory_goes_back_to_the_system():
    """In a process of its own: where memory lies in this one, earlier tests have decided."""
    asked = [sys.executable, "-c", FREED, heap.__file__]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and float(done.stdout) > 30, (done.stdout, done.stderr)
