"""A tab is a folder and one name: this one is written here and served with the others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ditas_core.bench.pages import Visitor, served, tiny_folder
from ditas_core.ui import build_app, tabs

LAYOUT = '''
"""A tab of the test."""

import gradio as gr

from ditas_core.ui.page.bar import View
from ditas_core.ui.page.tab import Tab


def build_hello(backend, page):
    shown = gr.HTML(elem_id="hello")

    def refresh(session, bar):
        return (f"hello {bar.read(backend).bits}",)

    return View(refresh, [page.bar.inputs], [shown])


TAB = Tab("hello", "Hello", build_hello)
'''


def test_a_tab_is_a_folder_and_a_name(tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "hello"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "layout.py").write_text(LAYOUT)
    monkeypatch.setattr(tabs, "__path__", [*tabs.__path__, str(tmp_path)])
    found = tabs.found(("overview", "hello"))
    monkeypatch.delitem(sys.modules, "ditas_core.ui.tabs.hello.layout")
    checkpoint = tiny_folder(tmp_path / "tiny")
    with served(checkpoint, demo=lambda backend: build_app(backend, found)) as page:
        visitor = Visitor(page.url)
        message = visitor.ask(visitor.number("draw_hello"), page.bar())
        visitor.close()
    assert message["output"]["data"] == ["hello W4A8"]
