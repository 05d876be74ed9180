"""The alpha lab's state and what it shows: one layer, its curve, figures and verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ....calibration import Calibration
from ....figures import (
    Array,
    Counted,
    alpha_curve,
    counted_histograms,
    counted_texts,
    counted_traces,
    curve_traces,
    empty_figure,
    error_bars,
    error_span,
    error_ticks,
    error_traces,
    level_grid,
    relative_db,
)
from ....models import SmoothingGroup
from ....search import AlphaLab, Grid, Histogram, LabView, LayerDone, SearchSpec, search_group
from ....specs import BitWidths, LayerRecipe, Recipe
from ...visitors.backend import Backend, Model

BARS, CURVE, SHAPES = "lab-bars", "lab-curve", "lab-shapes"
"""Element ids of the three figures."""
HEIGHTS = {BARS: 236, CURVE: 300, SHAPES: 548}
SAMPLED = (None, 0.0, 0.5, 1.0)
SAME_DB = 0.05
"""Two errors that are not told apart."""


@dataclass(frozen=True)
class Setting:
    """What the lab looks at; alpha is the hand that moves in it."""

    model: Model
    group: str
    bits: BitWidths
    convention: str
    branch: bool

    @property
    def spec(self) -> SearchSpec:
        return SearchSpec(self.bits, self.convention, "ditas" if self.branch else "search")


class Held:
    """A layer at one setting, with every alpha that was looked at.

    Its bar axis fits both ends of the slider, so that bars move and the axis stays.
    """

    def __init__(self, lab: AlphaLab) -> None:
        self.lab = lab
        self.views: dict[float | None, LabView] = {}
        ends = [error for alpha in SAMPLED for error in errors(self.at(alpha)).values()]
        self.span = error_span(*ends)

    def at(self, alpha: float | None) -> LabView:
        if alpha not in self.views:
            self.views[alpha] = self.lab(alpha)
        return self.views[alpha]

    @property
    def nbytes(self) -> int:
        loss = self.lab.loss
        return 4 * (2 * loss.tokens.numel() + loss.known.numel() + 4 * loss.weight.numel())


def group_of(backend: Backend, setting: Setting) -> SmoothingGroup:
    groups = backend.checkpoint(setting.model).groups
    return next(group for group in groups if group.name == setting.group)


def hold(backend: Backend, setting: Setting, calibration: Calibration) -> Held:
    """The layer at this setting, prepared once for all visitors."""

    def build() -> Held:
        group = group_of(backend, setting)
        return Held(AlphaLab(backend.checkpoint(setting.model), group, calibration, setting.spec))

    found: Held = backend.cache.make(("lab", setting, calibration.sha256), build)
    return found


def known_curve(backend: Backend, setting: Setting, calibration: Calibration) -> LayerDone | None:
    """The search's curve if somebody has computed it, or it is shipped for this very run."""
    found: LayerDone | None = backend.cache.get(("curve", setting, calibration.sha256))
    shipped = backend.shipped
    if found is not None or shipped is None or shipped.calibration != calibration.sha256:
        return found
    preset = shipped.presets.get(str(setting.bits))
    if preset is None or not setting.branch or setting.convention != shipped.convention:
        return None
    return next((layer for layer in preset.layers if layer.group == setting.group), None)


def find_curve(backend: Backend, setting: Setting, calibration: Calibration) -> LayerDone:
    """The search's curve of this layer; about a second on the demo checkpoint."""

    def build() -> LayerDone:
        checkpoint, group = backend.checkpoint(setting.model), group_of(backend, setting)
        done = search_group(checkpoint, group, calibration, setting.spec)
        return done

    known = known_curve(backend, setting, calibration)
    if known is not None:
        return known
    found: LayerDone = backend.cache.make(("curve", setting, calibration.sha256), build)
    return found


def errors(view: LabView) -> dict[str, float]:
    """What the bars show; a side that is left alone has none."""
    sides = (
        ("activations", view.activation_grid, view.activation_db),
        ("weights", view.weight_grid, view.weight_db),
    )
    found = {name: db for name, grid, db in sides if grid is not None}
    return {**found, "output": view.output_db}


def counted(histogram: Histogram, grid: Grid | None) -> Counted:
    levels: Array = np.empty(0)
    if grid is not None:
        levels = np.array(grid.levels)
        if not grid.levels:
            levels = level_grid(grid.low, grid.high, grid.step)
    return Counted(histogram.counts.numpy(), histogram.limit, levels)


def sides(held: Held, alpha: float | None) -> tuple[Counted, Counted, Counted, Counted]:
    """Activations and weights, at alpha and without smoothing."""
    now, before = held.at(alpha), held.at(None)
    return (
        counted(now.activations, now.activation_grid),
        counted(now.weights, now.weight_grid),
        counted(before.activations, before.activation_grid),
        counted(before.weights, before.weight_grid),
    )


