"""Where the files lie until somebody downloads them: a few folders, the oldest make room.

A process that is killed leaves its folder behind; the next one on this machine removes it. It
knows by a lock, which the system takes back from whoever has ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import re
import shutil
import tempfile
import threading
import time
import weakref
import zipfile
from collections.abc import Container, Mapping
from pathlib import Path
from typing import IO

from ....writing import whole_file

KEPT_BYTES = 200 * 2**20
NAME_LENGTH = 80
PREFIX, OWNER = "ditas-takeaway-", ".owner"
NOBODYS_S = 86400.0
"""A folder without a lock is left alone so long: its owner may be about to make it."""


def slug(text: str) -> str:
    """A file name that is safe everywhere: letters, digits, dots and hyphens."""
    plain = text.replace("α", "alpha").replace("×", "x")
    kept = re.sub(r"[^A-Za-z0-9.]+", "-", plain).strip("-.")
    return re.sub(r"\.{2,}", ".", kept)[:NAME_LENGTH].strip("-.") or "ditas"


class Store:
    """One folder per content, named by its hash; bounded by bytes; gone with the process.

    ``root`` should lie where the server may serve files from, else it makes copies of
    its own that nobody counts. What processes that have ended left there is removed.
    """

    def __init__(self, root: Path, most: int = KEPT_BYTES) -> None:
        root.mkdir(parents=True, exist_ok=True)
        remove_left(root)
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        self.owner = own(self.folder)
        self.most = most
        self.lock = threading.Lock()
        self.of: dict[str, set[Path]] = {}
        weakref.finalize(self, give_up, self.folder, self.owner)

    def place(self, *contents: str, owner: str = "") -> Path:
        """The folder of this content, new or as it was left; ``owner``: see ``keep_only``."""
        digest = hashlib.sha256("\0".join(contents).encode(errors="replace")).hexdigest()
        path = self.folder / digest[:32]
        with self.lock:
            path.mkdir(exist_ok=True)
            os.utime(path)
            if owner:
                self.of.setdefault(owner, set()).add(path)
        return path

    def keep_only(self, owners: Container[str]) -> None:
        """Remove the folders of all other owners; what has none stays until there is no room."""
        with self.lock:
            for owner in [each for each in self.of if each not in owners]:
                for path in self.of.pop(owner):
                    shutil.rmtree(path, ignore_errors=True)

    def write(self, path: Path, content: str | bytes) -> str:
        """A file, whole or not at all; the oldest folders make room."""
        data = content.encode(errors="replace") if isinstance(content, str) else content
        with self.lock:
            with whole_file(path) as part:
                part.write_bytes(data)
            self.sweep(path.parent)
        return str(path)

    def pack(self, path: Path, files: Mapping[str, Path]) -> str:
        """A zip of the files, whole or not at all."""
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as bundle:
            for name, each in files.items():
                bundle.write(each, name)
        return self.write(path, packed.getvalue())

    def sweep(self, kept: Path) -> None:
        """Remove the folders that were used longest ago, but never ``kept``."""
        there = [each for each in self.folder.iterdir() if each.is_dir()]
        folders = sorted(there, key=lambda each: each.stat().st_mtime)
        sizes = {each: sum(f.stat().st_size for f in each.iterdir()) for each in folders}
        total = sum(sizes.values())
        for each in folders:
            if total <= self.most:
                return
            if each != kept:
                shutil.rmtree(each, ignore_errors=True)
                total -= sizes[each]


def own(folder: Path) -> IO[bytes]:
    """Lock the folder for as long as the file is open, at most until this process ends."""
    with whole_file(folder / OWNER) as part:
        file = part.open("wb")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def give_up(folder: Path, owner: IO[bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    owner.close()


def remove_left(root: Path) -> None:
    """Remove the folders whose owners have ended."""
    for folder in root.glob(PREFIX + "*"):
        with contextlib.suppress(OSError):  # somebody's, or removed by somebody else
            if not (folder / OWNER).exists():
                if folder.stat().st_mtime < time.time() - NOBODYS_S:
                    shutil.rmtree(folder, ignore_errors=True)
                continue
            with (folder / OWNER).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
