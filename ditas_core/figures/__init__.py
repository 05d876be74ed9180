"""Arrays in, plotly figures (and display images) out."""

from .bars import Estimate, metric_bars
from .channels import channel_range, factor_lines, weight_mirror
from .counted import Counted, counted_histograms, counted_texts, counted_traces, level_grid
from .curves import divergence_curves, loss_curves, relative_db
from .encoding import MAX_COLUMNS, pool_channels
from .grids import channel_histogram
from .heatmaps import (
    MAGNITUDE,
    NATURAL,
    channel_maps,
    channel_order,
    column_width,
    empty_figure,
)
from .images import contact_strip, difference, enlarge, split_strip, to_uint8
from .injection import injection_curves
from .lab import (
    alpha_curve,
    curve_traces,
    error_bars,
    error_span,
    error_ticks,
    error_traces,
    search_map,
)
from .overview import QUANTITIES, overview_pair, selection
from .recipes import recipe_alphas, recipe_errors
from .sensitivity import sensitivity_map, size_error_curve
from .style import ROLES, role
from .surfaces import surface, surface_pair

__all__ = [
    "MAGNITUDE",
    "MAX_COLUMNS",
    "NATURAL",
    "QUANTITIES",
    "ROLES",
    "Counted",
    "Estimate",
    "alpha_curve",
    "channel_histogram",
    "channel_maps",
    "channel_order",
    "channel_range",
    "column_width",
    "contact_strip",
    "counted_histograms",
    "counted_texts",
    "counted_traces",
    "curve_traces",
    "difference",
    "divergence_curves",
    "empty_figure",
    "enlarge",
    "error_bars",
    "error_span",
    "error_ticks",
    "error_traces",
    "factor_lines",
    "injection_curves",
    "level_grid",
    "loss_curves",
    "metric_bars",
    "overview_pair",
    "pool_channels",
    "recipe_alphas",
    "recipe_errors",
    "relative_db",
    "role",
    "search_map",
    "selection",
    "sensitivity_map",
    "size_error_curve",
    "split_strip",
    "surface",
    "surface_pair",
    "to_uint8",
    "weight_mirror",
]
