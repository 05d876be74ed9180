"""What an interrupted calibration leaves behind: one file per finished step.

Each holds the step's statistics and tokens, the latents after it and the state of
every sample's random stream, so that the next run continues where the last one
stopped and ends with the same bits. Files appear by rename and carry a checksum.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..sampling import Position, Step
from ..specs import CalibrationSpec, parse_json
from ..writing import Journal, whole_file, write_text
from .recorder import StepStatistics

FORMAT = "ditas-calibration-steps-2"
SETTINGS = "settings.json"
PARTS = ("low", "high", "squares", "tokens")


class CalibrationJournal(Journal):
    """A folder for one calibration, see ``Journal``."""

    run = "calibration"

    def __init__(
        self, path: Path, checkpoint: str, spec: CalibrationSpec, shard: tuple[int, int]
    ) -> None:
        settings = {"format": FORMAT, "checkpoint": checkpoint, "spec": asdict(spec)}
        super().__init__(path, json.dumps({**settings, "shard": shard}, sort_keys=True))

    def read(self) -> None:
        marker = self.path / SETTINGS
        self.started = marker.is_file() and marker.read_bytes() == self.settings.encode()
        self.discards = not self.started and any(self.path.glob("step-*.safetensors"))

    def is_own(self) -> bool:
        return is_journal(self.path)

    def start(self) -> None:
        self.remove()
        write_text(self.path / SETTINGS, self.settings)
        self.started = True

    def step_path(self, index: int) -> Path:
        return self.path / f"step-{index:04d}.safetensors"

    def add(self, statistics: dict[str, StepStatistics], step: Step) -> None:
        """Keep one finished step."""
        if not self.started:
            self.start()
        tensors = {"latents": step.latents.contiguous(), "streams": step.streams}
        for name, one in statistics.items():
            tensors |= {f"{name}.{part}": getattr(one, part).contiguous() for part in PARTS}
        rows = json.dumps({name: one.rows for name, one in statistics.items()})
        metadata = {"index": str(step.index), "timestep": str(step.timestep), "rows": rows}
        metadata["sha256"] = checksum(tensors, metadata)
        with whole_file(self.step_path(step.index)) as part:
            save_file(tensors, part, metadata=metadata)

    def steps(self) -> Iterator[tuple[dict[str, StepStatistics], int, Position]]:
        """Of each step that is there, up to the first gap or damage: its statistics, its
        diffusion time, and where to go on after it."""
        index = 0
        while self.started and self.step_path(index).is_file():
            try:
                with safe_open(self.step_path(index), framework="pt") as file:
                    metadata = file.metadata() or {}
                    tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            except (SafetensorError, ValueError):
                return  # damaged: this step is run again
            whole = metadata.pop("sha256", "") == checksum(tensors, metadata)
            if not whole or metadata.get("index") != str(index):
                return
            try:
                after = Position(index + 1, tensors["latents"], tensors["streams"])
                statistics = statistics_of(tensors, parse_json("rows", metadata["rows"]))
                timestep = int(metadata["timestep"])
            except (KeyError, ValueError):
                return  # whole, but none of ours
            index += 1
            yield statistics, timestep, after

    def remove(self) -> None:
        """After the calibration is written."""
        shutil.rmtree(self.path, ignore_errors=True)


def is_journal(folder: Path) -> bool:
    """Whether nothing lies in the folder but what a journal writes."""
    ours = {SETTINGS, SETTINGS + ".part"}
    return folder.is_dir() and all(
        path.name in ours or (path.name.startswith("step-") and path.is_file())
        for path in folder.iterdir()
    )


def remove_journals(folder: Path) -> None:
    """Remove the journals of all processes in ``folder``, and the folder once it is empty.

    Several processes may do so at once: whatever is gone at any moment, the folder
    itself too, was removed by a faster one.
    """
    journals: list[Path] = []
    with contextlib.suppress(FileNotFoundError):
        journals = list(folder.glob("*-of-*"))
    for path in journals:
        with contextlib.suppress(FileNotFoundError):
            if is_journal(path):
                shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def checksum(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> str:
    """Over names, shapes, bytes and metadata: safetensors files have none of their own."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)  # no copy
    return digest.hexdigest()


def statistics_of(
    tensors: dict[str, torch.Tensor], rows: dict[str, int]
) -> dict[str, StepStatistics]:
    """Groups of one step file, in their stored names' order."""
    names = [key.removesuffix(".low") for key in tensors if key.endswith(".low")]
    return {
        name: StepStatistics(rows=rows[name], **{part: tensors[f"{name}.{part}"] for part in PARTS})
        for name in names
    }
