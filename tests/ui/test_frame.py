"""The frame of the page: the line, the sessions, the bar, checks, the tour, shipped results."""

from __future__ import annotations

import math
import os
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
import pytest
import torch

from ditas_core.bench.pages import Served, until
from ditas_core.checkpoints import CheckpointError
from ditas_core.specs import BitWidths, CalibrationSpec, LayerRecipe, Recipe, SamplingSpec
from ditas_core.ui.app import only_changes
from ditas_core.ui.page.bar import (
    BarInputs,
    View,
    first_choice,
    recipe_names,
    setup_notice,
    why_simulated,
)
from ditas_core.ui.page.glossary import TERMS, explained, term
from ditas_core.ui.page.picking import read_pick
from ditas_core.ui.serving.inputs import Inputs, components, filled
from ditas_core.ui.serving.validate import flag, one_of, real, some_of, whole
from ditas_core.ui.stored.catalogue import CHECKPOINTS_VARIABLE, find_checkpoints
from ditas_core.ui.stored.precompute import precompute, write
from ditas_core.ui.stored.results import BUILT_IN, DITAS, PLAIN, load_shipped
from ditas_core.ui.tabs.about.layout import listed
from ditas_core.ui.tabs.overview.costs import cost_of, cost_table
from ditas_core.ui.tabs.overview.draw import card, worst_layer
from ditas_core.ui.visitors import running
from ditas_core.ui.visitors import session as desk_module
from ditas_core.ui.visitors.backend import Choice, Model
from ditas_core.ui.visitors.cache import Cache, usual_limit
from ditas_core.ui.visitors.queue import JobQueue, QueueFull
from ditas_core.ui.visitors.session import KEPT_RECIPES, Session, Sessions

from .conftest import CONVENTION, HUB, at_once, bar


def test_first_come_first_served_and_everybody_knows_the_place():
    line = JobQueue(places=3)
    first, second, third = line.join(), line.join(), line.join()
    assert [line.ahead_of(t) for t in (first, second, third)] == [0, 1, 2]
    with pytest.raises(QueueFull, match="fewer than 3 jobs"):
        line.join()
    waits = third.waits()
    assert next(waits) == 2
    line.leave(first)
    assert next(waits) == 1
    line.leave(second)
    assert list(waits) == []
    with third:
        assert line.locked()
    assert not line.locked() and list(second.waits()) == []


def test_one_at_a_time_from_many_threads():
    line, working, most = JobQueue(places=20), [], []
    tickets = [line.join() for _ in range(6)]

    def work(number: int) -> None:
        with tickets[number]:
            for _ in tickets[number].waits():
                pass
            working.append(number)
            most.append(tuple(working))
            time.sleep(0.01)
            working.remove(number)

    at_once(work, range(6))
    assert most == [(number,) for number in range(6)] and not line.locked()


