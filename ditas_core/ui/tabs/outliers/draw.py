"""The outlier atlas as figures, rows and lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
import torch

from ....calibration import Calibration
from ....evaluation import (
    ChannelRecord,
    GroupOutliers,
    Half,
    LayerRank,
    Measure,
    OutlierAtlas,
    channel_record,
    furthest_factor,
    loudest_channels,
)
from ....figures import (
    MAGNITUDE,
    NATURAL,
    channel_histogram,
    channel_maps,
    channel_order,
    channel_range,
    column_width,
    empty_figure,
    factor_lines,
    overview_pair,
    selection,
    surface_pair,
    weight_mirror,
)
from ....specs import Granularity, get_convention
from ...page.picking import Pick
from ...serving.errors import refuse
from ...visitors.backend import Choice

MEASURES = {
    "loudest ÷ median": Measure.RATIO,
    "kurtosis": Measure.KURTOSIS,
    "largest |X|": Measure.ABSMAX,
}
UNITS = {Measure.RATIO: "×", Measure.KURTOSIS: "", Measure.ABSMAX: ""}
HALVES = [str(half) for half in Half]
PANELS = ["before and after", "with the difference"]
WHOLE_RUN = "whole run"
MAPS, CHANGE, SURFACE, FACTORS, WEIGHTS = VIEWS = (
    "Before and after",
    "Difference",
    "3-D surface",
    "Factors over time",
    "Weights beside it",
)
UNMEASURED = "Not measured yet: press “Measure” above"
NO_VALUES = "Single values need a measured run: press “Measure” above"
LISTED, DRAWN_FACTORS = 32, 48
GRIDS = {
    Granularity.PER_TOKEN: "each token has its own, drawn is the widest",
    Granularity.PER_TENSOR: "each step has its own, drawn is the widest",
    Granularity.PER_GROUP: "each token's block of {} inputs has its own, drawn is this channel's "
    "widest",
}
"""By what shares one scale."""
EXPLAINED = {
    MAPS: "One row per denoising step, one column per input channel, one colour scale.",
    CHANGE: "The third panel is after ÷ before: blue was turned down, orange turned up.",
    SURFACE: "Drag to turn it. Both landscapes have one height and colour scale.",
    FACTORS: "Thin: what each step alone would ask for. Bold: the one factor that all steps get.",
    WEIGHTS: "What smoothing takes from a channel, the weights that read it have to carry.",
}


@dataclass(frozen=True)
class Look:
    """One layer as the visitor wants to see it; everything has been checked.

    timestep  None = the whole run
    source    where alpha comes from
    """

    layer: str
    alpha: float | None
    source: str
    measure: Measure
    half: Half
    timestep: int | None
    view: str
    loudest_first: bool
    choice: Choice

    @property
    def order(self) -> str:
        return MAGNITUDE if self.loudest_first else NATURAL

    @property
    def of_half(self) -> str:
        return "" if self.half is Half.BOTH else f" · {self.half} half only"


def alpha_text(alpha: float | None) -> str:
    return "identity" if alpha is None else f"{alpha:.2f}"


def amount(value: float, measure: Measure = Measure.RATIO) -> str:
    return f"{value:.3g}{UNITS[measure]}"


def row_of(timestep: int | None, timesteps: tuple[int, ...]) -> int | None:
    """The row of a timestep; None for the whole run, and where this run has no such step."""
    return timesteps.index(timestep) if timestep in timesteps else None


def headers(measure: Measure) -> list[str]:
    """Of the table; the measure stands in the column."""
    unit = UNITS[measure]
    return ["layer", f"before {unit}".strip(), f"after {unit}".strip(), "channel", "t", "α"]


def ranking_rows(
    atlas: OutlierAtlas, alphas: Mapping[str, float | None], measure: Measure, half: Half
) -> list[list[Any]]:
    """Layers by strength, strongest first."""
    return [
        [
            rank.layer,
            round(rank.strength, 2),
            round(rank.smoothed, 2),
            rank.channel,
            rank.timestep,
            "none" if rank.alpha is None else f"{rank.alpha:.2f}",
        ]
        for rank in atlas.ranking(alphas, measure, half)
    ]


def calmed(ranking: list[LayerRank]) -> LayerRank:
    """The layer to open on: the one that the recipe takes most from, else the strongest."""
    return max(ranking, key=lambda rank: rank.strength - rank.smoothed)


def overview(
    atlas: OutlierAtlas, alphas: Mapping[str, float | None], look: Look, change: bool
) -> go.Figure:
    """Every layer and step before and after, the look's own one framed."""
    recipe = look.choice.recipe
    return overview_pair(
        atlas.overview(None, look.measure, look.half).numpy(),
        atlas.overview(alphas, look.measure, look.half).numpy(),
        list(atlas.groups),
        atlas.timesteps,
        str(look.measure),
        (look.layer, look.timestep),
        title_after=f"after smoothing, α of {recipe}",
        difference=change,
        dark=look.choice.dark,
    )


