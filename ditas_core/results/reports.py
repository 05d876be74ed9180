"""Measurements of this room, kept as the pages and the tests read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..bench.machine import describe
from ..writing import write_text


def keep(path: Path, report: dict[str, Any]) -> int:
    """Write a report with the machine that it was made on; the exit status of its command."""
    write_text(path, json.dumps({**report, "machine": describe()}, indent=1) + "\n")
    return 0
