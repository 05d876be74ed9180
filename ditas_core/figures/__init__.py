"""Arrays in, plotly figures (and display images) out."""

from .ablation import ablation_drawing
from .bars import Estimate, metric_bars
from .breaking import layer_bars, parting_curves, step_curve
from .channels import channel_range, factor_lines, weight_mirror
from .contest import Standing, contest_drawing, contest_front
from .counted import Counted, counted_histograms, counted_texts, counted_traces, level_grid
from .curves import divergence_curves, loss_curves, relative_db
from .encoding import LEVELS, MAX_COLUMNS, Array, LogRange, pool_channels, shared_range, short
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
from .stills import colour_table, contact_sheet, map_cells, map_still
from .style import ROLES, role
from .surfaces import surface, surface_pair
from .vector import Line, chart_key, line_chart

__all__ = [
    "LEVELS",
    "MAGNITUDE",
    "MAX_COLUMNS",
    "NATURAL",
    "QUANTITIES",
    "ROLES",
    "Array",
    "Counted",
    "Estimate",
    "Line",
    "LogRange",
    "Standing",
    "ablation_drawing",
    "alpha_curve",
    "channel_histogram",
    "channel_maps",
    "channel_order",
    "channel_range",
    "chart_key",
    "colour_table",
    "column_width",
    "contact_sheet",
    "contact_strip",
    "contest_drawing",
    "contest_front",
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
    "layer_bars",
    "level_grid",
    "line_chart",
    "loss_curves",
    "map_cells",
    "map_still",
    "metric_bars",
    "overview_pair",
    "parting_curves",
    "pool_channels",
    "recipe_alphas",
    "recipe_errors",
    "relative_db",
    "role",
    "search_map",
    "selection",
    "sensitivity_map",
    "shared_range",
    "short",
    "size_error_curve",
    "split_strip",
    "step_curve",
    "surface",
    "surface_pair",
    "to_uint8",
    "weight_mirror",
]
