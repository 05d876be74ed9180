"""Folders that an unprivileged user may reach, for pages that run under one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture()
def open_folder() -> Iterator[Path]:
    """A temporary folder that everybody may write to; pytest's own are the user's alone."""
    folder = Path(tempfile.mkdtemp(prefix="ditas-hosting-", dir="/tmp"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
