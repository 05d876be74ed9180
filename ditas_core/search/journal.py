"""What an interrupted search leaves behind: one line per finished group.

A line is appended and flushed to the disk when its group is finished, so a process
that is killed at any moment loses at most the group it was working on. A line that
was cut off is ignored. Numbers are written so that they read back to the bit.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

from ..calibration import Calibration
from ..checkpoints import Checkpoint
from ..writing import write_text
from .alpha import LayerDone, SearchSpec

FORMAT = "ditas-search-2"
MARK = b'{"format": "ditas-search'


class SearchJournal:
    """The journal of one search: its file, and what it already holds.

    A journal of another search (other settings, weights or calibration) is started anew.
    Nothing on disk is touched before the first group is added. ``discards`` says that
    groups of another search lie there.

    Raises:
        FileExistsError: the file is no journal.
    """

    def __init__(
        self, path: Path, calibration: Calibration, checkpoint: Checkpoint, spec: SearchSpec
    ) -> None:
        self.path = path
        settings = json.dumps(asdict(spec), sort_keys=True)
        of = f"{checkpoint.fingerprint}{calibration.sha256}{settings}"
        key = hashlib.sha256(of.encode()).hexdigest()
        self.header = json.dumps({"format": FORMAT, "search": key})
        self.finished: dict[str, LayerDone] = {}
        lines = self.whole_lines()
        if lines and lines[0] == self.header:
            self.finished = {done.group: done for done in map(parse_line, lines[1:]) if done}
        elif is_foreign(path, lines):
            raise FileExistsError(
                f"{path}: expected nothing or an interrupted search, got something else"
            )
        self.discards = not self.finished and len(lines) > 1
        self.started = False

    def whole_lines(self) -> list[str]:
        """Every line that ends with a newline; the rest was cut off."""
        if not self.path.is_file():
            return []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        return text.split("\n")[:-1]

    def rewrite(self) -> None:
        """Header and finished groups, without a cut-off line, by rename."""
        lines = [self.header, *(json.dumps(asdict(done)) for done in self.finished.values())]
        write_text(self.path, "\n".join(lines) + "\n")
        self.started = True

    def add(self, done: LayerDone) -> None:
        """Append one finished group and wait until the disk has it."""
        if done.group in self.finished:
            return
        if not self.started:
            self.rewrite()
        self.finished[done.group] = done
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(done)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """After the recipe is written."""
        if self.started or self.finished:
            self.path.unlink(missing_ok=True)


def is_foreign(path: Path, lines: list[str]) -> bool:
    """Whether something lies there that no search wrote, damaged or not."""
    if not path.is_file():
        return path.exists()
    start = path.read_bytes()[: len(MARK)]
    damaged = not start.strip(b"\0") or MARK.startswith(start)
    return not damaged and not any(parse_line(line) for line in lines)


def parse_line(line: str) -> LayerDone | None:
    """One finished group, or None where the line is damaged."""
    try:
        fields = json.loads(line)
        fields["grid"], fields["losses"] = tuple(fields["grid"]), tuple(fields["losses"])
        fields["refined"] = tuple((alpha, loss) for alpha, loss in fields["refined"])
        return LayerDone(**fields)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
