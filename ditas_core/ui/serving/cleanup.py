"""Housekeeping beside the page: sessions whose time is over, files that nobody fetched."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Iterable
from pathlib import Path

import gradio as gr

from ..visitors.backend import Backend
from .blocks import forget_unread
from .heap import give_back

EVERY_S = 30.0
FRESH_S = 600.0
"""Files younger than this are never removed: somebody may be about to fetch them."""


def sweep_files(files: Iterable[str], most: int, fresh_s: float = FRESH_S) -> int:
    """Remove the oldest files until the rest have at most so many bytes; how many went."""
    found: list[tuple[float, int, Path]] = []
    for name in files:
        with contextlib.suppress(OSError):
            path = Path(name)
            about = path.lstat()
            found.append((about.st_mtime, about.st_size, path))
    total, removed, now = sum(size for _, size, _ in found), 0, time.time()
    for changed, size, path in sorted(found):
        if total <= most or changed > now - fresh_s:
            break
        with contextlib.suppress(OSError):
            path.unlink()
        total, removed = total - size, removed + 1
    return removed


def files_of(demo: gr.Blocks) -> set[str]:
    """What Gradio has written for this page, without what the page itself opens on."""
    kept: set[str] = set()
    for block in list(demo.blocks.values()):
        kept.update(map(str, getattr(block, "keep_in_cache", ())))
    return {str(name) for files in demo.temp_file_sets for name in files} - kept


def clean_once(backend: Backend, demo: gr.Blocks) -> None:
    backend.sessions.sweep()
    sweep_files(files_of(demo), backend.limits.disk_bytes)
    forget_unread(demo)
    give_back()


def clean_regularly(
    backend: Backend, demo: gr.Blocks, every_s: float = EVERY_S
) -> threading.Thread:
    """Once in a while, for as long as the page is there."""
    page, state = weakref.ref(demo), weakref.ref(backend)

    def work() -> None:
        while True:
            time.sleep(every_s)
            shown, shared = page(), state()
            if shown is None or shared is None:
                return
            with contextlib.suppress(RuntimeError):  # a set that changed meanwhile: next time
                clean_once(shared, shown)
            del shown, shared

    thread = threading.Thread(target=work, name="tend", daemon=True)
    thread.start()
    return thread
