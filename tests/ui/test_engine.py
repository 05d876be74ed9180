"""What quantized copies run on: chosen in the bar, timed, told, and the faster one taken."""

from __future__ import annotations

from dataclasses import replace
from threading import Event

import gradio as gr
import numpy as np
import pytest
import torch
from torch import nn

from ditas_core.artifact import stored_bytes
from ditas_core.comparison import run_trajectory
from ditas_core.layers import QuantizedLinear
from ditas_core.onnx_runtime.attached import OnRuntime
from ditas_core.sampling import sample_latents
from ditas_core.search import plain_recipe
from ditas_core.specs import BitWidths, SamplingSpec
from ditas_core.ui.page.bar import BarInputs, setup_notice
from ditas_core.ui.stored.results import PLAIN, REFERENCE, Result
from ditas_core.ui.tabs.compare.draw import shown
from ditas_core.ui.tabs.compare.job import CompareJob, run_comparison
from ditas_core.ui.tabs.compare.studio import headline, metrics_table
from ditas_core.ui.visitors import engine
from ditas_core.ui.visitors.backend import Backend, Choice
from ditas_core.ui.visitors.cache import Cache, size_of
from ditas_core.ui.visitors.engine import (
    Speed,
    backend_of,
    engine_name,
    fastest,
    has_onnx,
    iterate_quantized,
    keep_speed,
    key_of,
    speed_line,
    waiting_for_graph,
)
from ditas_core.ui.visitors.session import Session

from .conftest import SHORT, bar

SAMPLING = SamplingSpec(steps=4, guidance_scale=2.5)


def choice_of(backend: Backend, name: str, convention: str = "integer") -> Choice:
    return Choice(backend.default, BitWidths(4, 8), convention, PLAIN, backend=name)


def compared(backend: Backend, session: Session, choice: Choice) -> Result:
    names = backend.checkpoint(backend.default).class_names
    job = CompareJob(choice, (PLAIN,), (names[1], names[3]), 3, SAMPLING, SHORT)
    *_, result = run_comparison(backend, session, job)
    assert isinstance(result, Result)
    return result


def test_both_backends_are_compared_timed_and_told(backend: Backend, session: Session) -> None:
    results = {}
    for name in ("simulated", "integer"):
        choice = choice_of(backend, name)
        assert "not timed here yet" in speed_line(backend, choice)
        results[name] = result = compared(backend, session, choice)
        assert result.settings["backend"] == name and engine_name(choice) in headline(result)
        seconds = result.settings["seconds"]
        assert set(seconds) == {REFERENCE, PLAIN} and all(each > 0 for each in seconds.values())
        assert "seconds a picture" in metrics_table(result)
        assert f"{seconds[PLAIN]:.2f}" in metrics_table(result)
        line = setup_notice(backend, session, choice)
        speed: Speed = backend.cache.get(key_of(choice, full=False))
        assert f"runs {engine_name(choice)}: {speed.ms:.1f} ms" in line and "full precision" in line
        full: Speed = backend.cache.get(key_of(choice, full=True))
        assert speed.megabytes < full.megabytes
    first, second = (each.images[PLAIN].astype(float) for each in results.values())
    assert np.abs(first - second).mean() < 2


def test_a_result_is_shown_only_for_the_backend_it_was_made_with(
    backend: Backend, session: Session
) -> None:
    backend.cache.put(("result", "k"), compared(backend, session, choice_of(backend, "integer")))
    session.result = "k"
    found = shown(backend, session, choice_of(backend, "integer"))
    assert found is not None and found.key.startswith("k")
    other = shown(backend, session, choice_of(backend, "simulated"))
    assert other is None or other.key.startswith("shipped")
    assert "seconds a picture" not in (metrics_table(other.result) if other else "")


def test_a_convention_without_integers_runs_simulated_and_says_why(
    backend: Backend, session: Session
) -> None:
    choice = choice_of(backend, "integer", "paper")
    assert choice.runs_as == "simulated"
    line = setup_notice(backend, session, choice)
    assert "runs simulated" in line and "no integers: its weights have a scale per" in line
    assert "no integers" not in setup_notice(backend, session, choice_of(backend, "integer"))


def test_the_faster_backend_is_the_one_that_was_timed_faster(backend: Backend) -> None:
    choice = replace(choice_of(backend, "simulated"), bits=BitWidths(3, 7))
    assert fastest(backend, choice).backend == "integer", "neither is timed"
    for name, ms in (("integer", 5.0), ("simulated", 3.0)):
        backend.cache.put(key_of(replace(choice, backend=name), full=False), Speed(ms, 1.0))
    assert fastest(backend, choice).backend == "simulated"
    backend.cache.put(key_of(replace(choice, backend="integer"), full=False), Speed(2.0, 1.0))
    assert fastest(backend, choice).backend == "integer"


