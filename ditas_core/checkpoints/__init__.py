"""Finding, checking and loading DiT checkpoints; the map to their layers."""

from .checkpoint import Checkpoint, CheckpointError, fingerprint, load_folder
from .layers import Absorber, SmoothingGroup, get_linear, smoothing_groups
from .original import from_original, to_original
from .original_layout import Architecture, recognise
from .sources import HUB_SOURCES, load_checkpoint
from .state_files import compact_state, half_is_exact, read_state, write_state

__all__ = [
    "HUB_SOURCES",
    "Absorber",
    "Architecture",
    "Checkpoint",
    "CheckpointError",
    "SmoothingGroup",
    "compact_state",
    "fingerprint",
    "from_original",
    "get_linear",
    "half_is_exact",
    "load_checkpoint",
    "load_folder",
    "read_state",
    "recognise",
    "smoothing_groups",
    "to_original",
    "write_state",
]