def line_of(
    curve: LayerDone, held: Held, alpha: float | None
) -> tuple[Sequence[float], list[float], float | None, float]:
    """The curve against no smoothing with the hand on it, as the figures take it."""
    losses = [float(v) for v in relative_db(curve.losses, curve.identity)]
    return curve.grid, losses, alpha, held.at(alpha).output_db - held.at(None).output_db


def draw(
    held: Held, curve: LayerDone | None, alpha: float | None, dark: bool
) -> dict[str, go.Figure]:
    """The three figures, by element id."""
    bars = (errors(held.at(alpha)), held.span, errors(held.at(None)))
    line = empty_figure("Searching this layer: 21 values of α", HEIGHTS[CURVE], dark=dark)
    if curve is not None:
        line = alpha_curve(
            *line_of(curve, held, alpha), choice=curve.alpha, height=HEIGHTS[CURVE], dark=dark
        )
    return {
        BARS: error_bars(*bars, height=HEIGHTS[BARS], dark=dark),
        CURVE: line,
        SHAPES: counted_histograms(*sides(held, alpha), alpha, height=HEIGHTS[SHAPES], dark=dark),
    }


def moves(held: Held, curve: LayerDone | None, alpha: float, dark: bool) -> dict[str, Any]:
    """What another alpha changes in figures that are on view: a tenth of drawing them anew."""
    title, notes = counted_texts(*sides(held, alpha)[:2], alpha, dark)
    bars = error_traces(errors(held.at(alpha)), held.span, errors(held.at(None)), dark)
    found: dict[str, dict[str, Any]] = {
        BARS: {"data": bars, "patch": {"yaxis": error_ticks(errors(held.at(alpha)))}},
        SHAPES: {
            "data": counted_traces(*sides(held, alpha), alpha, dark),
            "patch": {"annotations": notes, "title": {"text": title}},
        },
    }
    if curve is not None:
        line = curve_traces(*line_of(curve, held, alpha), choice=curve.alpha)
        found[CURVE] = {"data": line, "patch": {}}
    for name, each in found.items():  # a resized figure has forgotten its height
        each["patch"]["height"] = HEIGHTS[name]
    return found


def empty(text: str, dark: bool) -> dict[str, go.Figure]:
    """The same while there is nothing to show."""
    return {name: empty_figure(text, height, dark=dark) for name, height in HEIGHTS.items()}


def db(value: float) -> str:
    return f"{value:.1f} dB".replace("-", "−")


def named(alpha: float | None) -> str:
    return "no smoothing" if alpha is None else f"α = {alpha:.2f}"


def optimum(curve: LayerDone) -> str:
    """What the search chose, and the output's error there on the same scale as the bars."""
    loss = curve.identity
    if curve.alpha is not None:
        loss = curve.losses[curve.grid.index(curve.alpha)]
    level = db(float(relative_db([loss], curve.energy)[0]))
    return f"the search's optimum is {named(curve.alpha)} ({level})"


def verdict(held: Held, curve: LayerDone | None, alpha: float | None) -> str:
    """What the figures say, in one or two sentences that are read aloud."""
    view, without = held.at(alpha), held.at(None)
    name = "No smoothing" if alpha is None else named(alpha)
    parts = [f"<b>{name}</b>: output error <b>{db(view.output_db)}</b>"]
    sides = [f"{n} {db(v)}" for n, v in errors(view).items() if n != "output"]
    text = f"rounding of {', of '.join(sides)}"
    if len(sides) > 1:
        louder = view.output_weight_db > view.output_activation_db
        text += f", most of the output's from the {'weights' if louder else 'activations'}"
    parts.append(text)
    gain = without.output_db - view.output_db
    kind = "done" if gain > SAME_DB else "warn" if gain < -SAME_DB else ""
    if alpha is not None:
        compared = f"{abs(gain):.1f} dB {'better' if gain > 0 else 'worse'} than"
        compared = compared if abs(gain) > SAME_DB else "the same as"
        parts.append(f"<b>{compared} no smoothing</b>")
    parts.append("its curve is being searched" if curve is None else optimum(curve))
    return f'<div class="status {kind}" role="status"><span>{"; ".join(parts)}.</span></div>'


def used(
    backend: Backend,
    recipe: Recipe,
    setting: Setting,
    alpha: float | None,
    calibration: Calibration,
) -> Recipe:
    """The recipe with this layer as the lab has it."""
    branch = setting.spec.branch(backend.checkpoint(setting.model).width)
    changed = recipe.with_layer(setting.group, LayerRecipe(setting.bits, alpha, branch))
    return replace(changed, calibration=recipe.calibration or calibration.sha256)
