"""Jobs with a start, a cancel and a status line; and quick answers to small questions."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ...sampling import Stopped, until_stopped
from ..serving.errors import clock, reported, status
from ..serving.inputs import components, filled
from .backend import Backend
from .queue import JobQueue, Ticket
from .session import Session

STATUS_S, ONCE_S, LATE_S = 0.2, 0.4, 10.0
REFUSED_AT_ONCE = 8
"""Jobs beyond the line that may start at a time, to be told that it is full."""
QUIET: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
"""For listeners that redraw: the newest question counts."""
PRIVATE: dict[str, Any] = {"api_visibility": "private", **QUIET}


@dataclass(frozen=True)
class Progress:
    """Where a job is.

    fraction  of this part, 0 to 1
    part      (1, 2) = first of two parts
    outputs   what to show meanwhile, one value per output; None = leave everything
    """

    text: str
    fraction: float = 0.0
    part: tuple[int, int] = (1, 1)
    outputs: tuple[Any, ...] | None = None


@dataclass(frozen=True)
class Finished:
    """The end of a job: the closing line and all outputs. ``kind`` colours the line."""

    text: str
    outputs: tuple[Any, ...]
    kind: str = "done"


CANCELLED = "Cancelled. What was on view stays."
STOPPING = "Stopping as soon as the step under way has ended."
LOST = "Stopped: the connection to this page was lost."
RUNNING, STOPPED, FAILED, ENDED = "running", "stopped", "failed", "ended"
Work = Callable[..., Iterator[Progress | Finished]]
Steps = Generator[tuple[Any, ...], None, tuple[Any, ...] | None]


@dataclass(frozen=True)
class Controls:
    """Start, Cancel and the status line of one job."""

    start: gr.Button
    cancel: gr.Button
    line: gr.HTML

    @property
    def outputs(self) -> list[Any]:
        return [self.line, self.start, self.cancel]


def build_controls(name: str, label: str, text: str = "", kind: str = "") -> Controls:
    """Two buttons and a line; element ids ``start-NAME``, ``cancel-NAME``, ``NAME-status``."""
    with gr.Row():
        start = gr.Button(label, variant="primary", elem_id=f"start-{name}", min_width=120)
        cancel = gr.Button(
            "Cancel", variant="stop", interactive=False, elem_id=f"cancel-{name}", min_width=90
        )
    line = gr.HTML(status(text, kind), padding=False, elem_id=f"{name}-status")
    return Controls(start, cancel, line)


def place(ahead: int) -> str:
    """What somebody in the line is told."""
    jobs = "one job is" if ahead == 1 else f"{ahead} jobs are"
    return f"You are number {ahead + 1} in the line: {jobs} before yours. The page stays usable."


def overdue(text: str, longest: float) -> str:
    """What a job that took too long says: as after Cancel, with the reason."""
    reason = f"Stopped after {clock(longest)}, the longest a job may take here"
    return reason + (
        text.removeprefix("Cancelled") if text.startswith("Cancelled") else f". {text}"
    )


def progress_text(event: Progress, began: float, part_began: float) -> str:
    now = time.monotonic()
    part, of = event.part
    text = f"{part} of {of} · " if of > 1 else ""
    text += f"{event.text} · {clock(now - began)} elapsed"
    if event.fraction > 0.02:
        left = (now - part_began) / event.fraction * (1 - event.fraction)
        text += f", {clock(left)} to go" + (" in this part" if part < of else "")
    return text


def wire_job(
    backend: Backend,
    controls: Controls,
    work: Work,
    inputs: list[Any],
    outputs: list[Any],
    *,
    api_name: str,
    stopped: Callable[..., tuple[str, tuple[Any, ...]]] | None = None,
    line: JobQueue | None = None,
    concurrency_id: str = "jobs",
) -> Any:
    """Start runs ``work(session, *inputs)`` when its turn comes; returns the listener.

    Of ``inputs`` components arrive as their values, Inputs filled with theirs.

    ``work`` checks its inputs before its first event, yields Progress and ends with
    Finished. ``stopped(session, *inputs)`` gives the line and the outputs after Cancel, and
    where the job takes longer than the operator allows. A closed tab ends it, too.
    ``line`` is where the job waits, else with all that compute.
    """
    skip = tuple(gr.skip() for _ in outputs)
    longest = backend.limits.job_s
    busy = (gr.update(interactive=False), gr.update(interactive=True))
    idle = (gr.update(interactive=True), gr.update(interactive=False))
    state = f"state of {controls.start.elem_id}"  # on the session: one of four words
    asked = f"cancelled {controls.start.elem_id}"  # when

    def run(request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        session = backend.session(request)
        session.notes[state] = RUNNING
        session.notes.pop(asked, None)
        try:
            with reported():
                waiting = backend.queue if line is None else line
                with session.working(), waiting.join() as ticket:
                    end = yield from steps(session, ticket, filled(inputs, values))
                session.notes[state] = STOPPED if end is None else ENDED
                if end is not None:
                    yield end  # the place in the line is free already
        except GeneratorExit:  # cancelled, or the page has all of it
            if session.notes.get(state) != ENDED:
                session.notes[state] = STOPPED
            raise
        except BaseException:
            session.notes[state] = FAILED
            raise

    def steps(session: Session, ticket: Ticket, values: list[Any]) -> Steps:
        """What the page is told meanwhile; returns the last of it, None after Cancel."""
        before = session.closed
        for ahead in ticket.waits():
            if session.closed != before:
                return (status(LOST, "warn"), *idle, *skip)
            if asked in session.notes:
                return None
            yield (status(place(ahead), "busy"), *busy, *skip)
        yield (status("Starting", "busy", 0.0), *busy, *skip)
        began = part_began = time.monotonic()
        part, last = 0, 0.0

        def is_over() -> bool:
            """Also in the middle of a step: a forward pass may take long."""
            late = bool(longest) and time.monotonic() - began > longest
            return late or session.closed != before or asked in session.notes

        with suppress(Stopped), closing(work(session, *values)) as events:  # type: ignore[type-var]
            for event in until_stopped(events, is_over):
                now = time.monotonic()
                if isinstance(event, Finished):
                    return (status(event.text, event.kind, 1.0), *idle, *event.outputs)
                if is_over():
                    break
                if event.part[0] != part:
                    part, part_began = event.part[0], now
                if event.outputs is None and now - last < STATUS_S:
                    continue
                last = now
                text = status(progress_text(event, began, part_began), "busy", event.fraction)
                shown = skip if event.outputs is None else event.outputs
                # the buttons again: of two answers that come at once the page may drop one
                yield (text, *busy, *shown)
        if asked in session.notes:
            return None
        # the work has been closed, as after Cancel, and keeps what it has found
        text, left = kept(session, values)
        text = f"{LOST} {text}" if session.closed != before else overdue(text, longest)
        return (status(text, "warn"), *idle, *left)

    def kept(session: Session, values: list[Any]) -> tuple[str, tuple[Any, ...]]:
        """The line and the outputs of a job that was stopped before its end."""
        return (CANCELLED, skip) if stopped is None else stopped(session, *values)

    def on_cancel(request: gr.Request) -> tuple[Any, ...]:
        """At once; the step under way may take a while longer."""
        notes = backend.session(request).notes
        notes[asked] = time.monotonic()
        if notes.get(state) != RUNNING:  # it has just ended
            return tuple(gr.skip() for _ in controls.outputs)
        return (status(STOPPING, "busy"), gr.skip(), gr.update(interactive=False))

    def on_end(request: gr.Request, *values: Any) -> tuple[Any, ...]:
        """The job has failed, or it was cancelled and its work has been closed."""
        session = backend.session(request)
        before, session.notes[state] = session.notes.get(state), ENDED
        cancelled = time.monotonic() - session.notes.pop(asked, 0.0) < LATE_S
        if before == ENDED and cancelled:  # too late: what it said stays
            return (gr.skip(), *idle, *skip)
        if before in (None, FAILED, ENDED):  # it did not even begin, or broke off
            return (status("Not run: see the message.", "warn"), *idle, *skip)
        with reported():
            text, shown = kept(session, filled(inputs, values))
        return (status(text, "warn"), *idle, *shown)

    running = controls.start.click(
        run,
        components(inputs),
        [*controls.outputs, *outputs],
        api_name=api_name,
        show_progress="hidden",
        trigger_mode="once",
        concurrency_limit=backend.limits.places + REFUSED_AT_ONCE,
        concurrency_id=concurrency_id,
    )
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    # first: the page looks for the job before the answer of the second can have ended it
    controls.cancel.click(None, None, None, cancels=[running], queue=False, **private)
    controls.cancel.click(on_cancel, None, controls.outputs, queue=False, **private)
    # after Cancel as well, and not before the server has closed the job: a start that comes
    # earlier would be taken for a second one and get lost
    running.failure(
        on_end, components(inputs), [*controls.outputs, *outputs], queue=False, **private
    )
    return running


def answer(
    backend: Backend,
    function: Callable[..., Any],
    inputs: Sequence[Any] = (),
    *,
    once: bool = False,
) -> tuple[Callable[..., Any], list[Any]]:
    """``function(session, *inputs)`` as a listener, and the components whose values it takes.

    Components arrive as their values, Inputs filled with theirs; the library's errors become
    messages.

    once  the same question again within ``ONCE_S`` changes nothing: a dropdown of Gradio
          tells a choice twice, when it is made and when the field is left
    """

    def handle(request: gr.Request, *values: Any) -> Any:
        session = backend.session(request)
        if once and not news(session, function, values):
            return gr.skip()
        with reported():
            return function(session, *filled(inputs, values))

    return handle, components(inputs)


def news(session: Session, function: Callable[..., Any], values: tuple[Any, ...]) -> bool:
    """Whether this was not asked just now; notes it."""
    asked = session.notes.setdefault("asked", {})
    before, when = asked.get(function, (None, 0.0))
    now = time.monotonic()
    asked[function] = (values, now)
    return values != before or now - when > ONCE_S
