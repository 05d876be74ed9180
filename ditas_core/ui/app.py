"""The page: header, settings, four tabs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from .about_tab import build_about
from .bench import Bench, Session
from .catalogue import ASSETS
from .compare_tab import build_compare
from .hero import hero
from .outliers_tab import build_outliers
from .search_tab import build_search
from .setup import build_setup
from .theme import CSS, build_theme

QUEUE_SIZE = 16
CACHE_SWEEP = (3600, 86400)


def build_app(bench: Bench | None = None) -> gr.Blocks:
    """The whole interface; everything visitors share lives in ``bench``."""
    bench = Bench() if bench is None else bench
    with gr.Blocks(
        title="DiTAS explorer", analytics_enabled=False, delete_cache=CACHE_SWEEP
    ) as demo:
        session = gr.State(Session())
        gr.HTML(hero(bench), padding=False)
        bar = build_setup(bench)
        with gr.Tabs():
            with gr.Tab("Outliers", id="outliers"):
                outliers = build_outliers(bench, bar, session)
            with gr.Tab("Search", id="search"):
                searched = build_search(bench, bar, session)
            with gr.Tab("Compare", id="compare"):
                build_compare(bench, bar, session)
            with gr.Tab("About", id="about"):
                build_about(bench)
        searched.finished.success(
            outliers.refresh,
            outliers.inputs,
            outliers.outputs,
            show_progress="hidden",
            api_visibility="private",
        )
    return demo.queue(max_size=QUEUE_SIZE)


def launch_options() -> dict[str, Any]:
    """Arguments of ``launch``: nothing loaded from elsewhere, no files but the page's own."""
    return {
        "theme": build_theme(),
        "css": CSS,
        "allowed_paths": [],
        "blocked_paths": [str(ASSETS.parent / name) for name in (".git", "ditas_core", "tests")],
        "max_file_size": "1mb",
        "show_error": False,
        "footer_links": [],
        "run_history": False,
        "ssr_mode": False,
        "enable_monitoring": False,
        "favicon_path": None if not favicon().is_file() else str(favicon()),
    }


def favicon() -> Path:
    return ASSETS / "favicon.svg"