@pytest.mark.parametrize("value", ["int8", "", None, 3, ["integer"], "x" * 1000])
def test_another_backend_is_refused(backend: Backend, value: object) -> None:
    with pytest.raises(gr.Error, match="products"):
        BarInputs(*bar(backend=value)).read(backend)


def test_a_copy_that_runs_in_integers_holds_no_float_weights(backend: Backend) -> None:
    checkpoint = backend.checkpoint(backend.default)
    choice = choice_of(backend, "integer")
    assert backend_of(choice) == ("onnx" if has_onnx() else "integer")
    recipe = plain_recipe(checkpoint, BitWidths(4, 8), "integer")
    *_, found = iterate_quantized(backend, choice, recipe, None)
    assert isinstance(found, nn.Module)
    layers = [m for m in found.modules() if isinstance(m, QuantizedLinear)]
    assert layers and all(m.backend == "integer" and m.weight is None for m in layers)
    shape, labels = checkpoint.latent_shape, torch.tensor([1])
    drawn = sample_latents(found, checkpoint.scheduler, labels, shape, SAMPLING, 0)
    assert torch.isfinite(drawn).all()


@pytest.mark.skipif(not has_onnx(), reason="needs the extra onnx")
def test_sessions_stay_in_the_cache_with_their_bytes_and_leave_by_its_rules(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "cache", Cache())
    checkpoint, choice = backend.checkpoint(backend.default), choice_of(backend, "integer")
    recipe = plain_recipe(checkpoint, BitWidths(4, 8), "integer")
    *_, found = iterate_quantized(backend, choice, recipe, None)
    assert isinstance(found, OnRuntime) and isinstance(found, nn.Module)
    tensors = sum(t.nbytes for t in (*found.parameters(), *found.buffers()))
    assert found.nbytes > 0 and size_of(found) == tensors + found.nbytes
    assert found.runtime.session.threads <= torch.get_num_threads()
    assert list(iterate_quantized(backend, choice, recipe, None)) == [found]
    simulated = choice_of(backend, "simulated")
    *_, other = iterate_quantized(backend, simulated, recipe, None)
    assert other is not found and not isinstance(other, OnRuntime)
    held = backend.cache.nbytes
    *_, unkept = iterate_quantized(
        backend, choice, plain_recipe(checkpoint, BitWidths(8, 8), "integer"), None, keep=False
    )
    assert isinstance(unkept, OnRuntime) and backend.cache.nbytes == held
    backend.cache.make_room(backend.cache.limit)
    *steps, again = iterate_quantized(backend, choice, recipe, None)
    assert len(steps) >= len(checkpoint.groups) and again is not found


@pytest.mark.skipif(not has_onnx(), reason="needs the extra onnx")
def test_who_cancels_does_not_wait_for_a_trace(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on to its end; an error in it is that of whoever waits."""
    checkpoint = backend.checkpoint(backend.default)
    go_on, ended = Event(), Event()

    def slow(*_: object) -> None:
        go_on.wait(60)
        ended.set()

    monkeypatch.setattr(engine, "traced", slow)
    events = waiting_for_graph(checkpoint)
    told = next(events)
    assert "tracing" in told.text and not ended.is_set()
    events.close()  # type: ignore[attr-defined]
    assert not ended.is_set()
    go_on.set()
    assert ended.wait(60) and list(waiting_for_graph(checkpoint)) == []

    def broken(*_: object) -> None:
        raise ValueError("expected a model that can be traced")

    monkeypatch.setattr(engine, "traced", broken)
    with pytest.raises(ValueError, match="can be traced"):
        list(waiting_for_graph(checkpoint))


def test_a_transformer_is_weighed_once(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, choice = backend.checkpoint(backend.default), choice_of(backend, "simulated")
    weighed: list[int] = []

    def weigh(transformer: nn.Module) -> int:
        weighed.append(1)
        return stored_bytes(transformer)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "stored_bytes", weigh)
    monkeypatch.setattr(backend, "cache", Cache())
    labels = torch.tensor([1])
    run = run_trajectory(checkpoint, checkpoint.transformer, labels, SAMPLING, 0)
    for _ in range(3):
        keep_speed(backend, choice, run, checkpoint.transformer, None)
    assert len(weighed) == 1
    keep_speed(
        backend,
        choice,
        run,
        checkpoint.transformer,
        plain_recipe(checkpoint, choice.bits, "integer"),
    )
    assert len(weighed) == 2
