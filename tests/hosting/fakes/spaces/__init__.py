"""Stands in for the package ``spaces`` on ZeroGPU: forked workers, arguments through a pipe.

As the real one does, a marked generator runs in a forked process, its arguments and what it
yields are pickled, and a declared duration is asked for first. There is no GPU. Each call is
written to FAKE_SPACES_LOG as one JSON line; FAKE_SPACES_MODE is "on", "off" (the package is
there, ZeroGPU is not) or "quota" (nothing is left).
"""

import functools
import json
import multiprocessing
import os

import gradio as gr

CONTEXT = multiprocessing.get_context("fork")


def GPU(task=None, *, duration=None, size=None):
    if task is None:
        return functools.partial(GPU, duration=duration, size=size)
    if os.environ.get("FAKE_SPACES_MODE", "on") == "off":
        return task

    @functools.wraps(task)
    def borrowed(*args, **kwargs):
        seconds = duration(*args, **kwargs) if callable(duration) else duration
        with open(os.environ["FAKE_SPACES_LOG"], "a", encoding="utf-8") as log:
            log.write(json.dumps({"task": task.__name__, "seconds": seconds}) + "\n")
        if os.environ["FAKE_SPACES_MODE"] == "quota":
            raise gr.Error("0 s left of your daily GPU quota", print_exception=False)
        arguments, results = CONTEXT.SimpleQueue(), CONTEXT.SimpleQueue()
        stop = CONTEXT.Event()
        worker = CONTEXT.Process(target=work, args=(task, arguments, results, stop), daemon=True)
        worker.start()
        try:
            arguments.put((args, kwargs))
            while True:
                kind, value = results.get()
                if kind == "end":
                    return
                if kind == "error":
                    raise gr.Error(value, print_exception=False)
                yield value
        finally:
            stop.set()
            worker.join(20)
            if worker.is_alive():
                worker.kill()

    return borrowed


def work(task, arguments, results, stop):
    args, kwargs = arguments.get()
    try:
        events = task(*args, **kwargs)
        for event in events:
            if stop.is_set():
                events.close()
                break
            results.put(("event", event))
    except Exception as error:
        results.put(("error", f"{type(error).__name__}: {error}"))
    results.put(("end", None))