def test_desks_are_apart_bounded_and_expire(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(desk_module.time, "monotonic", lambda: now[0])
    sessions = Sessions(most=3, expires_s=0.2)
    a, b = sessions.of("a"), sessions.of("b")
    a.notes["x"] = 1
    assert sessions.of("a") is a and b.notes == {}
    for key in ("c", "d"):
        sessions.of(key)
    assert list(sessions.sessions) == ["a", "c", "d"]
    now[0] += 0.25
    sessions.of("e")
    assert list(sessions.sessions) == ["e"]
    sessions.clear("e")
    sessions.clear("nobody")
    assert not sessions.sessions


def test_a_desk_keeps_the_newest_recipes(backend):
    session, choice = Session("x"), BarInputs(*bar()).read(backend)
    recipe = backend.recipes(session, choice)[DITAS]
    for number in range(KEPT_RECIPES + 3):
        session.keep(f"r{number}", recipe)
    session.keep("r5", recipe)
    assert len(session.recipes) == KEPT_RECIPES
    assert next(iter(session.recipes)) == "r3" and list(session.recipes)[-1] == "r5"
    for number in range(9):
        session.found(number)["layer"] = None
    assert list(session.searches) == [5, 6, 7, 8]


def test_recipes_by_name_built_in_and_own(backend):
    session, choice = Session("x"), BarInputs(*bar()).read(backend)
    assert list(backend.recipes(session, choice)) == list(BUILT_IN)
    assert {str(layer.bits) for r in backend.recipes(session, choice).values()
            for layer in r.layers.values()} == {"W4A8"}  # fmt: skip
    mine = backend.recipes(session, choice)[DITAS].with_layer("0.qkv", LayerRecipe(BitWidths(8, 8)))
    session.keep("mine", mine)
    session.keep("other model's", replace(mine, checkpoint="0" * 64))
    assert recipe_names(backend, session, choice) == [*BUILT_IN, "mine"]
    assert backend.recipe(session, replace(choice, recipe="mine")) == ("mine", mine)
    other = BarInputs(*bar(preset="custom", weight=3, activation=7)).read(backend)
    assert other.bits == BitWidths(3, 7)
    assert backend.recipe(session, other) == (DITAS, None)
    assert "no DiTAS recipe yet" in setup_notice(backend, session, other)
    alphas, source = backend.alphas(session, other)
    assert set(alphas.values()) == {0.5} and "not searched yet" in source


def test_one_visitors_short_run_does_not_replace_what_all_see(backend):
    before = backend.atlas(backend.default)
    other = CalibrationSpec(SamplingSpec(steps=2), samples=1)
    *_, calibration = backend.calibrated(backend.default, other)
    assert backend.atlas(backend.default) is before and len(calibration.timesteps) == 2


def test_hub_checkpoints_are_not_loaded_to_be_looked_at(backend, monkeypatch):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("socket.socket.connect", never)
    choice = Choice(Model(HUB), BitWidths(4, 8), "integer")
    session = Session("x")
    assert "not loaded yet" in setup_notice(backend, session, choice)
    assert recipe_names(backend, session, choice) == list(BUILT_IN)
    shown = card(backend, choice)
    assert "CC-BY-NC 4.0" in shown and "3.3 GB" in shown
    assert "eab87f77abd5aef071a632f08807fbaab0b704d0" in shown
    assert backend.alphas(session, choice)[0] == {}
    with pytest.raises(CheckpointError, match="press “Load”"):
        backend.checkpoint(Model(HUB))


def test_catalogue_lists_only_what_the_operator_offers(tmp_path, monkeypatch):
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    (tmp_path / "good" / "model_index.json").write_text("{}")
    monkeypatch.setenv(CHECKPOINTS_VARIABLE, os.pathsep.join([str(tmp_path / "good"), "", "/no"]))
    entries = find_checkpoints(tmp_path / "no-assets")
    assert list(entries) == [
        "good", "good (bfloat16)", "facebook/DiT-XL-2-256", "facebook/DiT-XL-2-512",
    ]  # fmt: skip
    assert [e.local for e in entries.values()] == [True, True, False, False]
    assert not any(e.allowed for e in entries.values())


def test_cache_is_bounded():
    cache = Cache(limit=3 << 20)
    for i in range(10):
        cache.put(i, object())
    assert list(cache.entries) == [7, 8, 9]
    cache.get(7)
    big = cache.put("big", torch.zeros(700_000))
    assert cache.get("big") is big and len(cache.entries) == 1
    larger = torch.zeros(1 << 20)
    assert cache.put("larger", larger) is larger, "handed out"
    assert cache.get("larger") is None and cache.get("big") is big, "and not kept"
    cache.make_room(1 << 20)
    assert not cache.entries
    assert usual_limit() == 8 * 2**30 == usual_limit(2**40) and usual_limit(2**30) == 2**29


@pytest.mark.parametrize("fails", [True, False])
def test_cache_forgets_who_waited(fails):
    """A build that fails leaves nothing, and the next of those who wait tries, one at a time.

    What others ask for meanwhile does not wait.
    """
    cache, built, working, most = Cache(limit=1000), [], [], []

    def build():
        if not built:
            until(lambda: cache.building["k"].users >= 4 and "other" in cache.entries)
        working.append(1)
        most.append(len(working))
        built.append(1)
        time.sleep(0.02)
        working.pop()
        if fails and len(built) < 4:
            raise ValueError("not today")
        return torch.zeros(1000)  # larger than the limit: handed out, and not kept

    def want(number):
        if number == 4:
            return cache.make("other", lambda: "value")
        with suppress(ValueError):
            return cache.make("k", build)

    *found, other = at_once(want, range(5))
    assert max(most) == 1 and not cache.building and cache.get("k") is None
    values = [value for value in found if value is not None]
    assert other == "value" and all(value is values[0] for value in values)
    assert (len(built), len(values)) == ((4, 1) if fails else (1, 4))


def test_cache_builds_within_a_build():
    cache = Cache()
    assert cache.make("a", lambda: cache.make("a", lambda: 1) + cache.make("b", lambda: 2)) == 3
    assert cache.get("b") == 2
    for key in range(5):
        with pytest.raises(ZeroDivisionError):
            cache.make(key, lambda: 1 / 0)
    assert not cache.building


def test_overview_says_what_the_shipped_results_hold(backend):
    """What tests/browser does not look at."""
    session, choice = Session("x"), BarInputs(*bar(preset="W4A4")).read(backend)
    worst = worst_layer(backend, session, choice)
    assert worst.count("<img") == 2 and worst.count("before smoothing") == 2
    atlas = backend.atlas(choice.model)
    rank = max(
        atlas.ranking(backend.alphas(session, choice)[0]), key=lambda r: r.strength - r.smoothed
    )
    assert f"{rank.strength:.1f}×" in worst and f"{rank.smoothed:.1f}×" in worst


def test_benchmarks_send_what_the_page_opens_with(backend):
    asked = BarInputs(*Served(backend, None, "").bar()).read(backend)
    assert asked.convention == first_choice(backend).convention == CONVENTION
    assert asked == replace(BarInputs(*bar()).read(backend), recipe=PLAIN)


def test_cost_is_said_before_anything_starts(backend):
    demo, hub = BarInputs(*bar()).read(backend), Choice(Model(HUB), BitWidths(4, 8), "integer")
    small, large = cost_of(backend, demo), cost_of(backend, hub)
    assert small is not None and large is not None
    assert large.calibrate_s > 50 * small.calibrate_s and large.memory_bytes > 4e9
    assert cost_table(backend, demo).count("<dd>") == 4
    assert not backend.queue.locked()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("checkpoint", ["../../etc/passwd", None]),
        ("preset", ["W99A1"]),
        ("weight", [9, 2.5, True]),
        ("activation", [1e9]),
        ("convention", ["<script>alert(1)</script>"]),
        ("recipe", ["", None, "r" * 400, "<b>"]),
        ("inject", ["yes"]),
        ("strength", [1e9, None]),
        ("dark", [3]),
    ],
)
def test_the_bar_is_checked_here(backend, name, wrong):
    good = {"preset": "custom", "inject": True}
    for told, taken in ((60, 60.0), (59.6, 60.0), (1.3, 1.0), (200, 200.0)):
        assert BarInputs(*bar(**good, strength=told)).read(backend).model.strength == taken
    for value in wrong:
        with pytest.raises(gr.Error) as caught:
            BarInputs(*bar(**good | {name: value})).read(backend)
        assert len(str(caught.value)) < 400 and "<script>" not in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, None, "4", [4], 1e9, 2.5])
