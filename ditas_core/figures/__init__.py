"""Arrays in, plotly figures (and display images) out."""

from .bars import Estimate, ablation_bars, metric_bars
from .channels import channel_range, factor_lines, weight_mirror
from .curves import divergence_curves, loss_curves, relative_db
from .encoding import MAX_COLUMNS, pool_channels
from .grids import alpha_histograms, channel_histogram
from .heatmaps import MAGNITUDE, NATURAL, channel_maps, empty_figure, overview_maps
from .images import contact_strip, difference, enlarge, split_strip, to_uint8
from .lab import alpha_curve, error_bars, error_span, search_map
from .overview import QUANTITIES, overview_map
from .sensitivity import sensitivity_map, size_error_curve
from .style import ROLES, role
from .surfaces import surface, surface_pair

__all__ = [
    "MAGNITUDE",
    "MAX_COLUMNS",
    "NATURAL",
    "QUANTITIES",
    "ROLES",
    "Estimate",
    "ablation_bars",
    "alpha_curve",
    "alpha_histograms",
    "channel_histogram",
    "channel_maps",
    "channel_range",
    "contact_strip",
    "difference",
    "divergence_curves",
    "empty_figure",
    "enlarge",
    "error_bars",
    "error_span",
    "factor_lines",
    "loss_curves",
    "metric_bars",
    "overview_map",
    "overview_maps",
    "pool_channels",
    "relative_db",
    "role",
    "search_map",
    "sensitivity_map",
    "size_error_curve",
    "split_strip",
    "surface",
    "surface_pair",
    "to_uint8",
    "weight_mirror",
]
