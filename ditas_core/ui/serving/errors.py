"""Status lines, and errors that say what was expected."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from ...calibration import CalibrationError
from ...checkpoints import CheckpointError
from ...evaluation import AtlasError
from ...specs import SpecError
from ..visitors.queue import QueueFull

FAILURES = (SpecError, CheckpointError, CalibrationError, AtlasError, QueueFull)

# a folder's name may hold spaces, the last part ends at one: text follows it
FOLDERS = re.compile(r"""(?<![\w.:/~\\-])/(?=[^\s/])(?:[^\n/'",;:()]+/)+(?=[^\s/])""")


def without_folders(text: str) -> str:
    """Absolute paths by their last part: where a file lies is the operator's to know."""
    return FOLDERS.sub("", text)


def refuse(message: str) -> gr.Error:
    """A controlled error: a short toast, no traceback."""
    return gr.Error(html.escape(message), duration=8, print_exception=False)


@contextmanager
def reported() -> Iterator[None]:
    """The library's own errors become a toast with their message."""
    try:
        yield
    except FAILURES as error:
        raise refuse(without_folders(str(error))) from error


def clock(seconds: float) -> str:
    """``7 s`` or ``2 min 05 s``."""
    whole = max(0, round(seconds))
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"


def status(text: str, kind: str = "", fraction: float | None = None) -> str:
    """A status line; ``fraction`` adds a bar. Announced politely to screen readers."""
    bar = ""
    if fraction is not None:
        share = min(max(fraction, 0.0), 1.0)
        bar = f'<div class="track"><div style="width:{100 * share:.1f}%"></div></div>'
    return f'<div class="status {kind}" role="status">{html.escape(text)}{bar}</div>'