def test_numbers_are_checked_here(value):
    with pytest.raises(gr.Error, match="expected a"):
        whole(value, "x", 1, 8)
    if value != 2.5:
        with pytest.raises(gr.Error, match="expected a"):
            real(value, "x", 1, 8)


def test_choices_are_checked_here():
    for bad in (None, 3, "c" * 1_000_000, ["a"]):
        with pytest.raises(gr.Error) as caught:
            one_of(bad, "x", ["a", "b"])
        assert len(str(caught.value)) < 200
    for bad in (None, "a", [], ["a"] * 9, ["c"]):
        with pytest.raises(gr.Error):
            some_of(bad, "x", ["a", "b"], 8)
    with pytest.raises(gr.Error):
        flag(1, "x")
    with pytest.raises(gr.Error) as caught:
        one_of("<img src=x onerror=alert(1)>", "x", ["a"])
    assert "<img" not in str(caught.value)


def test_clicks_are_checked_here():
    pick = read_pick('{"x": "0.qkv", "y": 980.5, "trace": 0}')
    assert (pick.x, pick.y, pick.trace) == ("0.qkv", 980.5, 0)
    for bad in (None, "", "{}", "[1]", '{"x": true, "y": 1, "trace": 0}', "x" * 1000,
                '{"x": NaN, "y": 1, "trace": 0}', '{"x": 1, "y": 1, "trace": 0.5}',
                '{"x": {}, "y": 1, "trace": 0}'):  # fmt: skip
        with pytest.raises(gr.Error, match="point of the figure"):
            read_pick(bad)


def test_terms_reach_keyboard_and_screen_reader():
    text = term("SQNR", "<b>closeness</b>")
    assert 'tabindex="0"' in text and 'role="tooltip"' in text and "&lt;b&gt;" in text
    assert explained("a [[channel|loud one]] b").startswith('a <span class="term"')
    with pytest.raises(KeyError):
        explained("[[no such word]]")
    assert all(len(meaning) < 200 for meaning in TERMS.values())


def test_a_question_told_twice_is_answered_once(backend, monkeypatch):
    ask, _ = running.answer(backend, lambda session, value: value, [gr.Number()], once=True)
    request = gr.Request(session_hash="twice")
    monkeypatch.setattr(running, "ONCE_S", 60.0)
    assert [ask(request, value) for value in (1, 1, 2)] == [1, gr.skip(), 2]
    monkeypatch.setattr(running, "ONCE_S", -1.0)
    assert ask(request, 2) == 2