def framed(atlas: OutlierAtlas, look: Look, change: bool) -> list[dict[str, Any]]:
    """What frames the look's own layer and timestep in the overview."""
    return selection(list(atlas.groups), atlas.timesteps, (look.layer, look.timestep), change)


def overview_text(atlas: OutlierAtlas, look: Look) -> str:
    """What the overview shows, and where its maximum lies."""
    rank = atlas.ranking({}, look.measure, look.half)[0]
    framed = look.layer if look.timestep is None else f"{look.layer} at t = {look.timestep}"
    return (
        f"{len(atlas.groups)} layers × {len(atlas.timesteps)} denoising steps{look.of_half} · "
        f"over the whole run, as the table ranks them, {rank.layer} is strongest: "
        f"{amount(rank.strength, look.measure)}, through channel {rank.channel} at "
        f"t = {rank.timestep} · framed: {framed}."
    )


def layer_figures(
    atlas: OutlierAtlas, look: Look, calibration: Calibration | None
) -> tuple[go.Figure, ...]:
    """One figure, or the two landscapes."""
    group, dark = atlas.groups[look.layer], look.choice.dark
    smoothed = group.smoothed(look.alpha)
    if look.view == SURFACE:
        return landscapes(atlas, look, calibration)
    if look.view == WEIGHTS:
        arrays = [
            each.numpy()
            for state in ("act_absmax", "weight_absmax")
            for each in (getattr(group, state), getattr(smoothed, state))
        ]
        return (weight_mirror(*arrays, dark=dark),)
    if look.view == FACTORS:
        loudest = loudest_channels(group.act_absmax, DRAWN_FACTORS)
        per_step = group.step_factors(look.alpha, look.half)[:, loudest]
        factor = group.factor(look.alpha)[loudest]
        figure = factor_lines(
            per_step.numpy(), factor.numpy(), atlas.timesteps, loudest.numpy(), dark=dark
        )
        return (figure,)
    return (
        channel_maps(
            group.map(look.half).numpy(),
            smoothed.map(look.half).numpy(),
            atlas.timesteps,
            f"{group.title}, before smoothing",
            f"after smoothing, α = {alpha_text(look.alpha)}",
            order=look.order,
            difference=look.view == CHANGE,
            dark=dark,
        ),
    )


def landscapes(
    atlas: OutlierAtlas, look: Look, calibration: Calibration | None
) -> tuple[go.Figure, go.Figure]:
    """Timesteps x channels; of one timestep, where its tokens are known, tokens x channels."""
    group, dark = atlas.groups[look.layer], look.choice.dark
    s = group.factor(look.alpha)
    row = None if calibration is None else row_of(look.timestep, calibration.timesteps)
    if calibration is not None and row is not None:
        tokens = calibration.groups[look.layer].tokens[row].float().abs()  # (K, C)
        return surface_pair(
            tokens.numpy(), (tokens / s).numpy(), range(len(tokens)), "token", dark=dark
        )
    shown = group.half(look.half)  # (T, C)
    return surface_pair(shown.numpy(), (shown / s).numpy(), atlas.timesteps, dark=dark)


def layer_text(atlas: OutlierAtlas, look: Look) -> str:
    """What is on view, with its numbers."""
    group = atlas.groups[look.layer]
    before = group.strength_as(look.measure, look.half)
    after = group.smoothed(look.alpha).strength_as(look.measure, look.half)
    name = {v: k for k, v in MEASURES.items()}[look.measure]
    text = (
        f"{group.title} · α = {alpha_text(look.alpha)} ({look.source}) · {name} over the run: "
        f"{amount(before, look.measure)} → {amount(after, look.measure)}{look.of_half}. "
        f"{EXPLAINED[look.view]}"
    )
    if look.view == FACTORS:
        text += factor_text(group, look, atlas.timesteps)
    if look.choice.model.injected:
        text += " Injected outliers (function-preserving)."
    return text


