"""Resumable runs: one state file per run, replaced atomically, safe to load."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch

from ditas_core.writing import whole_file, write_text

State = dict[str, Any]
Log = Callable[[str], None]
Config = TypeVar("Config")


class Run:
    """A folder with ``state.pt`` (weights only), ``config.json`` and ``log.jsonl``.

    ``save`` writes beside the old file and renames, so a kill at any moment
    leaves a whole state behind.
    """

    def __init__(self, folder: Path, log: Log) -> None:
        self.folder = folder
        self.log = log
        self.started = time.monotonic()
        self.seconds_before = 0.0
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def seconds(self) -> float:
        """Wall time of this run over all its sessions."""
        return self.seconds_before + time.monotonic() - self.started

    def configure(self, config: Any, fixed: tuple[str, ...]) -> None:
        """Write ``config.json``; ValueError if a field in ``fixed`` changed since the run began."""
        path = self.folder / "config.json"
        new = asdict(config)
        if path.is_file() and (self.folder / "state.pt").is_file():
            old = json.loads(path.read_text(encoding="utf-8"))
            for name in fixed:
                if old[name] != new[name]:
                    raise ValueError(
                        f"expected {name} = {old[name]}, with which {self.folder} was started, "
                        f"got {new[name]}; use that value or another folder"
                    )
        write_text(path, json.dumps(new, indent=2) + "\n")

    def restore(self) -> State | None:
        """The last saved state, or None for a new run."""
        path = self.folder / "state.pt"
        if not path.is_file():
            return None
        state: State = torch.load(path, weights_only=True, map_location="cpu")
        self.seconds_before = float(state["seconds"])
        self.log(f"resuming at step {state['step']} after {self.seconds_before:.0f} s")
        return state

    def save(self, state: State) -> None:
        state["seconds"] = self.seconds
        with whole_file(self.folder / "state.pt") as part:
            torch.save(state, part)

    def record(self, **values: float) -> None:
        """Append one line to ``log.jsonl`` and say it."""
        row = {"seconds": round(self.seconds, 1), **values}
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.log("  ".join(f"{key} {value:.5g}" for key, value in row.items()))


def read_config(folder: Path, kind: type[Config]) -> Config:
    """The settings a run was started with; FileNotFoundError where there is no run."""
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"expected a training run in {folder}, found no config.json there")
    return kind(**json.loads(path.read_text(encoding="utf-8")))


def read_log(folder: Path) -> list[dict[str, float]]:
    """Rows of ``log.jsonl`` in order of step; what an interrupted session repeated counts once."""
    rows: dict[tuple[float, tuple[str, ...]], dict[str, float]] = {}
    for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows[row["step"], tuple(row)] = row
    return sorted(rows.values(), key=lambda row: row["step"])


def cosine_rate(step: int, total: int, peak: float, warmup: int, floor: float = 0.02) -> float:
    """Linear warm-up to ``peak``, cosine to ``floor * peak``."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    cosine = 0.5 * (1 + float(torch.cos(torch.tensor(progress * torch.pi))))
    return peak * (floor + (1 - floor) * cosine)
