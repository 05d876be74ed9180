"""Where the files lie until somebody downloads them: a few folders, the oldest make room."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import threading
import weakref
import zipfile
from collections.abc import Mapping
from pathlib import Path

KEPT_BYTES = 200 * 2**20
NAME_LENGTH = 80


def slug(text: str) -> str:
    """A file name that is safe everywhere: letters, digits, dots and hyphens."""
    plain = text.replace("α", "alpha").replace("×", "x")
    kept = re.sub(r"[^A-Za-z0-9.]+", "-", plain).strip("-.")
    return re.sub(r"\.{2,}", ".", kept)[:NAME_LENGTH].strip("-.") or "ditas"


class Store:
    """One folder per content, named by its hash; bounded by bytes; gone with the process.

    ``root`` should lie where the server may serve files from, else it makes copies of
    its own that nobody counts.
    """

    def __init__(self, root: Path, most: int = KEPT_BYTES) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="ditas-takeaway-", dir=root))
        self.most = most
        self.lock = threading.Lock()
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def place(self, *contents: str) -> Path:
        """The folder of this content, new or as it was left."""
        digest = hashlib.sha256("\0".join(contents).encode(errors="replace")).hexdigest()
        path = self.folder / digest[:32]
        with self.lock:
            path.mkdir(exist_ok=True)
            os.utime(path)
        return path

    def write(self, path: Path, content: str | bytes) -> str:
        """A file, whole or not at all; the oldest folders make room."""
        data = content.encode(errors="replace") if isinstance(content, str) else content
        with self.lock:
            path.parent.mkdir(exist_ok=True)
            handle, part = tempfile.mkstemp(dir=path.parent, prefix=".part-")
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(part, path)
            self.sweep(path.parent)
        return str(path)

    def pack(self, path: Path, files: Mapping[str, Path]) -> str:
        """A zip of the files, whole or not at all."""
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=".part-")
        with (
            os.fdopen(handle, "wb") as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle,
        ):
            for name, each in files.items():
                bundle.write(each, name)
        with self.lock:
            os.replace(part, path)
            self.sweep(path.parent)
        return str(path)

    def sweep(self, kept: Path) -> None:
        """Remove the folders that were used longest ago, but never ``kept``."""
        folders = sorted(self.folder.iterdir(), key=lambda each: each.stat().st_mtime)
        sizes = {each: sum(f.stat().st_size for f in each.iterdir()) for each in folders}
        total = sum(sizes.values())
        for each in folders:
            if total <= self.most:
                return
            if each != kept:
                shutil.rmtree(each, ignore_errors=True)
                total -= sizes[each]