def factor_text(group: GroupOutliers, look: Look, timesteps: tuple[int, ...]) -> str:
    """Where one factor for all steps fits worst."""
    if look.alpha is None:
        return " Without smoothing all of them are 1."
    loudest = loudest_channels(group.act_absmax, DRAWN_FACTORS)
    per_step = group.step_factors(look.alpha, look.half)[:, loudest]
    factor = group.factor(look.alpha)[loudest]
    row, place = furthest_factor(per_step, factor)
    return (
        f" Furthest apart: channel {int(loudest[place])} at t = {timesteps[row]} would ask for "
        f"{per_step[row, place]:.2g} and gets {factor[place]:.2g}."
    )


def channel_names(group: GroupOutliers, half: Half) -> list[tuple[str, str]]:
    """The loudest channels, loudest first, with their loudness; value = the number."""
    loudness = group.map(half).amax(0)
    return [
        (f"{int(c)} · {loudness[c]:.3g}× the median", str(int(c)))
        for c in loudest_channels(loudness, LISTED)
    ]


def picked_channel(atlas: OutlierAtlas, look: Look, pick: Pick) -> int:
    """The channel behind a click on the layer's figure; of a column of several the loudest."""
    group = atlas.groups[look.layer]
    loudness = group.map(look.half).amax(0)
    try:
        at = int(pick.x)
    except (ValueError, OverflowError):
        raise refuse("click: expected a channel of the figure") from None
    if not 0 <= at < len(loudness):
        raise refuse(f"channel: expected 0 to {len(loudness) - 1}, got {at}")
    if look.view == WEIGHTS:  # columns count from the loudest
        return int(channel_order(group.act_absmax.numpy(), MAGNITUDE)[at])
    if look.view in (MAPS, CHANGE) and not look.loudest_first:
        width = column_width(len(atlas.timesteps), len(loudness), 2 + (look.view == CHANGE))
        return at + int(loudness[at : at + width].argmax())
    return at


def records(
    atlas: OutlierAtlas, look: Look, calibration: Calibration, channel: int
) -> tuple[ChannelRecord, ChannelRecord]:
    """The channel before and after smoothing, with the grids of the bar's bits."""
    statistics = calibration.groups[look.layer]
    _, spec = get_convention(look.choice.convention).quantizers(look.choice.bits)
    row = row_of(look.timestep, calibration.timesteps)
    factor = atlas.groups[look.layer].factor(look.alpha)
    return (
        channel_record(statistics, channel, torch.ones_like(factor), spec, look.half, row),
        channel_record(statistics, channel, factor, spec, look.half, row),
    )


def channel_figures(
    atlas: OutlierAtlas, look: Look, calibration: Calibration | None, channel: int
) -> tuple[go.Figure, go.Figure, str, str]:
    """Histogram, range over time, a line about them, and its kind."""
    dark = look.choice.dark
    if calibration is None:
        blank = empty_figure(NO_VALUES, dark=dark)
        return blank, blank, f"channel {channel}: {NO_VALUES}.", "warn"
    before, after = records(atlas, look, calibration, channel)
    histogram = channel_histogram(
        before.tokens.numpy(),
        after.tokens.numpy(),
        before.levels.numpy(),
        after.levels.numpy(),
        channel,
        dark=dark,
    )
    spans = [(r.low.numpy(), r.high.numpy(), r.step.numpy()) for r in (before, after)]
    over_time = channel_range(*spans[0], calibration.timesteps, channel, after=spans[1], dark=dark)
    return histogram, over_time, channel_text(atlas, look, calibration, channel, before), "done"


def channel_text(
    atlas: OutlierAtlas, look: Look, calibration: Calibration, channel: int, record: ChannelRecord
) -> str:
    group, convention = atlas.groups[look.layer], get_convention(look.choice.convention)
    factor = float(group.factor(look.alpha)[channel])
    when = "whole run" if row_of(look.timestep, calibration.timesteps) is None else ""
    when = when or f"t = {look.timestep}"
    text = (
        f"{group.title}, channel {channel}: divided by s = {factor:.3g}, α = "
        f"{alpha_text(look.alpha)} ({look.source}) · histogram: {when}, "
        f"n = {len(record.tokens)} stored values of both halves · range: exact, "
        f"{calibration.spec.samples} samples{look.of_half} · "
    )
    _, spec = convention.quantizers(look.choice.bits)
    grid = GRIDS[spec.granularity].format(spec.group_size)
    if not len(record.levels):
        return text + f"{look.choice.bits} leaves activations alone: no grid."
    return text + f"grid: {look.choice.bits}, {convention.name}, {grid}."
