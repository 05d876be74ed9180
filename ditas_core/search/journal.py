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
from ..writing import Journal, write_text
from .alpha import LayerDone, SearchSpec

FORMAT = "ditas-search-3"
MARK = b'{"format": "ditas-search'


class SearchJournal(Journal):
    """A file for one search of these weights with this calibration, see ``Journal``.

    finished  what is there, by group
    """

    run = "search"

    def __init__(
        self, path: Path, calibration: Calibration, checkpoint: Checkpoint, spec: SearchSpec
    ) -> None:
        wanted = asdict(spec)
        del wanted["budget"]  # which no strength of smoothing depends on
        if wanted["objective"] == "output":  # as it was written before there was a choice
            del wanted["objective"]
        elif calibration.influence is not None:
            wanted["influence"] = calibration.influence.sha256
        settings = json.dumps(wanted, sort_keys=True)
        of = f"{checkpoint.fingerprint}{calibration.sha256}{settings}"
        key = hashlib.sha256(of.encode()).hexdigest()
        self.finished: dict[str, LayerDone] = {}
        super().__init__(path, json.dumps({"format": FORMAT, "search": key}))

    def whole_lines(self) -> list[str]:
        """Every line that ends with a newline; the rest was cut off."""
        if not self.path.is_file():
            return []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        return text.split("\n")[:-1]

    def read(self) -> None:
        lines = self.whole_lines()
        if lines[:1] == [self.settings]:
            self.finished = {done.group: done for done in map(parse_line, lines[1:]) if done}
        self.discards = not self.finished and len(lines) > 1

    def is_own(self) -> bool:
        if not self.path.is_file():
            return False
        start = self.path.read_bytes()[: len(MARK)]
        damaged = not start.strip(b"\0") or MARK.startswith(start)
        return damaged or any(map(parse_line, self.whole_lines()))

    def start(self) -> None:
        """Settings and finished groups, without a cut-off line."""
        lines = [self.settings, *(json.dumps(asdict(done)) for done in self.finished.values())]
        write_text(self.path, "\n".join(lines) + "\n")
        self.started = True

    def add(self, done: LayerDone) -> None:
        """Append one finished group and wait until the disk has it."""
        if done.group in self.finished:
            return
        if not self.started:
            self.start()
        self.finished[done.group] = done
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(done)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """After the recipe is written."""
        if self.started or self.finished:
            self.path.unlink(missing_ok=True)


def parse_line(line: str) -> LayerDone | None:
    """One finished group, or None where the line is damaged."""
    try:
        fields = json.loads(line)
        fields["grid"], fields["losses"] = tuple(fields["grid"]), tuple(fields["losses"])
        fields["refined"] = tuple((alpha, loss) for alpha, loss in fields["refined"])
        return LayerDone(**fields)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
