"""Finding, checking and loading DiT checkpoints; the map to their layers."""

from .checkpoint import Checkpoint, fingerprint, load_folder
from .errors import CheckpointError
from .hub import Progress, fetch_steps
from .hub_sources import HUB_SOURCES, HubSource, converted, find_source, known_need, own_cache
from .layers import Absorber, SmoothingGroup, get_linear, smoothing_groups
from .machine import Machine, this_machine
from .original import from_original, to_original
from .original_files import (
    check_parts,
    choose_parts,
    load_original,
    need_of_original,
    recognise_file,
)
from .original_layout import Architecture, recognise
from .preflight import Need, check_fits, check_machine, preflight
from .sources import find_parts, load_checkpoint, weigh
from .state_files import compact_state, half_is_exact, read_state, write_state
from .weights import read_headers

__all__ = [
    "HUB_SOURCES",
    "Absorber",
    "Architecture",
    "Checkpoint",
    "CheckpointError",
    "HubSource",
    "Machine",
    "Need",
    "Progress",
    "SmoothingGroup",
    "check_fits",
    "check_machine",
    "check_parts",
    "choose_parts",
    "compact_state",
    "converted",
    "fetch_steps",
    "find_parts",
    "find_source",
    "fingerprint",
    "from_original",
    "get_linear",
    "half_is_exact",
    "known_need",
    "load_checkpoint",
    "load_folder",
    "load_original",
    "need_of_original",
    "own_cache",
    "preflight",
    "read_headers",
    "read_state",
    "recognise",
    "recognise_file",
    "smoothing_groups",
    "this_machine",
    "to_original",
    "weigh",
    "write_state",
]
