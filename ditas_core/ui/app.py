"""The page: settings, tour, tabs, and the address that remembers what is on view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ..checkpoints import ASSETS
from .page.address import wire_address
from .page.bar import Page, View, build_setup
from .page.tab import Tab
from .page.theme import CSS, HEAD, build_theme
from .page.tour import build_tour, tour_button, wire_tour
from .serving.blocks import SESSIONS, BoundedBlocks, bound_queue
from .serving.cleanup import clean_regularly
from .serving.gate import gate_options
from .serving.inputs import components
from .serving.limits import read_limits
from .tabs import TABS
from .tabs.overview.draw import hero
from .visitors.backend import Backend
from .visitors.running import QUIET, answer

QUEUE_SIZE = 64
ANSWERS_AT_ONCE = 4
"""Of all tabs together: more at a time only keep the page from answering anybody."""
CACHE_SWEEP = (3600, 86400)
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
OPENED = "() => [%s, String(Date.now())]"
CHANGED = """(open, ...rest) => {
  const keys = %s, bar = JSON.stringify(rest.slice(keys.length)), now = Date.now();
  const same = window.ditasBar?.bar === bar && now - window.ditasBar.when < 400;
  window.ditasBar = { bar, when: now };
  return keys.map((k, i) => k === open && !same ? String(now) : rest[i]);
}"""
"""In the browser: only the tab that is open asks the server to be drawn again, and only once
where a dropdown tells its choice twice."""
IS_DARK = "() => document.body.classList.contains('dark')"


def build_app(backend: Backend | None = None, tabs: Sequence[Tab] = TABS) -> gr.Blocks:
    """The whole interface; everything visitors share lives in ``backend``."""
    backend = Backend() if backend is None else backend
    with BoundedBlocks(
        title="DiTAS explorer", analytics_enabled=False, delete_cache=CACHE_SWEEP
    ) as demo:
        gr.HTML(hero(), padding=False)
        with gr.Row(elem_id="top-row"):
            begin = tour_button()
            bar = build_setup(backend)
        tour = build_tour(begin)
        open_tab = gr.Textbox(tabs[0].key, visible="hidden", elem_id="open-tab", label="open tab")
        redraws = []
        with gr.Tabs(elem_id="tabs") as places:
            page = Page(bar, places, {"backend": bar.inputs.backend})
            for tab in tabs:
                with gr.Tab(tab.title, id=tab.key, elem_id=f"tab-{tab.key}") as shown:
                    view = tab.build(backend, page)
                    redraw = gr.Textbox(
                        "", visible="hidden", elem_id=f"redraw-{tab.key}", label=f"redraw {tab.key}"
                    )
                redraws.append(redraw)
                if view is not None:
                    wire_view(backend, view, tab.key, redraw)
                shown.select(
                    None, None, [open_tab, redraw], js=OPENED % repr(tab.key), **PRIVATE
                )  # fmt: skip
        for wire in page.later:
            wire()
        keys = [tab.key for tab in tabs]
        gr.on(
            bar.changes,
            None,
            [open_tab, *redraws, *components([bar.inputs])],
            redraws,
            js=CHANGED % repr(keys),
            **PRIVATE,
        )
        wire_tour(backend, page, tour)
        fields = dict(zip(keys, redraws, strict=True))
        restored = wire_address(backend, page, demo, open_tab, fields)
        restored.then(None, None, bar.inputs.dark, js=IS_DARK, **PRIVATE)
        demo.unload(leaver(backend))
    demo.queue(max_size=QUEUE_SIZE, default_concurrency_limit=ANSWERS_AT_ONCE, api_open=False)
    bound_queue(demo)
    share_places(demo)
    clean_regularly(backend, demo)
    return demo


def share_places(demo: gr.Blocks) -> None:
    """One bound for all answers that are no jobs: Gradio gives every listener one of its own."""
    for listener in demo.fns.values():
        if listener.concurrency_limit == "default":
            listener.concurrency_id = "answers"


def wire_view(backend: Backend, view: View, key: str, redraw: gr.Textbox) -> None:
    """Draw a tab whenever its hidden field changes: it was opened, or the bar changed."""
    refresh, inputs = answer(backend, view.refresh, view.inputs)

    def draw(request: gr.Request, *values: Any) -> Any:
        shown = only_changes(view, values, refresh(request, *values))
        return shown if len(shown) > 1 else shown[0]  # as Gradio has it

    redraw.change(draw, inputs, view.outputs, api_name=f"draw_{key}", **QUIET)


def only_changes(view: View, values: tuple[Any, ...], found: tuple[Any, ...]) -> tuple[Any, ...]:
    """Without the values that inputs have anyway.

    The visitor may have chosen another value while the tab was being drawn; sending the
    old one back would undo that.
    """
    inputs = components(view.inputs)
    had = {component._id: value for component, value in zip(inputs, values, strict=True)}
    kept: list[Any] = []
    for component, value in zip(view.outputs, found, strict=True):
        if component._id not in had:
            kept.append(value)
        elif isinstance(value, dict) and value.get("__type__") == "update":
            same = "value" in value and value["value"] == had[component._id]
            kept.append({k: v for k, v in value.items() if k != "value"} if same else value)
        else:
            kept.append(gr.skip() if value == had[component._id] else value)
    return tuple(kept)


def leaver(backend: Backend) -> Callable[[gr.Request], None]:
    """A closed tab: its work stops, its session goes some time later."""

    def leave(request: gr.Request) -> None:
        backend.sessions.leave(str(request.session_hash)[:64])

    return leave


def launch_options() -> dict[str, Any]:
    """Arguments of ``launch``: nothing loaded from elsewhere, no files but the page's own, and
    nothing answered but what the page needs (see ``server``)."""
    return {
        "app_kwargs": gate_options(read_limits()),
        "state_session_capacity": SESSIONS,
        "theme": build_theme(),
        "css": CSS,
        "head": HEAD,
        "allowed_paths": [],
        "blocked_paths": [str(ASSETS.parent / name) for name in (".git", "ditas_core", "tests")],
        "max_file_size": 0,  # nothing is uploaded
        "show_error": False,
        "footer_links": [],
        "run_history": False,
        "ssr_mode": False,
        "enable_monitoring": False,
        "_frontend": False,  # else it asks itself once, and a busy machine takes over three seconds
        "favicon_path": None if not favicon().is_file() else str(favicon()),
    }


def favicon() -> Path:
    return ASSETS / "favicon.svg"
