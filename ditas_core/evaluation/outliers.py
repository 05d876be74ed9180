"""How far a few channels stand out, per layer and timestep, before and after smoothing.

    strength = max over channels / median over channels, or another ``Measure``

The atlas holds what the figures need and nothing else, so that it can be shown
without a model; it is exact in ``act_absmax`` and within 2 % in ``halves`` after
a round trip through its file (``atlas_file``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..calibration import CONDITIONAL, UNCONDITIONAL, Calibration, GroupStatistics
from ..checkpoints import Checkpoint
from ..models import get_linear
from ..smoothing import FLOOR, smoothing_factor, weight_absmax
from .atlas_file import StoredGroup, read_atlas, write_atlas
from .strength import Half, Measure, loudest_channels, outlier_strength, step_factors

HALF_MAX = 65504.0


def in_medians(absmax: Tensor, aggregated: Tensor) -> Tensor:
    """``absmax`` in units of the layer's median channel: (T, C), (C,) -> (T, C)."""
    return absmax / aggregated.median().clamp(min=FLOOR)


@dataclass(frozen=True)
class GroupOutliers:
    """One smoothing group over T steps, C channels and the two guidance halves.

    halves         largest |X| of each step, (T, 2, C), half 0 conditional
                   together where it was read from a file of the first format
    act_absmax     its temporal aggregate, (C,)
    weight_absmax  largest |W| over the outputs, (C,)
    """

    title: str
    halves: Tensor
    act_absmax: Tensor
    weight_absmax: Tensor

    @property
    def absmax(self) -> Tensor:
        """Largest |X| of each step over both halves, (T, C)."""
        return self.halves.amax(1)

    def half(self, half: Half | str = Half.BOTH) -> Tensor:
        """Largest |X| of each step of one half, (T, C)."""
        half = Half(half)
        if half is Half.BOTH:
            return self.absmax
        return self.halves[:, CONDITIONAL if half is Half.CONDITIONAL else UNCONDITIONAL]

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
            halves=self.halves / s,
            act_absmax=self.act_absmax / s,
            weight_absmax=self.weight_absmax * s,
        )

    @property
    def strength(self) -> float:
        """Largest channel over the median one, of the whole trajectory."""
        return self.strength_as(Measure.RATIO)

    def strength_as(self, measure: Measure | str, half: Half | str = Half.BOTH) -> float:
        """Any measure of one half's whole trajectory."""
        both = Half(half) is Half.BOTH
        aggregated = self.act_absmax if both else self.half(half).amax(0)
        return float(outlier_strength(aggregated, measure))

    def step_factors(self, alpha: float | None, half: Half | str = Half.BOTH) -> Tensor:
        """s_t, as if every step were smoothed by its own maxima, (T, C)."""
        return step_factors(self.half(half), self.weight_absmax, alpha)

    def map(self, half: Half | str = Half.BOTH) -> Tensor:
        """absmax in units of the median channel, (T, C)."""
        return in_medians(self.half(half), self.act_absmax)


@dataclass(frozen=True)
class LayerRank:
    """One row of the table beside the overview.

    channel, timestep   where the loudest value of the whole trajectory lies
    """

    layer: str
    strength: float
    smoothed: float
    channel: int
    timestep: int
    alpha: float | None


@dataclass(frozen=True)
class OutlierAtlas:
    """Every smoothing group of one checkpoint, from one Calibration."""

    checkpoint: str
    timesteps: tuple[int, ...]
    groups: dict[str, GroupOutliers] = field(repr=False)

    def overview(
        self,
        alphas: Mapping[str, float | None] | None = None,
        measure: Measure | str = Measure.RATIO,
        half: Half | str = Half.BOTH,
    ) -> Tensor:
        """Strength of every step and layer, (T, L); smoothed where ``alphas`` are given."""
        columns = []
        for name, group in self.groups.items():
            shown = group if alphas is None else group.smoothed(alphas.get(name))
            columns.append(outlier_strength(shown.half(half), measure))  # (T,)
        return torch.stack(columns, dim=1)

    def ranking(
        self,
        alphas: Mapping[str, float | None],
        measure: Measure | str = Measure.RATIO,
        half: Half | str = Half.BOTH,
    ) -> list[LayerRank]:
        """Layers by strength over the whole trajectory, strongest first."""
        rows = []
        for name, group in self.groups.items():
            shown, alpha = group.half(half), alphas.get(name)
            channel = int(loudest_channels(shown.amax(0), 1)[0])
            rows.append(
                LayerRank(
                    layer=name,
                    strength=group.strength_as(measure, half),
                    smoothed=group.smoothed(alpha).strength_as(measure, half),
                    channel=channel,
                    timestep=self.timesteps[int(shown[:, channel].argmax())],
                    alpha=alpha,
                )
            )
        return sorted(rows, key=lambda row: -row.strength)

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
        """One byte or less per value of ``halves``; written, then renamed."""
        stored = {
            name: StoredGroup(group.title, group.halves, group.act_absmax, group.weight_absmax)
            for name, group in self.groups.items()
        }
        write_atlas(path, self.checkpoint, self.timesteps, stored)

    @staticmethod
    def load(path: Path) -> OutlierAtlas:
        """Inverse of ``save``.

        Raises:
            AtlasError: no such file, or not an atlas.
        """
        checkpoint, timesteps, stored = read_atlas(path)
        groups = {name: GroupOutliers(*group) for name, group in stored.items()}
        return OutlierAtlas(checkpoint, timesteps, groups)


def weight_maxima(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Largest |W| per input channel of every group, (C,) each."""
    return {
        group.name: weight_absmax(
            [
                get_linear(checkpoint.transformer, path).weight.detach().float()
                for path in group.layers
            ]
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
            halves=statistics.absmax,
            act_absmax=statistics.aggregated_absmax(),
            weight_absmax=maxima[group.name],
        )
    return OutlierAtlas(calibration.checkpoint, calibration.timesteps, groups)


def rescaled_calibration(
    calibration: Calibration, factors: Mapping[str, Tensor], checkpoint: str
) -> Calibration:
    """What calibrating the rescaled transformer would give, without sampling again.

    Rescaling preserves the function, so the trajectory is the same and the inputs
    of the named groups are those recorded, divided by s (C,); influence is the same.
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
    return replace(calibration, checkpoint=checkpoint, groups=groups)
