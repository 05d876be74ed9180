"""Finding, checking and loading DiT checkpoints; the map to their layers."""

from .checkpoint import Checkpoint, CheckpointError, fingerprint, load_folder
from .layers import Absorber, SmoothingGroup, get_linear, smoothing_groups
from .sources import HUB_SOURCES, load_checkpoint

__all__ = [
    "HUB_SOURCES",
    "Absorber",
    "Checkpoint",
    "CheckpointError",
    "SmoothingGroup",
    "fingerprint",
    "get_linear",
    "load_checkpoint",
    "load_folder",
    "smoothing_groups",
]
