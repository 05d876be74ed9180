"""The page as Gradio runs it, with bounded inputs, short errors and small sessions."""

from __future__ import annotations

import copy
import html
import logging
from types import SimpleNamespace
from typing import Any, get_type_hints

import gradio as gr
from gradio.state_holder import SessionState, StateHolder

from .validate import is_plain

LONGEST_TEXT, LONGEST_VALUE = 4000, 20_000
LONGEST_ERROR = 400
SESSIONS = 200
"""Whose component settings are remembered; the ones used longest ago make room."""
UNREAD = 512
"""Sessions whose answers wait to be fetched."""
REFUSED = "request: expected values such as this page sends"
FAILED = "The page could not answer this. Reload it and try again."
logger = logging.getLogger(__name__)


def weight(value: Any, most: int) -> int:
    """Roughly how many characters a JSON value has; gives up beyond ``most``."""
    total, stack = 0, [value]
    while stack and total <= most:
        each = stack.pop()
        total += 8
        if isinstance(each, str | bytes):
            total += len(each)
        elif isinstance(each, dict):
            if len(each) > most:
                return most + 1
            stack.extend(each.keys())
            stack.extend(each.values())
        elif isinstance(each, list | tuple):
            if len(each) > most:
                return most + 1
            stack.extend(each)
    return total


def longest(block: Any) -> int:
    """How large an input of this component may be."""
    if isinstance(block, gr.Textbox):
        return int(getattr(block, "max_length", None) or LONGEST_TEXT) + 16
    return LONGEST_VALUE


def check_values(blocks: list[Any], values: Any) -> None:
    """Refuse a wrong number of values, or one too large to be the page's own."""
    if not isinstance(values, list | tuple) or len(values) != len(blocks):
        got = len(values) if isinstance(values, list | tuple) else "something else"
        raise short(f"request: expected {len(blocks)} values, got {got}")
    for block, value in zip(blocks, values, strict=True):
        most = longest(block)
        if weight(value, most) > most:
            label = html.escape(str(getattr(block, "label", None) or "value"))[:60]
            raise short(f"{label}: expected at most {most} characters")


def check_event(block_fn: Any, event: Any) -> None:
    """Refuse what an event tells if no component of the page tells such a thing."""
    if event is None or not getattr(block_fn, "collects_event_data", False):
        return
    told = event._data
    if weight(told, LONGEST_VALUE) > LONGEST_VALUE:
        raise short(REFUSED)
    for kind in event_kinds(block_fn.fn):
        try:
            kind(event.target, told)
        except Exception:
            raise short(REFUSED) from None


def event_kinds(function: Any) -> list[Any]:
    """The kinds of event that a listener asks for."""
    hints = get_type_hints(function) if callable(function) else {}
    return [h for h in hints.values() if isinstance(h, type) and issubclass(h, gr.EventData)]


def short(text: str) -> gr.Error:
    return gr.Error(text, duration=8, print_exception=False)


class SmallSession(SessionState):
    """One session without a copy of the page's whole configuration and of all it was shown.

    Gradio keeps both for saved views, which are closed here: 30 ms and a megabyte for every
    new session, on the thread that answers everybody.
    """

    def __init__(self, blocks: Any) -> None:
        super().__init__(SimpleNamespace(default_config=blocks.default_config, blocks={}))

    def __setitem__(self, key: int, value: Any) -> None:
        super().__setitem__(key, value)
        self.config_values.clear()

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass


class SmallSessions(StateHolder):
    """Makes small sessions; the one used longest ago makes room."""

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = SmallSession(self.blocks)
        return super().__getitem__(session_id)


class AsTold:
    """A session whose choices include the words that were just sent.

    A session that made room has lost the choices it was offered, while the visitor's session is
    still there. Whether a word is one of them is checked by whoever answers.
    """

    def __init__(self, session: Any, blocks: list[Any], values: list[Any]) -> None:
        self.session = session
        self.told = {block._id: value for block, value in zip(blocks, values, strict=True)}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def __contains__(self, key: int) -> bool:
        return key in self.session

    def __setitem__(self, key: int, value: Any) -> None:
        self.session[key] = value

    def __getitem__(self, key: int) -> Any:
        return with_words(self.session[key], self.told.get(key))


def with_words(block: Any, value: Any) -> Any:
    """The component, or a copy that has these words among its choices."""
    if not isinstance(block, gr.Dropdown | gr.Radio | gr.CheckboxGroup):
        return block
    known = {choice for _, choice in block.choices}
    told = value if isinstance(value, list) else [value]
    words = [word for word in told if is_plain(word) and word not in known]
    if not words:
        return block
    found = copy.copy(block)
    found.choices = [*block.choices, *((word, word) for word in words)]
    return found


class BoundedBlocks(gr.Blocks):
    """``gr.Blocks`` whose answers to wrong input are short and name no path or value.

    Gradio's own checks repeat the whole value, unescaped, and other failures print a
    traceback on the server for every wrong request.
    """

    is_template = True  # Gradio's script then knows it as plain Blocks
    sessions: StateHolder | None = None

    @property
    def state_holder(self) -> StateHolder | None:
        """Every session's components; Gradio sets it when the page is served."""
        return self.sessions

    @state_holder.setter
    def state_holder(self, holder: StateHolder) -> None:
        holder.__class__ = SmallSessions
        self.sessions = holder

    async def preprocess_data(
        self, block_fn: Any, inputs: Any, state: Any, explicit_call: bool = False
    ) -> Any:
        check_values(block_fn.inputs, inputs)
        state = None if state is None else AsTold(state, block_fn.inputs, inputs)
        try:
            return await super().preprocess_data(block_fn, inputs, state, explicit_call)
        except gr.Error:
            raise short(REFUSED) from None
        except Exception as error:
            logger.info("input refused: %s", type(error).__name__)
            raise short(REFUSED) from None

    async def process_api(self, block_fn: Any, inputs: Any, state: Any = None, **rest: Any) -> Any:
        check_event(block_fn, rest.get("event_data"))
        try:
            return await super().process_api(block_fn, inputs, state, **rest)
        except gr.Error as error:
            if len(str(error.message)) > LONGEST_ERROR:
                raise short(str(error.message)[:LONGEST_ERROR] + " …") from None
            raise
        except Exception as error:
            logger.exception("an answer failed")
            raise short(FAILED) from error


def bound_queue(demo: gr.Blocks) -> None:
    """Fewer unread answers, and no table of all past calls after every single one."""
    queue = demo._queue
    queue.pending_messages_per_session.max_size = UNREAD
    queue.ANALYTICS_MAX_EVENTS = 100
    queue.ANAYLTICS_CACHE_FREQUENCY = 2**62  # Gradio's spelling


def forget_unread(demo: gr.Blocks) -> None:
    """Ids of answers that nobody can fetch any more."""
    queue = demo._queue
    for session in list(queue.pending_event_ids_session):
        if session not in queue.pending_messages_per_session:
            ids = queue.pending_event_ids_session.get(session, set())
            if not any(each in queue.event_ids_to_events for each in ids):
                queue.pending_event_ids_session.pop(session, None)
