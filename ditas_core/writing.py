"""Files and folders that appear whole or not at all: written beside their place, then renamed.

A process that is killed at any moment leaves the old one or the new one, and perhaps the
unfinished one beside it, whose name says so: a file's ends in ``.part``, a folder's begins
with a dot.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar


def check_new_folder(target: Path) -> None:
    """Raise FileExistsError where ``whole_folder`` would: before long work, not after it."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"out: expected a new or empty folder, got {target}")


def check_new_file(target: Path, source: Path | None = None) -> None:
    """Raise OSError unless a file can be made at ``target``, outside the folder ``source``."""
    if not target.name or target.is_dir():
        raise IsADirectoryError(f"out: expected a file name, got the folder {target}")
    above = next(folder for folder in target.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise NotADirectoryError(f"out: expected a folder that can be written to, got {above}")
    if source is not None and source.is_dir() and source.resolve() in target.resolve().parents:
        raise PermissionError(f"out: expected a place outside the checkpoint {source}")


@contextmanager
def whole_folder(target: Path, replace: bool = False) -> Iterator[Path]:
    """A temporary sibling that becomes ``target`` when the block ends without an error.

    With ``replace`` an older folder there is renamed away, then removed: at every
    moment there is a whole one or none.

    Raises:
        FileExistsError: ``target`` exists and is not an empty folder, without ``replace``.
    """
    if not replace:
        check_new_folder(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    old = work.with_name(f"{work.name}-old")
    try:
        yield work
        work.chmod(0o755)
        if target.exists():
            os.replace(target, old)
        os.replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A name beside ``target``; the file written there replaces ``target`` when the block ends,
    and is removed when it fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """A whole file of UTF-8 text."""
    with whole_file(target) as part:
        part.write_text(text, encoding="utf-8")


class Journal(ABC):
    """What an interrupted run leaves at ``path``; one of other ``settings`` is started anew.

    Nothing on disk is touched before something is added.

    started   whether more can be added to what is there
    discards  whether finished work of other settings lies there

    Raises:
        FileExistsError: something else lies there.
    """

    run: ClassVar[str]

    def __init__(self, path: Path, settings: str) -> None:
        self.path, self.settings = path, settings
        self.started = self.discards = False
        self.read()
        if path.exists() and not self.is_own():
            raise FileExistsError(
                f"{path}: expected nothing or an interrupted {self.run}, got something else"
            )

    @abstractmethod
    def read(self) -> None:
        """What is there, into the attributes."""

    @abstractmethod
    def is_own(self) -> bool:
        """Whether a journal of this kind lies there, whole or damaged."""

    @abstractmethod
    def start(self) -> None:
        """Write the settings; what was finished with others is gone."""