def test_progress_says_elapsed_and_what_is_left():
    now = time.monotonic()
    text = running.progress_text(running.Progress("searching", 0.5, (2, 2)), now - 20, now - 10)
    assert text == "2 of 2 · searching · 20 s elapsed, 10 s to go"
    assert "to go" not in running.progress_text(running.Progress("starting"), now, now)


def test_shipped_results_round_trip_and_are_checked(random_checkpoint, tmp_path):
    spec = SamplingSpec(steps=2, guidance_scale=2.5)
    checkpoint = replace(random_checkpoint, name="random")
    shipped = precompute(
        checkpoint, lambda _: None, CalibrationSpec(spec, samples=1, tokens=4), spec, 2, ("W4A8",)
    )
    write(shipped, tmp_path / "out")
    write(shipped, tmp_path / "out")
    back = load_shipped(tmp_path / "out", checkpoint.fingerprint)
    was, now = shipped.presets["W4A8"], back.presets["W4A8"]
    assert now.recipe == was.recipe and now.searched == was.searched
    assert now.layers == was.layers
    assert now.result.metrics == was.result.metrics and now.result.frames == was.result.frames
    for name, latents in was.result.latents.items():
        assert torch.equal(now.result.latents[name], latents)
        assert Recipe.from_json(now.result.recipes.get(name, was.recipe.to_json()))
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ValueError, match="made for checkpoint"):
        load_shipped(tmp_path / "out", "0" * 64)
    (tmp_path / "out" / "results.json").write_text("{}")
    with pytest.raises(ValueError, match="damaged"):
        load_shipped(tmp_path / "out", checkpoint.fingerprint)
    with pytest.raises(ValueError, match="none found"):
        load_shipped(tmp_path / "nowhere", checkpoint.fingerprint)


def test_the_queue_is_bounded(backend, demo):
    assert demo._queue.max_size == 64
    jobs = [f for f in demo.fns.values() if f.concurrency_id == "jobs"]
    # more may start than wait in the line: those are told that it is full
    assert jobs and {f.concurrency_limit for f in jobs} == {
        backend.queue.places + running.REFUSED_AT_ONCE
    }


def test_values_come_by_name_in_the_order_of_the_components():
    @dataclass(frozen=True)
    class Inner(Inputs):
        low: Any
        high: Any

    @dataclass(frozen=True)
    class Outer(Inputs):
        inner: Inner
        name: Any
        absent: Any = None

    parts = ["picked", Outer(Inner("low", "high"), "name"), "last"]
    assert components(parts) == ["picked", "low", "high", "name", "last"]
    assert filled(parts, range(5)) == [0, Outer(Inner(1, 2), 3), 4]


def test_a_drawing_leaves_alone_what_it_does_not_change():
    with gr.Blocks():
        layer, alpha = gr.Dropdown(["a", "b"]), gr.Slider(0, 1)
        text, more = gr.Textbox(), gr.Dropdown(["x"])
    view = View(lambda: (), [layer, alpha, more], [layer, alpha, more, text])
    same, new = gr.update(choices=["a", "c"], value="a"), gr.update(choices=["y"], value="y")
    found = only_changes(view, ("a", 0.5, "x"), (same, 0.5, new, "said"))
    assert found[0] == gr.update(choices=["a", "c"]) and "value" not in found[0]
    assert found[1] == gr.skip()
    assert found[2]["value"] == "y" and found[3] == "said"


def test_what_model_cards_say_is_text():
    found = listed("Checkpoints", [("<b>own</b>", "licence <img src=x onerror=alert(1)> [a](b)")])
    assert "<img" not in found and "<b>" not in found and "&lt;img src=x" in found


def test_the_bar_takes_number_formats(backend):
    read = BarInputs(*bar(preset="custom", weight="nvfp4", activation="fp8")).read(backend)
    assert read.bits == BitWidths("nvfp4", "fp8") and "W:nvfp4 A:fp8" in read.title
    integers = replace(read, backend="integer")
    assert (read.runs_as, integers.runs_as) == ("simulated", "simulated")
    assert "no integers: its weights are NVFP4" in why_simulated(integers)
    assert backend.cell(read) is None and backend.preset(read) is None
    for values, said in (
        ({"weight": "fp9"}, "weight bits: expected 2 to 8 or a number format"),
        ({"activation": "nf4"}, "activation bits: expected 2 to 16 or a number format"),
        ({"convention": "paper"}, "convention paper"),
    ):
        asked = bar(**{"preset": "custom", "weight": "nvfp4", "activation": 8} | values)
        with pytest.raises(gr.Error, match=said):
            BarInputs(*asked).read(backend)
