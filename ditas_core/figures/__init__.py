"""Arrays in, plotly figures (and display images) out."""

from .curves import divergence_curves, loss_curves, relative_db
from .heatmaps import MAX_COLUMNS, channel_maps, empty_figure, overview_maps, pool_channels
from .images import contact_strip, difference, enlarge, split_strip, to_uint8

__all__ = [
    "MAX_COLUMNS",
    "channel_maps",
    "contact_strip",
    "difference",
    "divergence_curves",
    "empty_figure",
    "enlarge",
    "loss_curves",
    "overview_maps",
    "pool_channels",
    "relative_db",
    "split_strip",
    "to_uint8",
]
