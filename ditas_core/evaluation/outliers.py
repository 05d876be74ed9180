"""How far a few channels stand out, per layer and timestep, before and after smoothing.

    strength = max over channels / median over channels

The atlas holds what the figures need and nothing else, so that it can be shown
without a model; it is exact in ``act_absmax`` and within 2 % in ``absmax`` after
a round trip through its file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..calibration import Calibration, GroupStatistics
from ..checkpoints import Checkpoint, get_linear
from ..smoothing import FLOOR, smoothing_factor, weight_absmax

FORMAT = "ditas-atlas-1"
HALF_MAX = 65504.0


class AtlasError(ValueError):
    """An atlas file that cannot be used."""


def outlier_strength(absmax: Tensor) -> Tensor:
    """Largest channel over the median one, (..., C) -> (...)."""
    return absmax.amax(-1) / absmax.median(-1).values.clamp(min=FLOOR)


def in_medians(absmax: Tensor, aggregated: Tensor) -> Tensor:
    """``absmax`` in units of the layer's median channel: (T, C), (C,) -> (T, C)."""
    return absmax / aggregated.median().clamp(min=FLOOR)


@dataclass(frozen=True)
class GroupOutliers:
    """One smoothing group over T steps and C channels.

    absmax         largest |X| of each step, over both guidance halves, (T, C)
    act_absmax     its temporal aggregate, (C,)
    weight_absmax  largest |W| over the outputs, (C,)
    """

    title: str
    absmax: Tensor
    act_absmax: Tensor
    weight_absmax: Tensor

    def factor(self, alpha: float | None) -> Tensor:
        """The smoothing factor s, (C,)."""
        return smoothing_factor(self.act_absmax, self.weight_absmax, alpha)

    def smoothed(self, alpha: float | None) -> GroupOutliers:
        """The same group after X / s and W * s."""
        return self.divided(self.factor(alpha))

    def divided(self, s: Tensor) -> GroupOutliers:
        """The same group after its input is divided by any s (C,) and its columns multiplied."""
        return replace(
            self,
            absmax=self.absmax / s,
            act_absmax=self.act_absmax / s,
            weight_absmax=self.weight_absmax * s,
        )

    @property
    def strength(self) -> float:
        """Of the whole trajectory."""
        return float(outlier_strength(self.act_absmax))

    def map(self) -> Tensor:
        """absmax in units of the median channel, (T, C)."""
        return in_medians(self.absmax, self.act_absmax)


@dataclass(frozen=True)
class OutlierAtlas:
    """Every smoothing group of one checkpoint, from one Calibration."""

    checkpoint: str
    timesteps: tuple[int, ...]
    groups: dict[str, GroupOutliers] = field(repr=False)

    def overview(self, alphas: Mapping[str, float | None] | None = None) -> Tensor:
        """Strength of every step and layer, (T, L); smoothed where ``alphas`` are given."""
        columns = []
        for name, group in self.groups.items():
            shown = group if alphas is None else group.smoothed(alphas.get(name))
            columns.append(outlier_strength(shown.absmax))  # (T,)
        return torch.stack(columns, dim=1)

    def rescaled(self, factors: Mapping[str, Tensor], checkpoint: Checkpoint) -> OutlierAtlas:
        """The atlas of a checkpoint whose transformer is this one's, rescaled by ``factors``.

        Inputs are divided by s; weights are read anew, since folding a group's
        division into V rows changes the weights of the group before it too.
        """
        maxima = weight_maxima(checkpoint)
        groups = {}
        for name, group in self.groups.items():
            divided = group.divided(factors[name]) if name in factors else group
            groups[name] = replace(divided, weight_absmax=maxima[name])
        return OutlierAtlas(checkpoint.fingerprint, self.timesteps, groups)

    def save(self, path: Path) -> None:
        """One byte per value of ``absmax`` on each group's own log scale; written, then renamed."""
        tensors, ranges = {}, {}
        for name, group in self.groups.items():
            logs = group.absmax.clamp(min=FLOOR).log()  # (T, C)
            low, high = float(logs.min()), float(logs.max())
            span = max(high - low, 1e-6)
            tensors[f"{name}.absmax"] = ((logs - low) / span * 255).round().to(torch.uint8)
            tensors[f"{name}.act"] = group.act_absmax.float().contiguous()
            tensors[f"{name}.weight"] = group.weight_absmax.float().contiguous()
            ranges[name] = [group.title, low, span]
        metadata = {
            "format": FORMAT,
            "checkpoint": self.checkpoint,
            "timesteps": json.dumps(self.timesteps),
            "groups": json.dumps(ranges),
        }
        part = path.with_name(path.name + ".part")
        try:
            save_file(tensors, part, metadata=metadata)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    @staticmethod
    def load(path: Path) -> OutlierAtlas:
        """Inverse of ``save``.

        Raises:
            AtlasError: no such file, or not an atlas.
        """
        if not path.is_file():
            raise AtlasError(f"atlas: expected a file, found no {path.name}")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise AtlasError(f"{path.name}: expected a file of format {FORMAT}")
                groups = {}
                for name, (title, low, span) in json.loads(metadata["groups"]).items():
                    codes = file.get_tensor(f"{name}.absmax").float()
                    groups[name] = GroupOutliers(
                        title=str(title),
                        absmax=(codes / 255 * span + low).exp(),
                        act_absmax=file.get_tensor(f"{name}.act"),
                        weight_absmax=file.get_tensor(f"{name}.weight"),
                    )
            times = tuple(int(t) for t in json.loads(metadata["timesteps"]))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, AtlasError):
                raise
            raise AtlasError(f"{path.name}: expected an atlas ({error})") from error
        return OutlierAtlas(metadata["checkpoint"], times, groups)


def weight_maxima(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Largest |W| per input channel of every group, (C,) each."""
    return {
        group.name: weight_absmax(
            [get_linear(checkpoint.transformer, path).weight.detach() for path in group.layers]
        )
        for group in checkpoint.groups
    }


def outlier_atlas(checkpoint: Checkpoint, calibration: Calibration) -> OutlierAtlas:
    """The atlas of a checkpoint."""
    maxima = weight_maxima(checkpoint)
    groups = {}
    for group in checkpoint.groups:
        statistics = calibration.groups[group.name]
        groups[group.name] = GroupOutliers(
            title=group.title,
            absmax=statistics.absmax.amax(1),
            act_absmax=statistics.aggregated_absmax(),
            weight_absmax=maxima[group.name],
        )
    return OutlierAtlas(calibration.checkpoint, calibration.timesteps, groups)


def rescaled_calibration(
    calibration: Calibration, factors: Mapping[str, Tensor], checkpoint: str
) -> Calibration:
    """What calibrating the rescaled transformer would give, without sampling again.

    Rescaling preserves the function, so the trajectory is the same and the inputs
    of the named groups are those recorded, divided by s (C,).
    """
    groups = dict(calibration.groups)
    for name, s in factors.items():
        old = groups[name]
        groups[name] = GroupStatistics(
            low=old.low / s,
            high=old.high / s,
            tokens=(old.tokens.float() / s).clamp(-HALF_MAX, HALF_MAX).half(),
            energy=old.energy / s.square(),
        )
    return Calibration(checkpoint, calibration.spec, calibration.timesteps, groups)
