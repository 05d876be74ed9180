"""The Calibration: what one full-precision guided trajectory showed, saved as one file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..smoothing import temporal_aggregate
from ..specs import CalibrationSpec, SamplingSpec, parse_json, read_timesteps
from ..writing import whole_file
from .influence import Influence

FORMAT = "ditas-calibration-2"
WITH_INFLUENCE = "ditas-calibration-3"
"""What a file with the influence of its steps says, so that older versions do not read it."""
INFLUENCE = "influence"
CONDITIONAL, UNCONDITIONAL = 0, 1


class CalibrationError(ValueError):
    """A calibration file that cannot be used."""


@dataclass(frozen=True)
class GroupStatistics:
    """Inputs of one smoothing group over T steps, C channels, the two guidance halves.

    low, high    exact minimum and maximum, (T, 2, C); half 0 is conditional
    tokens       input tokens drawn uniformly, (T, K, C), float16
    energy       mean square per channel over all tokens, (T, C)
    """

    low: Tensor
    high: Tensor
    tokens: Tensor
    energy: Tensor

    @property
    def absmax(self) -> Tensor:
        """max(|low|, |high|), (T, 2, C)."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def aggregated_absmax(self) -> Tensor:
        """Maximum over steps and halves, (C,)."""
        return temporal_aggregate(self.absmax)

    def to(self, device: torch.device) -> GroupStatistics:
        """The same where it is to be computed with; itself where it lies there already."""
        if self.low.device == device:
            return self
        parts = (self.low, self.high, self.tokens, self.energy)
        return GroupStatistics(*(part.to(device) for part in parts))


def check_statistics(name: str, stats: GroupStatistics, steps: int) -> None:
    """Raise ValueError unless the four tensors fit together and hold finite numbers."""
    channels = stats.low.shape[-1] if stats.low.ndim == 3 else 0
    tokens = stats.tokens.shape[1] if stats.tokens.ndim == 3 else 0
    shapes = {
        "low": (steps, 2, channels),
        "high": (steps, 2, channels),
        "tokens": (steps, tokens, channels),
        "energy": (steps, channels),
    }
    for part, shape in shapes.items():
        tensor: Tensor = getattr(stats, part)
        if tuple(tensor.shape) != shape or 0 in shape:
            raise ValueError(f"{name}.{part}: expected {shape}, got {tuple(tensor.shape)}")
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name}.{part}: expected finite numbers")


@dataclass(frozen=True)
class Calibration:
    """Statistics of every smoothing group, with the settings that gave them.

    influence  what errors of each step's prediction do to the final latents, where it was measured;
               no part of the identity, as a conversion does not read it

    >>> import tempfile
    >>> from pathlib import Path
    >>> import ditas_core as ditas
    >>> calibration = ditas.calibrate("assets/fluent-emoji-dit", samples=1, steps=1,
    ...                               progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     calibration.save(Path(folder, "calibration.safetensors"))
    ...     again = ditas.Calibration.load(Path(folder, "calibration.safetensors"))
    >>> again.sha256 == calibration.sha256, again.spec.sampling.steps
    (True, 1)
    """

    checkpoint: str
    spec: CalibrationSpec
    timesteps: tuple[int, ...]
    groups: dict[str, GroupStatistics] = field(repr=False)
    influence: Influence | None = field(default=None, repr=False, compare=False)

    @cached_property
    def sha256(self) -> str:
        """Hash over settings and tensors; the identity that recipes refer to."""
        digest = hashlib.sha256(self.checkpoint.encode())
        digest.update(json.dumps(asdict(self.spec), sort_keys=True).encode())
        for name in sorted(self.groups):
            stats = self.groups[name]
            for tensor in (stats.low, stats.high, stats.tokens, stats.energy):
                digest.update(f"{name}{tuple(tensor.shape)}".encode())
                digest.update(tensor.contiguous().numpy().data)  # no copy
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write safetensors beside ``path`` and rename.

        Raises:
            CalibrationError: the activations were not finite.
        """
        try:
            for name, stats in self.groups.items():
                check_statistics(name, stats, len(self.timesteps))
        except ValueError as error:
            raise CalibrationError(f"calibration: not written: {error}") from error
        tensors = {}
        for name, stats in self.groups.items():
            tensors[f"{name}.low"] = stats.low
            tensors[f"{name}.high"] = stats.high
            tensors[f"{name}.tokens"] = stats.tokens
            tensors[f"{name}.energy"] = stats.energy
        metadata = {
            "format": FORMAT,
            "checkpoint": self.checkpoint,
            "spec": json.dumps(asdict(self.spec)),
            "timesteps": json.dumps(self.timesteps),
        }
        if self.influence is not None:
            tensors[INFLUENCE] = self.influence.steps
            metadata["format"] = WITH_INFLUENCE
            metadata["influence"] = json.dumps([self.influence.samples, self.influence.seed])
        with whole_file(path) as part:
            save_file({k: v.contiguous() for k, v in tensors.items()}, part, metadata=metadata)
            part.chmod(0o644)  # safetensors makes files that only their owner can read

    @staticmethod
    def load(path: Path) -> Calibration:
        """Inverse of ``save``.

        Raises:
            CalibrationError: no such file, or not a calibration.
        """
        if not path.is_file():
            raise CalibrationError(f"calibration: expected a file, found none at {path}")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") not in (FORMAT, WITH_INFLUENCE):
                    raise CalibrationError(
                        f"{path.name}: expected a file that this version's calibrate wrote, "
                        f"got {metadata.get('format', 'another')}; calibrate again"
                    )
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            settings = parse_json("spec", metadata["spec"])
            spec = CalibrationSpec(**{**settings, "sampling": SamplingSpec(**settings["sampling"])})
            times = read_timesteps(metadata["timesteps"])
            influence = None
            if metadata["format"] == WITH_INFLUENCE:
                samples, seed = parse_json("influence", metadata["influence"], list)
                influence = Influence(samples, seed, tensors.pop(INFLUENCE))
                influence.check(len(times))
            names = dict.fromkeys(key.rsplit(".", 1)[0] for key in tensors)
            groups = {
                name: GroupStatistics(
                    low=tensors[f"{name}.low"],
                    high=tensors[f"{name}.high"],
                    tokens=tensors[f"{name}.tokens"],
                    energy=tensors[f"{name}.energy"],
                )
                for name in names
            }
            if len(times) != spec.sampling.steps:
                raise ValueError(f"timesteps: expected {spec.sampling.steps}, got {len(times)}")
            checkpoint = metadata["checkpoint"]
            for name, stats in groups.items():
                check_statistics(name, stats, len(times))
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, CalibrationError):
                raise
            raise CalibrationError(
                f"{path.name}: expected a file written by calibrate ({error})"
            ) from error
        return Calibration(checkpoint, spec, times, groups, influence)
