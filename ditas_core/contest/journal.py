"""What an interrupted contest leaves behind: one line per finished contender.

A line is appended and flushed to the disk when its contender is finished; one that was cut off
is ignored.
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
from .contenders import Contender, ContestSpec, LeftOut
from .table import Row, row_document, row_of

FORMAT = "ditas-contest-rows-2"
MARK = b'{"format": "ditas-contest'


class ContestJournal(Journal):
    """A file for one contest of these weights from this calibration, see ``Journal``.

    What is asked of each contender is in the key, not how many take part: with more methods, or
    another budget that some meet with the same recipe, it goes on all the same.

    finished  what is there, by label
    """

    run = "contest"

    def __init__(
        self,
        path: Path,
        checkpoint: Checkpoint,
        calibration: Calibration,
        spec: ContestSpec,
        entered: tuple[Contender, ...],
        features: bool,
    ) -> None:
        same = {name: value for name, value in asdict(spec).items() if name not in ASKED}
        of = [
            checkpoint.fingerprint,
            calibration.sha256,
            json.dumps(same, sort_keys=True),
            features,
        ]
        key = hashlib.sha256(json.dumps(of).encode()).hexdigest()
        self.keys = {each.label: key_of(each) for each in entered}
        self.finished: dict[str, Row | LeftOut] = {}
        self.lines: list[str] = []
        super().__init__(path, json.dumps({"format": FORMAT, "contest": key}))

    def whole_lines(self) -> list[str]:
        """Every line that ends with a newline; the rest was cut off."""
        if not self.path.is_file():
            return []
        return self.path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]

    def read(self) -> None:
        lines = self.whole_lines()
        if lines[:1] == [self.settings]:
            for line in lines[1:]:
                found = parse_line(line)
                if found is not None:
                    key, result = found
                    self.lines.append(line)
                    if self.keys.get(result.label) == key:
                        self.finished[result.label] = result
        self.discards = not self.lines and len(lines) > 1

    def is_own(self) -> bool:
        if not self.path.is_file():
            return False
        start = self.path.read_bytes()[: len(MARK)]
        return not start.strip(b"\0") or MARK.startswith(start) or start == MARK

    def start(self) -> None:
        """Settings and what is finished, without a cut-off line."""
        write_text(self.path, "\n".join([self.settings, *self.lines]) + "\n")
        self.started = True

    def add(self, result: Row | LeftOut) -> None:
        """Append one finished contender and wait until the disk has it."""
        if result.label in self.finished or result.label not in self.keys:
            return
        if not self.started:
            self.start()
        row = row_document(result) if isinstance(result, Row) else None
        out = None if isinstance(result, Row) else [result.label, result.reason]
        line = json.dumps({"key": self.keys[result.label], "row": row, "left_out": out})
        self.finished[result.label] = result
        self.lines.append(line)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """After the table is written."""
        if self.started or self.lines:
            self.path.unlink(missing_ok=True)


ASKED = ("bits", "budget", "methods", "formats", "batch")
"""What of a spec says who takes part, or changes no result but by rounding."""


def key_of(contender: Contender) -> str:
    """Of all that a contender's result depends on beside the contest's own settings."""
    settings = json.dumps(asdict(contender.search), sort_keys=True)
    return hashlib.sha256(settings.encode()).hexdigest()[:16]


def parse_line(line: str) -> tuple[str, Row | LeftOut] | None:
    """One finished contender and its key, or None where the line is damaged."""
    try:
        found = json.loads(line)
        if found["row"] is not None:
            return str(found["key"]), row_of(found["row"])
        label, reason = found["left_out"]
        return str(found["key"]), LeftOut(str(label), str(reason))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
